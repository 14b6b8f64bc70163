"""Distances between pictures, and the counterfactual radius."""

from __future__ import annotations

import math

import numpy as np

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

    |x - y|^2 = |x|^2 - 2 <x, y> + |y|^2, in float64: products and sums of 8-bit values are whole numbers far below
    2^53, so this is exact too.
    """
    x, y = (pictures.reshape(len(pictures), -1).astype(np.float64) for pictures in (a, b))
    squares = np.square(x).sum(1)[:, None] - 2 * (x @ y.T) + np.square(y).sum(1)
    factor = native_to_scaled(a.shape[1:]) if scaled else 1.0
    return (np.sqrt(squares) / 255.0 * factor).astype(np.float32)


def radius(distances: np.ndarray) -> np.ndarray:
    """Counterfactual radius of each sample: the largest distance (units, samples) -> (samples,) over all units."""
    return distances.max(axis=0)


def geometric_mean(values: np.ndarray) -> float:
    """exp(mean(log v)), the paper's average of radii. Zeros are left out (say how many); 0 if there is nothing else."""
    values = np.asarray(values, dtype=np.float64)
    positive = values[values > 0]
    return float(np.exp(np.log(positive).mean())) if len(positive) else 0.0
