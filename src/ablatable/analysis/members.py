"""A unit of several images, seen from one sample: which of its members is nearest, and which do components recognise?

A component has seen all members of a unit or none, so no removal can tell them apart, and they share a codeword. What
differs is the direction: the witness test asks of each member whether the components that saw the unit denoise the
sample towards *this* image. Each p-value is exact by itself. They are not independent, and they do not say what the
sample would be without one member alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._runtime.plotting import contact_sheet
from .._runtime.tables import Tabular
from ..data.distance import pairwise
from ..data.units import Units
from ..diffusion.conditions import Condition
from ..diffusion.sampling_settings import Sampling
from ..errors import SettingsError
from ..runs.conditioning import asked, given_of
from ..runs.run import Run, as_run
from .denoised import denoised, picture_name
from .exchangeable import Reference, standardised
from .witness import draw_factual, unit_evidence

if TYPE_CHECKING:
    import polars as pl

COLUMNS = 12  # images in a row of the contact sheet


@dataclass(frozen=True, eq=False)
class Members(Tabular):
    """The members of a unit, the one nearest to the sample first; arrays are (members,) unless stated.

    Attributes:
        unit: its id.
        seed: of the sample.
        factual: the sample, uint8 (H, W, C).
        number: each member's place in the unit, `run.units().of(unit)`; int.
        images: uint8 (members, H, W, C).
        distance: from the sample, in the paper's unit; float32.
        score: how much more components that saw the unit predict of this member than the others do, in standard
            deviations over all codewords; float64.
        p: how likely such a score is if the unit influences no component; float64.
    """

    unit: str
    seed: int
    factual: np.ndarray
    number: np.ndarray
    images: np.ndarray
    distance: np.ndarray
    score: np.ndarray
    p: np.ndarray

    def table(self) -> pl.DataFrame:
        """One row per member, the nearest first. Columns: unit, member, distance, score, p."""
        import polars as pl

        columns = {"member": self.number, "distance": self.distance, "score": self.score, "p": self.p}
        return pl.DataFrame({"unit": [self.unit] * len(self.number), **columns})

    def sheet(self) -> np.ndarray:
        """A contact sheet, uint8 (height, width, C): the sample, and below it the members, the nearest first."""
        white = np.full_like(self.factual, 255)
        across = min(COLUMNS, len(self.images))
        blank = [white] * (-len(self.images) % across)
        rows = np.stack([*self.images, *blank]).reshape(-1, across, *self.factual.shape)
        return contact_sheet(np.stack([self.factual, *[white] * (across - 1)]), *rows)


def members(
    run: str | Path | Run,
    unit: str,
    seed: int,
    *,
    condition: Condition | None = None,
    sampling: Sampling = Sampling(),
    device: str = "cpu",
) -> Members:
    """Draw one sample, and compare it with every member of one unit.

    Args:
        run: a complete run.
        unit: the unit's id.
        seed: the sample's.
        condition: what it is to show, see `enumerate_universe`.
        sampling: how to draw it; the same as a universe's gives the same picture.
        device: `cpu`, `cuda` or `cuda:k`.

    Raises:
        DataError: there is no such unit. SettingsError: the run has one component only.
    """
    opened = as_run(run)
    each = asked(opened, condition, 1, sampling.guidance)
    picture = draw_factual(opened, (seed,), sampling, device, each)[0]
    return members_of_picture(opened, unit, picture, seed, condition=condition, device=device)


def members_of_picture(
    run: Run, unit: str, picture: np.ndarray, seed: int, *, condition: Condition | None = None, device: str = "cpu"
) -> Members:
    """As `members`, for a picture that is there, uint8 (H, W, C); `seed` is only handed through."""
    (row,) = run.rows([unit])
    if len(run.present) < 2:
        raise SettingsError(f"{run.path} has one component, and members are compared by what several components say")
    images = run.units().of(unit)
    mean = run.units().images.mean(axis=0, dtype=np.float64)
    components = (run.load_component(number).to(device) for number in range(len(run.present)))
    given = given_of(run, None if condition is None else [condition], 1, device=device)
    said = denoised(components, run.recipe.schedule, picture[None], device=device, codec=run.codec, given=given)
    singly = Units(tuple(map(str, range(len(images)))), images, np.arange(len(images)))
    evidence = unit_evidence(said, singly, picture[None], mean)[0][:, :, 0]  # (components present, members)
    everywhere = np.zeros((run.design.components, len(images)))
    everywhere[list(run.present)] = evidence  # components that are gone say nothing
    rows = np.full(len(images), row)
    p = Reference(run.design).p_values(everywhere, rows, (run.digest, picture_name(picture)))
    score = standardised(run.design.matrix[rows][:, list(run.present)], evidence)
    distance = pairwise(picture[None], images)[0]
    order = np.argsort(distance, kind="stable")
    return Members(unit, seed, picture, order, images[order], distance[order], score[order], p[order])
