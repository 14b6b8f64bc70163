"""One rule for every place that results are written to: nothing that is not ours is ever changed or deleted.

A folder may be written to if it is new, empty, or holds what the same kind of command wrote before. Its marker, a file
with a known content, says so; a name alone does not. `--overwrite` deletes the files that the format names and no
other. All of that is checked, and so is whether the place can be written, before any long work begins.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import SettingsError, option
from .lock import HOLDER, LOCK, exclusive

SYSTEM_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}  # file managers leave them in folders that people look into

_ASIDE = re.compile(r"\.(?P<name>.+)\.\d+\.partial|(?P<object>.+)#\d+")  # names of files that are being written


@dataclass(frozen=True)
class OutputKind:
    """What a kind of output folder holds.

    Attributes:
        what: its name in messages, such as `run`.
        marker: the JSON file that says what the folder is. It is written first, and deleted last.
        recognises: tells from the marker's value whether the folder is of this kind.
        files: regular expressions, each for the whole path of a file relative to the folder, with `/`.
        finished: the file, if any, that says that the folder is complete. It is deleted first.
        closed: names of the sub-folders in which nothing but `files` may be when the folder is overwritten; `.` is the
            folder itself.
    """

    what: str
    marker: str
    recognises: Callable[[Any], bool]
    files: tuple[str, ...]
    finished: str | None = None
    closed: tuple[str, ...] = ()

    def is_at(self, folder: Path) -> bool:
        """Whether the folder is of this kind."""
        try:
            return bool(self.recognises(json.loads((folder / self.marker).read_bytes())))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def owns(self, path: str) -> bool:
        """Whether the format names a file of this relative path, finished or being written."""
        folder, slash, name = path.rpartition("/")
        return any(re.fullmatch(pattern, f"{folder}{slash}{_meant(name)}") for pattern in self.files)


def _meant(name: str) -> str:
    """The name that a file is to have when it is written."""
    aside = _ASIDE.fullmatch(name)
    return (aside["name"] or aside["object"]) if aside else name


@contextmanager
def output_folder(place: Path | str, kind: OutputKind, *, overwrite: bool = False) -> Iterator[None]:
    """Hold an output folder for writing: checked, locked, and emptied of what is ours if it is to be overwritten.

    Object-store URLs are locked only: what is there is for the store's own code to check.

    Raises:
        SettingsError: see `check_folder` and `clear_folder`.
        StoreError: another process is writing there.
    """
    local = "://" not in str(place)
    if local:
        check_folder(Path(place), kind)
    with exclusive(place, kind.what):
        if local and overwrite:
            clear_folder(Path(place), kind)
        elif local:
            _sweep(Path(place), kind)
        yield


def check_folder(folder: Path, kind: OutputKind) -> None:
    """Make sure that a folder may be written to, and can be; makes it if it is not there.

    Raises:
        SettingsError: it holds anything and is not of this kind, is a file, or cannot be written.
    """
    check_contents(folder, kind)
    check_writable(folder)


def check_place(folder: Path, kind: OutputKind) -> None:
    """As `check_folder`, but nothing is made: for a look before the data are read, which may be wrong too."""
    check_contents(folder, kind)
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise SettingsError(f"cannot write in {folder}: {there} is a file; choose a place that is writable")
    check_writable(there)


def check_contents(folder: Path, kind: OutputKind) -> None:
    """`SettingsError` if a folder holds anything and is not of this kind, or is a file."""
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder} is a file; choose a folder as {option('out')}")
    if folder.is_dir() and not kind.is_at(folder) and (others := list(islice(_others(folder, kind), 4))):
        names = ", ".join(others[:3]) + (", .." if len(others) > 3 else "")
        raise SettingsError(
            f"{folder} holds other files and no {kind.what} ({names}), and they are left alone, with "
            f"{option('overwrite', True)} too; choose another {option('out')}"
        )


def check_writable(folder: Path) -> None:
    """Make a folder if it is not there; `SettingsError` unless files can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SettingsError(
            f"cannot write in {folder}: {error.strerror or error}; choose a place that is writable"
        ) from error


def check_clearable(folder: Path, kind: OutputKind) -> None:
    """`SettingsError` if a sub-folder that has to go when the folder is overwritten holds somebody else's file."""
    for path in _files(folder):
        inside = "." in kind.closed or path.partition("/")[0] in kind.closed
        if inside and not kind.owns(path) and not _ignored(folder, path):
            raise SettingsError(
                f"{folder / path} is no file of a {kind.what}, so {option('overwrite')} leaves {folder} alone; "
                f"move the file away, or choose another {option('out')}"
            )


def clear_folder(folder: Path, kind: OutputKind, *, keep_marker: bool = False) -> None:
    """Delete the files that the format names, if the folder is of this kind; every other file stays.

    Raises:
        SettingsError: see `check_clearable`. Nothing is deleted then.
    """
    if not kind.is_at(folder):
        return
    check_clearable(folder, kind)
    found = list(_files(folder))
    ours = [path for path in found if kind.owns(path) and path != kind.marker]
    # half of what is there must not look complete, and what is left must be known as ours until the end
    for path in sorted(ours, key=lambda path: path != kind.finished):
        (folder / path).unlink()
    for path in found:
        if path.partition("/")[0] in kind.closed and path.rpartition("/")[2] in SYSTEM_FILES:
            (folder / path).unlink()
    emptied = {parent for path in ours for parent in (folder / path).parents if folder in parent.parents}
    for inner in sorted(emptied, reverse=True):
        with suppress(OSError):  # it is not empty
            inner.rmdir()
    if not keep_marker:
        (folder / kind.marker).unlink()


def check_file(path: Path, what: str, is_ours: Callable[[Path], bool], *, overwrite: bool = False) -> None:
    """Make sure that a file may be written, and can be, before any long work.

    Raises:
        SettingsError: it exists and `overwrite` is not given; it exists and is not `what`, which `is_ours` tells, so
            that it is left alone; or its folder cannot be written.
    """
    if path.is_dir():
        raise SettingsError(f"{path} is a folder; name a file in it")
    if path.exists() and not overwrite:
        raise SettingsError(f"{path} exists; choose another file, or {option('overwrite', True)}")
    if path.exists() and not _tells(is_ours, path):
        raise SettingsError(f"{path} is not {what}, so {option('overwrite')} leaves it alone; choose another file")
    check_writable(path.parent)


def _tells(is_ours: Callable[[Path], bool], path: Path) -> bool:
    try:
        return is_ours(path)
    except Exception:  # whatever a reader says of a file that is not its own
        return False


def _files(folder: Path) -> Iterator[str]:
    """Relative paths of all that is in a folder and no folder, links to folders too, which are not followed."""
    for base, folders, names in os.walk(folder):
        inside = Path(base)
        links = [name for name in folders if (inside / name).is_symlink()]
        for name in (*names, *links):
            yield (inside / name).relative_to(folder).as_posix()


def _others(folder: Path, kind: OutputKind) -> Iterator[str]:
    """What makes a folder more than empty; a marker that was being written when its writer was killed does not."""
    return (path for path in _files(folder) if not _ignored(folder, path) and not _begun(path, kind))


def _begun(path: str, kind: OutputKind) -> bool:
    return path != kind.marker and _meant(path) == kind.marker


def _ignored(folder: Path, path: str) -> bool:
    """Whether a file is a lock of ours, or one of those that file managers leave."""
    name = path.rpartition("/")[2]
    if name == LOCK:
        return (folder / path).stat().st_size == 0
    if name == HOLDER:
        with suppress(OSError, ValueError, AttributeError):
            return json.loads((folder / path).read_bytes()).keys() == {"pid", "host", "since"}
        return False
    return name in SYSTEM_FILES


def _sweep(folder: Path, kind: OutputKind) -> None:
    """Delete what killed writers left: files that were being written."""
    known = kind.is_at(folder)
    for path in list(_files(folder)):
        if _begun(path, kind) or (known and _ASIDE.fullmatch(path.rpartition("/")[2]) and kind.owns(path)):
            (folder / path).unlink(missing_ok=True)
