"""A universe, opened for reading: factual samples and the counterfactual of every unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._runtime.workers import chunks
from ..data.distance import radius
from ..data.load_cache import PIECE, allocate
from ..data.units import Units
from ..data.words import unpacked
from ..errors import DataError, StoreError
from .arrays import Arrays, channels_last
from .blocks import Block, blocks_of, index_of, marked
from .description import damaged, grown, metadata_damaged, read_description
from .landscapes import checked_sample, in_unit, place_of, ranked
from .notebooks import InNotebooks
from .store import WORDS, concurrently, exists, open_store, read, reading

if TYPE_CHECKING:
    import polars as pl


class Universe(InNotebooks):
    """A finished universe, opened for reading.

    ```python
    universe = ab.Universe.open("digits.zarr")
    universe.radius()  # one number per sample
    universe.influence(sample=0)  # units by how far their removal moves this sample
    ```

    Attributes:
        url: where it is.
        settings: what it was made from.
        environment: versions and kind of machine that it was made with.
        digest: SHA-256 of its description.
        unit_ids: the units' names.
        seeds: one per sample.
        store: the obstore store that holds it.
    """

    def __init__(self, url: str | Path) -> None:
        """Open a finished universe, at a local path or an object-store URL.

        Raises:
            StoreError: there is none, it is unfinished, or it is damaged.
        """
        self.url = str(place_of(url))
        self.store = open_store(self.url, create=False)
        with reading(self.url):
            self._open()

    def _open(self) -> None:
        described = read_description(self.url, self.store)
        self.settings, self.environment = described.settings, described.environment
        self.digest = described.digest
        self.unit_ids, self.seeds = self.settings.units, self.settings.seeds
        self._row = {unit: row for row, unit in enumerate(self.unit_ids)}
        self._arrays = Arrays(self.url, self.store, dict(described.laid_out))
        self._training = [key for key in described.laid_out if key.startswith("training/")]
        if changed := damaged(self.store, described):
            if grown(self.store, described, changed):
                raise StoreError(
                    f"{self.url} was being extended when that stopped; give that command again to finish it"
                )
            raise StoreError(metadata_damaged(self.url, changed))
        self._vouched()

    @classmethod
    def open(cls, url: str | Path | Universe) -> Universe:
        """Open a finished universe. A universe that is open already is given back as it is."""
        return url if isinstance(url, cls) else cls(place_of(url))

    def _vouched(self) -> None:
        """Learn which hash every object must have, from the index or from every marker.

        Raises `StoreError` if there is no index and a block is missing.
        """
        if (index := index_of(self.store, self.digest)) is not None:
            self._arrays.hashes.update(index)
            return
        blocks, missing = list(blocks_of(self.settings)), 0
        for block, found in zip(blocks, concurrently(self._there, blocks), strict=True):
            if found is None or found[0] != block:
                missing += 1
            else:
                self._arrays.hashes.update(found[1])
        if missing:
            raise StoreError(
                f"{self.url} is unfinished: {len(blocks) - missing} of {len(blocks)} blocks are there; "
                "give the command that makes it again, and it computes what is missing"
            )

    def _there(self, block: Block) -> tuple[Block, dict[str, str]] | None:
        found = marked(self.store, self.settings, block)
        return found if found is not None and all(exists(self.store, key) for key in found[1]) else None

    # --- images ---------------------------------------------------------------------------------------------------

    @property
    def factual(self) -> np.ndarray:
        """Factual samples, uint8 (samples, H, W, C)."""
        return channels_last(self._get("factual"))

    def counterfactual(self, unit: str) -> np.ndarray:
        """The samples without `unit`: uint8 (samples, H, W, C)."""
        return channels_last(self._get("counterfactual", self.ablation_of(unit)))

    def landscape(self, sample: int) -> np.ndarray:
        """One sample under every ablation, spares too: uint8 (ablations, H, W, C)."""
        return channels_last(self._get("counterfactual", slice(None), checked_sample(sample, self.seeds)))

    def counterfactuals(self, sample: int, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """One sample under some ablations (rows of `settings.words`, ascending): uint8 (rows, H, W, C)."""
        rows, number = np.asarray(rows, np.int64), checked_sample(sample, self.seeds)
        if len(rows) and rows[-1] - rows[0] < 2 * len(rows):  # close together
            found = self._get("counterfactual", slice(int(rows[0]), int(rows[-1]) + 1), number)
            return channels_last(found if len(found) == len(rows) else found[rows - rows[0]])
        keys = [key for row in self._block_rows(rows) for key in self._keys("counterfactual", row, number)]
        return channels_last(self._arrays.get("counterfactual", (rows, slice(number, number + 1)), objects=keys)[:, 0])

    def sample_parts(self) -> list[slice]:
        """Slices that cover the samples, each of those that are stored together."""
        return [slice(*part) for part in chunks(len(self.seeds), self.settings.block[1])]

    def ablations(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """All samples under some ablations (rows of `settings.words`): uint8 (rows, samples, H, W, C)."""
        rows = np.asarray(rows)
        first, last = int(rows.min()), int(rows.max()) + 1
        if last - first > 2 * len(rows):  # far apart
            return channels_last(np.stack([self._get("counterfactual", int(row)) for row in rows]))
        return channels_last(self._get("counterfactual", slice(first, last))[rows - first])

    @property
    def training(self) -> Units:
        """The training data, as stored with the universe."""
        return self._units

    @cached_property
    def _units(self) -> Units:
        try:
            owner, said = self._arrays.get("training/owner", objects=self._training), None
            images = self._training_pictures(len(owner))
            if WORDS in self._training:  # which was compared with its hash just now
                said = bytes(read(self.store, WORDS))
            return Units(self.unit_ids, images, owner, **unpacked(said))
        except (DataError, ValueError) as error:
            raise StoreError(f"{self.url}: the stored training data is damaged ({error}); make it again") from error

    def _training_pictures(self, count: int) -> np.ndarray:
        """Uint8 (images, H, W, C), read in pieces: in memory, or if they are many in a nameless file."""
        shape = channels_last(self._arrays.get("training/images", slice(0, 1))).shape[1:]
        images = allocate(count, shape, None)
        for first, last in chunks(count, max(1, PIECE // max(1, math.prod(shape)))):
            images[first:last] = channels_last(self._arrays.get("training/images", slice(first, last)))
        images.flags.writeable = False
        return images

    def training_images(self, unit: str) -> np.ndarray:
        """A unit's training images, uint8 (k, H, W, C)."""
        return self.training.of(unit)

    # --- distances ------------------------------------------------------------------------------------------------

    def drawn(self, *, samples: slice = slice(None)) -> np.ndarray:
        """Whether the counterfactual of each unit was drawn, which all were: bool (units, samples)."""
        return np.ones((len(self.unit_ids), len(self.seeds[samples])), bool)

    def distances(self, *, scaled: bool = True, samples: slice = slice(None)) -> np.ndarray:
        """Distance of each unit's counterfactual from the factual sample: float32 (units, samples).

        In the paper's unit (images scaled to 256 x 256 x 3), or native; `samples`: only of these.
        """
        found = in_unit(self._arrays.distances(slice(None), samples), self.settings, scaled)
        return found[list(self.settings.ablation)]

    def spare_distances(self, *, scaled: bool = True, samples: slice = slice(None)) -> np.ndarray:
        """The same for the spare codewords' ablations, which remove no unit completely: float32 (spares, samples)."""
        spares = np.array(self.settings.spares, np.int64)
        first, last = (int(spares.min()), int(spares.max()) + 1) if len(spares) else (0, 1)
        found = self._arrays.distances(slice(first, last), samples)  # they are next to each other, mostly
        return in_unit(found[spares - first], self.settings, scaled)

    def radius(self, *, scaled: bool = True) -> np.ndarray:
        """Counterfactual radius of each sample: float32 (samples,)."""
        return np.concatenate([radius(self.distances(scaled=scaled, samples=part)) for part in self.sample_parts()])

    def influence(self, sample: int, *, scaled: bool = True) -> pl.DataFrame:
        """Units by how far their removal moves one sample (an index, from 0), the farthest first.

        Columns: rank (from 1), unit, distance (float32).
        """
        number = checked_sample(sample, self.seeds)
        return ranked(self.unit_ids, self.distances(scaled=scaled, samples=slice(number, number + 1))[:, 0])

    def ablation_of(self, unit: str) -> int:
        """The row of the ablation that removes `unit`; `DataError` if there is no such unit."""
        if unit not in self._row:
            raise DataError(f"no unit '{unit}' in {self.url}; its units are {self.unit_ids[0]} .. {self.unit_ids[-1]}")
        return self.settings.ablation[self._row[unit]]

    # --- reading, verified ----------------------------------------------------------------------------------------

    def _get(self, name: str, rows: int | slice = slice(None), samples: int | slice = slice(None)) -> np.ndarray:
        """Images or distances of some ablations (`rows`; all for the factual samples) and samples."""
        where = samples if name == "factual" else (rows, samples)
        return self._arrays.get(name, where, objects=self._keys(name, rows, samples))

    def _keys(self, name: str, rows: int | slice, samples: int | slice) -> list[str]:
        """The objects of an array that hold some ablations of some samples."""
        settings, (block_a, block_s) = self.settings, self.settings.block
        parts = [self._span(samples, len(self.seeds), block_s)]
        if name == "factual":
            blocks = [Block((s, s + 1)) for s in parts[0]]
        else:
            blocks = [
                Block((s, s + 1), (a, a + 1)) for a in self._span(rows, settings.ablations, block_a) for s in parts[0]
            ]
        return [key for block in blocks for key in block.keys(settings) if key.startswith(f"{name}/c/")]

    @staticmethod
    def _span(where: int | slice, count: int, size: int) -> range:
        """Where the blocks begin that hold the indices `where`, of so many."""
        first, last = (where, where + 1) if isinstance(where, int) else where.indices(count)[:2]
        return range(first // size * size, last, size)

    def _block_rows(self, rows: np.ndarray) -> list[int]:
        """One ablation of each block that some ablations are in."""
        return (np.unique(rows // self.settings.block[0]) * self.settings.block[0]).tolist()
