"""Is there a sample that stays the same whichever artist is removed? Two artists' nearly equal drawings, and the code.

    python bench/shared_subjects.py --out shared

Units are the 32 OpenMoji designers with most drawings, 32 x 32; components are ideal, 12 of weight 9. Three pairs of
designers have drawings that look nearly alike. With codewords as drawn first (`random`) each pair leaves a component
that saw neither of the two; `covering` is the first code, of those drawn with seeds 0, 1, .., with which every
component saw one of each pair or both.

Asked about is every seed from 0 to 511 whose sample under `random` is nearest to a drawing that another designer nearly
has. Their noise is drawn with both codes, without each designer and under spares. Prints how far every sample moves,
and writes a picture of all of them. What is drawn is kept in `--out`: samples.npy, random.npz, covering.npz.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch

import ablatable as ab
from ablatable.data.distance import euclidean, pairwise
from ablatable.universes.drawing import draw

PAIRS = (("Johanna Wellnitz", "Rifat Erdogan"), ("Fanny Jung", "Lisa Schulz"), ("Emily Jäger", "Mariella Steeb"))
COMPONENTS, WEIGHT, SPARES, STEPS = 12, 9, 16, 25
SEEDS, ALIKE = range(512), 30
BATCH = 64  # rows that a component takes at once: four times as fast as a universe's 8, and a grey level off at most
CODES = ("random", "covering")
COLUMNS = 3  # of the picture


@dataclass(frozen=True)
class Drawn:
    """Samples with everyone and under removals; pictures are uint8 (..., samples, H, W, C)."""

    seeds: np.ndarray
    factual: np.ndarray
    without: np.ndarray  # (designers, samples, ..)
    spare: np.ndarray  # (spares, samples, ..)

    @cached_property
    def distances(self) -> np.ndarray:
        """(designers, samples), in the paper's unit."""
        return euclidean(self.without, self.factual)

    @cached_property
    def spare_distances(self) -> np.ndarray:
        """(spares, samples)."""
        return euclidean(self.spare, self.factual)

    @property
    def order(self) -> list[int]:
        """Samples, the one that moves least first."""
        return np.argsort(self.distances.max(axis=0), kind="stable").tolist()


def covers(code: ab.Code, units: ab.Units) -> bool:
    """Whether every component saw one of each pair or both."""
    row = {unit: k for k, unit in enumerate(units.ids)}
    return all((code.matrix[row[a]] | code.matrix[row[b]]).all() for a, b in PAIRS)


def ensemble(name: str, units: ab.Units, out: Path) -> ab.Run:
    """Of ideal components, by the code of that name; made unless it is there."""
    codes = (ab.Code.random(len(units), COMPONENTS, seed, weight=WEIGHT) for seed in count())
    code = next(code for code in codes if name == "random" or covers(code, units))
    here = ab.Execution(workers=0, device="cpu")
    return ab.train(units, code, ab.preset("ideal"), out=out / name, execution=here)


def pictures(run: ab.Run, ablations: np.ndarray, seeds: list[int]) -> np.ndarray:
    """Under each ablation, (ablations, components): uint8 (ablations, samples, H, W, C)."""
    how = {"schedule": run.recipe.schedule, "sampling": ab.Sampling(steps=STEPS)}
    drawn = draw(run.ensemble(batch=BATCH), ablations, seeds, shape=run.noise_shape, **how)
    return np.moveaxis(drawn, 2, -1)


def near_shared(run: ab.Run, units: ab.Units, path: Path) -> list[int]:
    """The seeds whose sample is nearest to a drawing that is within ALIKE of one by another designer."""
    if not path.exists():
        everyone = np.zeros((1, COMPONENTS), bool)
        np.save(path, pictures(run, everyone, [*SEEDS])[0])
    others = np.not_equal.outer(units.owner, units.owner)
    alike = np.where(others, pairwise(units.images, units.images), np.inf).min(axis=1)
    nearest = pairwise(np.load(path), units.images).argmin(axis=1)
    return [seed for seed, near in zip(SEEDS, nearest, strict=True) if alike[near] <= ALIKE]


def draw_all(run: ab.Run, seeds: list[int], path: Path) -> Drawn:
    """Those seeds with everyone, without each designer, and under spares; drawn unless it is there."""
    if not path.exists():
        spares = run.code.spares(SPARES)
        ablations = np.concatenate([np.zeros((1, COMPONENTS), bool), run.code.matrix, spares])
        found = pictures(run, ablations, seeds)
        np.savez(path, seeds=seeds, factual=found[0], without=found[1:-SPARES], spare=found[-SPARES:])
    return read(path)


def read(path: Path) -> Drawn:
    """What `draw_all` kept."""
    with np.load(path) as kept:
        return Drawn(**kept)


def tell(found: dict[str, Drawn]) -> None:
    """How far every sample moves without a designer, and under spares."""
    covering = found["covering"]
    print(f"{len(covering.seeds)} of {len(SEEDS)} samples are nearest to a drawing that two designers nearly have")
    print("seed  " + "  ".join(f"{name:>8}: radius, spares" for name in CODES))
    for k in covering.order:
        cells = (f"{one.distances[:, k].max():16.1f}  {one.spare_distances[:, k].max():6.1f}" for one in found.values())
        print(f"{covering.seeds[k]:4}  " + "  ".join(cells))
    for name, one in found.items():
        radius = one.distances.max(axis=0)
        print(f"{name}: radius {radius.min():.1f} to {radius.max():.1f}, median {np.median(radius):.1f}")


def picture(found: dict[str, Drawn], path: Path) -> None:
    """All samples with both codes, and what each becomes without the designer whose removal moves it most."""
    mpl.use("Agg")
    order = found["covering"].order
    lines = -(-len(order) // COLUMNS)
    height = 0.74 * lines + 0.55
    figure = plt.figure(figsize=(8.3, height), dpi=100)
    grid = figure.add_gridspec(lines, COLUMNS, left=0.01, right=0.99, bottom=0.01, top=1 - 0.55 / height, wspace=0.12)
    for place, k in enumerate(order):
        cell = grid[place % lines, place // lines].subgridspec(1, 5, wspace=0.08, width_ratios=(1, 1, 0.12, 1, 1))
        for number, (name, one) in enumerate(found.items()):
            farthest = one.distances[:, k].argmax()
            for side, pixels in enumerate((one.factual[k], one.without[farthest, k])):
                axes = figure.add_subplot(cell[3 * number + side])
                axes.imshow(pixels, interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                if side:
                    axes.set_title(f"{one.distances[farthest, k]:.0f}", fontsize=8, pad=2)
                elif place % lines == 0:
                    axes.text(0, 1.28, f"{name} code:\nsample, without", transform=axes.transAxes, fontsize=8)
    figure.savefig(path)


def main() -> None:
    """Draw, print, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path, default=Path("docs/results/images/shared-subjects.png"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    units = ab.Units.openmoji(32, size=32)
    runs = {name: ensemble(name, units, args.out) for name in CODES}
    seeds = near_shared(runs["random"], units, args.out / "samples.npy")
    found = {name: draw_all(run, seeds, args.out / f"{name}.npz") for name, run in runs.items()}
    tell(found)
    picture(found, args.picture)


if __name__ == "__main__":
    main()
