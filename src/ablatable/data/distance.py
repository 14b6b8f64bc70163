"""Distances between pictures, and the counterfactual radius."""

from __future__ import annotations

import math

import numpy as np

WORTH = 256  # products of two 8-bit values whose sum is below 2^24
PIECE = 16 * 2**20  # bytes of images that are compared at once
REFERENCE = 256 * 256 * 3  # the paper measures on pictures scaled to 256 x 256 x 3


def native_to_scaled(shape: tuple[int, ...]) -> float:
    """Factor from a distance on pictures of `shape` (C, H, W) to the paper's unit.

    Scaling to 256 x 256 x 3 by nearest neighbour repeats every value 256*256*3 / (C*H*W) times (exactly, where the
    sides divide 256; the factor is the definition elsewhere), so distances grow by the root of that.
    """
    return math.sqrt(REFERENCE / math.prod(shape))


def euclidean(a: np.ndarray, b: np.ndarray, *, image_axes: int = 3, scaled: bool = True) -> np.ndarray:
    """Euclidean distance between 8-bit pictures taken as values in [0, 1].

    Args:
        a: uint8 (..., image), the last `image_axes` axes being one picture's.
        b: uint8, broadcastable against `a`.
        scaled: in the paper's unit (see `native_to_scaled`), whose ceiling is sqrt(196608) = 443.4; else native.

    Returns:
        float32 (...). Sums are taken over integers, so they are exact and the result does not depend on their order.
    """
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise TypeError(f"distances are between 8-bit pictures, not {a.dtype} and {b.dtype}")
    difference = a.astype(np.int32) - b.astype(np.int32)
    axes = tuple(range(-image_axes, 0))
    squares = np.square(difference).sum(axis=axes, dtype=np.int64)
    shape = difference.shape[difference.ndim - image_axes :]
    factor = native_to_scaled(shape) if scaled else 1.0
    return (np.sqrt(squares) / 255.0 * factor).astype(np.float32)


def pairwise(a: np.ndarray, b: np.ndarray, *, scaled: bool = True) -> np.ndarray:
    """Euclidean distances of every picture of `a`, uint8 (N, image), from every one of `b`, (M, image): float32 (N, M).

    Exact, see `squares_between`.
    """
    factor = native_to_scaled(a.shape[1:]) if scaled else 1.0
    return (np.sqrt(squares_between(a, b)) / 255.0 * factor).astype(np.float32)


def squares_between(a: np.ndarray, b: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Squared distances of every picture of `a`, uint8 (N, image), from every one of `b`, (M, image): float64 (N, M).

    |x - y|^2 = |x|^2 - 2 <x, y> + |y|^2. Products are added up in float32, WORTH of them at a time: whole numbers
    below 2^24, which float32 holds exactly whatever the order. Those sums are added in float64 (int64 on a device), so
    the result is exact, in a quarter of the memory and half of the time of float64.
    """
    x, y = a.reshape(len(a), -1), b.reshape(len(b), -1)
    parts = [slice(k, k + WORTH) for k in range(0, x.shape[1], WORTH)]
    if device != "cpu":
        return _squares_on(device, x, y, parts)
    total = np.zeros((len(x), len(y)))
    for part in parts:
        mine, theirs = x[:, part].astype(np.float32), y[:, part].astype(np.float32)
        total -= 2 * (mine @ theirs.T)
        total += np.square(mine).sum(axis=1, dtype=np.float64)[:, None]
        total += np.square(theirs).sum(axis=1, dtype=np.float64)
    return total


def _squares_on(device: str, x: np.ndarray, y: np.ndarray, parts: list[slice]) -> np.ndarray:
    import torch

    mine, theirs = (torch.from_numpy(np.ascontiguousarray(each)).to(device) for each in (x, y))
    total = torch.zeros((len(x), len(y)), dtype=torch.int64, device=device)
    for part in parts:
        u, v = mine[:, part].float(), theirs[:, part].float()
        total += u.square().sum(1).long()[:, None] + v.square().sum(1).long() - 2 * (u @ v.T).long()
    return total.cpu().numpy().astype(np.float64)


def nearest_images(pictures: np.ndarray, images: np.ndarray, device: str = "cpu") -> tuple[np.ndarray, np.ndarray]:
    """Of each picture, uint8 (N, image), which of many images, (M, image), is nearest, and the squared distance.

    Images are taken in pieces, so they may be mapped from a file. Of equally near ones the first counts.

    Returns:
        int64 (N,) and float64 (N,), pixels being 0 to 255.
    """
    best, least = np.zeros(len(pictures), np.int64), np.full(len(pictures), np.inf)
    step = max(1, PIECE // max(1, math.prod(images.shape[1:])))
    for first in range(0, len(images), step):
        found = squares_between(pictures, images[first : first + step], device)
        place = found.argmin(axis=1)
        square = found[np.arange(len(pictures)), place]
        nearer = square < least
        best[nearer], least[nearer] = first + place[nearer], square[nearer]
    return best, least


def radius(distances: np.ndarray) -> np.ndarray:
    """Counterfactual radius of each sample: the largest distance (units, samples) -> (samples,) over all units."""
    return distances.max(axis=0)


def geometric_mean(values: np.ndarray) -> float:
    """exp(mean(log v)), the paper's average of radii. Zeros are left out (say how many); 0 if there is nothing else."""
    values = np.asarray(values, dtype=np.float64)
    positive = values[values > 0]
    return float(np.exp(np.log(positive).mean())) if len(positive) else 0.0
