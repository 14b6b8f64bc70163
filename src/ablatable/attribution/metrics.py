"""How well scores agree with what removal shows. Plain numbers in, one value a sample out; then a mean and an interval.

`scores` are float (samples, units), larger = more responsible. Units of equal score are in no order: whatever looks at
an order takes the mean over all the orders that the scores allow, so that no method gains by the order of units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._runtime.rng import generator
from .._runtime.stats import bootstrap, rank_correlation

DRAWS = 20_000  # from the posterior of the false attribution rate


@dataclass(frozen=True)
class Estimate:
    """A metric over samples.

    Attributes:
        value: the metric; NaN where it is not defined for any sample.
        low, high: interval (95 %): percentile bootstrap over the samples, unless its metric says otherwise.
        chance: what scores that know nothing get, in the mean.
        samples: how many samples it is over.
    """

    value: float
    low: float
    high: float
    chance: float
    samples: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: None if np.isnan(value) else value for name, value in vars(self).items()}


def estimate(values: np.ndarray, chance: float | np.ndarray, *, name: str = "") -> Estimate:
    """Mean of one value per sample, float (samples,), NaN left out, with its bootstrap interval.

    Args:
        values: the metric of every sample.
        chance: its expectation for uninformed scores, one number or one per sample.
        name: with the number of samples, it decides the resamples.
    """
    known = ~np.isnan(values)
    kept, expected = values[known], np.broadcast_to(chance, values.shape)[known]
    if not len(kept):
        return Estimate(np.nan, np.nan, np.nan, np.nan, 0)
    low, high = bootstrap(lambda rows: kept[rows].mean(), len(kept), name=name)
    return Estimate(float(kept.mean()), low, high, float(expected.mean()), len(kept))


# --- false attribution -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FalseAttribution:
    """Whether the unit that a method names is named again; (samples,) each.

    Attributes:
        without_named: in the picture drawn without that unit, where it cannot be responsible, bool.
        without_other: in pictures drawn without another unit: bool if that is one, drawn at random, or the share of
            all the others, float64 in [0, 1].
    """

    without_named: np.ndarray
    without_other: np.ndarray

    @property
    def counts(self) -> tuple[int, float, int]:
        """How often it is named again without itself, without another (the sum of the shares); and of how many."""
        other = float(self.without_other.sum())
        return int(self.without_named.sum()), int(other) if other.is_integer() else other, len(self.without_named)

    def rate(self) -> Estimate:
        """FAR = min(1, p / q), p and q being the two shares (Dai & Gifford); NaN where q = 0.

        The interval is Bayesian, with Jeffreys's prior on both shares: a share of 0 among a few samples does not make
        it [0, 0], as resampling the samples would. Chance: 1, what a method gets that names units without regard to
        what was removed.
        """
        again, other, count = self.counts
        if count == 0 or other == 0:
            return Estimate(np.nan, np.nan, np.nan, 1.0, count)
        random = generator("far", again, other if isinstance(other, int) else f"{other:.9g}", count)
        p, q = (random.beta(hits + 0.5, count - hits + 0.5, DRAWS) for hits in (again, other))
        low, high = np.quantile(np.minimum(1.0, p / q), [0.025, 0.975])
        value = min(1.0, again / other)
        return Estimate(value, min(value, float(low)), max(value, float(high)), 1.0, count)


# --- agreement of orders -----------------------------------------------------------------------------------------


def informed_correlation(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of every row: float64 (samples,). Chance: 0.

    0 where the scores are all the same (they say nothing), NaN where the truth is.
    """
    correlation = rank_correlation(scores, truth)
    flat = (np.ptp(scores, axis=-1) == 0) & (np.ptp(truth, axis=-1) > 0)
    return np.where(flat, 0.0, correlation)


def in_order(scores: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Gains, float64 (samples, units), in falling order of the scores; those of equal scores are averaged."""
    out = np.empty(gains.shape)
    for row, (score, gain) in enumerate(zip(scores, gains, strict=True)):
        order = np.argsort(-score, kind="stable")
        _, place = np.unique(-score[order], return_inverse=True)  # groups of equal scores, in order
        means = np.bincount(place, weights=gain[order]) / np.bincount(place)
        out[row] = means[place]
    return out


def precision(scores: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """Share of the k units of highest score that are relevant, bool (samples, units): float64 (samples,).

    Chance: the share of all units that are (`relevant.mean(axis=1)`). NaN where none is.
    """
    found = in_order(scores, relevant.astype(np.float64))[:, :k].mean(axis=1)
    return np.where(relevant.any(axis=1), found, np.nan)


def discounted_gain(scores: np.ndarray, gains: np.ndarray, *, k: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Normalised discounted cumulative gain (Jaervelin & Kekaelaeinen 2002), and what a random order gets; (samples,).

    DCG = sum_r gain_r / log2(1 + r) over ranks r = 1 .. k, divided by that of the best order. `gains` >= 0; NaN where
    all are 0.
    """
    k = k or gains.shape[1]
    discount = 1 / np.log2(np.arange(2, gains.shape[1] + 2))
    discount[k:] = 0
    best = (-np.sort(-gains, axis=1) * discount).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (
            (in_order(scores, gains) * discount).sum(axis=1) / best,
            gains.mean(axis=1) * discount.sum() / best,
        )


def removal_area(scores: np.ndarray, effect: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area under the removal curve, and what a random order gets; float64 (samples,).

    Units are removed one at a time, each from the whole ensemble, in falling order of the scores. The curve at k is the
    mean effect, float (samples, units), of the first k; its area is the mean over k, scaled so that the best order has
    1 and the worst 0. NaN where all effects are the same.
    """
    counts = np.arange(1, effect.shape[1] + 1)

    def area(values: np.ndarray) -> np.ndarray:
        return (np.cumsum(values, axis=1) / counts).mean(axis=1)

    rising = np.sort(effect.astype(np.float64), axis=1)
    worst, best = area(rising), area(rising[:, ::-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        return (
            (area(in_order(scores, effect)) - worst) / (best - worst),
            (effect.mean(axis=1) - worst) / (best - worst),
        )


# --- linear datamodelling score ----------------------------------------------------------------------------------


def linear_datamodelling(scores: np.ndarray, presence: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Rank correlation, over subset models, of an outcome with the sum of the scores of what each was trained on.

    As LDS (Park et al. 2023, definition 2.3), but the subset models are sets of components, so nothing is retrained. A
    unit counts by the share of the set's components that trained on it, as the ensemble is their mean.

    Args:
        scores: (samples, units).
        presence: float (sets, units), that share.
        outcome: float (samples, sets); larger = more like the factual sample.

    Returns:
        float64 (samples,). Chance: 0.
    """
    return informed_correlation(scores @ presence.T.astype(np.float64), outcome)
