"""Near-duplicates: pictures that are not equal and yet look the same, such as a copy that was resized or recoloured.

They are found by their coarse edges, not by their brightness: drawings on white all are bright outside and dark inside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .._runtime.workers import chunks
from .images import fit, recolour

NEAR = 0.95
"""From this likeness on, two pictures are called near-duplicates; see `likeness`."""
MOST = 20_000  # pictures that are compared with each other at most: the time grows with their square
ROWS = 1024  # compared at once, for bounded memory

_MOSAIC = 8  # pictures are compared as mosaics of so many squares a side
_SHIFT = 16  # and shifted by up to this part of their side


@dataclass(frozen=True)
class NearPair:
    """Two images of different units that look the same.

    Attributes:
        first, second: their places among the images, `first < second`.
        likeness: how alike they are, `NEAR` to 1.
    """

    first: int
    second: int
    likeness: float


def likeness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Perceptual likeness of pictures uint8 (A, H, W, C), (B, H, W, C): float64 (A, B) in [-1, 1], 1 = alike.

    The cosine between their coarse edges: brightness in 8 x 8 squares, less the mean of the four squares beside each.
    The largest is taken over the second picture and its mirror image, shifted by up to 1/16 of its side. Changes of
    brightness, contrast, colour, noise, small shifts and compression are forgiven; crops and rotations escape it.
    """
    first = _edges(a)
    best = np.full((len(a), len(b)), -1.0)
    for variant in _variants(b):
        np.maximum(best, first @ _edges(variant).T, out=best)
    return best


def near_duplicates(images: np.ndarray, owner: np.ndarray) -> list[NearPair]:
    """Pairs of images, uint8 (N, H, W, C), of different units, `owner` int (N,), that look the same, most alike first.

    Equal images are left out: they are duplicates, see `duplicates`.
    """
    first, found = _edges(images).astype(np.float32), dict[tuple[int, int], float]()
    for variant in _variants(images):
        second = _edges(variant).astype(np.float32)
        for start, stop in chunks(len(images), ROWS):
            like = first[start:stop] @ second.T
            for row, other in np.argwhere((like >= NEAR) & (owner[start:stop, None] != owner)).tolist():
                pair = (min(start + row, other), max(start + row, other))
                found[pair] = max(found.get(pair, 0.0), min(1.0, float(like[row, other])))
    pairs = [NearPair(*pair, like) for pair, like in found.items() if not np.array_equal(*images[list(pair)])]
    return sorted(pairs, key=lambda pair: (-pair.likeness, pair.first, pair.second))


def told(pairs: Sequence[NearPair], names: Sequence[str], units: Sequence[str], shown: int = 5) -> list[str]:
    """Sentences that count the pairs and name the most alike; `names` and `units` have an item per image."""
    if not pairs:
        return ["No near-duplicates: no image of one unit looks much like an image of another."]
    owners = {units[place] for pair in pairs for place in (pair.first, pair.second)}
    between = Counter(tuple(sorted((units[pair.first], units[pair.second]))) for pair in pairs)
    most, count = between.most_common(1)[0]
    where = f" ({len(owners)} units; {count} between {most[0]!r} and {most[1]!r})" if len(pairs) > 1 else ""
    which = f"{len(pairs)} pairs of" if where else "2"
    stays = "If one of a pair is removed, the other's influence stays:"
    lines = [f"{which} images of different units look the same{where}. {stays}"]
    lines += [f"{names[pair.first]} and {names[pair.second]} (likeness {pair.likeness:.3f})" for pair in pairs[:shown]]
    return [*lines, f"and {len(pairs) - shown} more"] if len(pairs) > shown else lines


def _variants(pictures: np.ndarray) -> list[np.ndarray]:
    """The pictures and their mirror images, as they are and shifted."""
    height, width = pictures.shape[1:3]
    y, x = round(height / _SHIFT), round(width / _SHIFT)
    variants = []
    for some in (pictures, pictures[:, :, ::-1]):
        room = np.pad(some, [(0, 0), (y, y), (x, x), (0, 0)], mode="edge")
        variants += [room[:, dy : dy + height, dx : dx + width] for dy in {0, y, 2 * y} for dx in {0, x, 2 * x}]
    return variants


def _edges(pictures: np.ndarray) -> np.ndarray:
    """Coarse edges, of length one: float64 (N, squares). A blank picture is all zeros."""
    size = min(_MOSAIC, pictures.shape[1]), min(_MOSAIC, pictures.shape[2])
    mosaic = np.stack([fit(recolour(picture, 1), size)[..., 0] for picture in pictures]).astype(np.float64)
    room = np.pad(mosaic, [(0, 0), (1, 1), (1, 1)], mode="edge")
    beside = (room[:, :-2, 1:-1] + room[:, 2:, 1:-1] + room[:, 1:-1, :-2] + room[:, 1:-1, 2:]) / 4
    flat = (mosaic - beside).reshape(len(pictures), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
