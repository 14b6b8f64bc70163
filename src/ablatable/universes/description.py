"""What a universe says of itself, in the attributes of its Zarr group and in the metadata of its arrays."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import zarr
from zarr.storage import ObjectStore

from .._runtime.files import json_hash, writing
from ..errors import StoreError, command, option
from .arrays import lay_out_results, lay_out_training
from .settings import UniverseSettings
from .store import exists, object_hash, paths, read, state_of

ROOT = "zarr.json"
MOST_TRIED = 200_000  # layouts of the training data that `repair_metadata` tries


@dataclass(frozen=True)
class Description:
    """What the group's attributes hold.

    Attributes:
        settings: what the universe was made from.
        environment: versions and kind of machine that it was made with.
        digest: SHA-256 of the description.
        laid_out: SHA-256 per object that was written before any sample: metadata of arrays, and the training data.
    """

    settings: UniverseSettings
    environment: dict[str, str]
    digest: str
    laid_out: dict[str, str]


def read_description(url: str, store: Any) -> Description:
    """Read it; `StoreError` if there is no universe, or its description is damaged."""
    try:
        attributes = json.loads(read(store, ROOT))["attributes"]
        digest = attributes.pop("sha256")
        if json_hash(attributes) != digest:
            raise StoreError(
                f"{url}: {ROOT} is damaged (its hash does not match); restore it from a copy, "
                "or make the universe again"
            )
        settings = UniverseSettings.model_validate(attributes["ablatable"])
        return Description(settings, dict(attributes["environment"]), digest, dict(attributes["laid_out"]))
    except StoreError:
        raise
    except Exception as error:  # JSON, pydantic and object stores have many kinds
        if _is_screen(url):
            raise StoreError(
                f"{url} is a screened universe, and this needs all counterfactuals; "
                "draw a universe without screening, at another place"
            ) from error
        raise StoreError(
            f"there is no readable universe at {url} ({type(error).__name__}: {ROOT} is missing or damaged); "
            f"make one with {command('universe create', 'RUN', option('out', url))}"
        ) from error


def describe(store: Any, group: zarr.Group, settings: UniverseSettings, environment: dict[str, str]) -> None:
    """Write the description. It comes last: before, the group says that it is only begun."""
    fixed = (p for p in paths(store) if p != ROOT and (p.endswith("/zarr.json") or p.startswith("training/")))
    laid_out = {path: object_hash(store, path) for path in sorted(fixed)}
    values = {"ablatable": settings.model_dump(mode="json"), "environment": environment, "laid_out": laid_out}
    group.attrs.update({**values, "sha256": json_hash(values)})


def damaged(store: Any, description: Description, *, metadata: bool = True) -> list[str]:
    """Which objects that were laid out are missing or changed; only the `metadata` of arrays, or all of them."""
    changed = []
    for key, digest in description.laid_out.items():
        if metadata and not key.endswith(ROOT):
            continue
        try:
            if object_hash(store, key) != digest:
                changed.append(key)
        except Exception:  # whatever it is that makes it unreadable
            changed.append(key)
    return changed


def grown(store: Any, description: Description, changed: Sequence[str]) -> bool:
    """Whether metadata changed only because an extension began: the same arrays, as large as they were or larger."""
    laid_out = _laid_out(description)
    try:
        for key in changed:
            here, there = (json.loads(read(place, key)) for place in (store, laid_out))
            sizes = zip(here.pop("shape"), there.pop("shape"), strict=True)
            if any(size < least for size, least in sizes):
                return False
            if key.startswith("training/"):  # the size of its chunks does not follow from the settings
                del here["chunk_grid"], there["chunk_grid"]
            if here != there:
                return False
    except Exception:  # damaged metadata raises many kinds
        return False
    return True


def metadata_damaged(url: str, changed: Sequence[str]) -> str:
    """The message about metadata that is not what was written."""
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return (
        f"{url}: {', '.join(changed[:3])}{more} missing or damaged; "
        f"{command('audit check', url, option('repair', True))} writes the metadata of arrays again"
    )


def repair_metadata(url: str, store: Any) -> list[str]:
    """Write the metadata of arrays again, where it is damaged, from the settings.

    Only metadata whose hash is the recorded one is written.

    Returns:
        The objects that were repaired.

    Raises:
        StoreError: there is no universe, or its description is damaged.
    """
    description = read_description(url, store)
    wrong, repaired = damaged(store, description), []
    if not wrong:
        return []
    derived = _derived(description)
    for key in wrong:
        if key in derived:
            with writing(url):
                store.put(key, derived[key])
            repaired.append(key)
    return repaired


def _derived(description: Description) -> dict[str, bytes]:
    """The metadata that follows from the settings, where it has the recorded hash."""
    store = _laid_out(description)
    found = {key: read(store, key) for key in description.laid_out if key.endswith(ROOT) and exists(store, key)}
    for name in ("training/images", "training/owner"):
        key = f"{name}/{ROOT}"
        if key in description.laid_out and (sized := _sized(found[key], name, description)):
            found[key] = sized
    return {key: data for key, data in found.items() if _sha256(data) == description.laid_out[key]}


def _laid_out(description: Description) -> Any:
    """A store in memory with the arrays of these settings, and with one training image per unit."""
    from obstore.store import MemoryStore

    store, settings = MemoryStore(), description.settings
    group = zarr.open_group(ObjectStore(store), mode="a")
    lay_out_results(group, settings)
    lay_out_training(group, (len(settings.units), *settings.shape))
    return store


def _sized(template: bytes, name: str, description: Description) -> bytes | None:
    """The metadata of a training array, whose number of images is not in the settings: the one that fits the hash."""
    digest, value = description.laid_out[f"{name}/{ROOT}"], json.loads(template)
    pieces = sum(key.startswith(f"{name}/c/") for key in description.laid_out)
    for images, chunk in itertools.islice(_sizes(len(description.settings.units), max(1, pieces)), MOST_TRIED):
        value["shape"][0] = images
        value["chunk_grid"]["configuration"]["chunk_shape"][0] = chunk
        data = json.dumps(value, indent=2).encode()
        if _sha256(data) == digest:
            return data
    return None


def _sizes(least: int, pieces: int) -> Iterator[tuple[int, int]]:
    """Numbers of images, and of images per chunk, that make so many chunks.

    An array keeps the size of its chunks when a universe grows, so that may be the number of fewer images.
    """
    if pieces == 1:
        yield from ((images, images) for images in range(least, MOST_TRIED))
    yield from ((images, 256) for images in range(max(least, 256 * (pieces - 1) + 1), 256 * pieces + 1))
    for chunk in range(1, MOST_TRIED):
        yield from ((images, chunk) for images in range(max(least, chunk * (pieces - 1) + 1), chunk * pieces + 1))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_screen(url: str) -> bool:
    try:
        return state_of(url) == "screen"
    except Exception:
        return False
