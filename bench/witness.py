"""Which statistic should the witness test use? Power of candidates over ideal and trained ensembles, at exact size.

python bench/witness.py train [CELL ..]     train the ensembles, or those named (resumable, one process)
python bench/witness.py observe [CELL ..]   what every component says about 48 samples, projected on the images
python bench/witness.py tables              share of samples whose nearest unit reaches p <= 0.05 and 0.01
python bench/witness.py test [CELL ..]      the same by the package's own test of 48 samples; a cell may be a run, too

All go to --out (default bench/out/witness). Codes are `Code.random`, so a unit's word is exactly exchangeable with the
unused ones, and every candidate has its exact size by construction; `tests/test_witness.py` tests that. Colour cells
are made of the bundled OpenMoji drawings.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import ablatable as ab
from ablatable._runtime.rng import generator
from ablatable._runtime.stats import wilson
from ablatable.analysis.exchangeable import Reference
from ablatable.analysis.witness import draw_factual, witness_pictures
from ablatable.data.units import to_model
from ablatable.diffusion.sampling import Trajectories, make_sampler, sample

LEVELS = (0.99, 0.97, 0.9, 0.52, 0.2)  # alpha-bar of the re-noised samples
DRAWS = 4
LOG_SIGMA = (0.3, 1.4)  # mean and deviation of the preset `colour`
MOST_PIXELS = 800  # beyond, no covariance is estimated from 48 samples


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
    colour: int = 0  # OpenMoji: drawings per artist, or 1 for units of one drawing; 0: digits
    velocity: bool = False  # what the preset `colour` predicts, at its noise levels; else noise, at uniform ones
    samples: int = 48
    sampling: int = 50

    def data(self) -> ab.Units:
        if not self.colour:
            every = ab.Units.digits(256, size=self.size)
            return every.select(every.ids[self.first : self.first + self.units])
        every = ab.Units.openmoji(by="artist" if self.colour > 1 else "picture", size=self.size)
        wanted = [i for i in every.ids if len(every.of(i)) >= self.colour]
        order = generator("witness", self.seed).permutation(len(wanted))[: self.units]
        chosen = [wanted[k] for k in sorted(order)]
        images = np.concatenate([every.of(i)[: self.colour] for i in chosen])
        return ab.Units(tuple(chosen), images, np.repeat(np.arange(self.units), self.colour))


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
    "velocity-8-12/6-64": Cell(64, 8, 12, 6, 800, seed=18, velocity=True),
    "velocity-8-12/6-256": Cell(256, 8, 12, 6, 800, seed=14, velocity=True),
}


def train_cell(name: str, cell: Cell, out: Path) -> ab.Run:
    recipe = ab.preset("tiny", steps=cell.steps) if cell.steps else ab.preset("ideal")
    if cell.velocity:
        recipe = recipe.replace(levels=LOG_SIGMA)
        recipe = recipe.model_copy(update={"component": recipe.component.model_copy(update={"prediction": "velocity"})})
    code = ab.Code.random(cell.units, cell.components, cell.seed, weight=cell.weight)
    folder = out / "runs" / name.replace("/", "w")
    execution = ab.Execution(workers=0, quiet=True)
    return ab.train(cell.data(), code, recipe, out=folder, seed=cell.seed, execution=execution)


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
    steps = torch.zeros(5, len(components), len(seeds), *run.shape)
    with torch.inference_mode():
        x = noise[0]
        for number, t in enumerate(timesteps, start=1):
            own = torch.stack([component(x, t) for component in components])
            mean = own.mean(0)
            steps[(number - 1) * 5 // len(timesteps)] += weights[number - 1] * (own - mean)
            x = step_from(mean, t, x, noise[number])
        x0 = x.clip(-1, 1)
        abar = schedule.alphas_cumprod()
        levels = []
        for level in LEVELS:
            t = int((abar - level).abs().argmin())
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


# --- candidates -----------------------------------------------------------------------------------------------------


def candidates(seen: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What each candidate takes as the components' word about every image: (n, samples, images)."""
    push, steps, renoised = seen["push"], seen["steps"], seen["renoised"].mean(axis=1)
    towards = seen["images"] - seen["images"].mean(axis=0)

    def on(said: np.ndarray) -> np.ndarray:
        return np.einsum("isd,jd->isj", said, towards, optimize=True)

    def gaussian(*parts: np.ndarray) -> np.ndarray:
        return np.sum([part / np.maximum(part.std(axis=0), 1e-12) for part in parts], axis=0)

    found = {
        "push": on(push),
        "push, last 40 %": on(steps[3] + steps[4]),
        "push, last 20 %": on(steps[4]),
        "0.97, one draw": on(seen["renoised"][1, 0]),
        **{f"{level:g}": on(said) for level, said in zip(LEVELS, renoised, strict=True)},
    }
    found["0.97 + 0.9 + 0.52"] = gaussian(found["0.97"], found["0.9"], found["0.52"])
    found["push + 0.97"] = gaussian(found["push"], found["0.97"])
    if towards.shape[1] <= MOST_PIXELS:  # a matched filter: directions in which components disagree anyway count less
        noise = renoised[1].reshape(-1, towards.shape[1])
        covariance = noise.T @ noise / len(noise)
        shrunk = covariance + np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        found["0.97, matched"] = np.einsum(
            "isd,jd->isj", renoised[1], np.linalg.solve(shrunk, towards.T).T, optimize=True
        )
    return found


def evidence_of_units(images: np.ndarray, owner: np.ndarray, away: np.ndarray, rule: str) -> np.ndarray:
    """From (n, images) of one sample to (n, units): the image nearest to the sample, or the mean of all."""
    units = range(owner.max() + 1)
    if rule == "mean":
        return np.stack([images[:, owner == u].mean(axis=1) for u in units], axis=1)
    speaker = [np.flatnonzero(owner == u)[away[owner == u].argmin()] for u in units]
    return images[:, speaker]


def p_of_nearest(seen: dict[str, np.ndarray], said: np.ndarray, rule: str = "nearest") -> np.ndarray:
    """p-value of each sample's nearest unit, (samples,), and of four units drawn from the far half, (samples, 4)."""
    code, owner = ab.Code(seen["words"]).as_random(), seen["owner"]
    reference, p = Reference(code), []
    away = np.square(seen["factual"][:, None] - seen["images"]).sum(axis=2)  # (samples, images)
    for number, distance in enumerate(away):
        order = owner[distance.argsort()]
        far = order[len(order) // 2 :]
        rows = np.array([order[0], *generator("far", number).choice(far, 4)])
        evidence = evidence_of_units(said[:, number], owner, distance, rule)[:, rows]
        p.append(reference.p_values(evidence, rows, ("bench", number)))
    return np.array(p)


def print_tables(out: Path, names: list[str]) -> None:
    """Markdown: share of samples whose nearest unit reaches each level, with Wilson's 95 % intervals."""
    for name in names:
        path = out / (name.replace("/", "w") + ".npz")
        if not path.exists():
            continue
        seen = dict(np.load(path))
        groups = seen["owner"].max() + 1 < len(seen["owner"])
        nearest = np.square(seen["factual"][:, None] - seen["images"]).mean(axis=2).min(axis=1) ** 0.5 * 221.7
        unused = Reference(ab.Code(seen["words"]).as_random()).size(int(seen["words"][0].sum())) - 1
        print(f"\n{name}: {unused} unused codewords, nearest unit {np.median(nearest):.0f} away (median)\n")
        print("| statistic | p <= 0.05 | p <= 0.01 | far units, p <= 0.05 |\n| --- | --- | --- | --- |")
        for statistic, said in candidates(seen).items():
            for rule in ("nearest", "mean") if groups else ("nearest",):
                p = p_of_nearest(seen, said, rule)
                label = f"{statistic} ({rule} image)" if groups else statistic
                cells = [share(p[:, 0], 0.05), share(p[:, 0], 0.01), share(p[:, 1:].ravel(), 0.05)]
                print(f"| {label} | {' | '.join(cells)} |", flush=True)


def print_tests(out: Path, names: list[str]) -> None:
    """Markdown: the package's test of each cell, or of a run by its path or `bundled`, plain and matched."""
    print(f"| run | test | nearest unit | {' | '.join(('p <= 0.05', 'p <= 0.01', 'a unit at q <= 0.1'))} |")
    print("| --- " * 6 + "|")
    for name in names:
        known = CELLS.get(name)
        run = train_cell(name, known, out) if known else (ab.bundled() if name == "bundled" else ab.Run(name))
        seeds = range(1000, 1048)
        pictures = draw_factual(run, seeds, ab.Sampling(), "cpu")
        for matched in (False, True):
            found = witness_pictures(run, pictures, seeds, matched=matched)
            some = np.where(found.marked().any(axis=0), 0.0, 1.0)  # as if a p-value, for `share`
            cells = [share(found.nearest_p, 0.05), share(found.nearest_p, 0.01), share(some, 0.5)]
            away = f"{np.median(found.nearest_distance):.0f}"
            print(f"| {name} | {'matched' if matched else 'plain'} | {away} | {' | '.join(cells)} |", flush=True)


def share(p: np.ndarray, level: float) -> str:
    low, high = wilson(int((p <= level).sum()), len(p))
    return f"{(p <= level).mean():.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["train", "observe", "tables", "test"])
    parser.add_argument("cells", nargs="*", default=list(CELLS))
    parser.add_argument("--out", type=Path, default=Path("bench/out/witness"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.stage in ("tables", "test"):
        {"tables": print_tables, "test": print_tests}[args.stage](args.out, args.cells)
        return
    for name in args.cells:
        run = train_cell(name, CELLS[name], args.out)
        print("trained", name, flush=True)
        path = args.out / (name.replace("/", "w") + ".npz")
        if args.stage == "observe" and not path.exists():
            np.savez(path, **observe(run, CELLS[name]))  # pyright: ignore[reportArgumentType]
            print("observed", name, flush=True)


if __name__ == "__main__":
    main()
