"""Read a CTF archive into a universe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..._runtime.outputs import output_folder
from ..._runtime.progress import Display
from ...errors import option
from ..blocks import Block
from ..reader import Universe
from ..settings import UniverseSettings
from ..store import UNIVERSE
from ..writer import UniverseWriter
from .archive import MOST_GIB, Archive, open_archive, size_text
from .config import BUFFER, MOST_PIXELS


def import_ctf(
    path: str | Path,
    out: str | Path,
    *,
    most_gib: float = MOST_GIB,
    overwrite: bool = False,
    quiet: bool = False,
) -> Universe:
    """Read a CTF archive into a universe. Nothing of it is extracted to disk, and memory stays bounded.

    The universe has no run, no codewords and no spares. Unit ids and seeds are those of the archive if `export_ctf`
    wrote it, and otherwise `unit-0001`, `unit-0002`, .. and 0, 1, ... Importing the same archive again resumes an
    import that was interrupted.

    Args:
        path: the archive, an uncompressed tar with its members in any order.
        out: the universe's folder or object-store URL.
        most_gib: refuse an archive whose images take more than this, decoded.
        overwrite: replace the universe that is there.
        quiet: show no progress.

    Raises:
        DataError: it is not a CTF archive, or it must not be read; the message says why.
        SettingsError: `out` holds something else.
    """
    path = Path(path)
    with open_archive(path) as archive:
        settings = settings_of(archive, most_gib)
        with output_folder(out, UNIVERSE):
            universe = UniverseWriter.begin(out, settings, lambda: archive.training, overwrite=overwrite)
            if todo := universe.missing():
                universe.changes()
            total, done = settings.ablations, settings.ablations - len(_rows_of(todo))
            with Display(f"importing {total} units", total, done=done, quiet=quiet) as display:
                for block in (block for block in todo if block.ablations is None):
                    first, last = block.samples
                    universe.write(block, _channels_first(archive.generated("factual.png")[None, first:last]))
                for rows in _rows_of(todo, spans=True):
                    pictures = np.stack([archive.generated(f"leave_{u + 1}_out.png") for u in range(*rows)])
                    for block in (block for block in todo if block.ablations == rows):
                        universe.write(block, _channels_first(pictures[:, slice(*block.samples)]))
                    display.finish(rows[0], rows[1] - rows[0])
            universe.finish()
    return Universe.open(out)


def _rows_of(blocks: list[Block], spans: bool = False) -> list[Any]:
    """The ablations that some blocks hold: one by one, or with `spans` as (first, last) pairs."""
    cut = sorted({block.ablations for block in blocks if block.ablations is not None})
    return cut if spans else [row for first, last in cut for row in range(first, last)]


def _channels_first(pictures: np.ndarray) -> np.ndarray:
    return np.moveaxis(pictures, -1, -3)


def settings_of(archive: Archive, most_gib: float = MOST_GIB) -> UniverseSettings:
    """The settings of the universe that an archive becomes; `DataError` if it is too large."""
    config, images = archive.config, sum(count for _, count in archive.training_files)
    if config.training != config.picture:
        archive.refuse(
            f"its training images are {size_text(config.training)} and its generated ones {size_text(config.picture)} "
            "(height x width x channels); a universe compares them, so they must be alike"
        )
    each = int(np.prod(config.picture))
    gib = each * (config.NumberGenerated * (config.TrainingUnits + 1) + images) / 2**30
    if gib > most_gib:
        archive.refuse(f"its images take {gib:.1f} GiB, more than {most_gib:g}; allow more with {option('most_gib')}")
    for what, count in [("generated", config.NumberGenerated), *archive.training_files]:
        if count * config.GenHeight * config.GenWidth > MOST_PIXELS:
            archive.refuse(f"{count} images in one PNG ({what}) are more than {MOST_PIXELS} pixels")
    samples = min(config.NumberGenerated, max(1, BUFFER // 4 // each))
    ablations = min(config.TrainingUnits, max(1, BUFFER // (each * config.NumberGenerated)), 128)
    training = archive.training
    return UniverseSettings(
        run_sha256=None,
        shape=(config.GenChannel, config.GenHeight, config.GenWidth),
        components=None,
        sampler=None,
        steps=None,
        batch=None,
        block=(ablations, samples),
        seeds=config.Seeds or tuple(range(config.NumberGenerated)),
        units=training.ids,
        digests=training.digests,
        words=None,
        ablation=tuple(range(config.TrainingUnits)),
    )
