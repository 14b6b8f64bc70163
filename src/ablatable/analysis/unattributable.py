"""Pictures in pure black and white, and the samples that no unit's removal changes.

On continuous pictures every ablation moves something. Where pictures are delivered in black and white, a counterfactual
can be the factual sample pixel for pixel. A sample for which all are has counterfactual radius 0: of every single unit
it is shown that the same picture would have been drawn without it. It is *unattributable* (Dai & Gifford).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._runtime.stats import wilson
from .._runtime.tables import Tabular
from ..universes.landscapes import in_unit
from ..universes.reader import Universe

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Unattributable(Tabular):
    """Which samples of a universe no unit moves; arrays are (samples,).

    Attributes:
        moved_by: how many units' removal changes the sample at all, int.
        top_unit: the unit whose removal changes it most; of an unattributable sample, None.
        radius: counterfactual radius, float32, in the paper's unit.
        pixels: how many values (pixels, in grey) differ at the radius, int; None unless pictures are black and white.
        seeds: the samples' seeds.
        units: how many units there are.
    """

    moved_by: np.ndarray
    top_unit: list[str | None]
    radius: np.ndarray
    pixels: np.ndarray | None
    seeds: tuple[int, ...]
    units: int

    @property
    def samples(self) -> np.ndarray:
        """The unattributable samples' numbers, from 0."""
        return np.flatnonzero(self.moved_by == 0)

    @property
    def share(self) -> float:
        """How many samples are, of all."""
        return len(self.samples) / len(self.seeds)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Wilson's interval of the share."""
        return wilson(len(self.samples), len(self.seeds), level)

    def table(self) -> pl.DataFrame:
        """One row per sample; samples that the fewest units move come first.

        Columns: sample, seed, moved_by (units), radius, top_unit, and, in black and white, pixels (that differ at the
            radius).
        """
        import polars as pl

        order = np.lexsort((self.radius, self.moved_by))
        columns: dict[str, Any] = {
            "sample": order,
            "seed": [self.seeds[k] for k in order],
            "moved_by": self.moved_by[order],
            "radius": self.radius[order],
            "top_unit": [self.top_unit[k] for k in order],
        }
        if self.pixels is not None:
            columns["pixels"] = self.pixels[order]
        return pl.DataFrame(columns)


def unattributable(universe: Universe | str | Path) -> Unattributable:
    """Look for samples that are the same, pixel for pixel, without any unit.

    Distances are exact sums of whole numbers, so a distance is 0 exactly where no pixel differs.
    """
    universe = Universe.open(universe)
    found: list[tuple[np.ndarray, ...]] = []
    for part in universe.sample_parts():
        distances = universe.distances(samples=part)  # (units, samples)
        radius = distances.max(axis=0)
        native = in_unit(radius, universe.settings, scaled=False)
        found.append(((distances > 0).sum(axis=0), distances.argmax(axis=0), radius, native))
    moved_by, top, radius, native = (np.concatenate(values) for values in zip(*found, strict=True))
    return Unattributable(
        moved_by=moved_by,
        top_unit=[universe.unit_ids[unit] if moved else None for unit, moved in zip(top, moved_by, strict=True)],
        radius=radius,
        # a pixel that flips counts 1, so the native distance is the root of their number
        pixels=np.rint(native.astype(np.float64) ** 2).astype(np.int64) if universe.settings.threshold else None,
        seeds=universe.seeds,
        units=len(universe.unit_ids),
    )
