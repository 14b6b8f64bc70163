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
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from .._runtime.stats import q_values
from ..codes.code import Code
from ..data.distance import native_to_scaled
from ..errors import Message, SettingsError, command, option
from ..universes.landscapes import Landscapes
from .exchangeable import Reference, standardised
from .features import Features, feature_distances

if TYPE_CHECKING:
    import polars as pl

Statistic = Literal["plain", "directional", "likeness", "residual", "both", "regressed"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
DEFAULT: Statistic = "likeness"  # highest power up to a weight of n / 2: docs/results/statistics.md
LEVEL = 0.1  # false discovery rate at which units are marked
RIDGE = 0.1  # keeps the additive fit defined when spares are few; an ablation of weight w weighs w


SPARED: tuple[Statistic, ...] = tuple(name for name in STATISTICS if name != "regressed")  # compared with spares


@dataclass(frozen=True, eq=False)
class Landscape:
    """One sample's landscape as vectors; what a statistic may look at.

    Attributes:
        factual: float64 (D,).
        units, spares: counterfactuals, float64 (units, D) and (spares, D).
        unit_words, spare_words: which components each removes, bool (units, n) and (spares, n).
        images: training images, float64 (images, D), grouped by unit; `starts`: where each unit's begin, int (units,).
    """

    factual: np.ndarray
    units: np.ndarray
    spares: np.ndarray
    unit_words: np.ndarray
    spare_words: np.ndarray
    images: np.ndarray
    starts: np.ndarray


def scores(landscape: Landscape, statistic: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the units' ablations, float64 (units,), and of the spares' for each unit, (spares, units).

    - `plain`: how far the picture moved.
    - `directional`: how far it moved away from the unit's (nearest) image: removing what a sample owes to a unit makes
      it less like the unit, while losing components at random moves it anywhere.
    - `likeness`: how much less of the unit's image, centred on the training data's mean, is in the picture: its length
      along the image, whatever else it shows.
    - `residual`: how far it is from where the removed components, each by itself, would have moved it; see
      `left_out_distances`.
    - `both`: likeness and half the residual, each in standard deviations over the unit's ablation and the spares.
    """
    if statistic == "both":
        pool = _standardised(*scores(landscape, "likeness")) + _standardised(*scores(landscape, "residual")) / 2
        return pool[0], pool[1:]
    if statistic in ("plain", "residual"):
        moved, spares_moved = landscape.units - landscape.factual, landscape.spares - landscape.factual
        if statistic == "plain":
            spare = np.linalg.norm(spares_moved, axis=1)
            return np.linalg.norm(moved, axis=1), np.repeat(spare[:, None], len(moved), axis=1)
        return left_out_distances(moved, spares_moved, landscape.unit_words, landscape.spare_words)
    unlike = _unlikeness if statistic == "likeness" else feature_distances
    ends = [*landscape.starts[1:], len(landscape.images)]
    images = landscape.images - landscape.images.mean(axis=0) * (statistic == "likeness")
    before = np.minimum.reduceat(unlike(landscape.factual[None], images), landscape.starts, axis=1)[0]  # (units,)
    spare = np.minimum.reduceat(unlike(landscape.spares, images), landscape.starts, axis=1) - before
    own = zip(landscape.units[:, None], landscape.starts, ends, strict=True)
    unit = np.array([unlike(picture, images[first:last]).min() for picture, first, last in own]) - before
    return unit, spare


def regressed(landscape: Landscape, ablation: np.ndarray, drawn: np.ndarray | None = None) -> np.ndarray:
    """What the removal of each component does to the likeness of each unit, from the removals of the *other* units.

    The likeness of a unit is the picture's length along the unit's image (of several, the one nearest to the factual
    sample), less the mean image. How much of it every other unit's ablation takes away is regressed on which components
    that ablation removes: ridge regression, no intercept, for removing nothing changes nothing. If the unit influences
    no component, the coefficients do not depend on its codeword, so the rank of its word's sum of coefficients among
    the words that it could have had is a randomisation test (see `exchangeable`). It needs no spares.

    Args:
        landscape: `units` may hold each ablation once.
        ablation: each unit's row of `landscape.units`, int (units,).
        drawn: which of these rows are pictures and not guesses, bool (ablations,); None = all.

    Returns:
        Likeness lost per component removed, float64 (n, units).
    """
    used = np.ones(len(landscape.units), bool) if drawn is None else drawn
    words = landscape.unit_words * used[:, None].astype(np.float64)  # (ablations, n); a row of zeros has no say
    away = np.square(landscape.images - landscape.factual).sum(axis=1)
    ends = [*landscape.starts[1:], len(away)]
    speaker = [first + int(away[first:last].argmin()) for first, last in zip(landscape.starts, ends, strict=True)]
    images = landscape.images[speaker] - landscape.images.mean(axis=0)
    lost = _unlikeness(landscape.units - landscape.factual, images)  # (ablations, units)
    own, units = words[ablation], np.arange(len(ablation))
    gram = words.T @ words + RIDGE * np.eye(words.shape[1]) - own[:, :, None] * own[:, None, :]  # without its own row
    moments = (words.T @ lost).T - own * lost[ablation, units][:, None]
    return np.linalg.solve(gram, moments[:, :, None])[:, :, 0].T


def _standardised(unit: np.ndarray, spare: np.ndarray) -> np.ndarray:
    """Scores in standard deviations over all M + 1 ablations, so alike for each: (M + 1, units), the unit's first."""
    pool = np.vstack([unit, spare])
    return (pool - pool.mean(axis=0)) / np.maximum(pool.std(axis=0), 1e-12)


def _unlikeness(vectors: np.ndarray, images: np.ndarray) -> np.ndarray:
    """How little of each image, centred, is in each vector: minus its length along the image, (N, images)."""
    return -vectors @ (images / np.maximum(np.linalg.norm(images, axis=1), 1e-12)[:, None]).T


@dataclass(frozen=True)
class _Additive:
    """Ridge regression of what ablations did on their codewords' bits, without an intercept: no removal, no change.

    For each unit, its ablation and the spares are M + 1 rows, and each row's residual is taken from the fit to the M
    others: no row has a part in its own prediction, and all are treated alike. With A = (X'X + ridge)^-1 over the
    spares, one more row x changes residuals and leverages by rank one (Sherman-Morrison), so M + 1 fits cost one.
    """

    fit: np.ndarray  # (spares, spares), H = X A X'
    unit_fit: np.ndarray  # (spares, units), g = X A x
    unit_leverage: np.ndarray  # (units,), h = x' A x

    @classmethod
    def of(cls, unit_words: np.ndarray, spare_words: np.ndarray) -> _Additive:
        x, units = spare_words.astype(np.float64), unit_words.astype(np.float64)
        a = np.linalg.inv(x.T @ x + RIDGE * np.eye(x.shape[1]))
        return cls(x @ a @ x.T, x @ a @ units.T, np.einsum("un,nm,um->u", units, a, units))

    @property
    def pull(self) -> np.ndarray:
        """How much of a unit's residual each spare's residual loses when the unit joins the fit, (spares, units)."""
        return self.unit_fit / (1 + self.unit_leverage)

    @property
    def slack(self) -> np.ndarray:
        """One less each spare's leverage, (spares, units): residual / slack is the residual from the others' fit."""
        return 1 - np.diag(self.fit)[:, None] + self.unit_fit * self.pull


def left_out_distances(
    moved: np.ndarray, spares_moved: np.ndarray, unit_words: np.ndarray, spare_words: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far each ablation's change, (units, D) or (spares, D), is from what all the others predict.

    Returns:
        (units,) and (spares, units).
    """
    additive = _Additive.of(unit_words, spare_words)
    residual = moved - additive.unit_fit.T @ spares_moved
    spare = spares_moved - additive.fit @ spares_moved
    # |e - c r|^2 = |e|^2 - 2 c <e, r> + c^2 |r|^2
    squares, pull = np.square(residual).sum(axis=1), additive.pull
    joined = np.square(spare).sum(axis=1)[:, None] - 2 * pull * (spare @ residual.T) + np.square(pull) * squares
    return np.sqrt(squares), np.sqrt(np.maximum(joined, 0)) / additive.slack


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


def spares_to_mark_one(units: int, level: float = LEVEL) -> int:
    """The fewest spares with which a single unit, beyond all of them, can reach q = units / (1 + M) <= level."""
    return max(1, int(np.ceil(units / level - 1e-9)) - 1)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Every unit's influence on every sample, against the spares; arrays are float64 (units, samples).

    Attributes:
        statistic: what was compared.
        score: the units' scores; of `plain` and pixels, in the paper's unit; of `regressed`, in standard deviations
            over all codewords.
        p, q: p-values, and these adjusted over the units of each sample.
        radius_p: p-value of each sample's radius (the plain distance, in pixels), (samples,).
        spares: how many ablations, or codewords that no unit has (`regressed`), each unit was compared with.
    """

    statistic: str
    score: np.ndarray
    p: np.ndarray
    q: np.ndarray
    radius_p: np.ndarray
    spares: int

    def marked(self, level: float = LEVEL) -> np.ndarray:
        """Units that stand out at this false discovery rate: bool (units, samples)."""
        return self.q <= level

    def verdict(self, sample: int, units: tuple[str, ...], level: float = LEVEL) -> Message:
        """One sample's outcome in words."""
        marked = np.flatnonzero(self.marked(level)[:, sample])
        if len(marked):
            names = ", ".join(units[k] for k in marked[np.argsort(self.p[marked, sample], kind="stable")][:5])
            more = f" and {len(marked) - 5} more" if len(marked) > 5 else ""
            return Message(
                f"{len(marked)} of {len(units)} units stand out at a false discovery rate of {level:g}: {names}{more}"
            )
        text = "no unit stands out from the shrinkage of the ensemble"
        needed = spares_to_mark_one(len(units), level)
        if self.spares < needed:
            if self.statistic in SPARED:
                had, takes = f"{self.spares} spares", f"{option('spares', needed)}, and a code that has as many"
            else:
                had, takes = f"{self.spares} unused codewords", f"{needed} of them, so more components"
            text += f"; with {had} a single unit cannot reach q <= {level:g} among {len(units)}, that takes {takes}"
        return Message(text)


def calibrate(
    universe: Landscapes,
    *,
    statistic: str = DEFAULT,
    features: Features | None = None,
    samples: Sequence[int] | None = None,
) -> Calibration:
    """Compare every unit's ablation with the spares'.

    Args:
        universe: a universe with spares, or, for `regressed`, any that was drawn here. If it is a screened one, units
            that were not drawn have p = 1, which keeps q on the safe side.
        statistic: see `scores`.
        features: the space in which the statistic measures; None = pixels.
        samples: which samples (indices); None = all.

    Raises:
        SettingsError: the universe has no spares, or was imported, or there is no such statistic.
    """
    settings = universe.settings
    if statistic not in STATISTICS:
        raise SettingsError(f"no statistic '{statistic}'; there are {', '.join(STATISTICS)}")
    if settings.imported or (statistic in SPARED and not settings.spares):
        raise SettingsError(without_spares(universe))
    words = settings.codewords
    ablation, spares = np.array(settings.ablation), np.array(settings.spares)
    chosen = range(len(universe.seeds)) if samples is None else samples
    scale = native_to_scaled(settings.shape) / 255 if features is None else 1.0
    see = features or _pixels
    training, factual = universe.training, see(universe.factual).astype(np.float64)
    images, starts = see(training.images).astype(np.float64), np.flatnonzero(np.diff(training.owner, prepend=-1))
    score = np.empty((len(universe.units), len(chosen)))
    p = np.empty_like(score)
    reference, compared = Reference(Code(words[ablation], allow_dummy=True)), len(spares)
    for column, sample in enumerate(chosen):
        vectors = see(np.ma.getdata(universe.landscape(sample))).astype(np.float64)
        if statistic in SPARED:
            landscape = Landscape(
                factual[sample], vectors[ablation], vectors[spares], words[ablation], words[spares], images, starts
            )
            score[:, column], null = scores(landscape, statistic)
            p[:, column] = p_values(score[:, column], null)
            continue
        rows, own = np.unique(ablation, return_inverse=True)
        landscape = Landscape(factual[sample], vectors[rows], vectors[:0], words[rows], words[:0], images, starts)
        drawn = np.isin(rows, ablation[universe.drawn()[:, sample]])
        evidence = regressed(landscape, own, drawn)
        score[:, column] = standardised(words[ablation], evidence)
        key = (str(settings.run_sha256), universe.seeds[sample])
        p[:, column] = reference.p_values(evidence, np.arange(len(ablation)), key)
        compared = max(reference.size(int(weight)) for weight in words[ablation].sum(axis=1)) - 1
        scale = 1.0
    columns = list(chosen)
    missing = ~universe.drawn()[:, columns]
    score[missing], p[missing] = np.nan, 1
    radius_p = radius_p_values(universe.distances()[:, columns], universe.spare_distances()[:, columns])
    return Calibration(statistic, score * scale, p, q_values(p), radius_p, compared)


def influence(
    universe: Landscapes, sample: int, calibration: Calibration | None, *, scaled: bool = True
) -> pl.DataFrame:
    """Units by how surely and how far their removal moves one sample, the surest first.

    Columns: rank (from 1), unit, distance (float32, plain, in the paper's unit or native), and with a `calibration` of
    this sample alone score, p, q, marked; these are null without, and units are then ordered by distance. Of a screened
    universe also drawn, whether the distance is exact and not a guess.
    """
    import polars as pl

    distances = universe.influence(sample, scaled=scaled).sort("unit")
    columns = {name: [None] * len(distances) for name in ("score", "p", "q", "marked")}
    if calibration is not None:
        columns = {
            "score": pl.Series(calibration.score[:, 0]).fill_nan(None),
            "p": calibration.p[:, 0],
            "q": calibration.q[:, 0],
            "marked": calibration.marked()[:, 0],
        }
    tests = pl.DataFrame({"unit": list(universe.units), **columns}).sort("unit")
    table = distances.drop("rank").join(tests, on="unit", maintain_order="left")
    table = table.sort(["p", "score", "distance"], descending=[False, True, True], nulls_last=True, maintain_order=True)
    return table.with_row_index("rank", offset=1)


def without_spares(universe: Landscapes) -> Message:
    """What to do about a universe that has no spares."""
    needed = option("spares", spares_to_mark_one(len(universe.units)))
    return Message(
        f"{universe.url} has no spare ablations, so nothing tells a unit's influence from that of a smaller ensemble; "
        f"make it again with {command('universe create', 'RUN', needed)}, "
        "or as many spares as the code has"
    )


def _pixels(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)
