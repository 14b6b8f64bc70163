"""How well screening finds the units that move a sample most, against other ways to spend as many forward passes.

python bench/screening.py RUN U.zarr [--out docs/results/screening.json] [--figure docs/results/images/screening.png]

U.zarr is a complete universe of RUN: its exact pictures are what each way may look at, one ablation at a time, and what
it is judged by. Costs are in exact counterfactuals, i.e. forward passes over those of an average ablation.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable._runtime.plotting import figure_png
from ablatable._runtime.rng import generator
from ablatable._runtime.stats import wilson
from ablatable.codes.code import weight_change
from ablatable.universes.differential import Differential, differentiate
from ablatable.universes.screening.search import SURE, search
from ablatable.universes.screening.surrogate import Surrogate

SHARES = (0.02, 0.03, 0.05, 0.1, 0.2)
SIZES = (128, 256, 512, 1024, 2048, 4096, 8192)
BINS = (0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.99, 1.01)
RIDGE = 0.1


class Sample:
    """One sample's landscape in full: changes of the pixels, float64 (ablations, D), and their lengths."""

    def __init__(self, universe: ab.Universe, number: int, words: np.ndarray) -> None:
        self.number, self.words, self.seed = number, words, universe.seeds[number]
        self.rows = np.unique(universe.settings.ablation)
        pictures = np.moveaxis(universe.landscape(number), -1, 1)
        self.pictures, self.factual = pictures, np.moveaxis(universe.factual[number], -1, 0)
        self.changes = (pictures.astype(float) - self.factual).reshape(len(pictures), -1) / 255
        self.lengths = np.linalg.norm(self.changes, axis=1)

    def found(self, drawn: np.ndarray, rows: np.ndarray) -> bool:
        """Whether the farthest of `rows` was drawn."""
        return bool(self.lengths[drawn].max(initial=-1) >= self.lengths[rows].max())


Way = Callable[[Sample, np.ndarray, int], np.ndarray]
"""(sample, candidates, how many exact counterfactuals its cost may be) -> candidates it draws exactly."""


def at_random(sample: Sample, rows: np.ndarray, budget: int) -> np.ndarray:
    return generator("bench", sample.seed).permutation(rows)[:budget]


def least_squares(sample: Sample, rows: np.ndarray, budget: int) -> np.ndarray:
    """Half of the budget at random, a linear fit on the codewords' bits, the other half where that is farthest."""
    known = at_random(sample, rows, budget // 2)
    bits = sample.words.astype(float)
    fit = np.linalg.solve(
        bits[known].T @ bits[known] + RIDGE * np.eye(bits.shape[1]), bits[known].T @ sample.changes[known]
    )
    return _best(rows, np.linalg.norm(bits[rows] @ fit, axis=1), known, budget)


def surrogate_once(sample: Sample, rows: np.ndarray, budget: int) -> np.ndarray:
    """The same with the surrogate, which is not asked where to look."""
    known = at_random(sample, rows, budget // 2)
    y = sample.changes[known]
    return _best(rows, Surrogate(sample.words).fit(known, y @ y.T).squares(rows)[0], known, budget)


def active(sample: Sample, rows: np.ndarray, budget: int) -> np.ndarray:
    """What `ablatable universe screen` does, without stopping early."""
    return rows[_search(sample, rows, budget, sure=2.0).drawn[rows]]


def by_guess(guess: Callable[[Sample], np.ndarray], cost: float) -> Way:
    """Guesses of all distances that cost so much, and the rest of the budget where they are farthest."""

    def way(sample: Sample, rows: np.ndarray, budget: int) -> np.ndarray:
        left = budget - round(cost * len(rows) if cost < 1 else cost)
        return _best(rows, guess(sample)[rows], rows[:0], left) if left > 0 else rows[:0]

    return way


def with_jacobian(jacobians: dict[int, np.ndarray], cost: float) -> Way:
    """The active search, on what the first-order estimate leaves to explain."""

    def way(sample: Sample, rows: np.ndarray, budget: int) -> np.ndarray:
        left = budget - round(cost)
        first_order = weight_change(sample.words) @ jacobians[sample.number].reshape(sample.words.shape[1], -1) / 2
        surrogate, known = Surrogate(sample.words), _best(rows, np.linalg.norm(first_order[rows], axis=1), rows[:0], 16)
        while 16 <= len(known) < left:
            rest = np.setdiff1d(rows, known)
            y = (sample.changes - first_order)[known]
            surrogate.fit(known, y @ y.T)
            weights = surrogate._products(rest, known) @ surrogate.inverse
            guess = np.linalg.norm(first_order[rest] + weights @ y, axis=1)
            known = np.concatenate([known, rest[np.argsort(-guess, kind="stable")[: min(16, left - len(known))]]])
        return known[: max(left, 0)]

    return way


def _best(rows: np.ndarray, guess: np.ndarray, known: np.ndarray, budget: int) -> np.ndarray:
    order = rows[np.argsort(-guess, kind="stable")]
    return np.concatenate([known, order[~np.isin(order, known)][: budget - len(known)]])


def _search(sample: Sample, rows: np.ndarray, most: int, *, sure: float = SURE, seed: int | None = None, told=None):
    return search(
        lambda chosen: sample.pictures[chosen],
        sample.factual,
        sample.words,
        rows,
        np.zeros(0, int),
        seed=sample.seed if seed is None else seed,
        most=most,
        sure=sure,
        on_round=told or (lambda drawn, chance: None),
    )


def compare(samples: list[Sample], ways: dict[str, Way]) -> dict[str, list]:
    """For each way and share of the exact cost, the samples whose farthest unit it drew."""
    rows = samples[0].rows
    return {
        name: [
            sum(sample.found(way(sample, rows, round(share * len(rows))), rows) for sample in samples)
            for share in SHARES
        ]
        for name, way in ways.items()
    }


def growth(samples: list[Sample]) -> list[dict]:
    """What the search draws until it is sure (of at most a quarter), among more and more units of the same ensemble."""
    table = []
    for size in [size for size in SIZES if size < len(samples[0].rows)] + [len(samples[0].rows)]:
        drawn, found, seconds = [], 0, time.perf_counter()
        for sample in samples:
            rows = sample.rows[:size]
            seen = _search(sample, rows, max(64, size // 4))
            drawn.append(int(seen.drawn[rows].sum()))
            found += sample.found(rows[seen.drawn[rows]], rows)
        seconds = (time.perf_counter() - seconds) / len(samples)
        table.append(
            {"units": size, "drawn": float(np.mean(drawn)), "most": max(drawn), "found": found, "seconds": seconds}
        )
    return table


def reliability(samples: list[Sample], repeats: int) -> list[dict]:
    """Stated chances beside how often they came true, after every round of searches from several starts."""
    said, true = [], []
    for sample in samples:
        for repeat in range(repeats):
            rows = generator("landscape", repeat).permutation(sample.rows)[: max(256, len(sample.rows) // 4)]
            for most in range(16, 72, 4):
                seen = _search(sample, rows, most, sure=2.0, seed=1000 * repeat + sample.seed)
                said.append(seen.chance(rows))
                true.append(sample.found(rows[seen.drawn[rows]], rows))
    said, true = np.array(said), np.array(true)
    table = []
    for low, high in pairwise(BINS):
        inside = (said >= low) & (said < high)
        if inside.any():
            table.append(
                {"low": low, "high": min(high, 1), "cases": int(inside.sum()), "said": float(said[inside].mean())}
                | {"true": float(true[inside].mean())}
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("universe")
    parser.add_argument("--coarse", type=int, nargs="*", default=[], help="numbers of steps, instead of the universe's")
    parser.add_argument(
        "--repeats", type=int, default=3, help="starts of the searches whose stated chances are checked"
    )
    parser.add_argument("--workers", type=int)
    parser.add_argument("--out", type=Path, default=Path("screening.json"))
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()

    universe = ab.Universe.open(args.universe)
    words, settings = np.array([[bit == "1" for bit in word] for word in universe.settings.words]), universe.settings
    samples = [Sample(universe, number, words) for number in range(len(universe.seeds))]
    survivors = float((~words).sum(1).mean())
    ways: dict[str, Way] = {
        "random": at_random,
        "least squares on bits": least_squares,
        "surrogate, random start": surrogate_once,
        "surrogate, active": active,
    }
    for steps in args.coarse:
        coarse = ab.enumerate_universe(
            args.run,
            universe.seeds,
            out=f"{args.universe}-{steps}",
            sampling=Sampling(settings.sampler, steps),
            execution=Execution(args.workers),
        )
        distances = np.zeros((len(words), len(samples)))
        distances[list(settings.ablation)] = coarse.distances()
        ways[f"{steps} of {settings.steps} steps"] = by_guess(
            lambda sample, d=distances: d[:, sample.number], steps / settings.steps
        )
    began = time.perf_counter()
    differentiate(args.run, args.universe, execution=Execution(workers=args.workers))
    seconds = time.perf_counter() - began
    found, n = Differential(universe), words.shape[1]
    jacobians = {k: found.read(seed)[1].astype(float) for k, seed in enumerate(universe.seeds)}
    guesses = {k: found.distances(k) for k in jacobians}
    cost = n * n / survivors  # n - 1 directions and the picture, through n components
    ways["Jacobian"] = by_guess(lambda sample: guesses[sample.number], cost)
    ways["Jacobian + surrogate"] = with_jacobian(jacobians, cost)

    results = {
        "run": str(args.run.name),
        "units": len(universe.unit_ids),
        "samples": len(samples),
        "components": n,
        "survivors": survivors,
        "sampler": [settings.sampler, settings.steps],
        "shape": settings.shape,
        "shares": SHARES,
        "jacobian": {"cost": cost, "seconds": seconds},
        "found": compare(samples, ways),
        "growth": growth(samples),
        "reliability": reliability(samples, args.repeats),
    }
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))
    if args.figure:
        args.figure.write_bytes(figure_png(lambda *axes: draw(results, *axes), panels=3))


def draw(results: dict, ways, sizes, chances) -> None:
    count, shares = results["samples"], [100 * share for share in results["shares"]]
    for name, found in results["found"].items():
        bold = {"linewidth": 2.5, "zorder": 3} if name == "surrogate, active" else {"linewidth": 1.2}
        (line,) = ways.plot(shares, [100 * f / count for f in found], "o-", label=name, **bold)
        if bold.get("zorder"):
            low, high = np.array([wilson(f, count) for f in found]).T * 100
            ways.fill_between(shares, low, high, color=line.get_color(), alpha=0.15)
    ways.set(xscale="log", xlabel="cost, % of enumerating", ylabel="samples whose farthest unit is drawn, %")
    ways.set_xticks(shares, [f"{share:g}" for share in shares], minor=False)
    ways.minorticks_off()
    ways.legend(fontsize=8)
    units = [row["units"] for row in results["growth"]]
    sizes.plot(units, units, "--", color="0.6", label="enumerating")
    sizes.plot(units, [row["drawn"] for row in results["growth"]], "o-", label="drawn until 99 % sure, mean")
    sizes.plot(units, [row["most"] for row in results["growth"]], "o:", label="largest of all samples")
    sizes.set(xscale="log", yscale="log", xlabel="units", ylabel="counterfactuals drawn a sample")
    sizes.set_xticks(units, [str(u) for u in units], minor=False)
    sizes.minorticks_off()
    sizes.legend(fontsize=8)
    chances.plot([0, 1], [0, 1], "--", color="0.6")
    for row in results["reliability"]:
        low, high = wilson(round(row["true"] * row["cases"]), row["cases"])
        chances.plot([row["said"]] * 2, [low, high], color="tab:blue", alpha=0.5)
        chances.plot(row["said"], row["true"], "o", color="tab:blue")
    chances.set(xlabel="stated chance of having the farthest unit", ylabel="how often it was there")


if __name__ == "__main__":
    main()
