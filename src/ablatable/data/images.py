"""One picture, from whatever it was to canonical pixels: uint8, `(H, W, C)`, C = 1 (grey) or 3 (sRGB).

Everything here works on one picture alone. Nothing is normalised over a data set, so that no unit's pixels
can depend on another unit's.
"""

from __future__ import annotations

import re
import warnings
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

import numpy as np

from ..errors import DataError, SettingsError

if TYPE_CHECKING:
    from PIL import Image

Size = int | str | tuple[int, int] | None
Colour = tuple[int, int, int]  # red, green, blue, 0 to 255 each
Background = str | Colour

WHITE: Colour = (255, 255, 255)
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
CONVERSIONS = {  # what was done to a picture -> as it is told
    "transparent": "transparency",
    "rotated": "turned upright by EXIF",
    "first frame": "first frame of an animation or page of several",
    "CMYK": "CMYK to RGB without a colour profile",
    "16 bit": "16 bits to 8",
    "float": "floating point to 8 bits",
    "large": "of more than 89 million pixels",
    "to colour": "grey to colour",
    "to grey": "colour to grey",
}


# --- settings ---


def parse_size(size: Size) -> tuple[int, int] | None:
    """`(height, width)` from `14`, `"14"`, `"14x20"` (height x width) or `(14, 20)`; None stays None."""
    if size is None:
        return None
    text = "x".join(map(str, size)) if isinstance(size, tuple | list) else str(size).lower()
    numbers = [int(part) for part in text.split("x") if part.isdecimal()]
    if len(numbers) != text.count("x") + 1 or len(numbers) > 2 or min(numbers) < 1:
        raise SettingsError(f"size {size!r} is not possible; give pixels (14) or height x width (14x20)")
    return numbers[0], numbers[-1]


def check_channels(channels: int | None) -> None:
    """`SettingsError` unless channels is None (inferred), 1 (grey) or 3 (colour)."""
    if channels not in (None, 1, 3):
        raise SettingsError(f"channels {channels!r} is not possible; give 1 (grey), 3 (colour), or nothing")


def parse_background(background: Background) -> Colour:
    """`(red, green, blue)` from `"white"`, `"black"`, `"#rrggbb"` or three numbers from 0 to 255."""
    text = background if isinstance(background, str) else "#" + "".join(f"{level:02x}" for level in background)
    named = {"white": "#ffffff", "black": "#000000"}.get(text.lower(), text)
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", named):
        raise SettingsError(f"background {background!r} is not possible; give white, black or #rrggbb")
    red, green, blue = bytes.fromhex(named[1:])
    return red, green, blue


def background_name(background: Colour) -> str:
    """`white`, `black` or `#rrggbb`."""
    text = "#" + bytes(background).hex()
    return {"#ffffff": "white", "#000000": "black"}.get(text, text)


# --- reading ---


class Decoded(NamedTuple):
    """A picture's canonical pixels, uint8 `(H, W, C)`, and what had to be done to get them (keys of `CONVERSIONS`)."""

    pixels: np.ndarray
    notes: tuple[str, ...] = ()


def read_picture(source: Path | BinaryIO, name: str, background: Colour = WHITE) -> np.ndarray:
    """As `decode`, the pixels alone; warnings of the decoder are not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return decode(source, name, background).pixels


def decode(source: Path | BinaryIO, name: str, background: Colour = WHITE) -> Decoded:
    """Decode an image file: uint8 `(H, W, 1)` if it is grey, `(H, W, 3)` if it is in colour.

    The first frame of an animation is taken, the EXIF orientation is applied, transparency is composited on
    the background. `DataError`, naming `name`, if it cannot be read to its end.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(source) as image:
            image.load()
            picture, notes = from_pil(image, name, background), []
            with suppress(Exception):  # what follows the first frame may be damaged: it is not needed
                notes += ["first frame"] if getattr(image, "is_animated", False) else []
            if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                notes.append("large")
            return Decoded(picture.pixels, (*picture.notes, *notes))
    except DataError:
        raise
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise DataError(
            f"{name} cannot be read as an image: it has more than {limit:,} pixels; make it smaller"
        ) from None
    except UnidentifiedImageError:
        reason = "it is not in an image format that Pillow knows"
    except FileNotFoundError:
        reason = "there is no such file"
    except Exception as error:  # on damaged files Pillow raises nearly anything: SyntaxError, struct.error
        reason = " ".join(str(error).split()) or type(error).__name__
    raise DataError(f"{name} cannot be read as an image: {reason}; replace or remove it")


def from_pil(image: Image.Image, name: str, background: Colour = WHITE) -> Decoded:
    """Canonical pixels of a loaded Pillow image of any mode: uint8 `(H, W, 1)` if grey, else `(H, W, 3)`.

    A grey picture with transparency is in colour if the background is.
    """
    from PIL import Image, ImageOps

    notes = ["rotated"] if image.getexif().get(ORIENTATION, 1) in range(2, 9) else []
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # "I;16" and its byte orders; "I" is how some decoders deliver 16 bits
        return Decoded(_from_16_bits(np.asarray(image).astype(np.int64), name)[..., None], (*notes, "16 bit"))
    if image.mode == "F":
        return Decoded(from_array(np.asarray(image), name).pixels, (*notes, "float"))
    notes += ["CMYK"] if image.mode == "CMYK" else []
    grey = image.mode in ("1", "L", "LA", "La") or (image.mode in ("P", "PA") and _has_grey_palette(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if cast("tuple[int, int]", image.getchannel("A").getextrema())[0] < 255:
            notes.append("transparent")
            grey = grey and len(set(background)) == 1
        opaque = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(opaque, image).convert("RGB")
    pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return Decoded(pixels[..., None] if grey else pixels, tuple(notes))


def from_array(row: np.ndarray, name: str, background: Colour = WHITE) -> Decoded:
    """Canonical pixels of an array `(H, W[, C])`: uint8 as it is, or float in [0, 1] rounded to 8 bits.

    C = 2 (grey, alpha) and 4 (red, green, blue, alpha) are composited on the background. `DataError`, naming
    `name`, for NaN, values outside [0, 1], other types of number and other shapes.
    """
    pixels = row[..., None] if row.ndim == 2 else row
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 2, 3, 4) or 0 in pixels.shape:
        raise DataError(
            f"{name} has shape {row.shape}; expected height x width, or height x width x channels "
            "with 1 or 3 channels (NumPy arrays are channels last; "
            "transpose, or give a torch tensor, if the channels are first)"
        )
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = _from_unit_interval(pixels, name)
    elif pixels.dtype != np.uint8:
        raise DataError(
            f"{name} has numbers of type {pixels.dtype}; expected uint8 (0..255) or float in [0, 1]: "
            "convert with .astype(np.uint8) if the values are 0..255"
        )
    if pixels.shape[-1] in (2, 4):
        from PIL import Image

        return from_pil(Image.fromarray(np.ascontiguousarray(pixels)), name, background)
    return Decoded(pixels)


def _from_unit_interval(values: np.ndarray, name: str) -> np.ndarray:
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        what = "NaN" if np.isnan(values).any() else "infinity"
        raise DataError(f"{name} contains {what}; every value must be a number in [0, 1]: repair or remove it")
    if values.min() < 0 or values.max() > 1:
        raise DataError(
            f"{name} has values from {values.min():g} to {values.max():g}; floats must be in [0, 1] "
            "(divide 0..255 by 255, or give uint8; map [-1, 1] by (x + 1) / 2)"
        )
    return np.rint(values * 255).astype(np.uint8)


def _from_16_bits(values: np.ndarray, name: str) -> np.ndarray:
    if values.min() < 0 or values.max() > 65535:
        raise DataError(
            f"{name} has integers from {values.min()} to {values.max()}; "
            "expected 8 or 16 bits a pixel: convert it first"
        )
    return ((values + 128) // 257).astype(np.uint8)  # nearest to v * 255 / 65535 = v / 257, which has no ties


def _has_grey_palette(image: Image.Image) -> bool:
    colours = np.array(image.getpalette("RGB") or [0, 1, 2]).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


# --- fitting ---


def recolour(pixels: np.ndarray, channels: int | None) -> np.ndarray:
    """`(H, W, C)` uint8 with the channels asked for: grey is repeated, colour becomes its ITU-R 601 luma."""
    if channels is None or channels == pixels.shape[-1]:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    from PIL import Image

    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]


def fit(pixels: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """`(H, W, C)` uint8 cropped about its centre to the aspect ratio of `size = (h, w)`, then scaled to it.

    Shrinking takes the exact area average, each source pixel weighted by the part of it that lies in the
    target pixel, rounded half to even; a whole-number factor gives the plain block mean. Enlarging is
    bicubic (Pillow).
    """
    height, width = pixels.shape[:2]
    if size is None or (height, width) == size:
        return pixels
    rows, columns = size
    wide = width * rows >= height * columns
    box_height = Fraction(height) if wide else Fraction(width * rows, columns)
    box_width = Fraction(height * columns, rows) if wide else Fraction(width)
    # Whole pixels, at most half a pixel off the centre: whole-number factors stay block means.
    top, left = int((height - box_height) / 2), int((width - box_width) / 2)
    if (box_height, box_width) == size:
        return pixels[top : top + rows, left : left + columns]
    if box_height < rows:
        from PIL import Image

        box = (left, top, float(left + box_width), float(top + box_height))
        flat = np.ascontiguousarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])
        scaled = Image.fromarray(flat).resize((columns, rows), Image.Resampling.BICUBIC, box=box)
        return np.asarray(scaled).reshape(rows, columns, -1)
    down, rows_total = _area_weights(height, top, box_height, rows)
    across, columns_total = _area_weights(width, left, box_width, columns)
    # Integers in float64 stay exact below 2**53, so only the division rounds, and ties are seen as ties.
    sums = across @ _times_in_strips(down, pixels.reshape(height, -1)).reshape(rows, width, -1)
    return np.rint(sums / (rows_total * columns_total)).astype(np.uint8)


@lru_cache(maxsize=4)  # one data set asks for few; tables for photographs are large
def _area_weights(source: int, start: int, length: Fraction, target: int) -> tuple[np.ndarray, int]:
    """Part of each source pixel in each target pixel, as whole numbers `(target, source)`, and a row's sum.

    The interval [start, start + length] of a line of `source` pixels is cut into `target` equal parts.
    Measured in 1 / (length's denominator * target) of a source pixel, every edge is a whole number.
    """
    fine = length.denominator * target
    edges = start * fine + length.numerator * np.arange(target + 1, dtype=np.int64)
    pixels = fine * np.arange(source + 1, dtype=np.int64)
    overlap = np.minimum(edges[1:, None], pixels[1:]) - np.maximum(edges[:-1, None], pixels[:-1])
    overlap = np.maximum(overlap, 0)
    overlap //= np.gcd.reduce(overlap, axis=None)
    return overlap.astype(np.float64), int(overlap[0].sum())


def _times_in_strips(weights: np.ndarray, flat: np.ndarray) -> np.ndarray:
    """`weights @ flat` without a float64 copy of a whole photograph."""
    strip = max(1, 2**20 // len(flat))
    parts = [weights @ flat[:, i : i + strip].astype(np.float64) for i in range(0, flat.shape[1], strip)]
    return np.concatenate(parts, axis=1)


def check_threshold(threshold: int | None) -> None:
    """`SettingsError` unless it parts the 8-bit levels in two."""
    if threshold is not None and not 1 <= threshold <= 255:
        raise SettingsError(f"threshold {threshold}: levels from it up are white, so it is a number from 1 to 255")


def delivered(pictures: np.ndarray, threshold: int | None) -> np.ndarray:
    """Pictures, uint8, as they are delivered: with a threshold, black (0) below it and white (255) from it up."""
    return pictures if threshold is None else np.where(pictures >= threshold, np.uint8(255), np.uint8(0))
