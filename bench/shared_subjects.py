"""Is there a sample that stays the same whichever artist is removed? Two artists' nearly equal drawings, and the code.

    python bench/shared_subjects.py --out shared

Units are the 32 OpenMoji designers with most drawings, 32 x 32; components are ideal, 12 of weight 9. Three pairs of
designers have drawings that look nearly alike. With codewords as drawn first (`random`) each pair leaves a component
that saw neither of the two; `covering` is the first code, of those drawn with seeds 0, 1, .., with which every
component saw one of each pair or both. The same noise is drawn with both codes and without each designer. Prints
every sample's radius, and writes a picture.
"""

from __future__ import annotations

import argparse
from itertools import count
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import ablatable as ab

PAIRS = (("Johanna Wellnitz", "Rifat Erdogan"), ("Fanny Jung", "Lisa Schulz"), ("Emily Jäger", "Mariella Steeb"))
COMPONENTS, WEIGHT, SPARES = 12, 9, 16
# 16 of the 25 seeds among 0 to 511 whose sample (code `random`) is nearest to a drawing that another designer nearly
# has: within a distance of 30.
SEEDS = (65, 30, 418, 66, 403, 110, 255, 369, 149, 147, 285, 464, 310, 462, 228, 332)
SHOWN, COLUMNS = (65, 110, 66), 12


def covers(code: ab.Code, units: ab.Units) -> bool:
    """Whether every component saw one of each pair or both."""
    row = {unit: k for k, unit in enumerate(units.ids)}
    return all((code.matrix[row[a]] | code.matrix[row[b]]).all() for a, b in PAIRS)


def universe(name: str, units: ab.Units, out: Path) -> ab.Universe:
    """Train the ensemble, unless it is there, and draw its universe."""
    codes = (ab.Code.random(len(units), COMPONENTS, seed, weight=WEIGHT) for seed in count())
    code = next(code for code in codes if name == "random" or covers(code, units))
    here = ab.Execution(workers=0, device="cpu")
    run = ab.train(units, code, ab.preset("ideal"), out=out / name / "run", execution=here)
    how = {"sampling": ab.Sampling(steps=25), "spares": SPARES, "execution": here}
    return ab.enumerate_universe(run, SEEDS, out=out / name / "u.zarr", **how)


def farthest(drawn: ab.Universe, sample: int) -> list[np.ndarray]:
    """A factual sample and its counterfactuals of largest distance, farthest first."""
    order = np.argsort(-drawn.distances()[:, sample], kind="stable")[:COLUMNS]
    return [drawn.factual[sample], *(drawn.counterfactual(drawn.unit_ids[row])[sample] for row in order)]


def picture(drawn: dict[str, ab.Universe], path: Path) -> None:
    """Some samples and their farthest counterfactuals, one row per code."""
    mpl.use("Agg")
    rows = [(name, seed) for seed in SHOWN for name in drawn]
    size = ((COLUMNS + 2.2) * 0.8, (len(rows) + 0.4) * 0.8)
    figure, axes = plt.subplots(len(rows), COLUMNS + 1, figsize=size, dpi=100)
    for line, (name, seed) in zip(axes, rows, strict=True):
        sample = SEEDS.index(seed)
        for axis, pixels in zip(line, farthest(drawn[name], sample), strict=True):
            axis.imshow(pixels, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        radius = drawn[name].distances()[:, sample].max()
        line[0].set_ylabel(f"{name}\nradius {radius:.0f}", rotation=0, ha="right", va="center")
    axes[0][0].set_title("sample", fontsize=10)
    axes[0][1].set_title("without one designer each, farthest first", fontsize=10, loc="left")
    figure.subplots_adjust(left=1.1 / (COLUMNS + 2.2), right=0.995, bottom=0.01, top=0.94, wspace=0.06, hspace=0.08)
    figure.savefig(path)


def main() -> None:
    """Draw, print, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path, default=Path("docs/results/images/shared-subjects.png"))
    args = parser.parse_args()
    units = ab.Units.openmoji(32, size=32)
    drawn = {name: universe(name, units, args.out) for name in ("random", "covering")}
    for name, found in drawn.items():
        distances, spares = found.distances(), found.spare_distances()
        for k, seed in enumerate(found.seeds):
            radius, median = distances[:, k].max(), np.median(distances[:, k])
            print(f"{name:9} {seed:3}: radius {radius:6.1f}, median {median:6.1f}; spares {spares[:, k].max():6.1f}")
    picture(drawn, args.picture)


if __name__ == "__main__":
    main()
