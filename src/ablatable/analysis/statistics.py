"""Statistics of ablations: scores that say how strongly removing a unit shows in a sample.

A score may depend on the unit's images, but never on which of the ablations is the unit's own: see `calibration`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from .features import feature_distances

Statistic = Literal["plain", "directional", "likeness", "residual", "both", "regressed"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
SPARED: tuple[Statistic, ...] = tuple(name for name in STATISTICS if name != "regressed")  # compared with spares
RIDGE = 0.1  # keeps the additive fit defined when spares are few; an ablation of weight w weighs w


@dataclass(eq=False)
class Images:
    """Training images of some units as vectors.

    Attributes:
        vectors: float64 (images, D), grouped by unit.
        starts: where each unit's begin, int (units,).
        mean: the mean of all training images, float64 (D,); None = of these.
    """

    vectors: np.ndarray
    starts: np.ndarray
    mean: np.ndarray | None = None

    @cached_property
    def centred(self) -> np.ndarray:
        """Less the mean, (images, D)."""
        return self.vectors - (self.vectors.mean(axis=0) if self.mean is None else self.mean)

    @cached_property
    def along(self) -> np.ndarray:
        """Each, centred, as a direction of length 1, (images, D)."""
        return _along(self.centred)


@dataclass(frozen=True, eq=False)
class Landscape:
    """One sample's landscape as vectors; what a statistic may look at.

    Attributes:
        factual: float64 (D,).
        units, spares: counterfactuals, float64 (units, D) and (spares, D).
        unit_words, spare_words: which components each removes, bool (units, n) and (spares, n).
        images: the units' training images.
    """

    factual: np.ndarray
    units: np.ndarray
    spares: np.ndarray
    unit_words: np.ndarray
    spare_words: np.ndarray
    images: Images


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

    A unit's scores do not depend on which other units the landscape has, if it has their `mean`: it may be scored in
    pieces.
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
    images, starts = landscape.images, landscape.images.starts
    before = np.minimum.reduceat(_unlike(landscape.factual[None], images, statistic), starts, axis=1)[0]  # (units,)
    spare = np.minimum.reduceat(_unlike(landscape.spares, images, statistic), starts, axis=1) - before
    own = _unlike_own(landscape.units, images, statistic)
    return np.minimum.reduceat(own, starts) - before, spare


def _unlike(vectors: np.ndarray, images: Images, statistic: str) -> np.ndarray:
    """How little of each image is in each vector, (N, images): its distance, or for `likeness` minus its length."""
    return -vectors @ images.along.T if statistic == "likeness" else feature_distances(vectors, images.vectors)


def _unlike_own(vectors: np.ndarray, images: Images, statistic: str) -> np.ndarray:
    """The same of each unit's vector, (units, D), and its own images alone: (images,)."""
    counts = np.diff(images.starts, append=len(images.vectors))
    each = vectors if len(vectors) == len(images.vectors) else np.repeat(vectors, counts, axis=0)
    if statistic == "likeness":
        return -np.einsum("id,id->i", each, images.along)
    # as in `feature_distances`
    squares = np.square(each).sum(axis=1) + np.square(images.vectors).sum(axis=1)
    return np.sqrt(np.maximum(squares - 2 * np.einsum("id,id->i", each, images.vectors), 0))


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
    effects = Effects(landscape.unit_words, ablation, used)
    given = landscape.images
    images = given.centred[speakers(given.vectors, given.starts, landscape.factual)]
    effects.see(0, landscape.units - landscape.factual, lambda units: images[units])
    return effects.lost(0, images)


def speakers(images: np.ndarray, starts: np.ndarray, factual: np.ndarray) -> np.ndarray:
    """Of each unit, the image nearest to the factual sample: its place among `images`, int (units,)."""
    away = np.square(images - factual).sum(axis=1)
    ends = [*starts[1:], len(away)]
    return np.array([first + int(away[first:last].argmin()) for first, last in zip(starts, ends, strict=True)])


class Effects:
    """The regression of `regressed`, in time and memory that grow with ablations plus units, not with their product.

    Of the likenesses, (ablations, units), only their sums over ablations, once with each component's bit, and each
    unit's own are needed: the sums of the changes are taken first, (n, D), and their likenesses to the units then.
    """

    def __init__(self, words: np.ndarray, ablation: np.ndarray, drawn: np.ndarray) -> None:
        """`words`: bool (ablations, n); `ablation`: each unit's row of them; `drawn`: which rows are pictures."""
        self.words = words * drawn[:, None].astype(np.float64)  # (ablations, n); a row of zeros has no say
        self.ablation, self.units = ablation, np.argsort(ablation, kind="stable")
        self.gram = self.words.T @ self.words + RIDGE * np.eye(words.shape[1])
        self.sums: np.ndarray | float = 0.0  # of the changes, (n, D)
        self.own = np.zeros(len(ablation))  # what each unit's own ablation takes away

    def see(self, first: int, moved: np.ndarray, towards: Callable[[np.ndarray], np.ndarray]) -> None:
        """Take in the changes, float64 (rows, D), that some ablations made, the first of them being row `first`.

        `towards(units)`: these units' images less the mean image, float64 (units, D).
        """
        rows = slice(first, first + len(moved))
        self.sums = self.sums + self.words[rows].T @ moved
        span = np.searchsorted(self.ablation[self.units], [rows.start, rows.stop])
        units = self.units[span[0] : span[1]]
        if len(units):
            self.own[units] = -np.einsum("ud,ud->u", moved[self.ablation[units] - first], _along(towards(units)))

    def lost(self, first: int, towards: np.ndarray) -> np.ndarray:
        """Likeness lost per component removed, float64 (n, units), of the units from number `first` on.

        `towards`: their images less the mean image, float64 (units, D).
        """
        units = slice(first, first + len(towards))
        own = self.words[self.ablation[units]]
        gram = self.gram - own[:, :, None] * own[:, None, :]  # without its own row
        moments = -(self.sums @ _along(towards).T).T - own * self.own[units][:, None]
        return np.linalg.solve(gram, moments[:, :, None])[:, :, 0].T


def _standardised(unit: np.ndarray, spare: np.ndarray) -> np.ndarray:
    """Scores in standard deviations over all M + 1 ablations, so alike for each: (M + 1, units), the unit's first."""
    pool = np.vstack([unit, spare])
    return (pool - pool.mean(axis=0)) / np.maximum(pool.std(axis=0), 1e-12)


def _along(images: np.ndarray) -> np.ndarray:
    """Each image as a direction of length 1, (images, D)."""
    return images / np.maximum(np.linalg.norm(images, axis=1), 1e-12)[:, None]


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
