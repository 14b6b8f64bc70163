"""Stages of the work at full size: seconds, peak memory, bytes and objects stored, as a table.

python bench/size.py --units 50000 --side 32 --samples 1000 --folder /tmp/size

Components are of the kind `ideal`, so nothing is trained, and everything else is done as it always is. The pictures are
made up. Of the universe, `--drawn` blocks are really drawn (one step, on one core). The pictures of `--written` further
blocks are made up, and stored as drawn ones are. All others are hard links to these, under their own names and with
markers of their own, so that the number of objects, and what is read, are those of the full size.

Each stage is a process of its own. Memory is what the process and its workers have for themselves at any one time
(`RssAnon` and `RssShmem`, read ten times per second); pages of mapped files, which the system drops when it needs them,
do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import ablatable as ab

HERE = ab.Execution(workers=0, device="cpu", quiet=True)


# --- what is measured ----------------------------------------------------------------------------------------------


def own_memory(pid: int) -> int:
    """Bytes of a process and of all that it started."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("RssAnon", "RssShmem")):
                total += 1024 * int(line.split()[1])
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += sum(own_memory(int(child)) for child in (task / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return total


def run_stage(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One stage in a process of its own."""
    command = [sys.executable, __file__, "--stage", name]
    for key in ("units", "side", "samples", "folder", "drawn", "written", "closely"):
        command += [f"--{key}", str(getattr(options, key))]
    began, peak, done = time.perf_counter(), [0], threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:

        def watch() -> None:
            while not done.wait(0.1):
                peak[0] = max(peak[0], own_memory(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        output = process.communicate()[0]
        done.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"stage {name} failed")
    seconds = time.perf_counter() - began
    return {"stage": name, "seconds": round(seconds, 1), "memory_gib": round(peak[0] / 2**30, 2)} | json.loads(output)


def stored(folder: Path) -> dict[str, Any]:
    """Objects below a folder, and their bytes, each link counted as if it were a file of its own."""
    sizes = [(Path(base) / name).stat().st_size for base, _, names in os.walk(folder) for name in names]
    return {"objects": len(sizes), "gib": round(sum(sizes) / 2**30, 2)}


# --- the stages ----------------------------------------------------------------------------------------------------


def data(options: argparse.Namespace) -> dict[str, Any]:
    """Pictures of 4 x 4 coloured squares, in one file."""
    side, rng = options.side, np.random.default_rng(0)
    path = options.folder / "data.npy"
    made = np.lib.format.open_memmap(path, "w+", np.uint8, (options.units, side, side, 3))
    for first in range(0, options.units, 500):
        few = rng.integers(0, 256, (min(500, options.units - first), 4, 4, 3), dtype=np.uint8)
        made[first : first + 500] = few.repeat(side // 4, axis=1).repeat(side // 4, axis=2)
    return {"gib": round(path.stat().st_size / 2**30, 2), "objects": 1}


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Load the data and make a run of 22 components, half of which have each unit."""
    from ablatable.data.naming import load_units

    units = load_units(options.folder / "data.npy")
    code = ab.Code.random(units=options.units, components=22, seed=0)
    run = ab.train(units, code, "ideal", out=options.folder / "run", execution=ab.Execution(2, "cpu", quiet=True))
    return stored(run.path)


def plan(options: argparse.Namespace) -> Any:
    from ablatable.universes.enumeration import plan_universe

    run = ab.Run(options.folder / "run")
    return run, plan_universe(run, list(range(options.samples)), sampling=ab.Sampling("ddim", 1), spares=20)


def begin(options: argparse.Namespace) -> dict[str, Any]:
    """Lay out the universe and list what is to be drawn."""
    from ablatable.universes.writer import UniverseWriter

    run, settings = plan(options)
    writer = UniverseWriter.begin(options.folder / "u.zarr", settings, run.units)
    return {"blocks": len(writer.missing()), "block": settings.block, **stored(options.folder / "u.zarr")}


def draw(options: argparse.Namespace) -> dict[str, Any]:
    """Draw some blocks with the components."""
    from ablatable.universes.drawing import Source
    from ablatable.universes.enumeration import BlockTask, compute_block
    from ablatable.universes.writer import UniverseWriter

    place = str(options.folder / "u.zarr")
    blocks = list(UniverseWriter.open(place).blocks())
    first = next(k for k, block in enumerate(blocks) if block.ablations)
    source = Source.of(ab.Run(options.folder / "run"), HERE.resolved())
    chosen = [blocks[0], *blocks[first : first + options.drawn]]
    began = time.perf_counter()
    for block in chosen:
        compute_block(BlockTask(source, place, block), lambda event: None)
    images = sum(block.rows for block in chosen)
    return {"drawn_images": images, "per_image": round((time.perf_counter() - began) / images, 3)}


def fill(options: argparse.Namespace) -> dict[str, Any]:
    """Store made-up pictures in some blocks, and link all others to them."""
    from ablatable.universes.blocks import mark
    from ablatable.universes.writer import UniverseWriter

    writer = UniverseWriter.open(options.folder / "u.zarr")
    settings, store, root = writer.settings, writer.store, options.folder / "u.zarr"
    written: dict[tuple[bool, tuple[int, int]], list] = {}
    shape, rng = settings.shape, np.random.default_rng(1)
    for block in writer.blocks():
        first, last = block.ablations or (0, 1)
        extent = (last - first, block.samples[1] - block.samples[0])
        like = written.setdefault((block.ablations is None, extent), [])
        if not writer.has(block, verify=False):
            if len(like) < (options.written if block.ablations else 1):
                few = rng.integers(0, 256, (*extent, shape[0], 4, 4), dtype=np.uint8)
                writer.write(block, few.repeat(shape[1] // 4, axis=3).repeat(shape[2] // 4, axis=4))
            else:
                source = like[hash(block.name) % len(like)]
                for key, other in zip(block.keys(settings), source.keys(settings), strict=True):
                    (root / key).parent.mkdir(parents=True, exist_ok=True)
                    os.link(root / other, root / key)
                mark(store, settings, block)
        like.append(block) if len(like) < max(1, options.written) else None
    writer.finish()
    return stored(root)


def opening(options: argparse.Namespace) -> dict[str, Any]:
    """Open the universe."""
    universe = ab.Universe.open(options.folder / "u.zarr")
    return {"ablations": universe.settings.ablations}


def radius(options: argparse.Namespace) -> dict[str, Any]:
    """The radius of every sample."""
    from ablatable.analysis.radii import radius_table

    return {"rows": len(radius_table(options.folder / "u.zarr"))}


def nearest(options: argparse.Namespace) -> dict[str, Any]:
    """The nearest unit of every sample with and without it; of some, closely."""
    from ablatable.analysis.nearest import nearest_units

    universe = ab.Universe.open(options.folder / "u.zarr")
    began = time.perf_counter()
    nearest_units(universe, closely=[])
    every = time.perf_counter() - began
    nearest_units(universe, closely=range(options.closely))
    closely = (time.perf_counter() - began - 2 * every) / options.closely
    return {"all_seconds": round(every, 1), "closely_per_sample": round(closely, 2)}


def calibration(options: argparse.Namespace) -> dict[str, Any]:
    """Every unit's test in some samples."""
    from ablatable.analysis.calibration import calibrate

    began = time.perf_counter()
    calibrate(options.folder / "u.zarr", samples=range(options.closely))
    return {"per_sample": round((time.perf_counter() - began) / options.closely, 1)}


def report(options: argparse.Namespace) -> dict[str, Any]:
    """A report with cards of some samples."""
    from ablatable.report import content

    content.REPORT_SAMPLES = options.closely
    ab.write_report(options.folder / "u.zarr", options.folder / "report")
    return stored(options.folder / "report")


STAGES = {
    "data": data,
    "train": train,
    "begin": begin,
    "draw": draw,
    "fill": fill,
    "open": opening,
    "radius": radius,
    "nearest": nearest,
    "calibration": calibration,
    "report": report,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"units": 50000, "side": 32, "samples": 1000, "drawn": 1, "written": 40, "closely": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--only", nargs="*", choices=STAGES, default=list(STAGES))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.stage:
        print(json.dumps(STAGES[options.stage](options)))
        return
    for name in options.only:
        print(json.dumps(run_stage(name, options)), flush=True)


if __name__ == "__main__":
    main()
