"""Where a universe lives: a local folder or an object store, reached through obstore, with nothing assumed.

A group's root attributes say what a place holds. Objects are written whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import zarr
from zarr.storage import ObjectStore

from .._runtime.lock import LOCK_FILES
from .._runtime.outputs import OutputKind, check_clearable, clear_folder
from ..errors import AblatableError, StoreError, command, option

T = TypeVar("T")
R = TypeVar("R")

REQUESTS = 32  # at once, to one store
WORDS = "training/words.json"  # what is said of the training images: labels and captions, if there are any
SCREEN = "screen.json"  # describes a screened universe, which has no Zarr group

UNIVERSE = OutputKind(
    what="universe",
    marker="zarr.json",
    recognises=lambda value: "ablatable" in value["attributes"],
    files=(
        r"((factual|counterfactual|distance|distance/\w+|training|training/\w+)/)?zarr\.json",
        r"(factual|counterfactual|distance/\w+|training/\w+)/c(/\d+)+",
        r"done/[\w.]+\.json",
        r"training/words\.json",
        r"differential/[\w.-]+",
    ),
    closed=("factual", "counterfactual", "distance", "training", "done", "differential"),
)
SCREENED = OutputKind(
    what="screened universe",
    marker=SCREEN,
    recognises=lambda value: "ablatable" in value,
    files=(r"screen\.json|training\.safetensors", r"samples/[\w.-]+"),
)
"""What the folders of a universe, and of a screened one, hold; objects of a store have the same names."""


class NothingAssumed(ObjectStore[Any]):
    """A store in which a missing or empty chunk is an error. Zarr would read it as a black image that nobody drew."""

    async def get(self, key: str, *arguments: Any, **options: Any) -> Any:  # noqa: D102
        value = await super().get(key, *arguments, **options)
        if "/c/" in key and (value is None or len(value) == 0):
            raise FileNotFoundError(f"{key} is missing or empty")
        return value


_MEMORY: dict[str, Any] = {}


def open_store(url: str | Path, *, create: bool = True) -> Any:
    """An obstore store for a local path or an object-store URL (s3://, gs://, az://; memory:// within one process)."""
    import obstore.store as stores

    text = str(url)
    if text.startswith("memory://"):
        return _MEMORY.setdefault(text, stores.MemoryStore())
    if "://" in text:
        return stores.from_url(text)
    path = Path(text).resolve()
    if not create and not path.is_dir():
        raise StoreError(
            f"there is no universe at {url}; make one with {command('universe create', 'RUN', option('out', url))}"
        )
    try:
        return stores.LocalStore(path, mkdir=create)
    except Exception as error:
        raise StoreError(f"cannot create {url} ({error}); choose a place that is writable") from error


def absolute(url: str | Path) -> str:
    """The same place for a process that was started elsewhere."""
    return str(url) if "://" in str(url) else str(Path(url).resolve())


def state_of(url: str | Path) -> str:
    """What is at a place: `nothing`, a `universe`, one `begun` (not laid out yet), a `screen`, or `other` files."""
    store = open_store(url)
    with reading(url):
        if exists(store, SCREEN):
            return "screen"
        if not exists(store, "zarr.json") and not _any_path(store):
            return "nothing"
    try:
        attributes = json.loads(read(store, "zarr.json"))["attributes"]
        return "begun" if attributes["ablatable"] is None else "universe"
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return "other"


def clear(url: str | Path) -> None:
    """Remove a universe's objects except for its root, which from now on says that it is only begun.

    Raises:
        SettingsError: a local folder holds files of somebody else's where the universe's have to go.
    """
    local = "://" not in str(url)
    if local:
        check_clearable(Path(url), UNIVERSE)
    store = open_store(url)
    zarr.open_group(ObjectStore(store), mode="r+").attrs.put({"ablatable": None})
    if local:
        clear_folder(Path(url), UNIVERSE, keep_marker=True)
    else:
        store.delete([path for path in paths(store) if path != UNIVERSE.marker and UNIVERSE.owns(path)])


def paths(store: Any) -> list[str]:
    """Every object there is, except for the files of locks."""
    return [path for page in store.list() for item in page if (path := str(item["path"])) not in LOCK_FILES]


def _any_path(store: Any) -> bool:
    """Whether there is an object, except for the files of locks; only as many are listed as it takes to know."""
    return any(str(item["path"]) not in LOCK_FILES for page in store.list() for item in page)


def concurrently(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """The results for all items, in their order: requests to an object store wait for the network, so many at once."""
    with ThreadPoolExecutor(REQUESTS) as threads:
        return list(threads.map(function, items))


def is_remote(url: str | Path) -> bool:
    """Whether it is an object store: there objects are written whole, and comparing one means to download it."""
    return "://" in str(url)


def read(store: Any, path: str) -> bytes:
    """An object's bytes; `FileNotFoundError` if there is none."""
    return bytes(store.get(path).bytes())


def exists(store: Any, path: str) -> bool:
    """Whether an object is there."""
    try:
        store.head(path)
    except FileNotFoundError:
        return False
    return True


@contextlib.contextmanager
def reading(place: str | Path) -> Iterator[None]:
    """Turn whatever a library raises for a place that cannot be read into a `StoreError`."""
    try:
        yield
    except AblatableError:
        raise
    except Exception as error:  # object stores and Zarr have many kinds
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise StoreError(
            f"{place} cannot be read ({reason}); {command('audit check', place)} lists what is damaged"
        ) from error


def object_hash(store: Any, path: str) -> str:
    """SHA-256 of an object, hex; `FileNotFoundError` if there is none."""
    return hashlib.sha256(read(store, path)).hexdigest()


def seal(context: bytes, data: bytes) -> bytes:
    """Put the SHA-256 of a context and the data before the data, so that an object of another context is refused."""
    return hashlib.sha256(context + data).hexdigest().encode("ascii") + data


def unseal(context: bytes, sealed: bytes) -> bytes:
    """The data; `ValueError` if it, its seal or the context is not what it was."""
    data = sealed[64:]
    if seal(context, data) != sealed:
        raise ValueError("the seal does not match")
    return data


def delete(store: Any, key: str) -> None:
    """Remove an object; fine if there is none."""
    with contextlib.suppress(FileNotFoundError):
        store.delete(key)
