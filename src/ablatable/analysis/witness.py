"""The witness test: which training units do the components recognise in an image?

Components that trained on a unit have seen its images, the others have not. Add noise to a picture again and let every
component, by itself, predict the clean picture: if those that saw the unit predict more of the unit's image than those
that did not, more than chance allows, the unit influences what the ensemble predicts at this picture. Codewords are
dealt at random (`Code.random`), so this is a randomised experiment and its p-values are exact, see `exchangeable`. It
takes no counterfactual: a few passes of every component at each picture, less than drawing it.

With x_t = sqrt(a) x_0 + sqrt(1 - a) eps and component i's prediction eps_i, its prediction of the clean picture is
x_i = (x_t - sqrt(1 - a) eps_i) / sqrt(a). What it says about a unit with image y is

    v_i = <x_i - mean_j x_j, y - mean image>,    averaged over draws of eps,

and a codeword w scores sum_i w_i v_i. Of a unit of several images, the one nearest to the picture speaks for it.

A picture is tested, never a unit: the components' loss on the unit's own images would tell that they trained on it, for
any picture, and is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._runtime.stats import q_values
from .._runtime.tables import Tabular
from ..data.distance import pairwise
from ..data.units import Units
from ..diffusion.conditions import Condition
from ..diffusion.sampling_settings import Sampling
from ..errors import SettingsError
from ..runs.conditioning import asked, given_of
from ..runs.run import Run
from .denoised import denoised, picture_name
from .denoised import matched as filtered
from .exchangeable import Reference, standardised

if TYPE_CHECKING:
    import polars as pl

LEVEL = 0.1  # false discovery rate at which units are marked
ALPHA = 0.05  # level of the one test that is named beforehand, of the nearest unit
IMAGES = 4096  # training images compared at once, for bounded memory


@dataclass(frozen=True, eq=False)
class Witness(Tabular):
    """What the components say about some pictures; arrays are (units, samples) unless stated.

    Attributes:
        unit_ids: the names of the units tested.
        seeds: of the samples, (samples,).
        factual: the pictures, uint8 (samples, H, W, C).
        score: how much more the components that saw the unit predict of it than those that did not, in standard
            deviations over all codewords; float64.
        p: p-values of each unit alone; float64.
        q: these adjusted over the units of each sample (Benjamini & Hochberg 1995); float64. The units share their
            components, so no theorem promises the rate; simulations keep it, see docs/results/witness.md.
        nearest: row of the unit nearest to each sample, by pixels, among those tested; int (samples,).
        nearest_distance: how far it is, in the paper's unit; float32 (samples,).
        words: how many codewords each unit's own is compared with, itself included; int (units,).
        exact: whether the run's code was drawn by `Code.random`, so that p-values are exact.
        alike: for each sample, the other units that are at least as near to its nearest unit as the sample is, nearest
            first; of units of several images, those images that are nearest. They may share an influence.
    """

    unit_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    factual: np.ndarray
    score: np.ndarray
    p: np.ndarray
    q: np.ndarray
    nearest: np.ndarray
    nearest_distance: np.ndarray
    words: np.ndarray
    exact: bool
    alike: tuple[tuple[str, ...], ...]

    @property
    def nearest_p(self) -> np.ndarray:
        """p-value of each sample's nearest unit, float64 (samples,). One test, for the picture alone names the unit."""
        return self.p[self.nearest, np.arange(len(self.seeds))]

    @property
    def q_any(self) -> np.ndarray:
        """q-values that hold for any dependence (Benjamini & Yekutieli 2001), larger than `q`; as `q` otherwise."""
        return q_values(self.p, any_dependence=True)

    def marked(self, level: float = LEVEL) -> np.ndarray:
        """Units that stand out at this false discovery rate, by `q`: bool (units, samples)."""
        return self.q <= level

    def table(self) -> pl.DataFrame:
        """One row per sample and unit, a sample's surest units first.

        Columns: sample, seed, unit, score, p, q, marked, nearest.
        """
        import polars as pl

        units, samples = self.score.shape
        row, column = np.indices((units, samples))
        table = pl.DataFrame(
            {
                "sample": column.T.ravel(),
                "seed": np.repeat(self.seeds, units),
                "unit": list(self.unit_ids) * samples,
                "score": self.score.T.ravel(),
                "p": self.p.T.ravel(),
                "q": self.q.T.ravel(),
                "marked": self.marked().T.ravel(),
                "nearest": (row == self.nearest).T.ravel(),
            }
        )
        return table.sort(["sample", "p", "score"], descending=[False, False, True], maintain_order=True)

    def headline(self) -> str:
        """All samples' outcome in one sentence."""
        hits = int((self.nearest_p <= ALPHA).sum())
        some = self.marked().any(axis=0)
        none = int(((self.nearest_p > ALPHA) & ~some).sum())
        return (
            f"The components recognise the nearest training unit in {hits} of {len(self.seeds)} samples "
            f"(p <= {ALPHA:g}, one test per sample; by chance it would be {ALPHA:.0%} of them). In {int(some.sum())}, "
            f"some unit is recognised at a false discovery rate of {LEVEL:g}."
            + (f" In {none} they recognise no unit." if none else "")
        )

    def verdict(self, sample: int) -> str:
        """One sample's outcome in words."""
        unit, p = self.unit_ids[self.nearest[sample]], self.nearest_p[sample]
        says = "denoise this sample towards it more than chance allows" if p <= ALPHA else "do so no more than chance"
        text = f"nearest unit {unit}: the components that saw it {says} (p = {p:.2g}, one test)"
        marked = np.flatnonzero(self.marked()[:, sample])
        if len(marked):
            order = marked[np.argsort(self.p[marked, sample], kind="stable")]
            names = ", ".join(self.unit_ids[k] for k in order[:5]) + (f" and {len(order) - 5} more" * (len(order) > 5))
            return (
                f"{text}; at a false discovery rate of {LEVEL:g}, {len(marked)} of {len(self.unit_ids)} units: {names}"
            )
        if self.least_q() > LEVEL:
            few = f"a single unit among {len(self.unit_ids)} cannot reach q <= {LEVEL:g} with {self._alternatives()}"
            return f"{text}; {few}"
        return f"{text}; no unit stands out among all {len(self.unit_ids)} at a false discovery rate of {LEVEL:g}"

    def remark(self, sample: int) -> str | None:
        """Which units this sample's nearest one may share its influence with, in words; None if there are none."""
        names = self.alike[sample]
        if not names:
            return None
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        are = "another unit is" if len(names) == 1 else f"{len(names)} other units are"
        return (
            f"{are} at least as near to {self.unit_ids[self.nearest[sample]]} as this sample is: {some}. They may "
            "share an influence: then the test can miss each of them, and the removal of one alone changes little"
        )

    def least_q(self) -> float:
        """The smallest q-value that one unit alone can reach."""
        alone = np.ones(len(self.unit_ids))
        alone[0] = 1 / self.words.max()
        return float(q_values(alone)[0])

    def _alternatives(self) -> str:
        return f"{self.words.max() - 1} unused codewords"


def witness(
    run: str | Path | Run,
    seeds: Iterable[int] | str,
    *,
    units: Iterable[str] | None = None,
    conditions: Condition | Sequence[Condition] | None = None,
    sampling: Sampling = Sampling(),
    matched: bool = False,
    device: str = "cpu",
) -> Witness:
    """Draw samples of a run and test which training units its components recognise in them.

    Args:
        run: a complete run.
        seeds: one sample each, integers or text such as "0-9".
        units: ids of the units to test; None = all. Fewer tests cost less in `q`, if they are named beforehand.
        conditions: what the samples are to show, see `enumerate_universe`; the test is under the same.
        sampling: how to draw the samples; the same as a universe's gives the same pictures.
        matched: let patterns in which components disagree at all of these samples count less, see
            `denoised.matched`. p-values stay exact and come to depend on which samples are tested together. It
            finds more where few components saw each unit; give it 16 samples or more.
        device: `cpu`, `cuda` or `cuda:k`.

    Returns:
        Scores, p-values and q-values of every unit and sample.

    Raises:
        SettingsError: fewer than two components are present, or no units are named. DataError: an unknown unit.
    """
    from .._runtime.devices import computing
    from ..diffusion.sampling import parse_seeds

    opened = run if isinstance(run, Run) else Run(run)
    chosen = parse_seeds(seeds if isinstance(seeds, str) else list(seeds))
    each = asked(opened, conditions, len(chosen), sampling.guidance)
    pictures = draw_factual(opened, chosen, sampling, device, each)
    with computing(device, sampling.precision):
        return witness_pictures(opened, pictures, chosen, units=units, conditions=each, matched=matched, device=device)


def draw_factual(
    run: Run,
    seeds: Sequence[int],
    sampling: Sampling,
    device: str,
    conditions: Sequence[Condition] | None = None,
) -> np.ndarray:
    """Samples by all components that are present, uint8 (seeds, H, W, C).

    On a CPU they are the bytes that a universe has for them. A GPU's universe may have another batch, and so differ by
    rounding.
    """
    from .._runtime.devices import computing, memory
    from ..runs.batches import batch_alone
    from ..universes.drawing import draw

    sampling.check(run.recipe.schedule)
    batch = batch_alone(run, sampling.precision, device, memory(device))
    with computing(device, sampling.precision):
        drawn = draw(
            run.ensemble(batch=batch, precision=sampling.precision, device=device),
            np.zeros((1, run.code.components), bool),
            seeds,
            shape=run.noise_shape,
            codec=run.codec,
            schedule=run.recipe.schedule,
            sampling=sampling,
            device=device,
            given=given_of(run, conditions, len(seeds), sampling.guidance, device),
        )[0]
    return np.moveaxis(drawn, 1, -1)


def witness_pictures(
    run: Run,
    pictures: np.ndarray,
    seeds: Sequence[int],
    *,
    units: Iterable[str] | None = None,
    conditions: Sequence[Condition] | None = None,
    matched: bool = False,
    device: str = "cpu",
) -> Witness:
    """As `witness`, for pictures that are there, uint8 (samples, H, W, C); `seeds` are only handed through."""
    rows = np.array(run.rows(list(dict.fromkeys(units))) if units is not None else range(len(run.unit_ids)), int)
    if not len(rows):
        raise SettingsError("no units are named; name one or more, or none for all of them")
    if len(run.present) < 2:
        raise SettingsError(f"{run.path} has one component, and a witness test compares components with one another")
    training = run.units()
    components = (run.load_component(number).to(device) for number in range(len(run.present)))
    given = given_of(run, conditions, len(pictures), device=device)
    said = denoised(components, run.recipe.schedule, pictures, device=device, codec=run.codec, given=given)
    said = filtered(said) if matched else said
    evidence, distance = unit_evidence(said, training, pictures)  # (n, units, samples), (units, samples)
    reference, words = Reference(run.design), run.design.matrix[rows]
    score = np.empty((len(rows), len(pictures)))
    p = np.empty_like(score)
    for sample in range(len(pictures)):
        said = evidence[:, rows, sample]
        score[:, sample] = standardised(words[:, list(run.present)], said)
        everywhere = np.zeros((run.design.components, len(rows)))
        everywhere[list(run.present)] = said  # components that are gone say nothing
        p[:, sample] = reference.p_values(everywhere, rows, (run.digest, picture_name(pictures[sample])))
    nearest = distance[rows].argmin(axis=0)
    alike = [look_alikes(training, int(rows[unit]), picture) for unit, picture in zip(nearest, pictures, strict=True)]
    return Witness(
        unit_ids=tuple(run.unit_ids[row] for row in rows),
        seeds=tuple(int(seed) for seed in seeds),
        factual=pictures,
        score=score,
        p=p,
        q=q_values(p),
        nearest=nearest,
        nearest_distance=distance[rows][nearest, np.arange(len(pictures))],
        words=np.array([reference.size(int(weight)) for weight in words.sum(axis=1)]),
        exact=reference.exact,
        alike=tuple(tuple(run.unit_ids[row] for row in found) for found in alike),
    )


def unit_evidence(
    said: np.ndarray, training: Units, pictures: np.ndarray, mean: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What each component says about each unit at each picture, and how far the unit is.

    Args:
        said: the components' predictions, see `denoised`.
        training: units whose images are asked for; those of the run, or any others.
        pictures: uint8 (samples, H, W, C).
        mean: the mean image, of pixels from 0 to 255, float (H, W, C); None = that of `training`.

    Returns:
        v as in the module's docstring, with pixels in [-1, 1], of each unit's image nearest to the picture, float64
        (components present, units, samples); and that image's distance in the paper's unit, float32 (units, samples).
    """
    speaker, distance = _nearest_images(pictures, training)
    flat = training.images.reshape(len(training.images), -1)
    mean = flat.mean(axis=0, dtype=np.float64) if mean is None else mean.reshape(-1)
    evidence = np.empty((len(said), len(training), len(pictures)))
    for sample in range(len(pictures)):
        for first in range(0, len(training), IMAGES):
            part = slice(first, first + IMAGES)
            towards = (flat[speaker[part, sample]] - mean) / 127.5  # (units, D)
            evidence[:, part, sample] = said[:, sample] @ towards.T
    return evidence, distance


def look_alikes(training: Units, unit: int, picture: np.ndarray) -> np.ndarray:
    """The other units with an image at least as near to this unit's as a picture, uint8 (H, W, C), is; nearest first.

    The unit's image is the one nearest to the picture. Returns rows, int.
    """
    own = training.images[training.owner == unit]
    away = pairwise(picture[None], own)[0]
    starts = np.flatnonzero(np.diff(training.owner, prepend=-1))
    between = np.minimum.reduceat(_distances(training.images, own[away.argmin()][None])[:, 0], starts)
    found = np.flatnonzero((between <= away.min()) & (np.arange(len(between)) != unit))
    return found[between[found].argsort(kind="stable")]


def _distances(images: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Of every image from every picture, a piece of the images at a time: float32 (images, pictures)."""
    return np.concatenate([pairwise(images[k : k + IMAGES], pictures) for k in range(0, len(images), IMAGES)])


def _nearest_images(pictures: np.ndarray, training: Units) -> tuple[np.ndarray, np.ndarray]:
    """Of each unit, the image nearest to each picture and its distance: int and float32 (units, samples)."""
    starts = np.flatnonzero(np.diff(training.owner, prepend=-1))
    away = _distances(training.images, pictures)  # (images, samples)
    least = np.minimum.reduceat(away, starts, axis=0)
    number = np.arange(len(away))[:, None]
    first = np.where(away == least[training.owner], number, len(away))
    return np.minimum.reduceat(first, starts, axis=0), least
