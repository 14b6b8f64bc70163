"""The main job on real digits, end to end: train, draw, enumerate, report."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._runtime.execution import Execution
from ._runtime.outputs import OutputKind, check_folder
from .analysis.nearest import Nearest, nearest_units, summary
from .codes.code import Code
from .data.distance import geometric_mean
from .data.units import Units
from .diffusion.recipe import preset
from .report import write_report
from .runs.ensemble_training import train
from .runs.run import RUN
from .universes.enumeration import enumerate_universe
from .universes.reader import Universe

if TYPE_CHECKING:
    import polars as pl

# Few units and many passes over each: the regime in which single units matter (docs/demo.md says what was tried).
UNITS, SIDE, COMPONENTS, SAMPLES = 48, 14, 8, 12

DEMO = OutputKind(
    what="demo",
    marker="run/settings.json",
    recognises=RUN.recognises,
    files=(r"(run|universe\.zarr|report)/.*",),
)
"""What the demo's folder holds; each folder in it is checked again when it is written."""


@dataclass(frozen=True)
class Outcome:
    """What the demo found and where it is."""

    out: Path
    page: Path
    universe: Universe
    nearest: Nearest
    seconds: float

    @property
    def table(self) -> pl.DataFrame:
        """The columns of `nearest.summary` that fit a terminal."""
        import polars as pl

        rows = summary(self.universe, self.nearest)
        return rows.select(
            "sample",
            "radius",
            pl.col("spare_radius").alias("spares"),
            "top_unit",
            "nearest_unit",
            pl.col("nearest_distance").alias("away"),
            pl.col("nearest_without").alias("without_it"),
        )

    def figures(self) -> dict[str, float]:
        """The demo's claims in numbers; distances in the paper's unit, shares from 0 to 1."""
        return {
            "radius_geometric_mean": geometric_mean(self.universe.radius()),
            "spare_radius_geometric_mean": geometric_mean(self.universe.spare_distances().max(axis=0)),
            "nearest_changes_when_removed": float(self.nearest.changed.mean()),
            "nearest_changes_when_another_is_removed": float(self.nearest.changed_others.mean()),
            "nearest_changes_under_spares": float(self.nearest.changed_spares.mean()),
            "seconds": round(self.seconds, 1),
            "peak_gib_of_largest_process": round(_peak_gib(), 2),
        }

    def sentences(self) -> list[str]:
        """The same in words, and where to look."""
        f = self.figures()
        return [
            "",
            "radius: the largest distance over the removals of all units;",
            "spares: over removals of as many components that remove no unit.",
            f"Geometric means: {f['radius_geometric_mean']:.1f} and {f['spare_radius_geometric_mean']:.1f}. "
            "Losing half the components moves a picture",
            "by itself.",
            "What tells a unit from that: does the nearest training unit stay the nearest?",
            f"  it changes in {f['nearest_changes_when_removed']:4.0%} of samples when that unit is removed,",
            f"          in {f['nearest_changes_when_another_is_removed']:4.0%} when another unit is removed,",
            f"          in {f['nearest_changes_under_spares']:4.0%} under spare ablations, which remove no unit.",
            "",
            f"took {f['seconds']:.0f} s, {f['peak_gib_of_largest_process']} GiB in the largest process",
            f"run       {self.out / 'run'}",
            f"universe  {self.out / 'universe.zarr'}",
            f"report    {self.page}   <- open this in a browser",
        ]

    def as_dict(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        paths = {"run": str(self.out / "run"), "universe": self.universe.url, "report": str(self.page)}
        return {**paths, **self.figures(), "samples": summary(self.universe, self.nearest).to_dicts()}


def run_demo(out: Path, *, execution: Execution = Execution(), overwrite: bool = False) -> Outcome:
    """Run the demo into `out`; what an earlier call finished is kept."""
    began = time.monotonic()
    check_folder(out, DEMO)
    units = Units.digits(UNITS, size=SIDE)
    code = Code.random(units=UNITS, components=COMPONENTS, seed=0)
    run = train(units, code, preset("tiny"), out=out / "run", execution=execution, overwrite=overwrite)
    universe = enumerate_universe(
        run.path,
        range(SAMPLES),
        out=out / "universe.zarr",
        spares=min(UNITS, code.spare_capacity),
        execution=execution,
        overwrite=overwrite,
    )
    page = write_report(
        universe, out / "report", run=run, overwrite=True
    )  # made from the universe alone, so never precious
    return Outcome(out, page, universe, nearest_units(universe), time.monotonic() - began)


def _peak_gib() -> float:
    """Most memory that this process or any of its workers held, in GiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # what the system counts in
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak * unit / 2**30
