"""What holds for any units: ids, the order of images, the digest of a unit's content."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from ..errors import DataError
from .words import Said


def check_ids(ids: tuple[str, ...]) -> None:
    """`DataError` unless all are distinct texts that are not blank and can be written in UTF-8."""
    seen: set[str] = set()
    for id in ids:
        if not isinstance(id, str) or not id.strip():
            raise DataError(f"{id!r} is not a unit's id; ids are texts that are not blank")
        try:
            id.encode()
        except UnicodeEncodeError:  # a file name that is not in the file system's encoding
            raise DataError(f"id {id!r} cannot be written in UTF-8; rename the file") from None
        if id in seen:
            raise DataError(f"duplicate id {id!r}; every unit needs its own")
        seen.add(id)


def check_arrays(ids: tuple[str, ...], images: np.ndarray, owner: np.ndarray) -> None:
    """`DataError` unless these are units: ids as `check_ids` wants them, images of one size, one or more per unit."""
    check_ids(ids)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise DataError(f"images must be uint8 (images, H, W, 1 or 3), got {images.dtype} {images.shape}")
    sound = owner.shape == images.shape[:1] and np.array_equal(np.unique(owner), np.arange(len(ids)))
    if not sound or (np.diff(owner) < 0).any():
        raise DataError("owner must be each image's unit, in order, with an image for every unit")


def bounds_of(owner: np.ndarray, units: int) -> list[tuple[int, int]]:
    """Where each unit's images begin and end, from each image's unit (non-decreasing)."""
    edges = np.searchsorted(owner, np.arange(units + 1)).tolist()
    return list(pairwise(edges))


def _orders_within_units(
    images: np.ndarray, owner: np.ndarray, said: Sequence[Said] | None = None
) -> Iterable[tuple[int, int, list[int]]]:
    """For each unit of several images, where it is and the order that sorts its images, see `sort_within_units`."""
    for start, stop in bounds_of(owner, int(owner[-1]) + 1 if len(owner) else 0):
        if stop - start > 1:
            hashes = [hashlib.sha256(image).digest() for image in images[start:stop]]
            words = said[start:stop] if said is not None else [("", "")] * len(hashes)
            keys = [(digest, *(word or "" for word in each)) for digest, each in zip(hashes, words, strict=True)]
            yield start, stop, sorted(range(stop - start), key=keys.__getitem__)


def is_sorted_within_units(images: np.ndarray, owner: np.ndarray, said: Sequence[Said] | None = None) -> bool:
    """Whether each unit's images are in the order that `sort_within_units` makes."""
    return all(order == list(range(stop - start)) for start, stop, order in _orders_within_units(images, owner, said))


def sort_within_units(images: np.ndarray, owner: np.ndarray, said: list[Said] | None = None) -> None:
    """Put each unit's images, and what is said of them, in the order of the images' SHA-256, in place.

    Equal images are in the order of their labels, then captions.
    """
    for start, stop, order in _orders_within_units(images, owner, said):
        images[start:stop] = images[start:stop][order]
        if said is not None:
            said[start:stop] = [said[start + place] for place in order]


def sort_units(images: np.ndarray, owner: np.ndarray, said: list[Said] | None) -> tuple[np.ndarray, list[Said] | None]:
    """Images that nobody else can change, and what is said of them, in order; as they are if they are so already."""
    nameless = isinstance(images, np.memmap) and images.filename is None  # see `load_cache.allocate`
    own = images.flags.owndata or nameless
    if not (
        own and images.flags.c_contiguous and not images.flags.writeable and is_sorted_within_units(images, owner, said)
    ):
        images = np.array(images, order="C")
        sort_within_units(images, owner, said)
    return np.asarray(images), said


def digest_of(images: np.ndarray, words: bytes | None = None) -> str:
    """The digest of one unit's content, see `Units.digests`; `words`: what is said of its images, packed."""
    version = b"ablatable unit v1\0" if words is None else b"ablatable unit v2\0"
    digest = hashlib.sha256(version + struct.pack("<4Q", *images.shape))
    digest.update(images.data)
    digest.update(words or b"")
    return digest.hexdigest()


def fingerprint_of(ids: Sequence[str], digests: Sequence[str]) -> str:
    """See `Units.fingerprint`."""
    total = hashlib.sha256(b"ablatable units v1\0")
    for id, digest in zip(ids, digests, strict=True):
        name = id.encode()
        total.update(struct.pack("<Q", len(name)) + name + bytes.fromhex(digest))
    return total.hexdigest()
