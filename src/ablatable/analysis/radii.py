"""The counterfactual radius of every sample, beside that of spare ablations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..universes.landscapes import Landscapes
from ..universes.opening import open_landscapes
from ..universes.screening.screen import Screen
from .calibration import radius_p_values

if TYPE_CHECKING:
    import polars as pl


def radius_table(universe: Landscapes | str | Path, *, scaled: bool = True) -> pl.DataFrame:
    """How far removing one unit moves each sample at most, one row per sample.

    Columns: sample, seed, radius, spare_radius (the largest distance under a spare ablation), radius_p (see
    `calibration.radius_p_values`), farthest_unit. Without spares, spare_radius and radius_p are null. Of a screened
    universe also drawn (units whose counterfactuals were drawn) and chance (that none of the others is farther).

    Args:
        universe: a universe, enumerated or screened, or its place.
        scaled: distances in the paper's unit; else native.
    """
    import polars as pl

    opened = open_landscapes(universe)
    found: dict[str, list] = {"radius": [], "spare_radius": [], "radius_p": [], "farthest_unit": []}
    for part in opened.sample_parts():
        distances = opened.distances(scaled=scaled, samples=part)
        spares = opened.spare_distances(scaled=scaled, samples=part)
        known, none = np.nan_to_num(distances, nan=-np.inf), [None] * distances.shape[1]
        found["radius"] += known.max(axis=0).tolist()
        found["spare_radius"] += spares.max(axis=0).tolist() if len(spares) else none
        found["radius_p"] += radius_p_values(distances, spares).tolist() if len(spares) else none
        found["farthest_unit"] += [opened.unit_ids[k] for k in known.argmax(axis=0)]
    single = pl.Float32 if opened.settings.spares else pl.Null
    table = pl.DataFrame(
        {"sample": range(len(opened.seeds)), "seed": list(opened.seeds), **found},
        schema_overrides={"radius": pl.Float32, "spare_radius": single},
    )
    if isinstance(opened, Screen):
        drawn, chance = opened.drawn().sum(axis=0), pl.Series(opened.chance(), dtype=pl.Float64)
        table = table.with_columns(drawn=pl.Series(drawn), chance=chance)
    return table
