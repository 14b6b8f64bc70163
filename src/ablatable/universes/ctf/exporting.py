"""Write a universe as a CTF archive."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from ..._runtime.files import writing
from ..._runtime.outputs import check_file
from ..._runtime.progress import Display
from ..._runtime.workers import chunks
from ...errors import DataError, SettingsError, option
from ..landscapes import checked_sample
from ..reader import Universe
from .archive import MOST_HEADER
from .config import BUFFER, MOST_PIXELS, Config


def export_ctf(
    universe: str | Path | Universe,
    path: str | Path,
    *,
    samples: Sequence[int] | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Path:
    """Write a universe as a CTF archive. CTF has no place for codewords, spares, distances and
    conditions, which are left out.

    The images keep their 8 bits, memory stays bounded, and the same universe gives the same bytes. The file appears
    when it is complete.

    Args:
        universe: the universe, or its place.
        path: the archive.
        samples: only these samples (indices, from 0), in this order; `config.json` has their number and seeds. None =
            all.
        overwrite: replace a file that is there.
        quiet: show no progress.

    Returns:
        `path`.

    Raises:
        DataError: there is no such sample, or an image of the archive would be too large.
        SettingsError: no sample is chosen, or one twice; `path` exists and `overwrite` is not given, or it is no
            archive; or it cannot be written.
        StoreError: it cannot be written.
    """
    opened, path = Universe.open(universe), Path(path)
    numbers = range(len(opened.seeds)) if samples is None else [checked_sample(k, opened.seeds) for k in samples]
    if not numbers or len(set(numbers)) < len(numbers):
        raise SettingsError(f"{'a sample is named twice' if numbers else 'no sample is given'}; give each once")
    check_file(path, "a CTF archive", _is_archive, overwrite=overwrite)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with writing(path):
            with aside.open("wb") as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                    for name, content in _members(opened, numbers, quiet):
                        member = tarfile.TarInfo(name)
                        member.size, member.mode = len(content), 0o644
                        archive.addfile(member, io.BytesIO(content))
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def _is_archive(path: Path) -> bool:
    with tarfile.open(path, "r:") as archive:
        first = archive.next()
        if first is None or first.name != "config.json" or first.size >= MOST_HEADER:
            return False
        file = archive.extractfile(first)
        return file is not None and "Format" in json.loads(file.read())


def _members(universe: Universe, samples: Sequence[int], quiet: bool) -> Iterator[tuple[str, bytes]]:
    settings, training = universe.settings, universe.training
    channels, height, width = settings.shape
    if len(samples) * height * width > MOST_PIXELS:
        most = MOST_PIXELS // (height * width)
        raise DataError(
            f"{len(samples)} samples of {height} x {width} have more than the {MOST_PIXELS} pixels that a PNG of an "
            f"archive may have; choose at most {most} with {option('samples')}"
        )
    one_file = len(training.images) == len(training) and _pixels(training.images) <= MOST_PIXELS
    config = Config(
        Format="ONEFILE" if one_file else "MULTIFILE",
        TrainingUnits=len(training),
        NumberGenerated=len(samples),
        TrainHeight=height,
        TrainWidth=width,
        TrainChannel=channels,  # pyright: ignore[reportArgumentType]
        GenHeight=height,
        GenWidth=width,
        GenChannel=channels,  # pyright: ignore[reportArgumentType]
        UnitIds=training.ids,
        Seeds=tuple(universe.seeds[sample] for sample in samples),
    )
    yield "config.json", json.dumps(config.model_dump(mode="json"), indent=1).encode()
    yield "factual.png", _png(universe.factual[list(samples)])
    if one_file:
        yield "training_set.png", _png(training.images)
    else:
        for number, unit in enumerate(training.ids, start=1):
            images = training.of(unit)
            yield f"train_{number}_{_short(unit)}_{len(images)}.png", _png(images)
    each = len(samples) * int(np.prod(settings.shape))
    with Display(f"exporting {len(training)} units", len(training), quiet=quiet) as display:
        for first, last in chunks(len(training), max(1, BUFFER // each)):
            rows = np.array(settings.ablation[first:last])
            distinct, place = np.unique(rows, return_inverse=True)
            images = _drawn(universe, distinct, samples)  # (rows, samples, H, W, C)
            for number, row in enumerate(place, start=first + 1):
                yield f"leave_{number}_out.png", _png(images[row])
                display.finish(number, 1)


def _drawn(universe: Universe, rows: np.ndarray, samples: Sequence[int]) -> np.ndarray:
    """Samples under some ablations, ascending: uint8 (rows, samples, H, W, C). No others are read."""
    if samples == range(len(universe.seeds)):
        return universe.ablations(rows)
    return np.stack([universe.counterfactuals(sample, rows) for sample in samples], axis=1)


def _short(unit: str) -> str:
    """As much of a unit's id as a file name can hold; `UnitIds` has all of it."""
    return quote(unit, safe="")[:40]


def _pixels(images: np.ndarray) -> int:
    """Of images (n, H, W, C)."""
    return int(np.prod(images.shape[:3]))


def _png(images: np.ndarray) -> bytes:
    """Images, uint8 (n, H, W, C), in one column."""
    from PIL import Image

    column = np.ascontiguousarray(images).reshape(-1, *images.shape[2:])
    if _pixels(images) > MOST_PIXELS:
        raise DataError(
            f"a unit has {len(images)} images of {images.shape[1]} x {images.shape[2]}, and a PNG of an archive may "
            f"have {MOST_PIXELS} pixels: the universe cannot be exported"
        )
    buffer = io.BytesIO()
    Image.fromarray(column[..., 0] if column.shape[2] == 1 else column).save(buffer, "PNG")
    return buffer.getvalue()
