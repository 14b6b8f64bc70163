"""Fewer passes: does the removal of an artist still change the same pictures, drawn with another sampler?

    python bench/passes.py --out /tmp/passes

The bundled ensemble draws the same seeds with each sampler, without every artist, and under some spare ablations. All
samplers but `ddpm` follow one differential equation from the same noise, whose solution is drawn with many steps of
`heun` for comparison. Printed per sampler, over the samples:

- nearest: median distance to the nearest training image, 1 = as far as training images are from each other;
- recognised: the witness test names the nearest artist, p <= 0.05;
- changed: the artist of the nearest drawing changes when that artist is removed | under spare ablations;
- against the solution: distance of the samples (paper's unit), share with the same nearest artist, rank correlation
  of the distances over artists, and share in which the same artist moves the sample farthest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import ablatable as ab
from ablatable._runtime.stats import rank_correlation
from ablatable.analysis.sample_quality import judge
from ablatable.analysis.witness import ALPHA, witness_pictures
from ablatable.data.distance import euclidean, pairwise
from ablatable.runs.bundled import located

SOLUTION = ab.Sampling("heun", 30)
SAMPLERS = (
    ab.Sampling("ddpm", 50),
    ab.Sampling("dpmsolver++", 10),
    ab.Sampling("dpmsolver++", 15),
    ab.Sampling("heun", 10),
    ab.Sampling("heun", 18),
)


def owner(pictures: np.ndarray, units: ab.Units) -> np.ndarray:
    """Row of the artist of the nearest drawing, int (N,), of uint8 (N, H, W, C)."""
    return units.owner[pairwise(pictures, units.images).argmin(axis=1)]


def main() -> None:
    """Draw what is missing, and print a row per sampler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--spares", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    run = ab.Run(located(Path("bundled")))
    units = run.units()

    def drawn(sampling: ab.Sampling) -> ab.Universe:
        return ab.enumerate_universe(
            run,
            range(args.seeds),
            out=args.out / f"{sampling.sampler}-{sampling.steps}.zarr",
            sampling=sampling,
            spares=args.spares,
            execution=ab.Execution(workers=0, quiet=True),
        )

    solution = drawn(SOLUTION)
    for sampling in (SOLUTION, *SAMPLERS):
        universe = drawn(sampling)
        factual, near = universe.factual, owner(universe.factual, units)
        spares = universe.ablations(list(universe.settings.spares))
        without = np.stack([universe.counterfactual(universe.unit_ids[n])[k] for k, n in enumerate(near)])
        changed, by_chance = owner(without, units) != near, [owner(spare, units) != near for spare in spares]
        apart = euclidean(factual, solution.factual)
        here, there = universe.distances(), solution.distances()
        ranks = [rank_correlation(a, b) for a, b in zip(here.T, there.T, strict=True)]
        recognised = witness_pictures(run, factual, universe.seeds).nearest_p <= ALPHA
        print(
            f"| `{sampling.sampler}`, {sampling.steps} | {sampling.passes} | "
            f"{np.median(judge(factual, units.images).distance):.2f} | {recognised.sum()} | {changed.sum()} | "
            f"{np.mean(by_chance):.0%} | {apart.mean():.1f} | {(near == owner(solution.factual, units)).sum()} | "
            f"{np.mean(ranks):.2f} | {(here.argmax(0) == there.argmax(0)).sum()} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
