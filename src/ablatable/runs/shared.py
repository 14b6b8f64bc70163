"""Shared parts: frozen models that all components use and that no training here changes.

A base model that adapters sit on, an autoencoder, a text encoder: whatever one of them has seen reaches every
component. So a run keeps a copy of each (`shared/<name>/`), its role and its hash, and every statement about what a
component never saw is relative to them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .._runtime.files import file_hash, json_hash, move_folder_into_place
from ..errors import SettingsError, StoreError
from .records import SharedRecord

FOLDER = "shared"
_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


@dataclass(frozen=True)
class SharedPart:
    """A frozen model for all components of a run, as it is given to `train`.

    Attributes:
        name: lower-case letters, digits, `-` and `_`; the folder in the run.
        role: what it is, in words: `base model`, `codec`, `text encoder`.
        folder: its files; weights as safetensors.
        statement: what its giver says about what it was trained on. The run records it and cannot check it.
        only: sub-folders whose files count, where the folder holds other things too; none = all of it.

    Raises:
        SettingsError: another name, or the folder does not exist, is empty, or holds pickled weights, which can run
            code as soon as they are opened.
    """

    name: str
    role: str
    folder: Path
    statement: str | None = None
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SettingsError(f"shared part '{self.name}': write its name in lower-case letters, digits, - and _")
        files = files_of(self.folder, self.only)
        if not files:
            raise SettingsError(f"shared part '{self.name}': there are no files in {self.folder}")
        if pickled := [file for file in files if Path(file).suffix in _PICKLED]:
            raise SettingsError(
                f"shared part '{self.name}': {pickled[0]} is a pickle, which can run code when it is opened; save the "
                "weights as safetensors, and leave the pickle out"
            )

    def record(self) -> SharedRecord:
        """Its name, role, hash and statement."""
        return SharedRecord(
            name=self.name,
            role=self.role,
            sha256=folder_hash(self.folder, self.only),
            statement=self.statement or None,
        )


@dataclass(frozen=True)
class Shared:
    """The shared parts of a run, where they are in it."""

    records: tuple[SharedRecord, ...] = ()
    folder: Path = Path()

    @property
    def folders(self) -> dict[str, Path]:
        """Each part's folder, by its name."""
        return {record.name: self.folder / record.name for record in self.records}

    @property
    def digests(self) -> dict[str, str]:
        """Each part's SHA-256 (hex), by its name."""
        return {record.name: record.sha256 for record in self.records}

    @property
    def size(self) -> int:
        """Bytes of all their files."""
        return sum((folder / name).stat().st_size for folder in self.folders.values() for name in files_of(folder))

    def check(self) -> None:
        """`StoreError` unless every part is there with its hash."""
        for record in self.records:
            place = self.folder / record.name
            if not place.is_dir() or folder_hash(place) != record.sha256:
                raise StoreError(
                    f"{place} ({record.role}) is missing or damaged: it does not have the hash that the run records; "
                    "restore it from a copy"
                )

    def parts(self) -> list[SharedPart]:
        """To give to another run; `StoreError` if one is damaged."""
        self.check()
        return [SharedPart(each.name, each.role, self.folder / each.name, each.statement) for each in self.records]


NOTHING_SHARED = Shared()


def files_of(folder: Path, only: Sequence[str] = ()) -> list[str]:
    """Paths of all files of a folder, or of these sub-folders, but hidden ones, relative to it, sorted, with `/`."""
    places = [Path(folder) / name for name in only] or [Path(folder)]
    found = (path.relative_to(folder) for place in places for path in place.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


def folder_hash(folder: Path, only: Sequence[str] = ()) -> str:
    """SHA-256 (hex) over the paths and hashes of a folder's files: it changes with any byte of any of them."""
    return json_hash({name: file_hash(Path(folder) / name) for name in files_of(folder, only)})


def records_of(parts: Sequence[SharedPart]) -> tuple[SharedRecord, ...] | None:
    """The parts' records by name, None if there are none; `SettingsError` if two have one name."""
    names = [part.name for part in parts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SettingsError(f"two shared parts are named '{twice[0]}'; give each a name of its own")
    return tuple(part.record() for part in sorted(parts, key=lambda part: part.name)) or None


def copy_parts(parts: Sequence[SharedPart], run: Path) -> None:
    """Copy parts that are not there yet into a run's folder, each complete as soon as it is there."""
    for part in parts:
        final = run / FOLDER / part.name
        if final.exists():
            continue
        partial = final.with_name(f"{part.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for name in files_of(part.folder, part.only):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(part.folder / name, partial / name)
        move_folder_into_place(partial, final)


def relative_to(records: Iterable[SharedRecord] | None) -> list[str]:
    """What statements about a run are relative to, one sentence per shared part."""
    return [
        f"Never seen in fine-tuning; the {part.role} is '{part.name}' (SHA-256 {part.sha256[:16]}), which every "
        "component uses. What it was trained on cannot be seen here"
        + (f"; its giver states: {part.statement}" if part.statement else ".")
        for part in records or ()
    ]
