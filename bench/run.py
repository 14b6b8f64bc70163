"""Benchmarks: every figure is a ratio against a baseline measured in the same run, on the same weights and machine.

python bench/run.py [--units 200] [--samples 10 1] [--steps 4] [--out bench/results]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from baseline import plain_universe
from diffusers import UNet2DModel

import ablatable as ab
from ablatable.settings import environment
from ablatable.workers import default_workers

COMPONENTS, SIDE = 8, 28


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument("--samples", type=int, nargs="+", default=[10, 1])
    parser.add_argument("--steps", type=int, default=4, help="sampling steps; both sides' cost is proportional to them")
    parser.add_argument("--baseline-units", type=int, default=12, help="the baseline's cost is proportional to units")
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args()
    results = {"environment": environment(), "settings": {k: str(v) for k, v in vars(args).items()}, "ratios": {}}

    with tempfile.TemporaryDirectory() as folder:
        units = ab.Units.digits(args.units, size=SIDE)
        code = ab.Code.balanced(units=args.units, components=COMPONENTS + 4, seed=0)
        recipe = ab.preset("small", steps=1)  # the weights' values do not change the speed
        run = ab.train(units, code, recipe, out=Path(folder) / "run", quiet=True)
        components = [
            UNet2DModel.from_pretrained(run.component_folder(i), low_cpu_mem_usage=False).eval()
            for i in range(code.components)
        ]
        parameters = sum(p.numel() for p in components[0].parameters())
        print(
            f"{args.units} units, {code.components} components of {parameters:,} parameters, "
            f"{SIDE} x {SIDE}, {args.steps} steps, {args.workers} workers against {torch.get_num_threads()} threads"
        )
        for samples in args.samples:
            results["ratios"][f"universe, {samples} samples"] = universe(
                run, code, components, samples, args, Path(folder)
            )
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "bench.json").write_text(json.dumps(results, indent=2) + "\n")
    print(f"written: {args.out / 'bench.json'}")


def universe(
    run: ab.Run, code: ab.Code, components: list[UNet2DModel], samples: int, args: argparse.Namespace, folder: Path
) -> dict:
    """Seconds per counterfactual: the engine on all units, start-up included, against the plain loop on some."""
    noise = ab.noise_trajectory(range(samples), args.steps, run.shape)
    plain_universe(components, ~code.matrix[:1], noise, 1)  # warm
    began = time.perf_counter()
    expected = plain_universe(components, ~code.matrix[: args.baseline_units], noise, args.steps)
    plain = (time.perf_counter() - began) / (args.baseline_units * samples)

    began = time.perf_counter()
    made = ab.enumerate_universe(
        run.path, range(samples), out=folder / f"u{samples}.zarr", steps=args.steps, workers=args.workers, quiet=True
    )
    ours = (time.perf_counter() - began) / (args.units * samples)
    drawn = np.stack([np.moveaxis(made.counterfactual(unit), -1, 1) for unit in made.units[: args.baseline_units]])
    levels = np.abs(drawn.astype(int) - expected.astype(int))
    same = float((levels <= 1).mean())
    print(
        f"universe, {samples:3} samples: plain {plain * 1e3:7.1f} ms a picture, engine {ours * 1e3:7.1f} ms, "
        f"ratio {plain / ours:.2f}; pixels within 1 grey level: {same:.3%}, largest difference {levels.max()}"
    )
    return {"plain_ms": plain * 1e3, "engine_ms": ours * 1e3, "ratio": plain / ours, "within_one_level": same}


if __name__ == "__main__":
    main()
