"""Pixels for people: PNG bytes, data URIs, sprites, signed differences. Pictures are uint8 (H, W, C), C = 1 or 3."""

from __future__ import annotations

import base64
import io
import math

import numpy as np

BRIGHTER = (214, 84, 44)  # what the ablation made brighter; legible on white and on black, and to the colour-blind
DARKER = (52, 120, 214)


def png(pixels: np.ndarray) -> bytes:
    """A picture as a PNG file: uint8 (H, W, 1), (H, W, 3), or (H, W, 4) with alpha last."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def data_uri(pixels: np.ndarray) -> str:
    """The same, as an address that holds the file itself."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")


def sprite_columns(pictures: int) -> int:
    """How many pictures stand side by side in a sprite of that many; about as many stand one above the other."""
    return max(1, math.ceil(math.sqrt(pictures)))


def sprite(pictures: np.ndarray) -> np.ndarray:
    """Many pictures (N, H, W, C) in one, row by row, `sprite_columns(N)` a row; places left over are black."""
    count, height, width, channels = pictures.shape
    columns = sprite_columns(count)
    rows = -(-count // columns)
    tiles = np.zeros((rows * columns, height, width, channels), np.uint8)
    tiles[:count] = pictures
    tiles = tiles.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return tiles.reshape(rows * height, columns * width, channels)


def difference(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """What changed, as uint8 (H, W, 4): a hue for the sign, opacity for the size.

    The size is the root mean square over the channels, so opacities are the parts that the Euclidean distance is made
    of; the sign is that of the channels' sum. No change is transparent: the page or paper behind shows.
    """
    change = after.astype(np.float64) - before.astype(np.float64)
    size = np.sqrt(np.square(change).mean(axis=-1))
    hue = np.where((change.sum(axis=-1) >= 0)[..., None], BRIGHTER, DARKER)
    return np.concatenate([hue, np.rint(size)[..., None]], axis=-1).astype(np.uint8)


def enlarge(pixels: np.ndarray, target: int) -> np.ndarray:
    """Repeat every pixel a whole number of times, so that the longer side comes as near to `target` as it can."""
    factor = max(1, round(target / max(pixels.shape[:2])))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)
