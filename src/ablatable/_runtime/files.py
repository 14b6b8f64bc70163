"""Files that mean what they say: a finished file is a complete file, on disk, and its hash is known."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import AblatableError, StoreError


def canonical_json(value: Any) -> bytes:
    """The one way a value is written when its bytes are hashed or compared: sorted keys, indented, one newline."""
    return (_indented(value, "\n") + "\n").encode()


PLAIN = {str, int, float, bool, type(None)}


def _indented(value: Any, newline: str) -> str:
    """What `json.dumps` gives with sorted keys and an indent of 1, ten times as fast for long lists of texts.

    Python writes indented JSON without its encoder in C. That encoder takes any separator, and in a list or an object
    of plain values a separator is all that an indent is.
    """
    inner = newline + " "
    of_texts = isinstance(value, dict) and set(map(type, value)) == {str}
    if not of_texts and not (isinstance(value, list) and value):
        text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False)
        return text if newline == "\n" else text.replace("\n", newline)  # a newline in a text is written \\n
    if set(map(type, value.values() if isinstance(value, dict) else value)) <= PLAIN:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=("," + inner, ": "))
        return text[0] + inner + text[1:-1] + newline + text[-1]
    if isinstance(value, dict):
        parts = [f"{json.dumps(k, ensure_ascii=False)}: {_indented(value[k], inner)}" for k in sorted(value)]
        return "{" + inner + ("," + inner).join(parts) + newline + "}"
    return "[" + inner + ("," + inner).join(_indented(each, inner) for each in value) + newline + "]"


def json_hash(value: Any) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """A JSON file's value; `StoreError` if it is missing or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise StoreError(f"{path} is missing") from None
    except ValueError as error:
        raise StoreError(f"{path} is not valid JSON ({error}); the file is damaged") from error


@contextmanager
def writing(place: Path | str, *, needs: int | None = None) -> Iterator[None]:
    """Say what to do when a place cannot be written: whatever a library raises for it becomes a `StoreError`.

    `needs`: how many bytes were to be written, if known, so that a full disk can say how many are missing.
    """
    try:
        yield
    except AblatableError:
        raise
    except Exception as error:  # safetensors, Zarr and object stores have errors of their own for a full disk
        reason = " ".join((str(error) or repr(error)).split())[:300]
        if full := disk_is_full(place, error, needs):
            raise StoreError(f"cannot write {place}: {full}; {_AGAIN}") from error
        raise StoreError(f"cannot write {place} ({reason}); make room or choose another place. {_AGAIN}") from error


def disk_is_full(place: Path | str, error: Exception, needs: int | None = None) -> str | None:
    """How much room there is and how much is missing, if that is what an error is about; else None."""
    if getattr(error, "errno", None) != errno.ENOSPC and "no space left" not in str(error).lower():
        return None
    free = shutil.disk_usage(_there(place)).free
    missing = "" if needs is None or needs <= free else f", {_mebibytes(needs - free)} more are needed for this file"
    return f"the disk is full: {_mebibytes(free)} are free{missing}; make room"


def check_room(place: Path | str, needs: int, what: str) -> None:
    """`StoreError` that says how much is missing, if `what` takes `needs` bytes and the disk has less; URLs pass."""
    if "://" in str(place):
        return
    free = shutil.disk_usage(_there(place)).free
    if free < needs:
        raise StoreError(
            f"{place}: {what} takes {_mebibytes(needs)}, and the disk has {_mebibytes(free)} free: "
            f"{_mebibytes(needs - free)} more are needed; make room or choose another place"
        )


def _there(place: Path | str) -> Path:
    """The nearest folder that is there."""
    folder = Path(place).absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


_AGAIN = "What is finished is kept: do the same again to resume"


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def write_atomic(path: Path, data: bytes) -> None:
    """Write aside, fsync, rename: after a crash there is the old file or the new one, never a torn one."""
    with written_aside(path, needs=len(data)) as aside:
        aside.write_bytes(data)


@contextmanager
def written_aside(path: Path, *, needs: int | None = None) -> Iterator[Path]:
    """As `write_atomic`, of a file that the caller writes, by the name given here, in a folder that is there then."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with writing(path, needs=needs):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            aside.replace(path)
            _sync_folder(path.parent)
    finally:
        with suppress(OSError):  # it was moved, or never made
            aside.unlink()


def link_or_copy(source: Path, target: Path) -> None:
    """Give a finished file, which nobody changes in place, a second name; where the disk cannot, a copy."""
    target.unlink(missing_ok=True)
    with writing(target):
        try:
            os.link(source, target)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source, target)


def sweep(folder: Path) -> None:
    """Remove what a `write_atomic` into this folder left behind when it was killed."""
    for aside in folder.glob(".*.partial"):
        aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of a value's canonical JSON."""
    write_atomic(path, canonical_json(value))


def move_folder_into_place(partial: Path, final: Path) -> None:
    """Make a finished folder appear in one step: fsync everything in it, then rename it."""
    for path in partial.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(partial)
    if final.exists():
        shutil.rmtree(final)
    partial.replace(final)
    _sync_folder(final.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere folders cannot be opened, and renames are durable by themselves
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
