"""The main job on real data, end to end: draw, remove everyone, test, report.

The artists' demo starts from the ensemble that comes with the package, or trains it. The digits' demo trains.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ._runtime.execution import Execution
from ._runtime.files import write_json
from ._runtime.outputs import OutputKind, check_folder
from .analysis.nearest import Nearest, nearest_units, summary
from .analysis.witness import ALPHA, Witness, witness_pictures
from .codes.code import Code
from .data.distance import geometric_mean
from .data.units import Units
from .diffusion.recipe import preset
from .diffusion.sampling_settings import Sampling
from .errors import Message, SettingsError, option
from .report import write_report
from .runs.bundled import bundled, train_bundled
from .runs.ensemble_training import train as train_ensemble
from .runs.run import Run
from .universes.enumeration import enumerate_universe
from .universes.reader import Universe

if TYPE_CHECKING:
    import polars as pl

DemoData = Literal["artists", "digits"]
DATA: tuple[DemoData, ...] = ("artists", "digits")
SAMPLES, SPARES = 12, 24
# Few units and many passes over each: the regime in which single units matter (docs/demo.md says what was tried).
DIGITS, SIDE, COMPONENTS, RECIPE = 48, 14, 8, preset("tiny")
SAMPLING = Sampling()
BUNDLED = f" (came with the package; {option('train', True)} trains it)"

DEMO = OutputKind(
    what="demo",
    marker="demo.json",
    recognises=lambda value: value["kind"] == "ablatable demo",
    files=(r"demo\.json|(run|universe\.zarr|report)/.*",),
)
"""What the demo's folder holds; each folder in it is checked again when it is written."""


@dataclass(frozen=True)
class Outcome:
    """What the demo found and where it is.

    Attributes:
        out: the demo's folder.
        page: the report.
        run: the ensemble.
        bundled: whether it came with the package and was not trained here.
        universe: the samples with all counterfactuals.
        nearest: the nearest training units.
        witness: what the components recognise.
        seconds: how long it took.
    """

    out: Path
    page: Path
    run: Run
    bundled: bool
    universe: Universe
    nearest: Nearest
    witness: Witness
    seconds: float

    @property
    def table(self) -> pl.DataFrame:
        """What fits a terminal: per sample the nearest unit, its p-value, what follows it, and how far samples move."""
        import polars as pl

        rows = summary(self.universe, self.nearest)
        return rows.select(
            "sample",
            "nearest_unit",
            pl.Series("p", self.witness.nearest_p).round(3),
            pl.col("nearest_without").alias("without_it"),
            "radius",
            pl.col("spare_radius").alias("spares"),
        )

    def figures(self) -> dict[str, float]:
        """The demo's claims in numbers; distances in the paper's unit, shares from 0 to 1."""
        return {
            "radius_geometric_mean": geometric_mean(self.universe.radius()),
            "spare_radius_geometric_mean": geometric_mean(self.universe.spare_distances().max(axis=0)),
            "nearest_recognised": float((self.witness.nearest_p <= ALPHA).mean()),
            "nearest_changes_when_removed": float(self.nearest.changed.mean()),
            "nearest_changes_when_another_is_removed": float(self.nearest.changed_others.mean()),
            "nearest_changes_under_spares": float(self.nearest.changed_spares.mean()),
            "seconds": round(self.seconds, 1),
            "peak_gib_of_largest_process": round(_peak_gib(), 2),
        }

    def sentences(self) -> list[str]:
        """The same in words, and where to look."""
        f = self.figures()
        still = int(self.universe.radius().argmin())
        return [
            "",
            "p: the chance that components that saw a unit recognise it so well if it influences none of them.",
            "radius: the largest distance over the removals of all units;",
            "spares: over removals of as many components that remove no unit.",
            f"Geometric means: {f['radius_geometric_mean']:.1f} and {f['spare_radius_geometric_mean']:.1f}. "
            "Losing components moves a picture by itself.",
            f"Sample {still} changes least: by {self.universe.radius()[still]:.1f} at most, whichever unit is removed.",
            "Does the nearest training unit stay the nearest?",
            f"  it changes in {f['nearest_changes_when_removed']:4.0%} of samples when that unit is removed,",
            f"          in {f['nearest_changes_when_another_is_removed']:4.0%} when another unit is removed,",
            f"          in {f['nearest_changes_under_spares']:4.0%} under spare ablations, which remove no unit.",
            self.witness.headline(),
            "",
            f"took {f['seconds']:.0f} s, {f['peak_gib_of_largest_process']} GiB in the largest process",
            Message(f"run       {self.run.path}{BUNDLED if self.bundled else ''}"),
            f"universe  {self.out / 'universe.zarr'}",
            f"report    {self.page}   <- open this in a browser",
        ]

    def as_dict(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        paths = {"run": str(self.run.path), "universe": self.universe.url, "report": str(self.page)}
        told = {**paths, "bundled": self.bundled, **self.figures()}
        return {**told, "samples": summary(self.universe, self.nearest).to_dicts()}


def run_demo(
    out: Path,
    *,
    data: DemoData = "artists",
    train: bool = False,
    execution: Execution = Execution(),
    overwrite: bool = False,
) -> Outcome:
    """Run the demo into `out`; what an earlier call finished is kept.

    Args:
        out: its folder.
        data: `artists`, twelve artists' drawings in colour; or `digits`, 48 handwritten digits, which always trains.
        train: train the artists' ensemble instead of taking the one that comes with the package.
        execution: how to run the work.
        overwrite: replace what an earlier call with other arguments made.
    """
    began = time.monotonic()
    if data not in DATA:
        raise SettingsError(f"the demo has no data '{data}'; there are {', '.join(DATA)}")
    check_folder(out, DEMO)
    write_json(out / DEMO.marker, {"kind": "ablatable demo"})
    ready = data == "artists" and not train
    run = bundled() if ready else _trained(data, out / "run", execution, overwrite)
    universe = enumerate_universe(
        run.path,
        range(SAMPLES),
        out=out / "universe.zarr",
        sampling=SAMPLING,
        spares=min(SPARES, run.code.spare_capacity),
        execution=execution,
        overwrite=overwrite,
    )
    # The page is made from universe and run alone, so it is never precious.
    page = write_report(universe, out / "report", run=run, overwrite=True)
    told = witness_pictures(run, universe.factual, universe.seeds)
    return Outcome(out, page, run, ready, universe, nearest_units(universe), told, time.monotonic() - began)


def _trained(data: DemoData, path: Path, execution: Execution, overwrite: bool) -> Run:
    if data == "artists":
        return train_bundled(path, execution=execution, overwrite=overwrite)
    units = Units.digits(DIGITS, size=SIDE)
    code = Code.random(units=DIGITS, components=COMPONENTS, seed=0)
    return train_ensemble(units, code, RECIPE, out=path, execution=execution, overwrite=overwrite)


def _peak_gib() -> float:
    """Most memory that this process or any of its workers held, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # what the system counts in
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak * unit / 2**30
