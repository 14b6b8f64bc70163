"""The units of work of a universe: which images a block holds, its objects, and the marker that says it is finished.

A marker lies beside the arrays. It records the block's extent and the hash of each object of the block. A block without
a marker, or that does not match its marker, is computed again and never served.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from .._runtime.files import canonical_json, json_hash
from .._runtime.workers import chunks
from .settings import UniverseSettings
from .store import concurrently, delete, object_hash, read

INDEX = "done/index.json"


@dataclass(frozen=True)
class Block:
    """A unit of work of fixed place and size: some ablations of some samples.

    Attributes:
        samples: first sample and the one after the last.
        ablations: first ablation and the one after the last; None for factual samples.
    """

    samples: tuple[int, int]
    ablations: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The name of its marker."""
        first = "factual" if self.ablations is None else f"{self.ablations[0]:07d}"
        return f"{first}.{self.samples[0]:07d}"

    @property
    def rows(self) -> int:
        """How many images it holds."""
        first, last = self.ablations or (0, 1)
        return (last - first) * (self.samples[1] - self.samples[0])

    def beyond(self, part: Block) -> list[Block]:
        """What this block holds and `part`, which starts at the same place, does not: further samples and ablations."""
        rest = []
        if part.samples[1] < self.samples[1]:
            rest.append(Block((part.samples[1], self.samples[1]), part.ablations))
        if self.ablations and part.ablations and part.ablations[1] < self.ablations[1]:
            rest.append(Block(self.samples, (part.ablations[1], self.ablations[1])))
        return rest

    def keys(self, settings: UniverseSettings) -> list[str]:
        """The objects that hold it: one shard per array."""
        block_a, block_s = settings.block
        s, zeros = self.samples[0] // block_s, "/".join("0" * len(settings.shape))
        if self.ablations is None:
            return [f"factual/c/{s}/{zeros}"]
        a = self.ablations[0] // block_a
        return [f"counterfactual/c/{a}/{s}/{zeros}", f"distance/euclidean/c/{a}/{s}"]


def blocks_of(settings: UniverseSettings) -> Iterator[Block]:
    """Every block of a universe, the factual ones first."""
    block_a, block_s = settings.block
    samples = list(chunks(len(settings.seeds), block_s))
    yield from (Block(s) for s in samples)
    yield from (Block(s, a) for a in chunks(settings.ablations, block_a) for s in samples)


def mark(store: Any, settings: UniverseSettings, block: Block) -> None:
    """Write the marker of a block whose objects are stored."""
    hashes = {key: object_hash(store, key) for key in block.keys(settings)}
    store.put(_marker(block), json.dumps({**asdict(block), "sha256": hashes}).encode())


def marked(store: Any, settings: UniverseSettings, block: Block) -> tuple[Block, dict[str, str]] | None:
    """The extent that a block's marker records, and the hashes of its objects. None if there is no sound marker."""
    try:
        marker = json.loads(read(store, _marker(block)))
        hashes, ablations = marker["sha256"], marker["ablations"]
        part = Block(tuple(marker["samples"]), ablations and tuple(ablations))
        if part.name != block.name or set(hashes) != set(block.keys(settings)):
            return None
        if not all(isinstance(digest, str) for digest in hashes.values()):
            return None
        return part, hashes
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return None


def finished(store: Any, settings: UniverseSettings, block: Block, *, verify: bool = True) -> Block | None:
    """The extent of a block that is stored; with `verify`, only if its bytes are still those that were written."""
    if (found := marked(store, settings, block)) is None:
        return None
    part, hashes = found
    try:
        sound = (store.head(key) if not verify else object_hash(store, key) == h for key, h in hashes.items())
        return part if all(sound) else None
    except FileNotFoundError:
        return None


def forget(store: Any, block: Block) -> None:
    """Remove a block's marker, and the index: it counts as missing."""
    for key in (_marker(block), INDEX):
        delete(store, key)


# --- all markers in one object ------------------------------------------------------------------------------------


def write_index(store: Any, settings: UniverseSettings, digest: str) -> None:
    """Write what all markers say into one object, so that opening a universe asks for that one alone.

    Nothing is written while a block is missing, or if it is there.

    Args:
        settings: of the universe.
        digest: of its description, which the index belongs to.
    """
    if index_of(store, digest) is not None:
        return
    objects: dict[str, str] = {}
    said = concurrently(lambda block: marked(store, settings, block), blocks_of(settings))
    for block, found in zip(blocks_of(settings), said, strict=True):
        if found is None or found[0] != block:
            return
        objects |= found[1]
    values = {"universe": digest, "objects": objects}
    store.put(INDEX, canonical_json({**values, "sha256": json_hash(values)}))


def index_of(store: Any, digest: str) -> dict[str, str] | None:
    """The hash of each object of the universe of this description; None if there is no sound index of it."""
    try:
        index = json.loads(read(store, INDEX))
        found = index.pop("sha256"), index["universe"], index["objects"]
        sound = (json_hash(index), digest, dict(found[2])) == found
        return found[2] if sound else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _marker(block: Block) -> str:
    return f"done/{block.name}.json"
