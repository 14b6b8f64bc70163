"""The published MNIST experiment at its own resolution, as far as a processor gets: 28 x 28 pixels.

python bench/published.py train CELL --mnist FILE      train the ensemble (resumable, one process)
python bench/published.py draw CELL --mnist FILE       and draw the universe (resumable)
python bench/published.py table [CELL ..] --mnist FILE the figures of docs/results/published.md, as Markdown

FILE is t10k-images-idx3-ubyte.gz of MNIST. All goes to --out (default bench/out/published). The units of a cell are
random ones of the 10,000 digits of FILE. The published ensembles have 22 components of weight 11.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import ablatable as ab
from ablatable._runtime.rng import generator
from ablatable._runtime.stats import bootstrap, wilson
from ablatable.analysis.nearest import nearest_units
from ablatable.analysis.witness import witness_pictures
from ablatable.data.distance import geometric_mean
from ablatable.studies.cells import radii

WITNESSED = 48  # samples that the witness test looks at
LANDSCAPE = 32  # the largest distance of so many random units, beside that of as many spares
HERE = ab.Execution(workers=1, device="cpu")


@dataclass(frozen=True)
class Cell:
    """One ensemble and its universe."""

    units: int
    components: int = 22
    steps: int = 0  # of training; 0: ideal components
    drawn: int | None = None  # units whose ablations are drawn, random ones; None: all
    samples: int = 16
    spares: int = 32

    def data(self, mnist: Path) -> ab.Units:
        every = ab.Units.from_idx(mnist)
        rows = np.random.Generator(np.random.PCG64(0)).choice(len(every), self.units, replace=False)
        return every.select([every.ids[row] for row in sorted(rows)])

    def recipe(self) -> ab.Recipe:
        return ab.preset("small", steps=self.steps, precision="bf16") if self.steps else ab.preset("ideal")


CELLS = {
    "trained-256": Cell(256, components=12, steps=600),
    "ideal-256": Cell(256),
    "ideal-1024": Cell(1024, drawn=256),
    "ideal-8192": Cell(8192, drawn=256),
}


def train(name: str, mnist: Path, out: Path) -> ab.Run:
    cell = CELLS[name]
    code = ab.Code.random(cell.units, cell.components, 0, weight=cell.components // 2)
    return ab.train(cell.data(mnist), code, cell.recipe(), out=out / name / "run", seed=0, execution=HERE)


def draw(name: str, mnist: Path, out: Path) -> ab.Universe:
    cell, run = CELLS[name], train(name, mnist, out)
    units = None
    if cell.drawn:
        rows = generator("published", cell.units).permutation(cell.units)[: cell.drawn]
        units = [run.unit_ids[row] for row in sorted(rows)]
    return ab.enumerate_universe(
        run,
        range(cell.samples),
        out=out / name / "u.zarr",
        units=units,
        sampling=ab.Sampling(steps=25, compiled=bool(cell.steps)),
        spares=cell.spares,
        execution=HERE,
    )


def figures(name: str, mnist: Path, out: Path) -> list[str]:
    """One row of the table."""
    cell, universe, run = CELLS[name], draw(name, mnist, out), train(name, mnist, out)
    measured = radii(universe.distances(), universe.spare_distances(), LANDSCAPE)

    def mean(key: str) -> str:
        values = np.asarray(measured[key])
        low, high = bootstrap(lambda rows: geometric_mean(values[rows]), len(values))
        return f"{geometric_mean(values):.1f} ({low:.1f} to {high:.1f})"

    nearest = nearest_units(universe)
    found = ab.evaluate(universe, ["euclidean"], out=out / name / "evaluation", execution=HERE)
    far = found.scored["euclidean"].far
    assert far is not None
    told = witness_pictures(run, *_samples(run, range(WITNESSED)))
    hits = [int((told.nearest_p <= level).sum()) for level in (0.05, 0.01)]
    return [
        name,
        f"{cell.components}, {cell.components // 2}",
        mean("radius"),
        mean("spare_radius"),
        f"{mean('radius_fixed')} / {mean('spare_radius_fixed')}",
        f"{np.median(nearest.distance):.0f}",
        f"{nearest.changed.sum()} of {len(nearest.changed)}, {np.nanmean(nearest.changed_spares):.2f}, "
        f"{np.nanmean(nearest.changed_others):.2f}",
        f"{far.without_named.mean():.2f}, {far.without_other.mean():.2f}",
        ", ".join("{:.2f} ({:.2f} to {:.2f})".format(h / WITNESSED, *wilson(h, WITNESSED)) for h in hits),
    ]


def _samples(run: ab.Run, seeds: range) -> tuple[np.ndarray, range]:
    from ablatable.analysis.witness import draw_factual

    return draw_factual(run, seeds, ab.Sampling(steps=25), "cpu"), seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["train", "draw", "table"])
    parser.add_argument("cells", nargs="*", default=list(CELLS))
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("bench/out/published"))
    args = parser.parse_args()
    for name in args.cells:
        if args.stage == "table":
            print("| " + " | ".join(figures(name, args.mnist, args.out)) + " |", flush=True)
        else:
            {"train": train, "draw": draw}[args.stage](name, args.mnist, args.out)


if __name__ == "__main__":
    main()
