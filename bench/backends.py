"""Backends side by side: passes of one component per second of process time, taking turns in one process.

python bench/backends.py [--preset small] [--side 28] [--rounds 12] [--backends eager compiled openvino]
                         [--precisions fp32 bf16]

One thread. Other work on the machine slows all of them alike, so trust the ratios more than the speeds. `ready` is the
process time until the first prediction is there, of a first component and of a second one (a compiler's own processes
not counted). For a whole ensemble, see `run.py`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from ablatable.diffusion.recipe import preset
from ablatable.diffusion.sampling_settings import BACKENDS
from ablatable.diffusion.unet import build
from ablatable.runs.batches import BATCH
from ablatable.runs.loaded import ready


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--side", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--passes", type=int, default=4, help="in a turn")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=["eager", "compiled", "openvino"])
    parser.add_argument("--precisions", nargs="+", choices=list(BATCH), default=["fp32", "bf16"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    config, shape = preset(args.preset).component, (1, args.side, args.side)
    rows = [(precision, backend) for precision in args.precisions for backend in args.backends]
    passes: dict[tuple[str, str], Callable[[], torch.Tensor]] = {}
    with torch.inference_mode():
        for precision, backend in rows:
            x, took = torch.randn(BATCH[precision], *shape, generator=torch.Generator().manual_seed(0)), []
            for seed in (1, 0):
                component = build(config, shape, seed).eval()  # pyright: ignore[reportArgumentType]
                began = time.process_time()
                component = ready(component, backend, precision)
                component(x, 500)
                took.append(time.process_time() - began)
            passes[precision, backend] = lambda component=component, x=x: component(x, 500)
            exact = build(config, shape, 0).eval()(x, 500)  # pyright: ignore[reportArgumentType]
            error = float((passes[precision, backend]() - exact).abs().max() / exact.abs().max())
            print(
                f"{precision} {backend}: ready after {took[0]:.1f} and {took[1]:.1f} s, error {error:.1e}", flush=True
            )
        best: dict[tuple[str, str], float] = {}
        for _ in range(args.rounds):
            for row, ask in passes.items():
                began = time.process_time()
                for _ in range(args.passes):
                    ask()
                best[row] = min(best.get(row, 1e9), (time.process_time() - began) / args.passes / BATCH[row[0]])
    base = best[rows[0]]
    for row in rows:
        print(f"{row[0]} {row[1]}: {1 / best[row]:.0f} rows per second, {base / best[row]:.2f} of {' '.join(rows[0])}")


if __name__ == "__main__":
    main()
