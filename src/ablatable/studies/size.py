"""How attributability fades: the counterfactual radius against the number of units, beside spares and published values.

One configuration names series: an architecture, an image size, numbers of units. The training steps per component, the
seeds and the noise trajectories are the same at every size, so that only the training set differs.
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
from .._runtime.stats import bootstrap, wilson
from ..analysis.features import Features, feature_distances, load_features
from ..codes.code import Code, components_for
from ..data.distance import geometric_mean
from ..data.naming import load_units
from ..data.units import Units
from ..diffusion.recipe import Recipe, preset
from ..errors import SettingsError
from ..runs.run import Run
from ..universes.reader import Universe
from .cells import ALPHA, Measured, StudySampling, make_cell, nearest_p_values, open_study, radii, witness_p_values

if TYPE_CHECKING:
    import polars as pl

# geometric mean of the radius on MNIST, 22 components (Dai and Gifford)
PUBLISHED = {256: 103.6, 512: 100.6, 1024: 87.0, 2048: 65.6, 4096: 56.9, 8192: 58.3}

RADII = ("radius", "spare_radius", "radius_fixed", "spare_radius_fixed")
RADII_SEEN = (*RADII, *(f"{key}_features" for key in RADII))  # by pixels, and by features where a study asks for them


class Series(BaseModel):
    """One curve: numbers of units, all else alike."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    sizes: tuple[int, ...]
    side: int | None = Field(default=None, description="pictures are resized to this; None = as they are")
    components: int | None = Field(
        default=None, description="None = as few as have a codeword and a spare for each unit"
    )
    recipe: Recipe = preset("ideal")

    def units_of(self, data: str) -> Units:
        """All units of `data`, at this series' size; `SettingsError` if they are too few."""
        units = load_units(data, size=self.side, duplicates="keep")  # a study may be about copies
        if len(units) < max(self.sizes):
            raise SettingsError(f"{data} has {len(units)} units, series '{self.name}' needs {max(self.sizes)}")
        return units


class SizeStudy(BaseModel):
    """The whole study."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = "digits:128"
    series: tuple[Series, ...] = (Series(name="ideal", sizes=(16, 32, 64, 128), side=14),)
    sampling: StudySampling = StudySampling()
    seed: int = 0
    drawn: int = Field(default=2048, ge=2, description="units whose ablations are drawn at most: random ones beyond")
    landscape: int = Field(default=16, ge=2, description="fixed landscape size for the controlled comparison")
    witness: int = Field(default=48, ge=0, description="samples that the witness test looks at, from seed 0")
    features: str | None = Field(default=None, description="a feature space to measure in as well, see load_features")


def study_size(config: SizeStudy, out: Path, *, execution: Execution = Execution()) -> pl.DataFrame:
    """Make every cell, then `table.csv` and `figure.png`; an interrupted study resumes.

    Raises:
        SettingsError: `out` holds a study with another configuration, or there are too few units.
    """
    open_study(out, config)
    features = load_features(config.features) if config.features else None
    measured: dict[tuple[str, int], Measured] = {}
    for series in config.series:
        units = series.units_of(config.data)
        components = series.components or components_for(2 * max(series.sizes))
        for size in series.sizes:
            code = Code.random(size, components, config.seed)
            measured[series.name, size] = make_cell(
                out / series.name / f"{size:05d}",
                units.select(units.ids[:size]),
                code,
                series.recipe,
                config.sampling,
                lambda universe, run: _measure(universe, run, config, features),
                seed=config.seed,
                only=_drawn(units, size, config),
                execution=execution,
            )
    table = _table(measured)
    write_atomic(out / "table.csv", table.write_csv().encode())
    write_atomic(out / "slopes.csv", slopes(measured).write_csv().encode())
    write_atomic(out / "figure.png", _figure(measured))
    return table


def _drawn(units: Units, size: int, config: SizeStudy) -> list[str] | None:
    if size <= config.drawn:
        return None
    rows = generator("landscape", config.seed, size).permutation(size)[: config.drawn]
    return [units.ids[row] for row in sorted(rows)]


def _measure(universe: Universe, run: Run, config: SizeStudy, features: Features | None) -> Measured:
    measured = radii(universe.distances(), universe.spare_distances(), config.landscape)
    if features:
        seen = radii(*_in_features(universe, features), config.landscape)
        measured |= {f"{key}_features": seen[key] for key in RADII}
    if config.witness:
        measured |= witness_p_values(run, config.witness, config.sampling.drawing)
    return measured | {"nearest_p": nearest_p_values(universe)}


def _in_features(universe: Universe, features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Distances from the factual samples in a feature space: (units, samples) and (spares, samples)."""
    columns = []
    for sample, factual in enumerate(features(universe.factual)):
        columns.append(feature_distances(features(universe.landscape(sample)), factual[None])[:, 0])
    distances = np.stack(columns, axis=1)
    return distances[list(universe.settings.ablation)], distances[list(universe.settings.spares)]


def _table(measured: dict[tuple[str, int], Measured]) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame([_row(name, size, cell) for (name, size), cell in measured.items()])


def _row(name: str, size: int, cell: Measured) -> dict[str, object]:
    row: dict[str, object] = {"series": name, "units": size, "drawn": cell["units_drawn"], "spares": cell["spares"]}
    for key in [key for key in RADII_SEEN if key in cell]:
        values = np.array(cell[key])
        low, high = bootstrap(lambda rows, values=values: geometric_mean(values[rows]), len(values))
        row |= {key: geometric_mean(values), f"{key}_low": low, f"{key}_high": high}
    for seen in [seen for seen in ("", "_features") if f"radius_fixed{seen}" in cell]:
        excess = np.array(cell[f"radius_fixed{seen}"]) / np.maximum(1e-9, cell[f"spare_radius_fixed{seen}"])
        low, high = bootstrap(lambda rows, excess=excess: geometric_mean(excess[rows]), len(excess))
        row |= {f"excess_fixed{seen}": geometric_mean(excess), f"excess_low{seen}": low, f"excess_high{seen}": high}
    for statistic in ("plain", "likeness", "regressed"):
        row[f"nearest_{statistic}"] = float(np.mean(np.array(cell["nearest_p"][statistic]) <= ALPHA))
    if "witness_p" in cell:
        found = np.array(cell["witness_p"]) <= ALPHA
        low, high = wilson(int(found.sum()), len(found))
        row |= {"nearest_witness": found.mean(), "nearest_witness_low": low, "nearest_witness_high": high}
        row["some_unit_witness"] = float(np.mean(np.array(cell["marked"]) > 0))
        row["unattributable"] = _unattributable(cell)
    return row | {"training_seconds": cell["training_seconds"], "drawing_seconds": cell["drawing_seconds"]}


def _unattributable(cell: Measured) -> float:
    """Share of the universe's samples in which no unit is found and no removal moves the sample more than spares do.

    Not found: the witness test's nearest unit has p > 0.05 and no unit is marked. Not moved: at equal landscapes, the
    largest distance of units is at most that of spares.
    """
    samples = slice(len(cell["radius"]))
    unseen = (np.array(cell["witness_p"][samples]) > ALPHA) & (np.array(cell["marked"][samples]) == 0)
    unmoved = np.array(cell["radius_fixed"]) <= np.array(cell["spare_radius_fixed"])
    size = len(unseen)
    return float((unseen & unmoved[:size]).mean())


def slope(sizes: np.ndarray, values: np.ndarray) -> float:
    """Least-squares slope of log10 of the geometric mean over samples, (sizes, samples), on log10 size."""
    with np.errstate(divide="ignore"):
        return float(np.polyfit(np.log10(sizes), np.log10(values).mean(axis=1), 1)[0])


def slopes(measured: dict[tuple[str, int], Measured]) -> pl.DataFrame:
    """For each series and radius: the slope, with an interval over samples (the same in every cell).

    The radius over all units uses the sizes whose landscape is whole.
    """
    import polars as pl

    rows = []
    for name in dict.fromkeys(series for series, _ in measured):
        cells = {size: cell for (series, size), cell in measured.items() if series == name}
        for key in [key for key in RADII_SEEN if all(key in cell for cell in cells.values())]:
            whole = {s: c for s, c in cells.items() if c["units_drawn"] == s or "_fixed" in key}
            if key.startswith("spare_radius") and "_fixed" not in key:  # as many spares as there are at every size
                continue
            if len(whole) < 2:
                continue
            sizes, values = np.array(list(whole)), np.array([cell[key] for cell in whole.values()])
            low, high = bootstrap(lambda picked, s=sizes, v=values: slope(s, v[:, picked]), values.shape[1])
            rows.append(
                {
                    "series": name,
                    "radius": key,
                    "from": int(sizes.min()),
                    "to": int(sizes.max()),
                    "slope": slope(sizes, values),
                    "low": low,
                    "high": high,
                }
            )
    published = np.array(list(PUBLISHED.items()))
    rows.append(
        {
            "series": "published",
            "radius": "radius",
            "from": int(published[0, 0]),
            "to": int(published[-1, 0]),
            "slope": float(np.polyfit(np.log10(published[:, 0]), np.log10(published[:, 1]), 1)[0]),
            "low": None,
            "high": None,
        }
    )
    return pl.DataFrame(rows)


COLOURS = ("#24578f", "#b5542b", "#5f7f3b", "#7a4b8c")


def _figure(measured: dict[tuple[str, int], Measured]) -> bytes:
    """Left: the radius over all units and the spares' maximum; right: the ratio at a fixed landscape size."""
    table = _table(measured)

    def draw(left: Axes, right: Axes) -> None:
        left.plot(
            list(PUBLISHED),
            list(PUBLISHED.values()),
            "s:",
            color="#555555",
            markersize=4,
            label="published (MNIST, U-Nets)",
        )
        for colour, name in zip(COLOURS, table["series"].unique(maintain_order=True), strict=False):
            rows = table.filter(table["series"] == name)
            sizes = rows["units"].to_numpy()
            for key, style, label in (("radius", "o-", "radius"), ("spare_radius", "x--", "spares' maximum")):
                values = rows[key].to_numpy()
                left.plot(sizes, values, style, color=colour, markersize=5, linewidth=1.4, label=f"{name}: {label}")
                left.fill_between(
                    sizes, rows[f"{key}_low"].to_numpy(), rows[f"{key}_high"].to_numpy(), color=colour, alpha=0.1
                )
            ratio = rows["excess_fixed"].to_numpy()
            errors = [ratio - rows["excess_low"].to_numpy(), rows["excess_high"].to_numpy() - ratio]
            right.errorbar(sizes, ratio, errors, fmt="o-", color=colour, markersize=5, capsize=3, label=name)
        for axes in (left, right):
            axes.set_xscale("log", base=2)
            axes.set_xlabel("training units")
        left.set_yscale("log")
        left.set_ylabel("largest distance (Euclidean, at 256 × 256 × 3)")
        left.legend(fontsize=8, frameon=False)
        right.axhline(1, color="#555555", linewidth=0.8, linestyle="--")
        right.set_ylabel("radius / spares' maximum (equal landscapes)")
        right.legend(fontsize=8, frameon=False)

    return figure_png(draw, panels=2)
