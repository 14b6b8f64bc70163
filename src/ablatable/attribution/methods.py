"""Attribution methods: which training units does a method hold responsible for a sample?

A *method* is made ready for one universe's training data, `prepare(training, run) -> attributor`; an *attributor* maps
pictures to scores, float (N, images) or (N, units), larger = more responsible. Scores of images become scores of units
by a named rule. Any picture can be asked about, factual or counterfactual: a method is told what it says it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from .._runtime.devices import CPU
from .._runtime.rng import generator
from ..analysis.denoised import denoised
from ..analysis.exchangeable import standardised
from ..analysis.features import feature_distances, load_features
from ..analysis.witness import unit_evidence
from ..data.distance import pairwise
from ..data.units import Units
from ..diffusion.conditions import Condition
from ..errors import DataError, SettingsError
from ..runs.conditioning import given_of
from ..universes.reader import Universe
from .gradients import METHODS as GRADIENTS
from .gradients import prepare_gradient
from .scores import SUFFIXES, Scores, read_scores

if TYPE_CHECKING:
    from ..runs.run import Run

FACTUAL = -1


@dataclass(frozen=True, eq=False)
class Trajectories:
    """How some pictures were drawn, for methods that follow the sampling.

    Attributes:
        seeds: int (N,), see `sampling.Trajectories`.
        ablated: components that were removed, bool (N, components).
        sampler, steps, clip, guidance: how, see `Sampling`.
        conditions: what each was to show; None = nothing in particular.
    """

    seeds: np.ndarray
    ablated: np.ndarray
    sampler: str
    steps: int
    clip: bool = False
    guidance: float = 1.0
    conditions: tuple[Condition, ...] | None = None


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures to attribute.

    Attributes:
        images: uint8 (N, H, W, C).
        sample: int (N,), which sample of the universe each is.
        removed: int (N,), the unit without which it was drawn (its row), or `FACTUAL`.
        trajectories: how they were drawn; None where that is not on record (imported universes).
    """

    images: np.ndarray
    sample: np.ndarray
    removed: np.ndarray
    trajectories: Trajectories | None


class Attributor(Protocol):
    """Anything that maps pictures to scores: float (N, images) or (N, units), larger = more responsible."""

    def __call__(self, pictures: Pictures, /) -> np.ndarray:
        """Score every image or unit for every picture."""
        ...


class NotScored(DataError):
    """Stored scores do not cover a picture."""


@dataclass(frozen=True)
class Method:
    """An attribution method.

    Attributes:
        prepare: makes it ready; may take its time, and is called once.
        needs: any of `run` (the components' weights) and `trajectory` (how the pictures were drawn).
        quick: whether it scores a picture in no time, so that it may be asked about every counterfactual there is.
    """

    prepare: Callable[[Units, Run | None], Attributor]
    needs: frozenset[str] = frozenset()
    quick: bool = False


def pictures_of(universe: Universe, samples: Sequence[int], removed: Sequence[int]) -> Pictures:
    """Some pictures of a universe: sample `samples[k]` without unit `removed[k]` (a row, or `FACTUAL`)."""
    settings, factual = universe.settings, universe.factual
    ablated = [None if unit == FACTUAL else settings.ablation[unit] for unit in removed]
    rows: dict[int, set[int]] = {}
    for sample, row in zip(samples, ablated, strict=True):
        if row is not None:
            rows.setdefault(sample, set()).add(row)
    drawn: dict[tuple[int, int], np.ndarray] = {}
    for sample, wanted in rows.items():
        ascending = sorted(wanted)
        found = universe.counterfactuals(sample, ascending)
        drawn |= {(sample, row): image for row, image in zip(ascending, found, strict=True)}
    images = [
        factual[sample] if row is None else drawn[sample, row] for sample, row in zip(samples, ablated, strict=True)
    ]
    trajectories = None
    if not settings.imported:
        words, sampling = settings.codewords, settings.sampling
        bits = np.array([np.zeros(words.shape[1], bool) if row is None else words[row] for row in ablated])
        seeds = np.array([universe.seeds[sample] for sample in samples])
        conditions = settings.conditions_of(seeds.tolist())
        trajectories = Trajectories(
            seeds, bits, sampling.sampler, sampling.steps, sampling.clip, sampling.guidance, conditions
        )
    return Pictures(np.stack(images), np.array(samples), np.array(removed), trajectories)


# --- methods that look at pictures alone -------------------------------------------------------------------------


def random(training: Units, run: Run | None = None) -> Attributor:
    """Says nothing: uniform numbers, other ones for every picture."""

    def score(pictures: Pictures) -> np.ndarray:
        return np.stack(
            [
                generator("random scores", int(sample), int(removed)).random(len(training))
                for sample, removed in zip(pictures.sample, pictures.removed, strict=True)
            ]
        )

    return score


def euclidean(training: Units, run: Run | None = None) -> Attributor:
    """Nearest neighbour by pixels."""
    return lambda pictures: -pairwise(pictures.images, training.images)


def euclidean_flips(training: Units, run: Run | None = None) -> Attributor:
    """Nearest neighbour by pixels, images mirrored left to right or not, whichever is nearer."""
    mirrored = training.images[:, :, ::-1]
    return lambda pictures: -np.minimum(pairwise(pictures.images, training.images), pairwise(pictures.images, mirrored))


def by_features(name: str, device: str = CPU) -> Method:
    """Nearest neighbour in a feature space, see `features.load_features`; `device`: where features are computed."""

    def prepare(training: Units, run: Run | None = None) -> Attributor:
        features = load_features(name, device)
        known = features(training.images)
        return lambda pictures: -feature_distances(features(pictures.images), known)

    return Method(prepare, quick=True)


# --- methods that look into the components, and scores from elsewhere ----------------------------------------------


def by_gradients(name: str, device: str = CPU) -> Method:
    """One of `gradients.METHODS`; `device`: where gradients are computed."""

    def prepare(training: Units, run: Run | None) -> Attributor:
        assert run is not None
        score = prepare_gradient(name, training, run, device)
        return lambda pictures: score(pictures.images)

    return Method(prepare, frozenset({"run"}))


def by_witness(device: str = CPU) -> Method:
    """The witness test's score: how much more the components that saw a unit denoise the picture towards it.

    All components of the run are asked, of counterfactual pictures too: the question is whose image they recognise in
    a picture, whoever drew it. `device`: where they are asked.
    """

    def prepare(training: Units, run: Run | None) -> Attributor:
        assert run is not None
        words = run.code.matrix[run.rows(training.ids)]

        def score(pictures: Pictures) -> np.ndarray:
            components = (run.load_component(number).to(device) for number in range(run.code.components))
            conditions = None if pictures.trajectories is None else pictures.trajectories.conditions
            given = given_of(run, conditions, len(pictures.images), device=device)
            said = denoised(
                components, run.recipe.schedule, pictures.images, device=device, codec=run.codec, given=given
            )
            evidence, _ = unit_evidence(said, training, pictures.images)  # (n, units, N)
            return np.stack([standardised(words, evidence[:, :, k]) for k in range(len(pictures.images))])

        return score

    return Method(prepare, frozenset({"run"}))


def stored(scores: Scores, samples: Sequence[int] | None = None) -> Method:
    """Scores that were computed elsewhere. `NotScored` when asked about a picture that was not scored.

    `samples`: of each row of `scores.factual`; None = counted from 0.
    """
    place = {sample: row for row, sample in enumerate(range(len(scores.factual)) if samples is None else samples)}

    def look_up(sample: int, removed: int) -> np.ndarray:
        if removed == FACTUAL:
            return scores.factual[place[sample]]
        if (sample, removed) not in scores.removed:
            raise NotScored(f"there are no scores of sample {sample} without unit {removed}")
        return scores.removed[sample, removed]

    def prepare(training: Units, run: Run | None = None) -> Attributor:
        return lambda pictures: np.stack(
            [look_up(int(s), int(r)) for s, r in zip(pictures.sample, pictures.removed, strict=True)]
        )

    return Method(prepare, quick=True)


def looking_into_components(device: str = CPU) -> dict[str, Method]:
    """Methods that compute with the run's components, on a device as resolved."""
    return {"witness": by_witness(device), **{name: by_gradients(name, device) for name in GRADIENTS}}


METHODS = {
    "random": Method(random, quick=True),
    "euclidean": Method(euclidean, quick=True),
    "euclidean-flips": Method(euclidean_flips, quick=True),
    **looking_into_components(),
}
NAMES = f"{', '.join(METHODS)}, features:NAME (such as features:efficientnet-lite0), or a file of scores"


def as_method(name: str, given: object, universe: Universe, samples: Sequence[int] | None = None) -> Method:
    """A caller's own method: a `Method`, a matrix of scores (samples, units), or a function that scores pictures.

    `samples`: which are evaluated, None = all. A matrix has a row for each of these, or for every sample.

    Raises:
        SettingsError: it is something else. DataError: the matrix does not fit the universe.
    """
    if isinstance(given, Method):
        return given
    if callable(given):
        attributor = cast("Attributor", given)
        return Method(lambda training, run: attributor)
    every = range(len(universe.seeds))
    expected, some = (len(every), len(universe.unit_ids)), (len(samples or every), len(universe.unit_ids))
    wanted = f"{expected}" if some == expected else f"{some} for the samples that are evaluated, or {expected} for all,"
    try:
        scores = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise SettingsError(
            f"'{name}' is a {type(given).__name__}; give a matrix of scores {wanted} (samples, units), a function "
            "that scores pictures, or an `ablatable.Method`"
        ) from None
    if scores.shape not in (expected, some) or not np.isfinite(scores).all():
        raise DataError(
            f"'{name}' is a matrix of shape {scores.shape}, or has numbers that are not finite; expected "
            f"{wanted} scores: one row per sample, one column per unit"
        )
    return stored(Scores(scores, {}), every if scores.shape == expected else samples)


def find_method(name: str, universe: Universe, device: str = CPU, samples: Sequence[int] | None = None) -> Method:
    """A method by its name: one of `METHODS`, `features:NAME`, or a file of scores for this universe.

    `device`: where networks compute, as resolved; `samples`: which a file must have scores of, None = all.

    Raises:
        SettingsError: there is no such method. DataError: the file does not fit the universe.
    """
    if name in METHODS:
        return {**METHODS, **looking_into_components(device)}[name]
    if name.startswith("features:"):
        return by_features(name.removeprefix("features:"), device)
    if Path(name).suffix in SUFFIXES:
        return stored(read_scores(name, samples=len(universe.seeds), units=universe.unit_ids, needed=samples))
    raise SettingsError(f"no attribution method '{name}'; there are {NAMES}")
