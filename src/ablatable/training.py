"""Train an ensemble: every component on its own split, in parallel, into a run that can be stopped and gone on with."""

from __future__ import annotations

import io
import json
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .code import Code
from .errors import SettingsError, StoreError
from .files import file_hash, json_hash, read_json, sweep, write_atomic, write_json
from .lock import LOCK_FILES, exclusive
from .progress import Display
from .recipe import Recipe
from .run import FORMAT, Run
from .settings import compare_settings, environment, resolve_device
from .units import Units
from .workers import Pool, default_workers

CHECKPOINT_SECONDS = 20.0  # at most so much of a component's training is lost when it is killed


def train(
    units: Units,
    code: Code,
    recipe: Recipe,
    *,
    out: str | Path,
    seed: int = 0,
    workers: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
    quiet: bool = False,
) -> Run:
    """Train an ablatable ensemble: every component on its own split, in parallel, resumably.

    Args:
        units: the training data.
        code: one row a unit; fixed beforehand.
        recipe: what to build and how to train it, see `preset`.
        out: the run's folder. If it holds the same run, unfinished, training goes on; if complete, nothing is done.
        seed: the ensemble seed; all of the training's randomness follows from it.
        workers: processes (each single-threaded); None = one per core; 0 = in this process.
        device: `auto`, `cpu`, `cuda` or `cuda:k`.
        overwrite: start anew over what is there.
        quiet: no progress display.

    Raises:
        SettingsError: `out` holds a run with other settings (both values are named), or is something else.
        StoreError: another process is writing this run, or the disk refuses.
        WorkerError: a worker kept dying.
    """
    path, device = Path(out), resolve_device(device)
    if len(units) != code.units:
        raise SettingsError(
            f"{len(units)} units but {code.units} codewords; make the code for as many units as there are"
        )
    small = int(np.argmin(code.split_sizes()))
    if code.split_sizes()[small] == 0:
        raise SettingsError(f"component {small} would train on nothing; take fewer components or a higher weight")
    settings = {
        "format": FORMAT,
        "kind": "ablatable run",
        "shape": list(units.shape),
        "components": code.components,
        "units": len(units),
        "seed": seed,
        "recipe": recipe.model_dump(mode="json"),
        "code_sha256": code.digest(),
        "units_sha256": units.fingerprint(),
        "torch": version("torch"),
    }
    with exclusive(path, "run"):
        _open_for_training(path, settings, units, code, overwrite)
        if not (path / "ensemble.json").exists():
            _remove_damaged(path, recipe.component.kind)
        missing = [i for i in range(code.components) if not (path / "components" / f"{i:02d}").exists()]
        if missing:
            _train_components(
                path,
                units,
                code,
                recipe,
                seed,
                missing,
                default_workers() if workers is None else workers,
                device,
                quiet,
            )
        if not (path / "ensemble.json").exists():
            write_json(path / "ensemble.json", _manifest(path, settings))
    return Run(path)


def _remove_damaged(path: Path, kind: str) -> None:
    """The manifest is about to vouch for the components: those whose weights are no longer what was trained must go."""
    from .component import WEIGHTS

    for folder in (path / "components").glob("[0-9]*[0-9]"):
        try:
            sound = read_json(folder / "training.json")["weights_sha256"] == file_hash(folder / WEIGHTS[kind])
        except (StoreError, OSError, KeyError, TypeError):
            sound = False
        if not sound:
            shutil.rmtree(folder)


def _train_components(
    path: Path,
    units: Units,
    code: Code,
    recipe: Recipe,
    seed: int,
    missing: list[int],
    workers: int,
    device: str,
    quiet: bool,
) -> None:
    from .fitting import TrainTask, train_component

    tasks = [
        TrainTask(
            split=units.select([units.ids[row] for row in code.split(i)]),
            recipe=recipe,
            component=i,
            seed=seed,
            folder=path / "components" / f"{i:02d}",
            device=device,
            checkpoint_seconds=CHECKPOINT_SECONDS,
        )
        for i in missing
    ]
    steps = recipe.training.steps if recipe.component.kind == "unet" else 1
    finished = code.components - len(missing)
    title = f"training {code.components} components"
    with Display(title, code.components * steps, done=finished * steps, quiet=quiet) as display:
        began, images = time.monotonic(), dict.fromkeys(range(len(tasks)), 0)

        def on_event(number: int, event: dict) -> None:
            images[number] = event["images"]
            speed = sum(images.values()) / (time.monotonic() - began)
            display.note(f"{speed:.0f} images/s")
            display.update(
                number,
                f"component {missing[number]:02d}",
                event["step"],
                steps,
                f"step {event['step']}/{steps} loss {event['loss']:.4f}",
            )

        with Pool(train_component, workers) as pool:
            for number, _ in pool.run(tasks, on_event):
                display.finish(number, steps)
    seconds = time.monotonic() - began
    log(
        path,
        event="trained",
        components=missing,
        seconds=round(seconds, 1),
        images_per_second=round(sum(images.values()) / seconds, 1),
        workers=workers,
        device=device,
    )


def _open_for_training(path: Path, settings: dict, units: Units, code: Code, overwrite: bool) -> None:
    """Make `path` a run with these settings: new, resumed, or anew."""
    known = path / "settings.json"
    if overwrite:
        others = [entry for entry in path.iterdir() if entry.name not in LOCK_FILES]
        if others and not known.exists():
            raise SettingsError(
                f"{path} is not a run, so --overwrite leaves it alone; delete it yourself or choose another --out"
            )
        # ensemble.json goes first, or half a run would seem complete; settings.json, which makes it a run, last
        for entry in sorted(others, key=lambda entry: (entry == known, entry.name != "ensemble.json")):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    sweep(path)
    tables = {"units.parquet": _write_units_table, "images.safetensors": _write_images}
    if known.exists():
        compare_settings(read_json(known), settings, path)
    elif {p.name for p in path.iterdir()} - LOCK_FILES - tables.keys():
        raise SettingsError(f"{path} holds other files; choose another --out")
    for name, write in tables.items():
        if not known.exists() or not (path / name).exists():
            write(path, units, code)
    if not known.exists():
        write_json(known, settings)  # last: with it, the tables are there too


def _manifest(path: Path, settings: dict) -> dict:
    from .component import WEIGHTS

    kind = settings["recipe"]["component"]["kind"]
    folders = [path / "components" / f"{i:02d}" for i in range(settings["components"])]
    manifest = {
        "settings": settings,
        "settings_sha256": file_hash(path / "settings.json"),
        "units_table_sha256": file_hash(path / "units.parquet"),
        "images_sha256": file_hash(path / "images.safetensors"),
        "weights_sha256": [file_hash(folder / WEIGHTS[kind]) for folder in folders],
        "files_sha256": {
            file.relative_to(path).as_posix(): file_hash(file)
            for folder in folders
            for file in sorted(folder.iterdir())
        },
        "environment": environment(),
    }
    return {**manifest, "sha256": json_hash(manifest)}


def _write_units_table(path: Path, units: Units, code: Code) -> None:
    import polars as pl

    buffer = io.BytesIO()
    pl.DataFrame(
        {
            "unit": list(units.ids),
            "sha256": list(units.digests),
            "images": np.bincount(units.owner, minlength=len(units)),
            "codeword": code.words(),
            "ablation": code.ablations()[1],
        }
    ).write_parquet(buffer)
    write_atomic(path / "units.parquet", buffer.getvalue())


def _write_images(path: Path, units: Units, code: Code) -> None:
    from safetensors.numpy import save

    write_atomic(path / "images.safetensors", save({"images": units.images, "owner": units.owner}))


def log(path: Path, **event: Any) -> None:
    """Append one line to the run's log."""
    with (path / "log.jsonl").open("a") as file:
        file.write(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **event}) + "\n")
