"""From scores of images to scores of the units that own them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import DataError, SettingsError
from .units import Units

RULES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "max": lambda scores, starts: np.maximum.reduceat(scores, starts, axis=1),
    "sum": lambda scores, starts: np.add.reduceat(scores, starts, axis=1),
    "mean": lambda scores, starts: (
        np.add.reduceat(scores, starts, axis=1) / np.diff(np.append(starts, scores.shape[1]))
    ),
}


def per_unit(scores: np.ndarray, training: Units, rule: str = "max") -> np.ndarray:
    """Scores of units, (N, units), from scores of units or of images, (N, images): by `max`, `sum` or `mean`."""
    if rule not in RULES:
        raise SettingsError(f"no rule '{rule}'; there are {', '.join(RULES)}")
    if scores.shape[1] == len(training.images):
        return RULES[rule](scores, np.flatnonzero(np.diff(training.owner, prepend=-1)))
    if scores.shape[1] == len(training):
        return scores
    raise DataError(
        f"scores have {scores.shape[1]} columns; expected one for each of {len(training.images)} images "
        f"or {len(training)} units"
    )
