"""How good is differential ablation? Its error against exact ablations, by the size of the step and of the data.

A step h of an ablation goes from the factual weights (h = 0) towards the survivors' (h = 1). The exact picture at h is
drawn by the ensemble with those weights; the estimate is the factual picture + h J dw.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from .._runtime.execution import Execution
from .._runtime.files import write_atomic
from .._runtime.plotting import Axes, figure_png
from .._runtime.rng import generator
from .._runtime.stats import bootstrap
from ..codes.code import Code, components_for, weight_change
from ..data.distance import geometric_mean
from ..diffusion.recipe import preset
from ..runs.run import Run
from ..universes.differential import Differential, agreement, differentiate, extrapolate
from ..universes.reader import Universe
from .cells import Measured, StudySampling, make_cell, open_study
from .size import COLOURS, Series

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

QUANTITIES = ("error", "rank_correlation", "top_found", "top_tenth", "radius_ratio")
LINEAR = 0.1  # a sample is called linear up to a step when the relative error is at most this


class DifferentialStudy(BaseModel):
    """The whole study."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = "digits:128"
    series: tuple[Series, ...] = (Series(name="ideal", sizes=(32, 128), side=8, recipe=preset("ideal")),)
    sampling: StudySampling = StudySampling(samples=8, steps=25, spares=1)
    drawn: int = Field(default=128, ge=2, description="units whose ablations are drawn at most: random ones beyond")
    fractions: tuple[float, ...] = Field(default=(1 / 256, 1 / 64, 1 / 16, 1 / 4, 1 / 2, 1), description="step sizes")
    step_units: int = Field(default=32, ge=2, description="of those drawn, how many are taken at every step size")
    seed: int = 0


def study_differential(config: DifferentialStudy, out: Path, *, execution: Execution = Execution()) -> pl.DataFrame:
    """Make every cell, then `table.csv` (whole ablations), `steps.csv` (parts) and `figure.png`; it can be interrupted.

    Raises:
        SettingsError: `out` holds a study with another configuration, or there are too few units.
    """
    import polars as pl

    open_study(out, config)
    whole, parts = [], []
    for series in config.series:
        units = series.units_of(config.data)
        components = series.components or components_for(2 * max(series.sizes))
        for size in series.sizes:
            folder = out / series.name / f"{size:05d}"
            picked = generator("drawn", config.seed, size).permutation(size)[: config.drawn]
            cell = make_cell(
                folder,
                units.select(units.ids[:size]),
                Code.random(size, components, config.seed),
                series.recipe,
                config.sampling,
                lambda universe, _, folder=folder: _measure(universe, folder / "run", config, execution),
                seed=config.seed,
                only=[units.ids[row] for row in sorted(picked)],
                execution=execution,
            )
            about = {"series": series.name, "units": size, "components": components}
            whole.append({**about, "drawn": len(picked), **_summary(cell["whole"])})
            for step, rows in cell["parts"]:
                linear = float(np.mean([row["error"] <= LINEAR for row in rows]))
                parts.append({**about, "step": step, "linear": linear, **_summary(rows)})
    table, steps = pl.DataFrame(whole), pl.DataFrame(parts)
    write_atomic(out / "table.csv", table.write_csv().encode())
    write_atomic(out / "steps.csv", steps.write_csv().encode())
    write_atomic(out / "figure.png", _figure(table, steps))
    return table


def _measure(universe: Universe, run: Path, config: DifferentialStudy, execution: Execution) -> Measured:
    """For each sample the quantities: of whole ablations as delivered, and of some at every step size, not rounded."""
    found = differentiate(run, universe.url, execution=execution)
    whole = found.compare().select(*QUANTITIES).to_dicts()
    return {"whole": whole, "parts": [[step, _part(found, Run(run), step, config)] for step in config.fractions]}


def _part(found: Differential, run: Run, step: float, config: DifferentialStudy) -> list[dict[str, float]]:
    seeds, rows = found.universe.seeds, list(found.universe.settings.ablation)[: config.step_units]
    exact = draw_at(run, found.words[rows], seeds, step, config.sampling)  # (units, samples, C, H, W)
    result = []
    for sample, seed in enumerate(seeds):
        factual, jacobian = found.read(seed)
        moved = (exact[:, sample] - factual).reshape(len(rows), -1)
        guess = (extrapolate(factual, jacobian, found.words[rows], step=step) - factual).reshape(len(rows), -1)
        far, guessed = np.linalg.norm(moved, axis=1), np.linalg.norm(guess, axis=1)
        error = np.linalg.norm(guess - moved) / max(np.linalg.norm(moved), 1e-9)
        ratio = guessed.max() / max(far.max(), 1e-9)
        result.append({"error": float(error), **agreement(far, guessed), "radius_ratio": float(ratio)})
    return result


def draw_at(run: Run, words: np.ndarray, seeds: tuple[int, ...], step: float, sampling: StudySampling) -> np.ndarray:
    """Pictures drawn with weights a part of the way to those of ablations: float32 (ablations, samples, C, H, W).

    Args:
        run: the ensemble.
        words: bool (ablations, n), True where a component goes.
        seeds: the samples.
        step: 0 = the factual weights, 1 = the survivors'.
        sampling: sampler and steps.
    """
    import torch

    from .._runtime.devices import CPU, computing
    from ..diffusion.sampling import Trajectories, sample

    components = run.ensemble().components
    weights = 1 / len(components) + step * weight_change(words)  # (ablations, n)
    rows = torch.from_numpy(weights.repeat(len(seeds), axis=0).astype(np.float32))[..., None, None, None]

    def denoiser(x: Tensor, t: Tensor | int) -> Tensor:
        total = torch.zeros_like(x)
        for weight, component in zip(rows.unbind(1), components, strict=True):
            total += weight * component(x, t)
        return total

    with computing(CPU), torch.inference_mode():
        noise = Trajectories(seeds, run.shape, rows=np.tile(np.arange(len(seeds)), len(words)))
        x = sample(denoiser, noise, schedule=run.recipe.schedule, sampling=sampling.drawing)
    return x.numpy().reshape(len(words), len(seeds), *run.shape)


def _summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean over samples of each quantity (of the ratio, the geometric mean), with bootstrap intervals."""
    summary: dict[str, float] = {}
    for name in QUANTITIES:
        values = np.array([float(row[name]) for row in rows])
        mean = geometric_mean if name == "radius_ratio" else lambda v: float(np.mean(v))
        low, high = bootstrap(lambda picked, values=values, mean=mean: mean(values[picked]), len(values))
        summary |= {name: mean(values), f"{name}_low": low, f"{name}_high": high}
    return summary


def _figure(table: pl.DataFrame, steps: pl.DataFrame) -> bytes:
    """Error and rank correlation against the step; and of whole ablations against the number of units."""

    def draw(error: Axes, correlation: Axes, units: Axes) -> None:
        for colour, name in zip(COLOURS, table["series"].unique(maintain_order=True), strict=False):
            rows = table.filter(table["series"] == name)
            for number, size in enumerate(sizes := rows["units"].to_list()):
                part = steps.filter((steps["series"] == name) & (steps["units"] == size))
                style = {
                    "color": colour,
                    "alpha": 0.3 + 0.7 * (number + 1) / len(sizes),
                    "markersize": 2 + 1.5 * number,
                }
                for axes, quantity in ((error, "error"), (correlation, "rank_correlation")):
                    values = part[quantity].to_numpy()
                    axes.plot(part["step"].to_numpy(), values, "o-", label=f"{name}, {size} units", **style)
            for quantity, form in (("rank_correlation", "o-"), ("error", "x--")):
                value = rows[quantity].to_numpy()
                errors = [value - rows[f"{quantity}_low"].to_numpy(), rows[f"{quantity}_high"].to_numpy() - value]
                style = {"color": colour, "markersize": 5, "capsize": 3}
                label = f"{name}: {'error' if quantity == 'error' else 'rank correlation'}"
                units.errorbar(sizes, value, np.maximum(errors, 0), fmt=form, label=label, **style)
        for axes in (error, correlation, units):
            axes.set_xscale("log", base=2)
        for axes in (error, correlation):
            axes.set_xlabel("step (1 = the whole ablation)")
        error.set_yscale("log")
        error.set_ylabel("relative error of the change")
        error.legend(fontsize=7, frameon=False)
        correlation.set_ylim(-0.1, 1.05)
        correlation.set_ylabel("rank correlation of distances")
        units.set_ylim(-0.1, 1.05)
        units.set_xlabel("training units")
        units.set_ylabel("whole ablations")
        units.legend(fontsize=7, frameon=False)

    return figure_png(draw, panels=3, width=4.4)
