"""Copies of a run on the nodes of a Ray cluster: sent once to each node, found again by later drivers."""

from __future__ import annotations

import getpass
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .files import file_hash, json_hash

KEPT_SECONDS = 7 * 24 * 3600  # how long a node keeps its copy of a run after the last worker that asked for it


@dataclass(frozen=True)
class Archive:
    """A run that nodes copy: one object of Ray's per file, so that none is as large as all of them, and its hash."""

    digest: str
    files: dict[str, Any]  # references to arrays of bytes, by the file's name


def archive_of(run: Path, put: Callable[[Any], Any]) -> Archive:
    """Hash a run's files and hand them to Ray, once, one after another."""
    paths = [p for p in sorted(run.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    names = [path.relative_to(run).as_posix() for path in paths]
    digest = json_hash({name: file_hash(path) for name, path in zip(names, paths, strict=True)})
    return Archive(digest, {name: put(np.fromfile(path, np.uint8)) for name, path in zip(names, paths, strict=True)})


def unpacked(archive: Archive, get: Callable[[Any], Any]) -> Path:
    """The run's folder on this node, written by the first worker that comes; others wait, and ask for nothing."""
    from filelock import FileLock

    folder = _folder(archive.digest)
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            aside = folder.with_name(f".{folder.name}.{os.getpid()}")
            for name, content in archive.files.items():
                path = aside / name
                path.parent.mkdir(parents=True, exist_ok=True)
                get(content).tofile(path)
            aside.rename(folder)
        os.utime(folder)
    for other in folder.parent.iterdir():  # copies that no worker asks for any more, and torn ones
        with suppress(OSError):
            if other.is_dir() and time.time() - other.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(other)
    return folder


def has_copy(digest: str) -> bool:
    """Whether this node has a copy of the run of that hash."""
    return _folder(digest).exists()


def _folder(digest: str) -> Path:
    return Path(tempfile.gettempdir()) / f"ablatable-runs-{getpass.getuser()}" / digest[:32]
