"""Statistics that several rooms share, all from scipy: intervals, rank correlations, false discovery rates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .rng import generator

RESAMPLINGS = 2000
LEVEL = 0.1  # false discovery rate at which units are marked


def spares_to_mark_one(units: int, level: float = LEVEL) -> int:
    """The fewest spares with which a single unit, beyond all of them, can reach q = units / (1 + M) <= level."""
    return max(1, int(np.ceil(units / level - 1e-9)) - 1)


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (1927): (0, 1) if there are no trials.

    Unlike share +- z sigma it stays within [0, 1], and its width is above zero when the share is 0 or 1.
    """
    if trials == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    interval = binomtest(int(successes), int(trials)).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap(
    statistic: Callable[[np.ndarray], float], count: int, level: float = 0.95, *, name: str = ""
) -> tuple[float, float]:
    """Percentile bootstrap interval (Efron 1979) of a statistic of `count` samples.

    Args:
        statistic: maps rows, int (count,), drawn with replacement from 0 .. count - 1, to a number; NaN = undefined,
            and left out.
        name: with `count`, it decides the draws, so that the interval is the same each time.
    """
    draws = generator("bootstrap", name, count).integers(count, size=(RESAMPLINGS, count))
    values = np.array([statistic(rows) for rows in draws])
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def rank_correlation(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    """Spearman's rank correlation along an axis, float64, equal values sharing their mean rank.

    NaN where all values of `a` or all values of `b` are equal.
    """
    from scipy.stats import rankdata

    x, y = (rankdata(values, axis=axis) for values in (a, b))
    x, y = (values - values.mean(axis=axis, keepdims=True) for values in (x, y))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (x * y).sum(axis=axis) / np.sqrt(np.square(x).sum(axis=axis) * np.square(y).sum(axis=axis))


def q_values(p: np.ndarray, *, any_dependence: bool = False) -> np.ndarray:
    """Adjusted p-values along the first axis: q <= a marks at false discovery rate a.

    Those of Benjamini and Hochberg (1995) hold for p-values that share their null sample (Bates et al. 2023, theorem 2,
    for one score; with a score of its own for each unit it is an approximation). With `any_dependence`, those of
    Benjamini and Yekutieli (2001), which are 1 + 1/2 + .. + 1/N times larger and hold for any p-values.
    """
    from scipy.stats import false_discovery_control

    return false_discovery_control(p, axis=0, method="by" if any_dependence else "bh")
