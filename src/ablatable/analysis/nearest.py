"""Nearest training units: what a sample resembles most, and whether it still does when that unit is removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._runtime.workers import chunks
from ..data.distance import pairwise
from ..data.grouping import per_unit
from ..universes.reader import Universe

if TYPE_CHECKING:
    import polars as pl

ROWS = 256  # pictures compared at once, for bounded memory


@dataclass(frozen=True)
class Nearest:
    """The training unit nearest to each factual sample, and how that changes under ablation; arrays are (samples,).

    Attributes:
        unit: the nearest training unit's id; a unit's distance is that of its nearest image.
        distance: how far it is, float32, in the paper's unit.
        after: the nearest unit of the counterfactual without it.
        changed: whether that is another unit, bool.
        changed_spares: share of the spare ablations, which remove no unit, under which the nearest unit is another;
            float64, NaN where the universe has no spares.
        changed_others: the same over the ablations of all other units; float64.
    """

    unit: list[str]
    distance: np.ndarray
    after: list[str]
    changed: np.ndarray
    changed_spares: np.ndarray
    changed_others: np.ndarray


def unit_distances(pictures: np.ndarray, universe: Universe) -> np.ndarray:
    """Distance of each picture, uint8 (N, H, W, C), from each unit's nearest image: float32 (N, units)."""
    return -per_unit(-pairwise(pictures, universe.training.images), universe.training, "max")


def nearest_units(universe: Universe) -> Nearest:
    """Look up the nearest training unit of every factual sample and of every counterfactual of it."""
    factual = unit_distances(universe.factual, universe)  # (samples, units)
    first = factual.argmin(axis=1)
    ablation = np.array(universe.settings.ablation)
    after, changed_spares, changed_others = [], [], []
    for sample, unit in enumerate(first):
        landscape = universe.landscape(sample)
        nearest = np.concatenate(
            [unit_distances(landscape[a:b], universe).argmin(axis=1) for a, b in chunks(len(landscape), ROWS)]
        )  # (ablations,)
        after.append(int(nearest[ablation[unit]]))
        other = nearest != unit
        spares = other[list(universe.settings.spares)]
        changed_spares.append(spares.mean() if len(spares) else np.nan)
        others = np.delete(ablation, unit)
        changed_others.append(other[others].mean() if len(others) else np.nan)
    return Nearest(
        unit=[universe.unit_ids[k] for k in first],
        distance=factual.min(axis=1),
        after=[universe.unit_ids[k] for k in after],
        changed=np.array(after) != first,
        changed_spares=np.array(changed_spares),
        changed_others=np.array(changed_others),
    )


def summary(universe: Universe, nearest: Nearest | None = None) -> pl.DataFrame:
    """One row per sample.

    Columns: sample, seed, radius, spare_radius (the largest distance under a spare ablation; null without spares),
    top_unit (whose removal moves the sample farthest), nearest_unit, nearest_distance, nearest_without (the nearest
    unit once that unit is removed), changed, changed_spares. Distances are in the paper's unit.
    """
    import polars as pl

    nearest = nearest or nearest_units(universe)
    distances, spares = universe.distances(), universe.spare_distances()
    none = [None] * len(universe.seeds)
    return pl.DataFrame(
        {
            "sample": np.arange(len(universe.seeds)),
            "seed": list(universe.seeds),
            "radius": distances.max(axis=0),
            "spare_radius": spares.max(axis=0) if len(spares) else none,
            "top_unit": [universe.unit_ids[k] for k in distances.argmax(axis=0)],
            "nearest_unit": nearest.unit,
            "nearest_distance": nearest.distance,
            "nearest_without": nearest.after,
            "changed": nearest.changed,
            "changed_spares": nearest.changed_spares if len(spares) else none,
        }
    )
