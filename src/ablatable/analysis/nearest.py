"""Nearest training units: what a sample resembles most, and whether it still does when that unit is removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._runtime.rng import generator
from .._runtime.workers import chunks
from ..data.distance import native_to_scaled, nearest_images, pairwise
from ..data.grouping import per_unit
from ..universes.reader import Universe

if TYPE_CHECKING:
    import polars as pl

ROWS = 256  # pictures compared at once, for bounded memory
OTHERS = 256  # of the other units' ablations, and of the spares', at most so many are looked at per sample


@dataclass(frozen=True)
class Nearest:
    """The training unit nearest to each factual sample, and how that changes under ablation; arrays are (samples,).

    Attributes:
        unit: the nearest training unit's id; a unit's distance is that of its nearest image.
        distance: how far it is, float32, in the paper's unit.
        after: the nearest unit of the counterfactual without it.
        changed: whether that is another unit, bool.
        changed_spares: share of the spare ablations, which remove no unit, under which the nearest unit is another;
            float64, NaN where the universe has no spares, and for samples that were not looked at so closely.
        changed_others: the same over the ablations of other units; float64. Of more than OTHERS ablations or spares,
            so many are drawn at random.
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


def nearest_units(universe: Universe, *, closely: Sequence[int] | None = None, device: str = "cpu") -> Nearest:
    """Look up the nearest training unit of every factual sample, and of counterfactuals of it.

    Args:
        universe: the universe.
        closely: the samples (indices) whose spares and other units' counterfactuals are looked at; None = all.
        device: where pictures are compared; the result is exact everywhere.
    """
    training, settings = universe.training, universe.settings
    factual = universe.factual
    image, square = _streamed(factual, training.images, device)
    first = training.owner[image]  # (samples,)
    wanted = set(range(len(factual)) if closely is None else closely)
    nothing = np.empty(0, int), np.empty(0, int)
    looks = [
        _looked_at(universe, sample, unit) if sample in wanted else nothing
        for sample, unit in enumerate(first.tolist())
    ]
    after, changed_spares, changed_others = [], [], []
    for sample, found in enumerate(_nearest_without(universe, first, looks, device)):
        others = len(looks[sample][0])
        after.append(int(found[0]))
        other = found[1:] != first[sample]
        changed_others.append(other[:others].mean() if others else np.nan)
        changed_spares.append(other[others:].mean() if len(other) > others else np.nan)
    return Nearest(
        unit=[universe.unit_ids[k] for k in first],
        distance=(np.sqrt(square) / 255.0 * native_to_scaled(settings.shape)).astype(np.float32),
        after=[universe.unit_ids[k] for k in after],
        changed=np.array(after) != first,
        changed_spares=np.array(changed_spares),
        changed_others=np.array(changed_others),
    )


def _nearest_without(
    universe: Universe, units: np.ndarray, looks: list[tuple[np.ndarray, np.ndarray]], device: str
) -> Iterator[np.ndarray]:
    """Of each sample, the unit nearest to its counterfactual without its unit, and under the other ablations, int.

    Pictures of several samples are compared together, as each comparison passes over all of the training data.
    """
    training, ablation = universe.training, universe.settings.ablation
    lots: list[tuple[np.ndarray, np.ndarray]] = []
    for sample, (unit, look) in enumerate(zip(units.tolist(), looks, strict=True)):
        rows, place = np.unique([ablation[unit], *look[0], *look[1]], return_inverse=True)
        lots.append((universe.counterfactuals(sample, rows), place))
        if sum(len(pictures) for pictures, _ in lots) >= ROWS or sample == len(looks) - 1:
            pictures = np.concatenate([pictures for pictures, _ in lots])
            owners = training.owner[_streamed(pictures, training.images, device)[0]]
            for place in (place for _, place in lots):
                yield owners[: place.max() + 1][place]
                owners = owners[place.max() + 1 :]
            lots.clear()


def _looked_at(universe: Universe, sample: int, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """The ablations of other units and of spares that one sample is looked at under, as many as OTHERS at most."""
    settings, seed = universe.settings, universe.seeds[sample]
    found = np.delete(np.array(settings.ablation), unit), np.array(settings.spares, np.int64)
    if len(found[0]) > OTHERS:
        found = generator("nearest others", seed).choice(found[0], OTHERS, replace=False), found[1]
    if len(found[1]) > OTHERS:
        found = found[0], generator("nearest spares", seed).choice(found[1], OTHERS, replace=False)
    return found


def _streamed(pictures: np.ndarray, images: np.ndarray, device: str) -> tuple[np.ndarray, np.ndarray]:
    parts = [nearest_images(pictures[a:b], images, device) for a, b in chunks(len(pictures), ROWS)]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def summary(universe: Universe, nearest: Nearest | None = None) -> pl.DataFrame:
    """One row per sample.

    Columns: sample, seed, radius, spare_radius (the largest distance under a spare ablation; null without spares),
    top_unit (whose removal moves the sample farthest), nearest_unit, nearest_distance, nearest_without (the nearest
    unit once that unit is removed), changed, changed_spares. Distances are in the paper's unit.
    """
    import polars as pl

    nearest = nearest or nearest_units(universe)
    radius, top, spare = [], [], []
    for part in universe.sample_parts():
        distances, spares = universe.distances(samples=part), universe.spare_distances(samples=part)
        radius += distances.max(axis=0).tolist()
        top += distances.argmax(axis=0).tolist()
        spare += spares.max(axis=0).tolist() if len(spares) else [None] * distances.shape[1]
    return pl.DataFrame(
        {
            "sample": np.arange(len(universe.seeds)),
            "seed": list(universe.seeds),
            "radius": pl.Series(radius, dtype=pl.Float32),
            "spare_radius": pl.Series(spare, dtype=pl.Float32) if universe.settings.spares else spare,
            "top_unit": [universe.unit_ids[k] for k in top],
            "nearest_unit": nearest.unit,
            "nearest_distance": nearest.distance,
            "nearest_without": nearest.after,
            "changed": nearest.changed,
            "changed_spares": nearest.changed_spares if universe.settings.spares else spare,
        }
    )
