"""Write what a run is besides its components: settings, tables, images, and at last the manifest."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

from .._runtime.devices import CPU
from .._runtime.files import file_hash, link_or_copy, read_json, write_atomic, write_json
from .._runtime.provenance import compare_settings, environment
from ..codes.code import Code
from ..data.units import Units
from .records import Manifest, RunSettings, read_training
from .run import IMAGES, Run, component_folder
from .shared import FOLDER


def begin_run(path: Path, settings: RunSettings, units: Units, code: Code, reuse: Run | None = None) -> None:
    """Make `path`, which is empty or a run, a run with these settings: a new one, or the one that is there.

    `reuse`: a run whose file of images is shared if it has the same ones.
    """
    known = path / "settings.json"
    if known.exists():
        there, now = {"hardware": CPU, **read_json(known)}, {"hardware": CPU, **settings.values()}
        if (path / "ensemble.json").exists():  # nothing is left to do, and other hardware does no harm
            now["hardware"] = there["hardware"]
        compare_settings(there, now, path)
    else:
        write_json(known, settings.values())  # first: it makes the folder a run, whatever happens next
    if not (path / "units.parquet").exists():
        _write_units_table(path, units, code)
    if not (path / IMAGES).exists():
        _write_images(path, units, reuse)


def manifest_of(path: Path, settings: RunSettings) -> Manifest:
    """What a run vouches for whose other files are all there, sealed."""
    folders = [component_folder(path, number) for number in settings.present]
    hashes = {
        file.relative_to(path).as_posix(): file_hash(file)
        for folder in [*folders, *(path / FOLDER / part.name for part in settings.shared or ())]
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    weights = [(folder / settings.recipe.component.weights).relative_to(path).as_posix() for folder in folders]
    return Manifest(
        settings=settings,
        settings_sha256=file_hash(path / "settings.json"),
        units_table_sha256=file_hash(path / "units.parquet"),
        images_sha256=file_hash(path / IMAGES),
        weights_sha256=[hashes[name] for name in weights],
        split_commitments=[read_training(folder).split_commitment for folder in folders],
        files_sha256=hashes,
        environment=environment(),
    ).sealed()


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


def _write_images(path: Path, units: Units, reuse: Run | None) -> None:
    if reuse is not None and (reuse.unit_ids, reuse.digests) == (units.ids, units.digests):
        aside = path / f".{IMAGES}.{os.getpid()}.partial"
        link_or_copy(reuse.path / IMAGES, aside)
        if file_hash(aside) == reuse.manifest.images_sha256:
            aside.replace(path / IMAGES)
            return
        aside.unlink()  # damaged there
    units.write_to(path / IMAGES)
