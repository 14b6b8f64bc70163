"""What holds for any units: ids, the order of images, the digest of a unit's content."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from ..errors import DataError


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


def _orders_within_units(images: np.ndarray, owner: np.ndarray) -> Iterable[tuple[int, int, list[int]]]:
    """For each unit of several images, where it is and the order that sorts its images by their SHA-256."""
    for start, stop in bounds_of(owner, int(owner[-1]) + 1 if len(owner) else 0):
        if stop - start > 1:
            hashes = [hashlib.sha256(image).digest() for image in images[start:stop]]
            yield start, stop, sorted(range(stop - start), key=hashes.__getitem__)


def is_sorted_within_units(images: np.ndarray, owner: np.ndarray) -> bool:
    """Whether each unit's images are in the order of their SHA-256."""
    return all(order == list(range(stop - start)) for start, stop, order in _orders_within_units(images, owner))


def sort_within_units(images: np.ndarray, owner: np.ndarray) -> None:
    """Put each unit's images in the order of their SHA-256, in place."""
    for start, stop, order in _orders_within_units(images, owner):
        images[start:stop] = images[start:stop][order]


def digest_of(images: np.ndarray) -> str:
    """The digest of one unit's content, see `Units.digests`."""
    digest = hashlib.sha256(b"ablatable unit v1\0" + struct.pack("<4Q", *images.shape))
    digest.update(images.data)
    return digest.hexdigest()
