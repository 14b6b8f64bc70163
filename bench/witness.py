"""Which statistic should the witness test use? Power of candidates over ideal and trained ensembles, at exact size.

python bench/witness.py train [CELL ..]     train the ensembles, or those named (resumable, one process)
python bench/witness.py observe [CELL ..]   what every component says about 48 samples, projected on the images
python bench/witness.py tables              share of samples whose nearest unit reaches p <= 0.05 and 0.01

All go to --out (default bench/out/witness). Codes are `Code.random`, so a unit's word is exactly exchangeable with the
unused ones, and every candidate has its exact size by construction; `tests/test_witness.py` tests that. Colour cells
need a folder with one sub-folder per unit, given with --colour.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

import ablatable as ab
from ablatable._runtime.rng import generator
from ablatable.data.units import to_model
from ablatable.diffusion.sampling import Trajectories, make_sampler, sample

LEVELS = (0.99, 0.97, 0.9, 0.52, 0.2)  # alpha-bar of the re-noised samples
DRAWS = 4


@dataclass(frozen=True)
class Cell:
    """One ensemble."""

    units: int
    size: int
    components: int
    weight: int
    steps: int = 0  # of training; 0: ideal components
    seed: int = 0
    first: int = 0  # of the digits
    colour: int = 0  # images per unit of the colour folder; 0: digits
    samples: int = 48
    sampling: int = 50

    def data(self, colour: Path | None) -> ab.Units:
        if self.colour:
            assert colour is not None, "this cell needs --colour"
            every = ab.Units.from_folder(
                colour if self.colour > 1 else colour.with_name(colour.name + "1"), size=self.size
            )
            wanted = [i for i in every.ids if len(every.of(i)) >= self.colour]
            order = generator("witness", self.seed).permutation(len(wanted))[: self.units]
            chosen = [wanted[k] for k in sorted(order)]
            images = np.concatenate([every.of(i)[: self.colour] for i in chosen])
            return ab.Units(tuple(chosen), images, np.repeat(np.arange(self.units), self.colour))
        every = ab.Units.digits(256, size=self.size)
        return every.select(every.ids[self.first : self.first + self.units])


CELLS = {
    "ideal-8-12/6": Cell(48, 8, 12, 6),
    "ideal-8-12/3": Cell(48, 8, 12, 3, seed=1, first=48),
    "ideal-14-16/2": Cell(48, 14, 16, 2, seed=2, first=96),
    "ideal-14-16/8": Cell(128, 14, 16, 8, seed=3),
    "ideal-28-12/6": Cell(48, 28, 12, 6, seed=4, first=144),
    "ideal-28-16/8-256": Cell(256, 28, 16, 8, seed=5),
    "ideal-8-12/6-256": Cell(256, 8, 12, 6, seed=6),
    "ideal-colour-16-12/6": Cell(64, 16, 12, 6, seed=7, colour=1),
    "ideal-colour-16-16/8-1024": Cell(1024, 16, 16, 8, seed=8, colour=1),
    "ideal-groups-16-12/6": Cell(24, 16, 12, 6, seed=9, colour=8),
    "demo": Cell(48, 14, 8, 4, 1200),
    "trained-8-12/6": Cell(48, 8, 12, 6, 1200, seed=11),
    "trained-8-12/3": Cell(48, 8, 12, 3, 1200, seed=12, first=48),
    "groups-8-12/6": Cell(16, 8, 12, 6, 1200, seed=13, colour=4),
    "trained-8-12/6-256": Cell(256, 8, 12, 6, 1200, seed=14),
    "trained-14-12/6": Cell(48, 14, 12, 6, 800, seed=15, first=96),
    "colour-8-12/6": Cell(48, 8, 12, 6, 1200, seed=16, colour=1),
    "trained-8-12/6-256-long": Cell(256, 8, 12, 6, 4800, seed=14),
    "trained-8-16/3": Cell(48, 8, 16, 3, 1200, seed=17, first=144),
    "trained-8-12/6-short": Cell(48, 8, 12, 6, 400, seed=11),
}


def train_cell(name: str, cell: Cell, out: Path, colour: Path | None) -> ab.Run:
    recipe = ab.preset("tiny", steps=cell.steps) if cell.steps else ab.preset("ideal")
    code = ab.Code.random(cell.units, cell.components, cell.seed, weight=cell.weight)
    folder = out / "runs" / name.replace("/", "w")
    execution = ab.Execution(workers=0, quiet=True)
    return ab.train(cell.data(colour), code, recipe, out=folder, seed=cell.seed, execution=execution)


def observe(run: ab.Run, cell: Cell) -> dict[str, np.ndarray]:
    """What the components say about some samples.

    Returns `push` (n, samples, D), each component's own pull on the finished picture; `steps` (5, n, samples, D), the
    same in five stretches of the trajectory; `renoised` (levels, draws, n, samples, D), predictions of the clean
    picture, all less their mean over components; `factual` (samples, D).
    """
    schedule, sampling = run.recipe.schedule, ab.Sampling(steps=cell.sampling)
    components = [run.load_component(i) for i in range(run.code.components)]
    seeds = range(1000, 1000 + cell.samples)
    timesteps, step_from = make_sampler(sampling, schedule)
    weights = linear_weights(sampling, schedule)
    noise = Trajectories(seeds, run.shape)
    steps = 0
    with torch.inference_mode():
        x = noise[0]
        for number, t in enumerate(timesteps, start=1):
            own = torch.stack([component(x, t) for component in components])
            mean = own.mean(0)
            if number == 1:
                steps = torch.zeros(5, *own.shape)
            steps[(number - 1) * 5 // len(timesteps)] += weights[number - 1] * (own - mean)
            x = step_from(mean, t, x, noise[number])
        x0 = x.clip(-1, 1)
        abar = schedule.alphas_cumprod()
        levels = []
        for a in LEVELS:
            t = int((abar - a).abs().argmin())
            a = float(abar[t])
            draws = []
            for draw in range(DRAWS):
                z = torch.from_numpy(
                    np.stack([generator("bench", s, draw).standard_normal(run.shape, np.float32) for s in seeds])
                )
                noisy = a**0.5 * x0 + (1 - a) ** 0.5 * z
                own = torch.stack([component(noisy, t) for component in components])
                draws.append(-(((1 - a) / a) ** 0.5) * (own - own.mean(0)))
            levels.append(torch.stack(draws))
        renoised = torch.stack(levels)
    return {
        "push": steps.sum(0).flatten(2).numpy(),
        "steps": steps.flatten(3).numpy(),
        "renoised": renoised.flatten(4).numpy(),
        "factual": x0.flatten(1).numpy(),
        "images": to_model(run.units().images).flatten(1).numpy(),
        "owner": run.units().owner,
        "words": run.code.matrix,
    }


def linear_weights(sampling: ab.Sampling, schedule) -> np.ndarray:
    """d finished picture / d prediction of each step, by unit impulses, the trajectory's points held fixed."""
    calls = iter(range(sampling.steps))

    def impulse(x: torch.Tensor, t: object) -> torch.Tensor:
        out = torch.zeros_like(x)
        out[next(calls)] = 1
        return out

    class Silence:
        def __getitem__(self, step: int) -> torch.Tensor:
            return torch.zeros(sampling.steps, 1, 1, 1, dtype=torch.float64)

    return sample(impulse, Silence(), schedule=schedule, sampling=sampling).flatten().numpy()


def all_words(n: int, weight: int) -> np.ndarray:
    return np.array([[k in ones for k in range(n)] for ones in map(set, combinations(range(n), weight))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["train", "observe", "tables"])
    parser.add_argument("cells", nargs="*", default=list(CELLS))
    parser.add_argument("--out", type=Path, default=Path("bench/out/witness"))
    parser.add_argument("--colour", type=Path, help="a folder with one sub-folder per unit")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.cells:
        cell = CELLS[name]
        run = train_cell(name, cell, args.out, args.colour)
        print("trained", name, flush=True)
        path = args.out / (name.replace("/", "w") + ".npz")
        if not path.exists():
            np.savez(path, **observe(run, cell))
            print("observed", name, flush=True)


if __name__ == "__main__":
    main()
