"""What a report says, as numbers and arrays, before it is a page or a picture. It reads what it shows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..analysis.calibration import Calibration, calibrate, comparable
from ..analysis.nearest import Nearest, nearest_units
from ..analysis.unattributable import Unattributable, unattributable
from ..analysis.witness import ALPHA, Witness, witness_pictures
from ..codes.code import Code
from ..data.distance import PIECE, euclidean, geometric_mean, squares_between
from ..runs.run import Run
from ..universes.reader import Universe
from .wording import percent

SHEET_UNITS = 500  # units a contact sheet shows at most: those of largest distance
SHEET_SPARES = 200  # spare ablations it shows at most: those of largest distance
REPORT_SAMPLES = 100  # samples that get a card and a contact sheet at most: the first
GROUPS, GROUP_IMAGES = 48, 24  # units of several images that are shown with their images, and how many of these
SPARE_EXAMPLES = 3  # the first spares by number: an example must not be picked for how it looks


@dataclass(frozen=True, eq=False)
class Sample:
    """One factual sample and what is shown of its landscape.

    Attributes:
        index, seed: which sample; `asked`: its condition in words, if it has one.
        factual: uint8 (H, W, C).
        distances: of every unit's counterfactual, float32 (units,), in the paper's unit.
        spare_distances: of every spare ablation's, float32 (spares,).
        order: units shown, farthest first, int (<= SHEET_UNITS,); `pictures`: their counterfactuals, (.., H, W, C).
        spare_order: spares shown, farthest first, int (<= SHEET_SPARES,); `spare_pictures`: likewise.
        spare_examples: pictures under the first spares, (<= SPARE_EXAMPLES, H, W, C).
        image: for every unit, which of its training images is nearest to this sample, int (units,).
        nearest, nearest_distance: the unit nearest to the sample (its row), and how far it is.
        without: the picture once that unit is removed, (H, W, C).
        after, after_image: the unit nearest to that picture, and which of its images.
        score, p, q: what is tested of every unit, and how it compares with codewords that no unit has (see
            `calibration`), float64 (units,); None where there is nothing to compare with.
        verdict: what they say of this sample, in words; None where they cannot say anything.
        changed: whether that is another unit.
        changed_spares, changed_others: under which share of the spare ablations, and of the other units', the nearest
            unit is another one; NaN where there are none.
    """

    index: int
    seed: int
    asked: str | None
    factual: np.ndarray
    distances: np.ndarray
    spare_distances: np.ndarray
    order: np.ndarray
    pictures: np.ndarray
    spare_order: np.ndarray
    spare_pictures: np.ndarray
    spare_examples: np.ndarray
    image: np.ndarray
    nearest: int
    nearest_distance: float
    without: np.ndarray
    after: int
    after_image: int
    score: np.ndarray | None
    p: np.ndarray | None
    q: np.ndarray | None
    verdict: str | None
    changed: bool
    changed_spares: float
    changed_others: float

    @property
    def name(self) -> str:
        """Its seed and condition."""
        return f"seed {self.seed}" + (f", {self.asked}" if self.asked else "")

    @property
    def radius(self) -> float:
        """Counterfactual radius."""
        return float(self.distances.max())

    @property
    def spare_radius(self) -> float | None:
        """The largest distance under a spare ablation; None without spares."""
        return float(self.spare_distances.max()) if len(self.spare_distances) else None

    def spares_as_far(self, distance: float) -> int:
        """How many spare ablations moved the sample at least as far."""
        return int((self.spare_distances >= distance).sum())

    def rank(self, unit: int) -> int:
        """A unit's place by distance, from 1; units at the same distance share the best one."""
        return 1 + int((self.distances > self.distances[unit]).sum())


class Content:
    """A universe as a report tells it. What is cheap is held; `samples()` reads one landscape at a time."""

    def __init__(self, universe: Universe, run: Run | None = None) -> None:
        """`run`: the run that the universe is of, if it is at hand."""
        self.universe, self.run = universe, run
        self.unit_ids = universe.unit_ids
        self.shown = min(len(universe.seeds), REPORT_SAMPLES)

    @cached_property
    def nearest(self) -> Nearest:
        """The nearest training units; closely of the samples shown."""
        return nearest_units(self.universe, closely=range(self.shown))

    @cached_property
    def distances(self) -> np.ndarray:
        """Of every unit's counterfactual, of the samples shown: float32 (units, samples shown)."""
        return self.universe.distances(samples=slice(self.shown))

    @cached_property
    def spare_distances(self) -> np.ndarray:
        """Of every spare ablation's: float32 (spares, samples)."""
        return self.universe.spare_distances()

    @cached_property
    def radius(self) -> np.ndarray:
        """Counterfactual radius, (samples,)."""
        return self.universe.radius()

    @cached_property
    def spare_radius(self) -> np.ndarray | None:
        """The largest distance under a spare ablation, (samples,); None without spares."""
        return self.spare_distances.max(axis=0) if len(self.spare_distances) else None

    @cached_property
    def calibration(self) -> Calibration | None:
        """Every unit's test, of the samples shown; None where there is nothing to compare with."""
        return calibrate(self.universe, samples=range(self.shown)) if comparable(self.universe) else None

    @cached_property
    def undecidable(self) -> str | None:
        """Why no single unit can be marked in any sample; it is said once, and so not of each sample."""
        return None if self.calibration is None else self.calibration.undecidable()

    @cached_property
    def witness(self) -> Witness | None:
        """What the components say about the samples shown; None without the run, or with a single component."""
        if self.run is None or len(self.run.present) < 2:
            return None
        shown, settings = slice(self.shown), self.universe.settings
        seeds = self.universe.seeds[shown]
        conditions = settings.conditions_of(seeds)
        return witness_pictures(self.run, self.universe.factual[shown], seeds, conditions=conditions)

    def disagreement(self, sample: Sample) -> str | None:
        """Why the witness test and the removal of the nearest unit may say different things of a sample; None if not.

        The test looks at what components learned of a unit, the removal at what is drawn without it. A unit that is
        nearly the same makes both miss it. Otherwise the loss of half of the components may change a picture.
        """
        if self.witness is None:
            return None
        if remark := self.witness.remark(sample.index):
            return remark[0].upper() + remark[1:]
        recognised, unit = self.witness.nearest_p[sample.index] <= ALPHA, self.unit_ids[sample.nearest]
        if recognised and not sample.changed:
            return f"The components recognise {unit}, and without it the picture is still nearest to it"
        if not recognised and sample.changed and not np.isnan(sample.changed_spares):
            return (
                f"The components do not recognise {unit}, and without it another unit is nearest: so it is under "
                f"{percent(sample.changed_spares)} of the spare ablations, which take as many components and no unit"
            )
        return None

    @cached_property
    def unattributable(self) -> Unattributable:
        """The samples that no unit's removal changes."""
        return unattributable(self.universe)

    @property
    def mean_radius(self) -> float:
        """Geometric mean over the samples."""
        return geometric_mean(self.radius)

    @property
    def mean_spare_radius(self) -> float | None:
        """Likewise of the spares' largest distances."""
        return None if self.spare_radius is None else geometric_mean(self.spare_radius)

    @cached_property
    def code(self) -> Code | None:
        """One codeword a unit; None for an imported universe, which has none on record."""
        if self.universe.settings.imported:
            return None
        settings = self.universe.settings
        return Code(settings.codewords[list(settings.ablation)], allow_dummy=True)

    @cached_property
    def sharing(self) -> np.ndarray:
        """How many units have each unit's codeword, int (units,); 1 where it is its own."""
        rows = np.array(self.universe.settings.ablation)
        return np.bincount(rows)[rows]

    @cached_property
    def images_of(self) -> np.ndarray:
        """How many training images each unit has, int (units,)."""
        return np.bincount(self.universe.training.owner, minlength=len(self.unit_ids))

    @cached_property
    def sharers(self) -> tuple[str, ...]:
        """Units that have an image in common with another: when one of them is removed, that image stays."""
        holders: dict[bytes, set[int]] = {}
        training = self.universe.training
        for image, owner in zip(training.images, training.owner.tolist(), strict=True):
            holders.setdefault(hashlib.sha256(image.tobytes()).digest(), set()).add(owner)
        shared = {owner for owners in holders.values() if len(owners) > 1 for owner in owners}
        return tuple(self.unit_ids[owner] for owner in sorted(shared))

    @cached_property
    def first_image(self) -> np.ndarray:
        """Where each unit's images begin in `training.images`, int (units,)."""
        return np.cumsum(self.images_of) - self.images_of

    def groups(self) -> Iterator[tuple[int, np.ndarray]]:
        """Units of several images (row, their first images (<= GROUP_IMAGES, H, W, C)), the first GROUPS of them."""
        grouped = np.flatnonzero(self.images_of > 1)[:GROUPS]
        for row in grouped.tolist():
            first, count = int(self.first_image[row]), min(int(self.images_of[row]), GROUP_IMAGES)
            yield row, self.universe.training.images[first : first + count]

    def training_image(self, image: int) -> np.ndarray:
        """A training image by its place in `training.images`."""
        return self.universe.training.images[image]

    def samples(self) -> Iterator[Sample]:
        """The samples that are shown, one after another."""
        factual = self.universe.factual
        for index in range(self.shown):
            yield self._sample(index, factual[index])

    def _verdict(self, index: int) -> str | None:
        tested = self.calibration
        if tested is None or (self.undecidable and not tested.marked()[:, index].any()):
            return None
        return tested.verdict(index, self.unit_ids)

    def _sample(self, index: int, factual: np.ndarray) -> Sample:
        settings, nearest, tested = self.universe.settings, self.nearest, self.calibration
        distances, spare_distances = self.distances[:, index], self.spare_distances[:, index]
        order = np.argsort(-distances, kind="stable")[:SHEET_UNITS]
        spare_order = np.argsort(-spare_distances, kind="stable")[:SHEET_SPARES]
        ablation, spares = np.array(settings.ablation), np.array(settings.spares, dtype=np.int64)
        row = self._row[nearest.unit[index]]
        shown = ablation[row], ablation[order], spares[spare_order], spares[:SPARE_EXAMPLES]
        wanted, place = np.unique(np.hstack(shown), return_inverse=True)
        landscape = self.universe.counterfactuals(index, wanted)[place]
        parts = np.split(landscape, np.cumsum([1, len(order), len(spare_order)]))
        without, after = parts[0][0], self._row[nearest.after[index]]
        start, count = self.first_image[after], self.images_of[after]
        after_images = self.universe.training.images[start : start + count]
        return Sample(
            index=index,
            seed=self.universe.seeds[index],
            asked=None if settings.conditions is None else str(settings.conditions[index]),
            factual=factual,
            distances=distances,
            spare_distances=spare_distances,
            order=order,
            pictures=parts[1],
            spare_order=spare_order,
            spare_pictures=parts[2],
            spare_examples=parts[3],
            image=self._nearest_images(factual),
            nearest=row,
            nearest_distance=float(nearest.distance[index]),
            without=without,
            after=after,
            after_image=int(start + euclidean(without[None], after_images).argmin()),
            score=None if tested is None else tested.score[:, index],
            p=None if tested is None else tested.p[:, index],
            q=None if tested is None else tested.q[:, index],
            verdict=self._verdict(index),
            changed=bool(nearest.changed[index]),
            changed_spares=float(nearest.changed_spares[index]),
            changed_others=float(nearest.changed_others[index]),
        )

    @cached_property
    def _row(self) -> dict[str, int]:
        return {unit: row for row, unit in enumerate(self.unit_ids)}

    def _nearest_images(self, picture: np.ndarray) -> np.ndarray:
        """Of every unit, the image nearest to a picture: int (units,)."""
        owner = self.universe.training.owner
        images = self.universe.training.images
        step = max(1, PIECE // int(np.prod(images.shape[1:])))
        distance = np.concatenate(
            [squares_between(picture[None], images[k : k + step])[0] for k in range(0, len(images), step)]
        )
        ranked = np.lexsort((distance, owner))  # by unit, then by distance
        return ranked[self.first_image]


def mean_share(shares: np.ndarray) -> float | None:
    """Mean of shares, NaN (nothing to count) left out; None if there is nothing at all."""
    known = shares[~np.isnan(shares)]
    return float(known.mean()) if len(known) else None
