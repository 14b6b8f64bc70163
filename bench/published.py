"""The published experiments at their own resolution, as far as a processor gets: 28 x 28 digits, 32 x 32 drawings.

python bench/published.py pilot CELL --mnist FILE      train its first component, and say how near its samples come
python bench/published.py train CELL --mnist FILE      train the ensemble (resumable, one process)
python bench/published.py draw CELL --mnist FILE       and draw the universe (resumable)
python bench/published.py sheet CELL --mnist FILE      its samples above the training images nearest to them, as PNG
python bench/published.py table [CELL ..] --mnist FILE the figures of docs/results/published.md, as Markdown

FILE is t10k-images-idx3-ubyte.gz of MNIST. All goes to --out (default bench/out/published). The units of a cell are
random ones of the 10,000 digits of FILE, or of the bundled OpenMoji drawings. The published ensembles have 22
components of weight 11.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

import ablatable as ab
from ablatable._runtime.plotting import contact_sheet, png
from ablatable._runtime.rng import generator
from ablatable._runtime.stats import bootstrap, wilson
from ablatable.analysis.witness import Witness, draw_factual, witness_pictures
from ablatable.data.distance import geometric_mean, native_to_scaled, nearest_images
from ablatable.data.units import to_images
from ablatable.diffusion.kinds import load_component
from ablatable.diffusion.recipe import recipe_from
from ablatable.diffusion.sampling import Trajectories, sample
from ablatable.runs.component_training import TrainTask, train_component
from ablatable.studies.cells import radii

WITNESSED = 48  # samples that the witness test looks at
LANDSCAPE = 32  # the largest distance of so many random units, beside that of as many spares
HERE = ab.Execution(workers=1, device="cpu")
IDEAL = ab.preset("ideal")
STAGES = {"train": "run", "draw": "universe"}  # what of a cell is then made


@dataclass(frozen=True)
class Cell:
    """One ensemble and its universe."""

    units: int
    components: int = 22
    weight: int = 11
    recipe: ab.Recipe = IDEAL
    drawn: int | None = None  # units whose ablations are drawn, random ones; None: all
    samples: int = 16
    spares: int = 32
    drawings: bool = False  # of OpenMoji, instead of digits
    exact: bool = True  # drawn in fp32; else in bf16

    def data(self, mnist: Path) -> ab.Units:
        every = ab.Units.openmoji(by="picture") if self.drawings else ab.Units.from_idx(mnist)
        rows = np.random.Generator(np.random.PCG64(0)).choice(len(every), self.units, replace=False)
        return every.select([every.ids[row] for row in sorted(rows)])

    @property
    def sampling(self) -> ab.Sampling:
        return ab.Sampling(steps=25, precision="fp32" if self.exact else "bf16")


def velocity(steps: int, channels: int, batch: int) -> ab.Recipe:
    """Velocity prediction and noise levels of the preset `colour`, on coefficients of 4 x 4 pixels."""
    values = ab.preset("colour", steps=steps, batch=batch, precision="bf16").model_dump()
    blocks = {"channels": (channels,), "codec": "haar", "block": 4}
    return recipe_from({**values, "component": {**values["component"], **blocks}})


WIDE = velocity(1200, 128, 32)

CELLS = {
    "trained-256": Cell(256, 12, 6, ab.preset("small", steps=600, precision="bf16")),
    "colour-256": Cell(256, 12, 6, ab.preset("colour", steps=2000, batch=16, precision="bf16"), drawn=64),
    "wide-64": Cell(64, 16, 8, WIDE, drawn=48, exact=False),
    "wide-256": Cell(256, 16, 8, WIDE, drawn=48, exact=False),
    "wide-1024": Cell(1024, 16, 8, WIDE, drawn=48, exact=False),
    "wide-8192": Cell(8192, 16, 8, WIDE, drawn=48, exact=False),
    "drawings-64": Cell(64, 10, 5, ab.preset("colour32", steps=2000, precision="bf16"), drawings=True, exact=False),
    "ideal-256": Cell(256),
    "ideal-1024": Cell(1024, drawn=256),
    "ideal-8192": Cell(8192, drawn=256),
}


class Made:
    """A cell's ensemble, samples and universe; what is on disk already is only read."""

    def __init__(self, name: str, mnist: Path, out: Path) -> None:
        self.name, self.cell, self.folder = name, CELLS[name], out / name
        self.units = self.cell.data(mnist)

    @property
    def code(self) -> ab.Code:
        return ab.Code.random(self.cell.units, self.cell.components, 0, weight=self.cell.weight)

    @cached_property
    def run(self) -> ab.Run:
        return ab.train(self.units, self.code, self.cell.recipe, out=self.folder / "run", seed=0, execution=HERE)

    def pilot(self) -> str:
        """Train component 0 alone, and compare 24 of its samples with the images that it saw."""
        split, recipe = self.units.select([self.units.ids[row] for row in self.code.split(0)]), self.cell.recipe
        folder, began = self.folder / "pilot", time.process_time()
        train_component(TrainTask(split, recipe, 0, 0, folder))
        seconds = time.process_time() - began
        component = load_component(folder, recipe.component, recipe.schedule)
        with torch.inference_mode():
            drawn = sample(component, Trajectories(range(24), split.shape), sampling=self.cell.sampling)
        pictures = to_images(drawn)
        near, square = nearest_images(pictures, split.images)
        (self.folder / "pilot.png").write_bytes(png(contact_sheet(pictures[:12], split.images[near[:12]])))
        away = np.median(np.sqrt(square)) / 255 * native_to_scaled(self.units.shape)
        return f"{len(split)} units, {seconds:.0f} CPU seconds: nearest image {away:.0f} away (median of 24 samples)"

    @cached_property
    def pictures(self) -> np.ndarray:
        """The first WITNESSED samples, uint8 (samples, H, W, 1)."""
        known = self.folder / "samples.npy"
        if not known.exists():
            np.save(known, draw_factual(self.run, range(WITNESSED), self.cell.sampling, "cpu"))
        return np.load(known)

    @cached_property
    def nearest(self) -> tuple[np.ndarray, np.ndarray]:
        """The unit nearest to each of these samples and its distance in the paper's unit."""
        return self.named(self.pictures)

    def named(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The unit nearest to each picture, among all units, and how far it is."""
        unit, square = nearest_images(pictures, self.units.images)
        return unit, np.sqrt(square) / 255 * native_to_scaled(self.units.shape)

    @cached_property
    def random_units(self) -> list[str]:
        """The units over which radii are taken: all, or random ones."""
        count = self.cell.units
        rows = generator("published", count).permutation(count)[: self.cell.drawn or count]
        return [self.units.ids[row] for row in sorted(rows)]

    @cached_property
    def universe(self) -> ab.Universe:
        """The ablations of those units, and of the units that are nearest to a sample."""
        near = {self.units.ids[row] for row in self.nearest[0][: self.cell.samples]}
        wanted = {*self.random_units, *near}
        return ab.enumerate_universe(
            self.run,
            range(self.cell.samples),
            out=self.folder / "u.zarr",
            units=[unit for unit in self.units.ids if unit in wanted],
            sampling=self.cell.sampling,
            spares=self.cell.spares,
            execution=HERE,
        )

    def named_again(self) -> tuple[np.ndarray, np.ndarray]:
        """Is the nearest unit still nearest without it, and under which share of the others' ablations? (samples,)."""
        universe, itself, others = self.universe, [], []
        ablation = universe.settings.ablation
        for number, unit in enumerate(self.nearest[0][: self.cell.samples]):
            own = universe.unit_ids.index(self.units.ids[unit])
            again = np.equal(self.named(universe.counterfactuals(number, list(ablation)))[0], unit)
            itself.append(again[own])
            others.append(np.delete(again, own).mean())
        return np.array(itself), np.array(others)

    @cached_property
    def witness(self) -> Witness:
        return witness_pictures(self.run, self.pictures, range(WITNESSED))


@dataclass(frozen=True)
class Figures:
    """What was measured of one cell, one number per sample."""

    radius: np.ndarray
    spare_radius: np.ndarray
    units_fixed: np.ndarray  # the largest distance of LANDSCAPE random units
    spares_fixed: np.ndarray  # and of as many spares
    away: np.ndarray  # distance of the nearest unit
    again: tuple[np.ndarray, np.ndarray]  # see `Made.named_again`
    p: np.ndarray  # of the nearest unit, by the witness test
    marked: np.ndarray  # whether any unit is

    @classmethod
    def of(cls, made: Made) -> Figures:
        universe, told = made.universe, made.witness
        random = np.isin(universe.unit_ids, made.random_units)
        measured = radii(universe.distances()[random], universe.spare_distances(), LANDSCAPE)
        landscape = ("radius", "spare_radius", "radius_fixed", "spare_radius_fixed")
        return cls(
            *(np.asarray(measured[key]) for key in landscape),
            away=made.nearest[1],
            again=made.named_again(),
            p=np.asarray(told.nearest_p),
            marked=np.asarray(told.marked().any(axis=0)),
        )

    @property
    def unattributable(self) -> np.ndarray:
        """No unit is significant, and no removal moves the sample farther than a spare does."""
        first = slice(len(self.radius))
        return ~np.less_equal(self.p[first], 0.05) & ~self.marked[first] & (self.units_fixed <= self.spares_fixed)

    def row(self) -> list[str]:
        itself, others = self.again
        return [
            interval(self.radius),
            interval(self.spare_radius),
            f"{geometric_mean(self.units_fixed):.1f} / {geometric_mean(self.spares_fixed):.1f}",
            f"{np.median(self.away):.0f}",
            f"p {share(itself)}, q {others.mean():.2f}, FAR {min(1, itself.mean() / others.mean()):.2f}",
            share(np.less_equal(self.p, 0.05)),
            share(np.less_equal(self.p, 0.01)),
            share(self.marked),
            share(self.unattributable),
        ]


def interval(values: np.ndarray) -> str:
    low, high = bootstrap(lambda rows: geometric_mean(values[rows]), len(values))
    return f"{geometric_mean(values):.1f} ({low:.1f} to {high:.1f})"


HEAD = (
    "ensemble",
    "components, weight",
    "radius",
    "spares' maximum",
    f"{LANDSCAPE} units / {LANDSCAPE} spares",
    "nearest unit, median distance",
    "nearest unit named again",
    "witness test, nearest unit p <= 0.05",
    "p <= 0.01",
    "some unit marked",
    "unattributable",
)


def share(found: np.ndarray) -> str:
    low, high = wilson(int(found.sum()), len(found))
    return f"{found.mean():.2f} ({low:.2f} to {high:.2f})"


def sheet(made: Made, count: int = 16) -> None:
    """Samples above the training images nearest to them, into the cell's folder."""
    near = made.units.images[made.nearest[0][:count]]
    (made.folder / "sheet.png").write_bytes(png(contact_sheet(made.pictures[:count], near)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["pilot", "train", "draw", "sheet", "table"])
    parser.add_argument("cells", nargs="*", default=list(CELLS))
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("bench/out/published"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.stage == "table":
        print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for name in args.cells:
        made = Made(name, args.mnist, args.out)
        if args.stage == "table":
            told = [name, f"{made.cell.components}, {made.cell.weight}", *Figures.of(made).row()]
            print("| " + " | ".join(told) + " |", flush=True)
        elif args.stage == "pilot":
            print(f"{name}: {made.pilot()}", flush=True)
        elif args.stage == "sheet":
            sheet(made)
        else:
            getattr(made, STAGES[args.stage])


if __name__ == "__main__":
    main()
