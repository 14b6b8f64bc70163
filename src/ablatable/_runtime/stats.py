"""How sure a share or a mean is: confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from .rng import generator

RESAMPLINGS = 2000


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share: the shares p that `successes` in `trials` do not reject.

    They are the roots of (p - s)^2 = z^2 p (1 - p) / n, with s the observed share (Wilson 1927). Unlike s +- z sigma it
    stays within [0, 1] and says something when s is 0 or 1. Of no trials: (0, 1).
    """
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, spread = successes / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    # at the ends one root is exactly 0 or 1, which rounding would miss
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == trials else centre + half)


def bootstrap(statistic: Callable[[np.ndarray], float], count: int, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic(rows)`, rows, int (count,), drawn with replacement of 0 .. count - 1.

    The same draws for the same count, so the same interval each time.
    """
    draws = generator("bootstrap", count).integers(count, size=(RESAMPLINGS, count))
    values = [statistic(rows) for rows in draws]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
