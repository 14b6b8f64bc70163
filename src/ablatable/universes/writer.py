"""Write a universe, block by block; each block has one writer, and its marker is written last.

A universe grows at its ends: new seeds and new units' ablations come after what is there, which keeps its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import ObjectStore

from .._runtime.files import writing
from .._runtime.provenance import environment
from ..data.units import Units
from ..data.words import packed
from ..errors import SettingsError, option
from .arrays import Arrays, fill, lay_out_results, lay_out_training, writable
from .blocks import INDEX, Block, blocks_of, finished, mark, write_index
from .description import ROOT, damaged, describe, read_description, repair_metadata
from .settings import UniverseSettings, extension
from .store import WORDS, absolute, clear, concurrently, delete, is_remote, open_store, reading, state_of


class UniverseWriter:
    """A universe that is being made.

    Attributes:
        url: where it is.
        settings: what it is made from.
    """

    def __init__(self, url: str | Path, settings: UniverseSettings) -> None:
        """For `begin` and `open`."""
        self.url, self.settings = str(url), settings
        self.store = open_store(url)
        self._arrays = Arrays(self.url, self.store, {})

    @classmethod
    def begin(
        cls, url: str | Path, settings: UniverseSettings, training: Callable[[], Units], *, overwrite: bool = False
    ) -> UniverseWriter:
        """Resume the universe of these settings that is there, extend it if need be, or lay out an empty one.

        Args:
            settings: what the universe is to hold.
            training: gives the training data: these units and perhaps others.
            overwrite: replace a universe that is there.

        Raises:
            SettingsError: what is there was made with other settings (both values are named), or is no universe.
        """
        match state_of(url):
            case "other" | "screen" as state:
                what = "a screened universe" if state == "screen" else "other files and no universe"
                raise SettingsError(
                    f"{url} holds {what}, which is left alone; choose another {option('out')}, or delete them yourself"
                )
            case "universe" if not overwrite:
                store = open_store(url)
                described = read_description(str(url), store)
                settings = extension(described.settings, settings, url)
                repair_metadata(str(url), store)  # resizing an array needs it
                if settings == described.settings and not damaged(store, described, metadata=False):
                    return cls(url, settings)
            case "universe" | "begun":
                clear(url)
        return cls.create(url, settings, training().select(settings.units), environment(*settings.versions))

    @classmethod
    def create(
        cls, url: str | Path, settings: UniverseSettings, training: Units, environment: dict[str, str]
    ) -> UniverseWriter:
        """Lay out an empty universe, or make room in one for its `extension`. The description is written last."""
        store = open_store(url)
        with writing(url):
            group = zarr.open_group(ObjectStore(store), mode="a", attributes={"ablatable": None})
            lay_out_results(group, settings)
            images = np.moveaxis(training.images, -1, 1)
            lay_out_training(group, images.shape)
            fill(group, "training/images", slice(None), images)
            fill(group, "training/owner", slice(None), training.owner)
            if (said := packed(**training.said)) is not None:
                store.put(WORDS, said)
            describe(store, group, settings, environment)
        return cls(url, settings)

    @classmethod
    def open(cls, url: str | Path) -> UniverseWriter:
        """Open a universe that was begun; `StoreError` if there is none."""
        with reading(url):
            return cls(url, read_description(str(url), open_store(url, create=False)).settings)

    @classmethod
    def again(cls, url: str | Path) -> UniverseWriter:
        """As `open`, which reads megabytes if there are many units; a process does that once for all its blocks.

        Its description is read again if the store says that it has changed.
        """
        with reading(url):
            version = open_store(url, create=False).head(ROOT)["e_tag"]
        return _opened(absolute(url), version) if version else cls.open(url)

    @cached_property
    def codewords(self) -> np.ndarray:
        """The ablations, see `UniverseSettings.codewords`."""
        return self.settings.codewords

    @cached_property
    def _group(self) -> Any:
        return writable(self.store)

    def blocks(self) -> Iterator[Block]:
        """Every block, the factual ones first."""
        return blocks_of(self.settings)

    def missing(self) -> list[Block]:
        """The blocks that are to be drawn: those not finished, or damaged.

        What an object store holds is not downloaded to compare it; `check` does that, and with `repair` it makes what
        is damaged count as missing.
        """
        blocks, verify = list(self.blocks()), not is_remote(self.url)
        there = concurrently(lambda block: self.has(block, verify=verify), blocks)
        return [block for block, is_there in zip(blocks, there, strict=True) if not is_there]

    def changes(self) -> None:
        """From now on blocks are written, so the index of what was there is removed."""
        delete(self.store, INDEX)

    def finish(self) -> None:
        """Write the index, once all blocks are finished."""
        with writing(self.url):
            write_index(self.store, self.settings, read_description(self.url, self.store).digest)

    def has(self, block: Block, *, verify: bool = True) -> bool:
        """Whether a block is finished; with `verify`, whether its bytes are still those that were written."""
        return finished(self.store, self.settings, block, verify=verify) == block

    def part(self, block: Block) -> tuple[Block, np.ndarray] | None:
        """The part of a block that was finished before the universe grew, and its images as `write` takes them."""
        part = finished(self.store, self.settings, block)
        if part is None:
            return None
        samples = slice(*part.samples)
        if part.ablations is None:
            return part, self._arrays.get("factual", samples)[None]
        return part, self._arrays.get("counterfactual", (slice(*part.ablations), samples))

    def write(self, block: Block, images: np.ndarray) -> None:
        """Store a block's images, uint8 (ablations, samples, C, H, W), and their distances; then its marker."""
        from ..data.distance import euclidean

        with writing(self.url):
            group, samples = self._group, slice(*block.samples)
            for key in block.keys(self.settings):
                delete(self.store, key)  # what is there may be torn, and Zarr would try to read it first
            if block.ablations is None:
                fill(group, "factual", samples, images[0])
            else:
                rows = slice(*block.ablations)
                factual = self._arrays.get("factual", samples)
                fill(group, "counterfactual", (rows, samples), images)
                fill(group, "distance/euclidean", (rows, samples), euclidean(images, factual))
            mark(self.store, self.settings, block)


@lru_cache(maxsize=1)
def _opened(url: str, version: str) -> UniverseWriter:
    return UniverseWriter.open(url)
