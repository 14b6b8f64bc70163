"""Cost curves: seconds and peak memory of a universe against units, samples and components, one at a time; as a figure.

python bench/curves.py [--out docs/images/cost.png]

Each point is a process of its own (`resource` tells the largest it and any of its workers ever were). Components are of
preset `tiny`, trained for one step, for the weights' values cost nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import matplotlib

from ablatable import Execution

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import ablatable as ab

BASE = {"units": 30, "samples": 4, "components": 10}
POINTS = {"units": (30, 60, 120, 240), "samples": (4, 8, 16, 32), "components": (8, 16, 32)}
SIDE, STEPS = 14, 10

MEASURED = """
import json, resource, sys, time
began = time.perf_counter()
import ablatable as ab
ab.enumerate_universe(sys.argv[1], range(int(sys.argv[2])), out=sys.argv[3],
                      sampling=ab.Sampling(steps=int(sys.argv[4])),
                      execution=ab.Execution(quiet=True))
peak = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({"seconds": time.perf_counter() - began, "parent_mib": peak[0], "worker_mib": peak[1]}))
"""


@lru_cache
def measure(units: int, samples: int, components: int, folder: Path) -> dict[str, float]:
    name = f"{units}-{samples}-{components}"
    data = ab.Units.digits(units, size=SIDE)
    code = ab.Code.balanced(units=units, components=components, seed=0)
    run = ab.train(data, code, ab.preset("tiny", steps=1), out=folder / name, execution=Execution(quiet=True))
    command = [sys.executable, "-c", MEASURED, str(run.path), str(samples), str(folder / f"{name}.zarr"), str(STEPS)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    told["passes"] = units * samples * STEPS * components / 2
    print(units, "units", samples, "samples", components, "components:", told, flush=True)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/cost.png"))
    args = parser.parse_args()
    figure, axes = plt.subplots(2, 3, figsize=(9, 4.6), sharex="col", sharey="row", layout="constrained")
    with tempfile.TemporaryDirectory() as folder:
        for column, (name, values) in zip(axes.T, POINTS.items(), strict=True):
            told = [measure(**{**BASE, name: value}, folder=Path(folder)) for value in values]
            seconds = np.array([point["seconds"] for point in told])
            column[0].plot(values, seconds, "o-", label="measured")
            column[0].plot(values, seconds[0] * np.array(values) / values[0], ":", color="grey", label="proportional")
            column[1].plot(values, [point["worker_mib"] for point in told], "o-", label="largest worker")
            column[1].plot(values, [point["parent_mib"] for point in told], "s-", label="parent")
            column[0].set(xscale="log", yscale="log")
            column[1].set(xlabel=name, ylim=(0, 600))
            column[1].set_xticks(values, [str(value) for value in values])
            column[1].minorticks_off()
    axes[0, 0].set_ylabel("seconds, start-up included")
    axes[1, 0].set_ylabel("peak memory, MiB")
    axes[0, 0].legend(frameon=False)
    axes[1, 0].legend(frameon=False, loc="lower left")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(args.out, dpi=110)
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
