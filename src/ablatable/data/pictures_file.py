"""Units' pictures as a file: `images`, `owner` and maybe `words`, as safetensors, written in pieces and mapped.

Neither writing nor reading takes memory of the pictures' size: the system drops pages of a mapped file when it must.
"""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np

from .._runtime.files import writing

PIECE = 32 * 2**20  # bytes that are copied at once


def write_pictures(
    path: Path,
    images: np.ndarray,
    owner: np.ndarray,
    rows: np.ndarray | None = None,
    words: bytes | None = None,
    *,
    lasting: bool = True,
) -> None:
    """Write pictures, the bytes being those that safetensors writes; the file is complete as soon as it is there.

    Args:
        path: the file.
        images: uint8 (images, H, W, C); may be mapped.
        owner: int64 (images written,), each written image's unit.
        rows: which images, in which order, int (images written,); None = all.
        words: what is said of the images written, packed (see `words`); None = nothing.
        lasting: whether it must be on the disk when this returns; else it may be lost when the machine fails.
    """
    wanted: range | np.ndarray = range(len(images)) if rows is None else rows
    shape = (len(wanted), *images.shape[1:])
    at_once = max(1, PIECE // max(1, int(np.prod(shape[1:]))))
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with writing(path, needs=int(np.prod(shape))):
            path.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                file.write(_header(shape, len(words or b"")))
                file.write(np.ascontiguousarray(owner, "<i8").tobytes())
                for first in range(0, len(wanted), at_once):
                    part = wanted[first : first + at_once]
                    where = slice(part.start, part.stop) if isinstance(part, range) else part
                    file.write(np.ascontiguousarray(images[where]).data)
                file.write(words or b"")
                file.flush()
                if lasting:
                    os.fsync(file.fileno())
            aside.replace(path)
    finally:
        with suppress(OSError):  # it was moved, or never made
            aside.unlink()


def map_pictures(path: Path) -> tuple[np.ndarray, np.ndarray, bytes | None]:
    """A file's images, uint8 (images, H, W, C), read-only and mapped, each one's unit, int64 (images,), and words.

    `ValueError` or `KeyError` if it is not such a file.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size:
            raise ValueError("it is cut short")
        tensors, start = json.loads(file.read(length)), 8 + length
        found = tensors["images"], tensors["owner"]
        if [each["dtype"] for each in found] != ["U8", "I64"]:
            raise ValueError("its arrays have other types")
        first, last = found[1]["data_offsets"]
        file.seek(start + first)
        owner = np.frombuffer(file.read(last - first), "<i8").astype(np.int64).reshape(found[1]["shape"])
        words = None
        if "words" in tensors:
            first, last = tensors["words"]["data_offsets"]
            file.seek(start + first)
            words = file.read(last - first)
    offset = start + found[0]["data_offsets"][0]
    images = np.memmap(path, np.uint8, "r", offset, tuple(found[0]["shape"]))
    return np.asarray(images), owner, words


def _header(shape: tuple[int, ...], words: int) -> bytes:
    """What precedes the numbers: the largest type first, padded to whole words."""
    middle, end = 8 * shape[0], 8 * shape[0] + int(np.prod(shape))
    tensors = {
        "owner": {"dtype": "I64", "shape": [shape[0]], "data_offsets": [0, middle]},
        "images": {"dtype": "U8", "shape": list(shape), "data_offsets": [middle, end]},
    }
    if words:
        tensors["words"] = {"dtype": "U8", "shape": [words], "data_offsets": [end, end + words]}
    text = json.dumps(tensors, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
