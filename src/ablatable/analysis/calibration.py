"""Calibrated influence: is a unit's ablation unlike ablations of as many components that remove no unit?

Removing a unit also removes its codeword's worth of components, and that alone moves a picture. Spare codewords, of
the same weight and no unit's, say how much. A *statistic* gives every ablation a score for a unit; where the unit does
not matter, its own ablation is just one more spare, so that among M spares its p-value is

    p = (1 + #{spare score >= unit score}) / (1 + M)

and P(p <= a) <= a for every a: a permutation test, exact whatever the scores' distribution. The statistic `regressed`
needs no spares: it ranks the unit's codeword among all that it could have had, see `exchangeable`. The others need the
unit's ablation and the spares to be treated alike, which is why a score may depend on the unit's images but never on
which of the ablations is the unit's (see `left_out_distances`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._runtime.stats import LEVEL, q_values, spares_to_mark_one
from .._runtime.tables import Tabular
from .._runtime.workers import chunks
from ..codes.code import Code, components_for
from ..data.distance import native_to_scaled
from ..errors import Message, SettingsError, command, option
from ..universes.landscapes import Landscapes, checked_sample
from ..universes.opening import open_landscapes
from ..universes.screening.screen import Screen
from .exchangeable import Reference, standardised
from .features import Features
from .seen import Seen
from .statistics import SPARED, STATISTICS, Effects, Images, Landscape, Statistic, scores

if TYPE_CHECKING:
    import polars as pl

    from ..universes.settings import UniverseSettings

DEFAULT: Statistic = "regressed"  # by far the highest power, at right size: docs/results/statistics.md
TOGETHER = 16  # samples that are compared with their spares together, at most
OF_SCREENS: Statistic = "likeness"  # their units were drawn for what others showed, so codewords are not exchangeable


def p_values(units: np.ndarray, spares: np.ndarray) -> np.ndarray:
    """(1 + #{spare >= unit}) / (1 + M): float64 (units,) from scores (units,) and (M, units).

    Scores that differ by rounding alone count as equal, in the spares' favour.
    """
    rounding = 1e-9 * np.abs(spares).max(axis=0)
    return (1 + (spares >= units - rounding).sum(axis=0)) / (1 + len(spares))


def radius_p_values(distances: np.ndarray, spares: np.ndarray) -> np.ndarray:
    """How likely each sample's radius is to be as large where no unit matters: float64 (samples,).

    From distances (units, samples) and (spares, samples): the chance that the largest of as many ablations as there are
    units, drawn from units and spares together, is at least the largest of the units themselves. Over all draws, so
    exact; with M spares and N units it is never below N / (N + M).
    """
    count, total = len(distances), len(distances) + len(spares)
    distances = np.nan_to_num(distances, nan=-np.inf)  # a screened universe leaves out what is probably not the largest
    below = (np.concatenate([distances, spares]) < distances.max(axis=0)).sum(axis=0)  # (samples,)
    draw = np.arange(count)[:, None]  # none of them reaches it: C(below, count) / C(total, count)
    return 1 - np.prod((below - draw).clip(min=0) / (total - draw), axis=0)


@dataclass(frozen=True, eq=False)
class Calibration(Tabular):
    """Every unit's influence on every sample, against the spares; arrays are float64 (units, samples).

    Attributes:
        statistic: what was compared.
        score: the units' scores; of `plain` and pixels, in the paper's unit; of `regressed`, in standard deviations
            over all codewords.
        p, q: p-values, and these adjusted over the units of each sample.
        radius_p: p-value of each sample's radius (the plain distance, in pixels), (samples,).
        spares: how many ablations, or codewords that no unit has (`regressed`), each unit was compared with.
        unit_ids: the units' names, one per row.
        samples: the samples' numbers, one per column.
        available: how many spares the code has; `weight`: how many components each removes.
        balanced: whether every component has seen the same number of these units, within one: then the code was
            balanced, not drawn at random, and p-values are approximate.
    """

    statistic: str
    score: np.ndarray
    p: np.ndarray
    q: np.ndarray
    radius_p: np.ndarray
    spares: int
    unit_ids: tuple[str, ...] = ()
    samples: tuple[int, ...] = ()
    available: int = 0
    weight: int = 1
    balanced: bool = False

    def table(self) -> pl.DataFrame:
        """One row per sample and unit. Columns: sample, unit, score, p, q, marked."""
        import polars as pl

        count, columns = len(self.unit_ids), {"score": self.score, "p": self.p, "q": self.q, "marked": self.marked()}
        return pl.DataFrame(
            {
                "sample": np.repeat(np.array(self.samples, int), count),
                "unit": pl.Series(self.unit_ids, dtype=pl.String).gather(np.tile(np.arange(count), len(self.samples))),
                **{name: values.T.reshape(-1) for name, values in columns.items()},
            }
        )

    def marked(self, level: float = LEVEL) -> np.ndarray:
        """Units that stand out at this false discovery rate: bool (units, samples)."""
        return self.q <= level

    def undecidable(self, level: float = LEVEL) -> Message | None:
        """Why no single unit can stand out, whatever the samples show, and what to do; None if one can."""
        units, needed = len(self.unit_ids), spares_to_mark_one(len(self.unit_ids), level)
        if self.spares >= needed:
            return None
        what, how = "spares", option("spares", needed)
        if self.statistic not in SPARED:
            what = "unused codewords"
        if needed > self.available or self.statistic not in SPARED:
            taken = components_for(units + needed, self.weight)
            how = f"{needed} {what}, and this code has {self.available}: {taken} components of weight {self.weight} do"
        return Message(
            f"whether a single unit stands out cannot be judged with {self.spares} {what}: to reach a false discovery "
            f"rate of {level:g} among {units} units takes {how}"
        )

    def approximate(self) -> Message | None:
        """Why p-values are not exact; None if they are."""
        if not self.balanced:
            return None
        return Message(
            "p is approximate: every component has seen equally many of these units, so their codewords were balanced, "
            "and not drawn at random"
        )

    def verdict(self, sample: int, units: tuple[str, ...], level: float = LEVEL) -> Message:
        """One sample's outcome in words."""
        marked = np.flatnonzero(self.marked(level)[:, sample])
        if len(marked):
            names = ", ".join(units[k] for k in marked[np.argsort(self.p[marked, sample], kind="stable")][:5])
            more = f" and {len(marked) - 5} more" if len(marked) > 5 else ""
            return Message(
                f"{len(marked)} of {len(units)} units stand out at a false discovery rate of {level:g}: {names}{more}"
            )
        return self.undecidable(level) or Message("no unit stands out from the shrinkage of the ensemble")


def calibrate(
    universe: Landscapes | str | Path,
    *,
    statistic: str | None = None,
    features: Features | None = None,
    samples: Sequence[int] | None = None,
) -> Calibration:
    """Compare every unit's ablation with the spares'.

    Args:
        universe: a universe that was drawn here, with spares for all statistics but `regressed`; or its place. If it is
            a screened one, units that were not drawn have p = 1, which keeps q on the safe side.
        statistic: see `scores` and `regressed`; None = `default_statistic`.
        features: the space in which the statistic measures; None = pixels.
        samples: which samples (indices); None = all.

    Raises:
        SettingsError: there is nothing to compare with (see `comparable`), or no such statistic.
        DataError: no such sample.
    """
    universe = open_landscapes(universe)
    settings, statistic = universe.settings, statistic or default_statistic(universe)
    if statistic not in STATISTICS:
        raise SettingsError(f"no statistic '{statistic}'; there are {', '.join(STATISTICS)}")
    if not comparable(universe, statistic):
        raise SettingsError(without_spares(universe))
    words, ablation = settings.codewords, np.array(settings.ablation)
    chosen = [checked_sample(k, universe.seeds) for k in (range(len(universe.seeds)) if samples is None else samples)]
    seen = Seen(universe, features)
    score = np.empty((len(universe.unit_ids), len(chosen)))
    p, radius_p = np.ones_like(score), np.empty(len(chosen))
    if statistic in SPARED:
        for first, last in chunks(len(chosen), max(1, min(TOGETHER, 4 * seen.at_once // len(settings.spares)))):
            score[:, first:last], p[:, first:last] = spared_scores(seen, chosen[first:last], statistic)
    reference, compared = Reference(Code(words[ablation], allow_dummy=True)), len(settings.spares)
    scale = native_to_scaled(settings.shape) / 255 if features is None and statistic in SPARED else 1.0
    for column, sample in enumerate(chosen):
        one = slice(sample, sample + 1)
        distances, spares = universe.distances(samples=one), universe.spare_distances(samples=one)
        radius_p[column] = radius_p_values(distances, spares)[0]
        if statistic not in SPARED:
            evidence = component_evidence(seen, sample)
            score[:, column] = standardised(words[ablation], evidence)
            key = (str(settings.run_sha256), universe.seeds[sample])
            p[:, column] = reference.p_values(evidence, np.arange(len(ablation)), key)
        missing = ~universe.drawn(samples=one)[:, 0]
        score[missing, column], p[missing, column] = np.nan, 1
    if statistic not in SPARED and chosen:
        compared = max(reference.size(int(weight)) for weight in words[ablation].sum(axis=1)) - 1
    about = universe.unit_ids, tuple(chosen), *spares_of(settings), _balanced(words[ablation])
    return Calibration(statistic, score * scale, p, q_values(p), radius_p, compared, *about)


def spared_scores(seen: Seen, samples: Sequence[int], statistic: str) -> tuple[np.ndarray, np.ndarray]:
    """The units' scores and p-values of some samples, float64 (units, samples) twice. Units are read in pieces."""
    settings, words = seen.universe.settings, seen.universe.settings.codewords
    spares = np.array(settings.spares)
    score = np.empty((len(seen.ablation), len(samples)))
    p, spare_vectors = np.empty_like(score), [seen.counterfactuals(sample, spares) for sample in samples]
    for first, last in seen.pieces():
        rows, begin = seen.ablation[first:last], seen.starts[first]
        images = Images(seen.images(slice(begin, seen.starts[last])), seen.starts[first:last] - begin, seen.mean)
        for column, sample in enumerate(samples):
            vectors = seen.factual(sample), seen.counterfactuals(sample, rows), spare_vectors[column]
            landscape = Landscape(*vectors, words[rows], words[spares], images)
            score[first:last, column], null = scores(landscape, statistic)
            p[first:last, column] = p_values(score[first:last, column], null)
    return score, p


def component_evidence(seen: Seen, sample: int) -> np.ndarray:
    """What the removals in one sample say of each component and unit, see `regressed`: float64 (n, units)."""
    universe, words = seen.universe, seen.universe.settings.codewords
    rows, own = np.unique(seen.ablation, return_inverse=True)
    drawn = np.isin(rows, seen.ablation[universe.drawn(samples=slice(sample, sample + 1))[:, 0]])
    factual, effects = seen.factual(sample), Effects(words[rows], own, drawn)
    speaker = seen.speakers(factual)

    def towards(units: np.ndarray) -> np.ndarray:
        return seen.images(speaker[units]) - seen.mean

    for first, last in chunks(len(rows), seen.at_once):
        effects.see(first, seen.counterfactuals(sample, rows[first:last]) - factual, towards)
    parts = [effects.lost(first, towards(np.arange(first, last))) for first, last in seen.pieces()]
    return np.concatenate(parts, axis=1)


def _balanced(words: np.ndarray) -> bool:
    """Whether all components have seen as many of these units, within one; of few units, that happens by chance."""
    return len(words) > words.shape[1] and int(np.ptp(words.sum(axis=0))) <= 1


def default_statistic(universe: Landscapes) -> Statistic:
    """The statistic that is used for a universe unless another is asked for."""
    return OF_SCREENS if isinstance(universe, Screen) else DEFAULT


def comparable(universe: Landscapes, statistic: str | None = None) -> bool:
    """Whether there is something to compare units with: spares, or for `regressed` codewords that no unit has."""
    settings = universe.settings
    if settings.imported:
        return False
    if (statistic or default_statistic(universe)) in SPARED:
        return bool(settings.spares)
    return spares_of(settings)[0] > 0 and len(settings.units) > 1


def influence(
    universe: Landscapes | str | Path, sample: int, calibration: Calibration | None = None, *, scaled: bool = True
) -> pl.DataFrame:
    """Units by how surely and how far their removal moves one sample, the surest first.

    Columns: rank (from 1), unit, distance (float32, plain, in the paper's unit or native), and with a `calibration` of
    this sample alone score, p, q, marked; these are null without, and units are then ordered by distance. Of a screened
    universe also drawn, whether the distance is exact and not a guess.
    """
    import polars as pl

    universe = open_landscapes(universe)
    distances = universe.influence(sample, scaled=scaled).sort("unit")
    columns = {name: [None] * len(distances) for name in ("score", "p", "q", "marked")}
    if calibration is not None:
        columns = {
            "score": pl.Series(calibration.score[:, 0]).fill_nan(None),
            "p": calibration.p[:, 0],
            "q": calibration.q[:, 0],
            "marked": calibration.marked()[:, 0],
        }
    tests = pl.DataFrame({"unit": list(universe.unit_ids), **columns}).sort("unit")
    table = distances.drop("rank").join(tests, on="unit", maintain_order="left")
    table = table.sort(["p", "score", "distance"], descending=[False, True, True], nulls_last=True, maintain_order=True)
    return table.with_row_index("rank", offset=1)


def spares_of(settings: UniverseSettings) -> tuple[int, int]:
    """How many spare codewords there are for a universe's units, and their weight; (0, 1) if no code is on record."""
    if settings.words is None or settings.components is None:
        return 0, 1
    weights = [word.count("1") for k, word in enumerate(settings.words) if k not in settings.spares]
    weight = max(weights, key=weights.count)
    return max(0, comb(settings.components, weight) - weights.count(weight)), weight


def without_spares(universe: Landscapes) -> Message:
    """What to do about a universe that has no spares."""
    if universe.settings.imported:
        return Message(
            f"{universe.url} was imported without spare ablations, so nothing tells a unit's influence from that of a "
            "smaller ensemble"
        )
    available, _ = spares_of(universe.settings)
    if not available:
        return Message(
            f"{universe.url} has no spare ablations, and its code has no spare codewords: nothing tells a unit's "
            f"influence from that of a smaller ensemble; train with more {option('components')}"
        )
    needed = option("spares", min(available, spares_to_mark_one(len(universe.unit_ids))))
    return Message(
        f"{universe.url} has no spare ablations, so nothing tells a unit's influence from that of a smaller ensemble; "
        f"make it again with {command('universe create', 'RUN', needed)}, "
        "or as many spares as the code has"
    )
