"""One writer at a time: a lock on a folder, which a crash does not leave behind."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import SettingsError, StoreError

LOCK, HOLDER = ".lock", ".lock.json"
LOCK_FILES = {LOCK, HOLDER}


@contextmanager
def exclusive(place: Path | str, what: str) -> Iterator[None]:
    """Hold a folder's lock, or say who does. The operating system frees it when we die, however we die.

    A URL (`s3://...`) has no lock to offer, so its lock is on this machine and keeps out this machine's other
    processes. Two machines are not kept apart: blocks are still written whole, and two writers of the same settings
    write the same bytes.
    """
    from filelock import FileLock, Timeout

    folder = Path(place) if "://" not in str(place) else _stand_in(str(place))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock, holder = FileLock(folder / LOCK), folder / HOLDER
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(f"the {what} {place} is being written by {_who(folder)}") from None
    except OSError as error:
        raise SettingsError(f"cannot write in {folder}: {error.strerror}; choose a place that is writable") from error
    try:
        holder.write_text(json.dumps({"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%F %T")}))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _stand_in(url: str) -> Path:
    return (
        Path(tempfile.gettempdir()) / f"ablatable-{getpass.getuser()}" / hashlib.sha256(url.encode()).hexdigest()[:32]
    )


def _who(folder: Path) -> str:
    """Who holds the lock, since when, and what to do about it."""
    lock = folder / LOCK
    try:
        told = json.loads((folder / HOLDER).read_text())
        process, host, since = int(told["pid"]), str(told["host"]), str(told["since"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"another process; wait until it ends. If there is none, delete {lock}"
    holder = f"process {process} on {host}, since {since}"
    if host != platform.node():
        return f"{holder}; wait until it ends, or stop it there. If it is gone, delete {lock}"
    if not _alive(process):
        return f"{holder}, which is gone; delete {lock}, then try again"
    return f"{holder}; wait until it ends, or stop it with: kill {process}"


def _alive(process: int) -> bool:
    if os.name != "posix":  # signal 0 would end it there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
