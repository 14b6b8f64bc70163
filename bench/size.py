"""Stages of the work at full size: time, peak memory, bytes and objects stored, as a table.

python bench/size.py --units 50000 --side 32 --samples 1000 --folder /tmp/size

The pictures are made up of coloured squares, which compress well. Nothing is trained: a component is the ideal denoiser
of 16 pictures of its split, which a package with an entry point adds (it is written into the folder), and samples are
drawn in one step. Everything else is done as it always is. Of the universe, `--drawn` blocks are really drawn, in two
portions. All others are hard links to these, under their own names and with markers of their own, so that the number of
objects, and what is read, are those of the full size.

Each stage is a process of its own. `cpu` is the time of the process and its workers on the cores, user and system.
`memory` is what they have for themselves at any one time (`RssAnon` and `RssShmem`, read ten times per second); pages
of mapped files, which the system drops when it needs them, do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

import ablatable as ab

TWO = ab.Execution(workers=2, device="cpu", quiet=True)
HERE = ab.Execution(workers=0, device="cpu", quiet=True)
SAMPLING = ab.Sampling("ddim", 1)
COMPONENTS, SPARES = 22, 20

KIND = """
from typing import ClassVar, Literal

import torch
from safetensors.torch import load_file, save_file

from ablatable.diffusion.ideal import IdealDenoiser
from ablatable.diffusion.kinds import Kind
from ablatable.diffusion.recipe import ComponentConfig


class Config(ComponentConfig):
    weights: ClassVar[str] = "few.safetensors"
    trained: ClassVar[bool] = False
    kind: Literal["few"] = "few"


def build(config, pixels, seed, schedule):
    few = pixels[:: max(1, len(pixels) // 16)][:16]
    return IdealDenoiser(torch.tensor(few).permute(0, 3, 1, 2).contiguous(), schedule)


def save(denoiser, folder, stored):
    save_file({"images": denoiser.images}, folder / Config.weights)


def load(folder, config, schedule):
    return IdealDenoiser(load_file(folder / config.weights)["images"], schedule)


KIND = Kind(Config, IdealDenoiser, build=build, save=save, load=load)
"""


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


def cpu_seconds() -> float:
    """Of all processes that ended, and of those that they waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run_stage(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One stage in a process of its own."""
    command = [sys.executable, __file__, "--stage", name]
    for key in ("units", "side", "samples", "folder", "drawn", "closely"):
        command += [f"--{key}", str(getattr(options, key))]
    path = os.pathsep.join(filter(None, [str(options.folder / "kinds"), os.environ.get("PYTHONPATH")]))
    began, before, peak, done = time.perf_counter(), cpu_seconds(), [0], threading.Event()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    ) as process:

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
    return {
        "stage": name,
        "cpu": round(cpu_seconds() - before, 1),
        "seconds": round(time.perf_counter() - began, 1),
        "memory_gib": round(peak[0] / 2**30, 2),
        **json.loads(output.splitlines()[-1]),
    }


def stored(folder: Path) -> dict[str, Any]:
    """Objects below a folder, and their bytes, each link counted as if it were a file of its own."""
    sizes = [(Path(base) / name).stat().st_size for base, _, names in os.walk(folder) for name in names]
    return {"objects": len(sizes), "gib": round(sum(sizes) / 2**30, 3)}


class Counting:
    """A store that counts what is asked of it."""

    def __init__(self, inner: Any, asked: Counter[str]) -> None:
        self.inner, self.asked = inner, asked

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name not in ("get", "head", "list"):
            return found

        def ask(*arguments: Any, **options: Any) -> Any:
            self.asked[name] += 1
            return found(*arguments, **options)

        return ask


# --- the stages ----------------------------------------------------------------------------------------------------


def data(options: argparse.Namespace) -> dict[str, Any]:
    """Pictures of 4 x 4 coloured squares, in one file, and the package that adds the kind of component."""
    side, rng = options.side, np.random.default_rng(0)
    path = options.folder / "data.npy"
    made = np.lib.format.open_memmap(path, "w+", np.uint8, (options.units, side, side, 3))
    for first in range(0, options.units, 500):
        few = rng.integers(0, 256, (min(500, options.units - first), 4, 4, 3), dtype=np.uint8)
        made[first : first + 500] = few.repeat(side // 4, axis=1).repeat(side // 4, axis=2)
    about = options.folder / "kinds" / "few_kind-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: few-kind\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[ablatable.kinds]\nfew = few_kind:KIND\n")
    (about.parent / "few_kind.py").write_text(KIND)
    return {"gib": round(path.stat().st_size / 2**30, 2), "objects": 1}


def load(options: argparse.Namespace) -> dict[str, Any]:
    """Load the data and hash every unit."""
    from ablatable.data.naming import load_units

    return {"units": len(load_units(options.folder / "data.npy", quiet=True).digests)}


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Load the data and make a run of 22 components, half of which have each unit."""
    from ablatable.data.naming import load_units

    units = load_units(options.folder / "data.npy", quiet=True)
    code = ab.Code.random(units=options.units, components=COMPONENTS, seed=0)
    recipe = ab.Recipe.model_validate({"component": {"kind": "few"}})
    return stored(ab.train(units, code, recipe, out=options.folder / "run", execution=TWO).path)


def task(options: argparse.Namespace) -> dict[str, Any]:
    """Hand one component's split of all units over to a worker, which makes its first batch."""
    from ablatable.runs.component_training import Pictures, batch_at
    from ablatable.runs.ensemble_training import task_of

    run = ab.Run(options.folder / "run")
    made = task_of(run.units(), run.design, run.recipe, run.seed, 0, options.folder / "new", "cpu", on_disk=True)
    sent = pickle.dumps(made)
    there = pickle.loads(sent)
    batch_at(there, 0, Pictures(there.split.images), run.recipe.schedule.train_steps)
    return {"sent_bytes": len(sent), **stored(options.folder / "new")}


def begin(options: argparse.Namespace) -> dict[str, Any]:
    """Lay out the universe and list what is to be drawn."""
    from ablatable.universes.enumeration import plan_universe
    from ablatable.universes.writer import UniverseWriter

    run = ab.Run(options.folder / "run")
    settings = plan_universe(run, list(range(options.samples)), sampling=SAMPLING, spares=SPARES)
    writer = UniverseWriter.begin(options.folder / "u.zarr", settings, run.units)
    return {"blocks": len(writer.missing()), "block": settings.block, **stored(options.folder / "u.zarr")}


def draw(options: argparse.Namespace, share: float = 0.1) -> dict[str, Any]:
    """Draw a tenth of `--drawn` blocks, and the factual samples, with two workers."""
    from ablatable.universes.drawing import Source
    from ablatable.universes.enumeration import BlockTask, _compute
    from ablatable.universes.writer import UniverseWriter

    place = options.folder / "u.zarr"
    writer, source = UniverseWriter.open(place), Source.of(ab.Run(options.folder / "run"), TWO.resolved())
    blocks = [block for block in writer.blocks() if block.ablations is None or not writer.has(block, verify=False)]
    samples = sum(block.ablations is None for block in blocks)
    chosen = blocks[: samples + max(1, round(share * options.drawn))]
    missing = [block for block in chosen if not writer.has(block, verify=False)]
    _compute(writer, [BlockTask(source, str(place), block) for block in missing], TWO)
    return {"drawn_blocks": len(missing), "drawn_images": sum(block.rows for block in missing)}


def draw_more(options: argparse.Namespace) -> dict[str, Any]:
    """Draw the others of `--drawn` blocks."""
    return draw(options, 0.9)


def fill(options: argparse.Namespace) -> dict[str, Any]:
    """Link all other blocks to those that were drawn."""
    from ablatable.universes.blocks import mark
    from ablatable.universes.writer import UniverseWriter

    root = options.folder / "u.zarr"
    writer = UniverseWriter.open(root)
    settings, drawn = writer.settings, {}
    for block in writer.blocks():
        first, last = block.ablations or (0, 1)
        like = drawn.setdefault((last - first, block.samples[1] - block.samples[0], block.ablations is None), [])
        if writer.has(block, verify=False):
            like.append(block)
            continue
        if not like:  # a rim
            images = np.zeros((last - first, block.samples[1] - block.samples[0], *settings.shape), np.uint8)
            writer.write(block, images + np.arange(last - first, dtype=np.uint8)[:, None, None, None, None])
            like.append(block)
            continue
        source = like[hash(block.name) % len(like)]
        for key, other in zip(block.keys(settings), source.keys(settings), strict=True):
            (root / key).parent.mkdir(parents=True, exist_ok=True)
            (root / key).unlink(missing_ok=True)
            os.link(root / other, root / key)
        mark(writer.store, settings, block)
    writer.finish()
    return stored(root)


def opening(options: argparse.Namespace) -> dict[str, Any]:
    """Open the universe."""
    from ablatable.universes import reader

    asked: Counter[str] = Counter()
    inner = reader.open_store
    reader.open_store = lambda url, create=True: Counting(inner(url, create=create), asked)
    began = time.process_time()
    universe = ab.Universe.open(options.folder / "u.zarr")
    seconds = round(time.process_time() - began, 2)
    return {"ablations": universe.settings.ablations, "requests": asked.total(), "alone": seconds}


def resume(options: argparse.Namespace) -> dict[str, Any]:
    """Give the command that draws again: it compares every object with its hash, and finds nothing to do."""
    run, place = ab.Run(options.folder / "run"), options.folder / "u.zarr"
    ab.enumerate_universe(run, range(options.samples), out=place, sampling=SAMPLING, spares=SPARES, execution=TWO)
    return {}


def radius(options: argparse.Namespace) -> dict[str, Any]:
    """The radius of every sample."""
    return {"rows": len(ab.radius_table(options.folder / "u.zarr"))}


def nearest(options: argparse.Namespace) -> dict[str, Any]:
    """The nearest unit of every sample with and without it; of some, closely."""
    from ablatable.analysis.nearest import nearest_units

    universe = ab.Universe.open(options.folder / "u.zarr")
    began = time.process_time()
    nearest_units(universe, closely=range(options.closely))
    return {"alone": round(time.process_time() - began, 1), "closely": options.closely}


def calibration(options: argparse.Namespace) -> dict[str, Any]:
    """Every unit's test in some samples."""
    began = time.process_time()
    ab.calibrate(options.folder / "u.zarr", samples=range(options.closely))
    return {"per_sample": round((time.process_time() - began) / options.closely, 1)}


def witness(options: argparse.Namespace) -> dict[str, Any]:
    """What the components say about one sample."""
    from ablatable.analysis.witness import witness_pictures

    universe = ab.Universe.open(options.folder / "u.zarr")
    witness_pictures(ab.Run(options.folder / "run"), universe.factual[:1], universe.seeds[:1])
    return {}


def report(options: argparse.Namespace) -> dict[str, Any]:
    """A report with cards of some samples."""
    from ablatable.report import content

    content.REPORT_SAMPLES = options.closely
    ab.write_report(options.folder / "u.zarr", options.folder / "report")
    return stored(options.folder / "report")


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Compare scores that somebody gives of some samples with what removal shows."""
    place, samples = options.folder / "evaluation", range(options.closely)
    scores = {"given": np.random.default_rng(2).random((len(samples), options.units))}
    ab.evaluate(
        options.folder / "u.zarr", scores, out=place, run=options.folder / "run", samples=samples, execution=HERE
    )
    return {"samples": len(samples), **stored(place)}


def score(options: argparse.Namespace) -> dict[str, Any]:
    """Score 16 samples with the nearest training picture, as an attribution method: one piece of an evaluation."""
    from ablatable.attribution.pieces import Piece, compute_piece

    path = options.folder / "piece.parquet"
    compute_piece(
        Piece(str(options.folder / "u.zarr"), None, "euclidean", "max", tuple(range(16)), str(path), ""), print
    )
    return {"mib": round(path.stat().st_size / 2**20, 1)}


def export(options: argparse.Namespace) -> dict[str, Any]:
    """Export two samples, and all of their counterfactuals, to CTF."""
    place, path = options.folder / "u.zarr", options.folder / "u.ctf"
    ab.export_ctf(place, path, samples=range(2), quiet=True, overwrite=True)
    return {"gib": round(path.stat().st_size / 2**30, 3), "objects": 1}


def forget(options: argparse.Namespace) -> dict[str, Any]:
    """Forget a unit: a new run, and its certificate."""
    run = ab.Run(options.folder / "run")
    left, _ = ab.forget(run, [run.unit_ids[7]], out=options.folder / "left")
    return stored(left.path)


def certificate(options: argparse.Namespace) -> dict[str, Any]:
    """Check the certificate and the new run."""
    place = options.folder / "left"
    wrong = ab.check_certificate(ab.read_certificate(place / "certificate.json"), place)
    return {"wrong": len(wrong)}


STAGES = {
    "data": data,
    "load": load,
    "train": train,
    "task": task,
    "begin": begin,
    "draw": draw,
    "draw_more": draw_more,
    "fill": fill,
    "open": opening,
    "resume": resume,
    "radius": radius,
    "nearest": nearest,
    "calibration": calibration,
    "witness": witness,
    "report": report,
    "score": score,
    "evaluate": evaluate,
    "forget": forget,
    "certificate": certificate,
    "export": export,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"units": 50000, "side": 32, "samples": 1000, "drawn": 200, "closely": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--stage", choices=STAGES)
    parser.add_argument("--only", nargs="*", choices=STAGES, default=list(STAGES))
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.stage:
        print(json.dumps(STAGES[options.stage](options)))
        return
    for name in options.only:
        print(json.dumps(run_stage(name, options)), flush=True)


if __name__ == "__main__":
    main()
