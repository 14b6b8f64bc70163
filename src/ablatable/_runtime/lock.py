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
from contextlib import contextmanager, suppress
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
        raise StoreError(
            f"the {what} {place} is being written by {_who(folder / HOLDER)}; wait for it or stop it"
        ) from None
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


def _who(holder: Path) -> str:
    with suppress(OSError, ValueError):
        told = json.loads(holder.read_text())
        return f"process {told['pid']} on {told['host']}, since {told['since']}"
    return "another process"
