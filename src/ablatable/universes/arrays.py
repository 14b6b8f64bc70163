"""The Zarr arrays of a universe: how they are laid out, written, and read with every object compared with its hash.

factual             uint8 (samples, C, H, W)
counterfactual      uint8 (ablations, samples, C, H, W)
distance/euclidean  float32 (ablations, samples)
training/images     uint8 (images, C, H, W)
training/owner      int64 (images,)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any, cast

import numpy as np
import zarr
from numcodecs import Zstd
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
from zarr.storage import ObjectStore

from ..errors import StoreError, command
from .settings import UniverseSettings
from .store import NothingAssumed, concurrently, object_hash, read

CHUNK_BYTES = 64 * 1024  # Zarr reads at least this much for one image
CHECKSUM = 4  # bytes at the end of a chunk
DISTANCES = "distance/euclidean"


def lay_out_results(group: zarr.Group, settings: UniverseSettings) -> None:
    """Create the arrays that samples are stored in, or resize them to these settings."""
    samples, (block_a, block_s), image = len(settings.seeds), settings.block, settings.shape
    # chunks divide the shard that they are in; a chunk holds one sample, so that reading a landscape reads no other
    inner = max(k for k in range(1, block_a + 1) if block_a % k == 0 and (k == 1 or k * np.prod(image) <= CHUNK_BYTES))
    make_array(group, "factual", (samples, *image), "uint8", (1, *image), (block_s, *image))
    counts = (settings.ablations, samples)
    make_array(group, "counterfactual", (*counts, *image), "uint8", (inner, 1, *image), (block_a, block_s, *image))
    make_array(group, DISTANCES, counts, "float32", settings.block)


def lay_out_training(group: zarr.Group, shape: tuple[int, ...]) -> None:
    """Create the arrays of the training data, for images of this shape (images, C, H, W), or resize them."""
    make_array(group, "training/images", shape, "uint8", (min(shape[0], 256), *shape[1:]))
    make_array(group, "training/owner", shape[:1], "int64", shape[:1])


def make_array(
    group: zarr.Group,
    name: str,
    shape: Sequence[int],
    dtype: str,
    chunks: Sequence[int],
    shards: Sequence[int] | None = None,
) -> None:
    """Create an array, or resize the one that is there. Its chunks are compressed and checksummed."""
    if name in group:
        _array_of(group, name).resize(tuple(shape))
        return
    group.create_array(
        name,
        shape=tuple(shape),
        dtype=dtype,
        chunks=tuple(chunks),
        shards=tuple(shards) if shards else None,
        serializer=BytesCodec(),
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        fill_value=0,
    )


def fill(group: zarr.Group, name: str, where: Any, values: np.ndarray) -> None:
    """Write values, zeros too: a black image is a result, not an absence."""
    with zarr.config.set({"array.write_empty_chunks": True}):  # read when the array is opened, and not stored with it
        _array_of(group, name)[where] = values


class Arrays:
    """The arrays of a universe, opened for reading."""

    def __init__(self, url: str, store: Any, hashes: dict[str, str]) -> None:
        """`hashes`: SHA-256 per object that is compared with it the first time a value of it is read."""
        self.url, self.store, self.hashes = url, store, hashes
        self._group: zarr.Group | None = None
        self._compared: set[str] = set()

    def get(self, name: str, where: Any = slice(None), *, objects: Sequence[str] = ()) -> np.ndarray:
        """Values of an array.

        Args:
            name: the array.
            where: indices and slices, as NumPy takes them; or slices and arrays of indices, each for its own axis.
            objects: the objects that hold these values. Checksums in a chunk do not tell whether it is in its place.

        Raises:
            StoreError: an object is missing or damaged.
        """
        with self._reading(name):
            self._compare(objects)
            array = self._array(name)
            listed = isinstance(where, tuple) and any(isinstance(axis, np.ndarray) for axis in where)
            return np.asarray(array.oindex[where] if listed else array[where])

    def distances(self, ablations: slice, samples: slice) -> np.ndarray:
        """Distances of some ablations in some samples, float32 (ablations, samples); slices have no steps.

        They are in many small objects, and Zarr takes a millisecond for each. So they are read and unpacked here.

        Raises:
            StoreError: an object is missing or damaged.
        """
        with self._reading(DISTANCES):
            array = self._array(DISTANCES)
            high, wide = array.chunks
            top, bottom, _ = ablations.indices(array.shape[0])
            left, right, _ = samples.indices(array.shape[1])
            rows, columns = range(top // high, -(-bottom // high)), range(left // wide, -(-right // wide))
            found = np.empty((len(rows), high, len(columns), wide), np.float32)

            def unpack(place: tuple[int, int]) -> None:
                row, column = place
                key = f"{DISTANCES}/c/{row}/{column}"
                data = read(self.store, key)
                self._check(key, hashlib.sha256(data).hexdigest())
                values = np.frombuffer(Zstd().decode(data[:-CHECKSUM]), "<f4")
                found[row - rows.start, :, column - columns.start] = values.reshape(high, wide)

            concurrently(unpack, product(rows, columns))
            whole, corner = found.reshape(len(rows) * high, -1), (rows.start * high, columns.start * wide)
            return whole[top - corner[0] : bottom - corner[0], left - corner[1] : right - corner[1]]

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Turn every error into a `StoreError` that says what to do."""
        try:
            yield
        except Exception as error:  # codecs and Zarr raise many kinds for damaged bytes
            reason = " ".join((str(error) or type(error).__name__).split())[:200]
            raise StoreError(
                f"{self.url}: '{name}' cannot be read ({reason}); {command('audit check', self.url)} lists what is "
                "damaged, and the command that made the universe computes it again"
            ) from error

    def shape(self, name: str) -> tuple[int, ...]:
        """An array's shape; any error of Zarr's passes through."""
        return self._array(name).shape

    def _array(self, name: str) -> zarr.Array:
        if self._group is None:
            self._group = zarr.open_group(NothingAssumed(self.store, read_only=True), mode="r")
        return _array_of(self._group, name)

    def _compare(self, objects: Sequence[str]) -> None:
        new = [key for key in objects if key not in self._compared]
        found = concurrently(self._hash, new) if len(new) > 1 else map(self._hash, new)
        for key, digest in zip(new, found, strict=True):
            self._check(key, digest)
        self._compared.update(new)

    def _check(self, key: str, digest: str) -> None:
        if digest != self.hashes.get(key):
            raise ValueError(f"{key} is not the object that was written there")

    def _hash(self, key: str) -> str:
        return object_hash(self.store, key)


def writable(store: Any) -> zarr.Group:
    """The group of a universe, opened for writing."""
    return zarr.open_group(ObjectStore(store), mode="r+")


def channels_last(images: np.ndarray) -> np.ndarray:
    """(.., C, H, W) as stored -> (.., H, W, C)."""
    return np.moveaxis(images, -3, -1)


def _array_of(group: zarr.Group, name: str) -> zarr.Array:
    return cast("zarr.Array", group[name])
