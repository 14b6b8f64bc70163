"""IDX, the format of MNIST."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import DataError, SettingsError
from .images import from_array
from .sources import Entry, Source, require_column

IDX_IMAGES = re.compile(r"images[-.]idx3-ubyte(\.gz)?$")


def idx_source(
    images: Path,
    labels: Path | None,
    unit_column: str | None,
    limit: int | None,
    prefix: str,
    label_column: str | None = None,
) -> Source:
    """Entries of an IDX file of images: see `Units.from_idx`. Ids are `<prefix>-0000` on, or the labels."""
    if limit is not None and limit < 1:
        raise SettingsError(f"limit {limit} is not possible; take at least 1 image")
    pixels = _read_idx(images, 3)
    keys = [f"{prefix}-{row:04d}" for row in range(len(pixels))]
    said: list[str | None] = [None] * len(pixels)
    for column in filter(None, (unit_column, label_column)):
        require_column(column, ["label"], str(images))
        labels = labels or _labels_beside(images)
        values = [str(label) for label in _read_idx(labels, 1)]
        if len(values) != len(pixels):
            raise DataError(
                f"{labels} has {len(values)} labels, {images} has {len(pixels)} images; they do not belong together"
            )
        keys = values if unit_column else keys
        said = [*values] if label_column else said
    named = [(key, f"{images}, image {row}") for row, key in enumerate(keys[:limit])]
    entries = [
        Entry(key, name, partial(from_array, pixels[row], name), None, said[row])
        for row, (key, name) in enumerate(named)
    ]
    return Source(str(images), entries, f"each {'label' if unit_column else 'image'} was taken as a unit")


def idx_images_in(folder: Path) -> list[Path]:
    """The IDX image files of a folder, by their usual names (`...images-idx3-ubyte`, also with `.gz`)."""
    return sorted(path for path in folder.iterdir() if IDX_IMAGES.search(path.name) and path.is_file())


def _labels_beside(images: Path) -> Path:
    labels = images.with_name(re.sub(r"images([-.])idx3", r"labels\1idx1", images.name))
    if labels == images or not labels.is_file():
        raise DataError(
            f"{images} has no labels beside it (looked for {labels.name}); give the labels' file to group by label"
        )
    return labels


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an IDX file: bytes 0, 0, 8 and the number of dimensions, then these, then the data."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    start = 4 + 4 * dimensions
    if data[:4] != bytes((0, 0, 8, dimensions)) or len(data) < start:
        raise DataError(
            f"{path} is not an IDX file of {'images' if dimensions == 3 else 'labels'}: "
            f"its first bytes are {data[:4].hex(' ') or 'missing'}, "
            f"expected {bytes((0, 0, 8, dimensions)).hex(' ')}"
        )
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise DataError(
            f"{path} is truncated or damaged: its header promises {math.prod(shape)} bytes "
            f"({' x '.join(map(str, shape))}), it has {len(data) - start}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
