"""Which code? Every weight at several numbers of components, at equal total training cost.

The weight decides what an ablation can tell. A unit in many components is learned well and its ablation leaves few; in
few components, each sees few units, and the sample is a blend of what they would draw.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from .._runtime.execution import Execution
from .._runtime.files import write_atomic
from .._runtime.plotting import Axes, figure_png
from .._runtime.stats import bootstrap, wilson
from ..analysis.calibration import DEFAULT
from ..analysis.nearest import nearest_units
from ..analysis.statistics import STATISTICS
from ..codes.code import Code
from ..codes.planning import plan
from ..data.distance import geometric_mean, pairwise
from ..data.naming import load_units
from ..data.units import Units
from ..diffusion.recipe import Recipe, preset
from ..errors import SettingsError
from ..universes.reader import Universe
from .cells import ALPHA, Measured, StudySampling, make_cell, nearest_p_values, open_study, radii

if TYPE_CHECKING:
    import polars as pl


class CodeStudy(BaseModel):
    """The whole study."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = Field(default="digits:128", description="the first `units` are trained on, the rest are held out")
    units: int = 48
    side: int | None = 8
    components: tuple[int, ...] = (8, 12)
    weights: tuple[int, ...] | None = Field(default=None, description="None = all with enough codewords")
    least_spares: int = Field(default=19, description="codes with fewer spares are left out: p would not reach 0.05")
    recipe: Recipe = preset("ideal")
    total_steps: int | None = Field(
        default=None, description="training steps over all components; None = the recipe's each"
    )
    sampling: StudySampling = StudySampling(samples=16)
    landscape: int = Field(default=16, ge=2)
    seed: int = 0


def study_code(config: CodeStudy, out: Path, *, execution: Execution = Execution()) -> pl.DataFrame:
    """Make every cell, then `table.csv` and `figure.png`; an interrupted study resumes.

    Raises:
        SettingsError: `out` holds a study with another configuration, or no code fits.
    """
    import polars as pl

    everything = load_units(config.data, size=config.side)
    if len(everything) <= config.units:
        raise SettingsError(
            f"{config.data} has {len(everything)} units; the study holds out those beyond {config.units}"
        )
    units, held_out = (
        everything.select(everything.ids[: config.units]),
        everything.select(everything.ids[config.units :]),
    )
    open_study(out, config)
    rows = []
    for n, weight in _codes(config):
        recipe = config.recipe if config.total_steps is None else config.recipe.replace(steps=config.total_steps // n)
        cell = make_cell(
            out / f"n{n:02d}-w{weight:02d}",
            units,
            Code.random(config.units, n, config.seed, weight=weight),
            recipe,
            config.sampling,
            lambda universe, _: _measure(universe, held_out, config.landscape),
            seed=config.seed,
            execution=execution,
        )
        rows.append(_row(n, weight, cell, config))
    table = pl.DataFrame(rows)
    write_atomic(out / "table.csv", table.write_csv().encode())
    write_atomic(out / "figure.png", _figure(table))
    return table


def _codes(config: CodeStudy) -> list[tuple[int, int]]:
    from math import comb

    found = [
        (n, weight)
        for n in config.components
        for weight in (config.weights or range(1, n))
        if weight < n and comb(n, weight) >= config.units + config.least_spares
    ]
    if not found:
        raise SettingsError(
            f"no code of {config.components} components holds {config.units} units and {config.least_spares} spares; "
            "take more components"
        )
    return found


def _measure(universe: Universe, held_out: Units, landscape: int) -> Measured:
    training = universe.training.images
    real = np.concatenate([training, held_out.images])
    between = pairwise(held_out.images, real)
    between[:, len(training) :][np.eye(len(held_out.images), dtype=bool)] = np.inf
    nearest = nearest_units(universe)
    return {
        **radii(universe.distances(), universe.spare_distances(), landscape),
        "nearest_p": nearest_p_values(universe),
        "to_training": pairwise(universe.factual, training).min(axis=1).tolist(),
        "to_real": pairwise(universe.factual, real).min(axis=1).tolist(),
        "real_to_real": float(between.min(axis=1).mean()),
        "changed": nearest.changed.tolist(),
        "changed_spares": float(nearest.changed_spares.mean()),
    }


def _row(n: int, weight: int, cell: Measured, config: CodeStudy) -> dict[str, object]:
    excess = np.array(cell["radius_fixed"]) / np.maximum(1e-9, cell["spare_radius_fixed"])
    low, high = bootstrap(lambda rows: geometric_mean(excess[rows]), len(excess))
    row: dict[str, object] = {
        "components": n,
        "weight": weight,
        "split": config.units * weight / n,
        "spares": cell["spares"],
        "copy_distance": float(np.mean(cell["to_training"])) / cell["real_to_real"],
        "real_distance": float(np.mean(cell["to_real"])) / cell["real_to_real"],
        "radius": geometric_mean(np.array(cell["radius"])),
        "excess_fixed": geometric_mean(excess),
        "excess_low": low,
        "excess_high": high,
        "changed": float(np.mean(cell["changed"])),
        "changed_spares": cell["changed_spares"],
    }
    for statistic in STATISTICS:
        reached = np.array(cell["nearest_p"][statistic]) <= ALPHA
        row[f"power_{statistic}"] = float(reached.mean())
        if statistic == DEFAULT:
            row["power_low"], row["power_high"] = wilson(int(reached.sum()), len(reached))
    removals = plan(config.units, n, weight, seed=config.seed)
    row |= {f"survivors_{r.removals}": r.mean for r in removals.survival if r.removals in (1, 2, 4)}
    return row | {
        "counterfactual_cost": (n - weight) / n,
        "training_seconds": cell["training_seconds"],
        "drawing_seconds": cell["drawing_seconds"],
    }


COLOURS = ("#24578f", "#b5542b", "#5f7f3b", "#7a4b8c")


def _figure(table: pl.DataFrame) -> bytes:
    """Against the share of components a unit is in: power, how real samples look, the radius beside the spares'."""

    def draw(power: Axes, quality: Axes, excess: Axes) -> None:
        for colour, n in zip(COLOURS, table["components"].unique(maintain_order=True), strict=False):
            rows = table.filter(table["components"] == n)
            share = rows["weight"].to_numpy() / n
            style = {"color": colour, "markersize": 5, "capsize": 2}
            value = rows["power_likeness"].to_numpy()
            errors = [value - rows["power_low"].to_numpy(), rows["power_high"].to_numpy() - value]
            power.errorbar(share, value, np.maximum(errors, 0), fmt="o-", label=f"likeness, n = {n}", **style)
            power.plot(
                share, rows["power_plain"].to_numpy(), "x--", color=colour, markersize=5, label=f"plain, n = {n}"
            )
            quality.plot(share, rows["real_distance"].to_numpy(), "o-", color=colour, label=f"any real digit, n = {n}")
            quality.plot(share, rows["copy_distance"].to_numpy(), "x--", color=colour, label=f"training, n = {n}")
            value = rows["excess_fixed"].to_numpy()
            errors = [value - rows["excess_low"].to_numpy(), rows["excess_high"].to_numpy() - value]
            excess.errorbar(share, value, np.maximum(errors, 0), fmt="o-", label=f"n = {n}", **style)
        power.axhline(ALPHA, color="#555555", linewidth=0.8, linestyle="--")
        power.set_ylim(0, 1)
        power.set_ylabel(f"samples whose nearest unit has p ≤ {ALPHA:g}")
        quality.axhline(1, color="#555555", linewidth=0.8, linestyle="--")
        quality.set_ylabel("distance to the nearest, held-out digits = 1")
        excess.axhline(1, color="#555555", linewidth=0.8, linestyle="--")
        excess.set_ylabel("radius / spares' maximum (equal landscapes)")
        for axes in (power, quality, excess):
            axes.set_xlabel("weight / components")
            axes.set_xlim(0, 1)
            axes.legend(fontsize=7, frameon=False)

    return figure_png(draw, panels=3, width=4.4)
