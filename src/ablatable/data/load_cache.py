"""Decoded pictures of a folder, kept in the user's cache directory, so that the next load need not decode them.

An entry is known by everything that its pixels depend on: the folder's path, each file's path, size and times, and the
settings. What is read back is checked picture by picture, so a damaged entry is never served. As a cache holds copies
of people's pictures, an entry is deleted as soon as a load finds that one of its files has changed or gone, that
its folder has gone, or that nobody has used it for a month.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .._runtime.files import move_folder_into_place, read_json, write_json
from .._runtime.workers import chunks
from ..errors import StoreError
from .sources import Entry, Source

FORMAT = 1
FEWEST = 256  # pictures; fewer are read at once anyway
PIECE = 32 * 2**20  # bytes that are copied at once
LARGE = 2**30  # bytes; more pixels than these stay on disk and are mapped into memory
UNUSED_DAYS = 30
PIXELS, TABLE, WHERE = "pixels.raw", "pictures.json", "folder.json"


@dataclass
class Pictures:
    """All pictures of a source in their final order: units one after the other, within a unit by hash."""

    images: np.ndarray
    """uint8 (N, H, W, C)."""
    units: list[str]
    names: list[str]
    hashes: list[bytes]
    """Each image's unit, name and SHA-256 of its pixels."""
    notes: list[tuple[str, ...]]
    """What was done to each (keys of `images.CONVERSIONS`)."""
    broken: list[str]
    """Messages on files that were left out."""
    warnings: list[str]
    """What the decoder warned of."""


def cache_folder() -> Path:
    """Where entries are: `ablatable/pictures` in the user's cache directory."""
    from platformdirs import user_cache_path

    return user_cache_path("ablatable", appauthor=False) / "pictures"


def allocate(count: int, shape: tuple[int, ...], file: Path | None) -> np.ndarray:
    """Room for `count` pictures, uint8: in memory, or if they are many in `file` (without one, in a nameless file)."""
    if count * int(np.prod(shape)) < LARGE:
        return np.empty((count, *shape), np.uint8)
    if file is None:
        with tempfile.TemporaryFile() as nameless:  # the mapping keeps it
            return np.memmap(nameless, np.uint8, "w+", shape=(count, *shape))
    return np.memmap(file, np.uint8, "w+", shape=(count, *shape))


def gather(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Some pictures, uint8 (rows, H, W, C), read-only: a copy, in memory or if they are many in a nameless file."""
    found = allocate(len(rows), images.shape[1:], None)
    for first, last in chunks(len(rows), max(1, PIECE // max(1, int(np.prod(images.shape[1:]))))):
        found[first:last] = images[rows[first:last]]
    found.flags.writeable = False
    return found


class Slot:
    """The place in the cache of one source under some settings."""

    def __init__(self, folder: Path, files: str, rest: str) -> None:
        self.home = cache_folder() / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        self.path = self.home / f"{files[:16]}-{rest[:16]}"
        self.partial = self.home / f".{self.path.name}.{os.getpid()}.partial"
        self.folder = folder

    def read(self) -> Pictures | None:
        """What is there, if it is whole."""
        try:
            told = read_json(self.path / TABLE)
            if told.pop("table") != _hash(told):
                return None
            shape = (len(told["units"]), *told["shape"])
            file = self.path / PIXELS
            if int(np.prod(shape)) < LARGE:
                images = np.fromfile(file, np.uint8).reshape(shape)
            else:
                images = np.memmap(file, np.uint8, "r", shape=shape)
            hashes = [hashlib.sha256(image.data).digest() for image in np.asarray(images)]
            if [digest.hex() for digest in hashes] != told["sha256"]:
                return None
            os.utime(self.path / TABLE)
            notes = [tuple(some) for some in told["notes"]]
            return Pictures(images, told["units"], told["names"], hashes, notes, told["broken"], told["warnings"])
        except (StoreError, OSError, ValueError, KeyError, TypeError):
            return None

    def file(self) -> Path | None:
        """A file to decode many pictures into, or None if the cache cannot be written."""
        with suppress(OSError):
            shutil.rmtree(self.partial, ignore_errors=True)
            self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.partial.mkdir(mode=0o700)
            return self.partial / PIXELS
        return None

    def write(self, pictures: Pictures) -> None:
        """Keep them, if the cache can be written."""
        images = pictures.images
        with suppress(OSError, StoreError):
            if self.partial.is_dir():
                if isinstance(images, np.memmap):  # they are in the file already
                    images.flush()
                else:
                    images.tofile(self.partial / PIXELS)
                table = {
                    "shape": list(images.shape[1:]),
                    "units": pictures.units,
                    "names": pictures.names,
                    "sha256": [digest.hex() for digest in pictures.hashes],
                    "notes": pictures.notes,
                    "broken": pictures.broken,
                    "warnings": pictures.warnings,
                }
                (self.partial / TABLE).write_text(json.dumps({**table, "table": _hash(table)}))
                write_json(self.home / WHERE, {"folder": str(self.folder)})
                move_folder_into_place(self.partial, self.path)
        shutil.rmtree(self.partial, ignore_errors=True)


def slot(source: Source, settings: dict[str, Any]) -> Slot | None:
    """The place of a source's pictures, stale entries swept; None if they are too few or not files of a folder."""
    if source.folder is None or len(source.entries) < FEWEST:
        return None
    try:
        files = _hash(_stamps(source.entries))
    except OSError:  # a link to nowhere: reading says so
        return None
    units = [entry.unit for entry in source.entries]
    names = [entry.name for entry in source.entries]
    rest = _hash([FORMAT, version("pillow"), units, names, settings])
    made = Slot(source.folder, files, rest)
    with suppress(OSError):
        _sweep(made, files[:16])
    return made


def _hash(value: Any) -> str:
    """Of plain JSON, which is quick for long lists."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _stamps(entries: Sequence[Entry]) -> list[list[Any]]:
    """Per file what changes with its content: size, times and inode."""
    rows = []
    for entry in entries:
        assert entry.path is not None  # as Source.folder says
        status = entry.path.stat()
        rows.append([str(entry.path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino])
    return rows


def _sweep(mine: Slot, files: str) -> None:
    """Delete entries of this folder as it was, of folders that are gone, and those that were not used for long."""
    if mine.home.is_dir():
        for entry in mine.home.iterdir():
            if entry.is_dir() and not entry.name.lstrip(".").startswith(files):
                shutil.rmtree(entry, ignore_errors=True)
    if not mine.home.parent.is_dir():
        return
    for home in mine.home.parent.iterdir():
        try:
            gone = not Path(read_json(home / WHERE)["folder"]).is_dir()
        except (StoreError, KeyError, TypeError):
            continue
        for table in home.glob(f"*/{TABLE}"):
            if gone or table.stat().st_mtime < time.time() - UNUSED_DAYS * 86400:
                shutil.rmtree(table.parent, ignore_errors=True)
