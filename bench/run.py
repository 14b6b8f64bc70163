"""Benchmarks: every figure is a ratio against a baseline measured in the same run, on the same weights and machine.

python bench/run.py [--units 200] [--samples 10 1] [--steps 10] [--only universe training]
                    [--variants fp32 bf16 one-worker fp32-compiled bf16-compiled fp32-openvino bf16-openvino]
                    [--out bench/results]

Run nothing beside it: a second busy process changes the baseline (all threads) far more than the engine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from baseline import plain_training, plain_universe
from diffusers import UNet2DModel

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable._runtime.provenance import environment
from ablatable._runtime.workers import default_workers
from ablatable.data.units import to_model
from ablatable.universes.precision import precision_error

COMPONENTS, SIDE = 12, 28
VARIANTS = ["fp32", "bf16", "one-worker", "fp32-compiled", "bf16-compiled", "fp32-openvino", "bf16-openvino"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument("--samples", type=int, nargs="+", default=[10, 1])
    parser.add_argument("--steps", type=int, default=10, help="sampling steps; costs are proportional to them")
    parser.add_argument("--baseline-units", type=int, default=6, help="the baseline's cost is proportional to units")
    parser.add_argument("--training-steps", type=int, default=20, help="of each component")
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=VARIANTS[:3],
        help="of the engine, one or more at a time, with the time of compiling; of training, fp32 and bf16",
    )
    parser.add_argument("--only", nargs="+", choices=["universe", "training"], default=["universe", "training"])
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args()
    results = {"environment": environment(), "settings": {k: str(v) for k, v in vars(args).items()}, "ratios": {}}

    with tempfile.TemporaryDirectory() as folder:
        units = ab.Units.digits(args.units, size=SIDE)
        code = ab.Code.balanced(units=args.units, components=COMPONENTS, seed=0)
        run = ab.train(
            units, code, ab.preset("small", steps=1), out=Path(folder) / "run", execution=Execution(quiet=True)
        )
        components = [
            UNet2DModel.from_pretrained(run.component_folder(i), low_cpu_mem_usage=False).eval()
            for i in range(code.components)
        ]
        parameters = sum(p.numel() for p in components[0].parameters())
        print(
            f"{args.units} units, {code.components} components of {parameters:,} parameters, "
            f"{SIDE} x {SIDE}, {args.steps} steps, {args.workers} workers against {torch.get_num_threads()} threads",
            flush=True,
        )
        if "universe" in args.only:
            for samples in args.samples:
                results["ratios"] |= universe(run, code, components, samples, args, Path(folder))
        if "training" in args.only:
            results["ratios"] |= training(units, code, components[0], args, Path(folder))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "bench.json").write_text(json.dumps(results, indent=2) + "\n")
    print(f"written: {args.out / 'bench.json'}")


def universe(
    run: ab.Run, code: ab.Code, components: list[UNet2DModel], samples: int, args: argparse.Namespace, folder: Path
) -> dict:
    """Seconds per counterfactual: the engine on all units, start-up included, against the plain loop on some."""
    noise = ab.noise_trajectory(range(samples), args.steps, run.shape)

    def plain() -> tuple[float, np.ndarray]:
        began = time.perf_counter()
        drawn = plain_universe(components, ~code.matrix[: args.baseline_units], noise, args.steps)
        return (time.perf_counter() - began) / (args.baseline_units * samples), drawn

    plain_universe(components, ~code.matrix[:1], noise, 1)  # warm
    before, expected = plain()
    found = {}
    for name in args.variants:
        precision = "bf16" if "bf16" in name else "fp32"
        backend = next((last for last in ("compiled", "openvino") if name.endswith(last)), "eager")
        workers = 1 if name == "one-worker" else args.workers
        out = folder / f"{samples}-{name}.zarr"
        began = time.perf_counter()
        made = ab.enumerate_universe(
            run.path,
            range(samples),
            out=out,
            sampling=Sampling(steps=args.steps, precision=precision, backend=backend, clip=False),  # as the plain loop
            execution=Execution(workers=workers, quiet=True),
            units=run.unit_ids[: args.units // 2]
            if name == "one-worker"
            else run.unit_ids,  # half the work for one worker
        )
        ours = (time.perf_counter() - began) / (len(made.unit_ids) * samples)
        found[name] = {"engine_ms": ours * 1e3}
        if precision == "fp32" and workers > 1:
            drawn = np.stack([np.moveaxis(made.counterfactual(unit), -1, 1) for unit in made.unit_ids[: len(expected)]])
            levels = np.abs(drawn.astype(int) - expected.astype(int))
            found[name] |= {"within_one_level": float((levels <= 1).mean()), "largest_difference": int(levels.max())}
        elif name == "bf16":
            found[name]["error"] = precision_error(made, run.path).sentence()
    after, _ = plain()  # the baseline swings more than the engine, so it is measured on both sides of it
    baseline = (before + after) / 2
    print(f"universe, {samples} samples: plain {before * 1e3:.1f} and {after * 1e3:.1f} ms a picture")
    for name, values in found.items():
        values |= {"plain_ms": [before * 1e3, after * 1e3], "ratio": baseline * 1e3 / values["engine_ms"]}
        extra = {k: v for k, v in values.items() if k not in ("engine_ms", "plain_ms", "ratio")}
        print(f"  {name:15} {values['engine_ms']:7.1f} ms, ratio {values['ratio']:.2f} {extra or ''}", flush=True)
    if {"fp32", "one-worker"} <= found.keys():
        efficiency = found["one-worker"]["engine_ms"] / found["fp32"]["engine_ms"] / args.workers
        found["fp32"]["parallel_efficiency"] = efficiency
        print(f"  parallel efficiency, 1 to {args.workers} workers: {efficiency:.2f}")
    return {f"universe, {samples} samples, {name}": values for name, values in found.items()}


def training(units: ab.Units, code: ab.Code, unet: UNet2DModel, args: argparse.Namespace, folder: Path) -> dict:
    """Images a second: all components side by side, start-up included, against the usual loop."""
    images, recipe = to_model(units.images), ab.preset("small", steps=args.training_steps)
    batch = recipe.training.batch
    plain_training(unet, images, 2, batch)  # warm
    began = time.perf_counter()
    plain_training(unet, images, args.training_steps, batch)
    plain = args.training_steps * batch / (time.perf_counter() - began)
    print(f"training: plain {plain:.1f} images/s")
    found = {}
    for precision in [name for name in args.variants if name in ("fp32", "bf16")]:
        began = time.perf_counter()
        ab.train(
            units,
            code,
            recipe.replace(precision=precision),
            out=folder / f"train-{precision}",
            execution=Execution(workers=args.workers, quiet=True),
        )
        ours = args.training_steps * batch * code.components / (time.perf_counter() - began)
        found[f"training, {precision}"] = {"plain": plain, "engine": ours, "ratio": ours / plain}
        print(f"  {precision}: {ours:.1f} images/s, ratio {ours / plain:.2f}", flush=True)
    return found


if __name__ == "__main__":
    main()
