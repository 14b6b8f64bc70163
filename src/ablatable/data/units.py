"""Training data as units, the smallest removable pieces: images, ids, content hashes.

Canonical pixels are uint8, channels last, 1 (grey) or 3 (colour) channels. `to_model` and `to_images` are
the only places where they are turned into what networks see, float32 in [-1, 1], channels first, and back.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import AblatableError, DataError
from . import sources
from .images import Size, check_channels, fit, parse_size, recolour

if TYPE_CHECKING:
    import torch

BUNDLED_DIGITS = 256


@dataclass(frozen=True, eq=False, repr=False)
class Units:
    """Training data as removable units. Immutable: the arrays are read-only.

    ids: one distinct, non-empty string per unit, in the source's order (folders: sorted).
    images: uint8 `(images, H, W, C)`, C = 1 or 3, grouped by unit. Within a unit they are sorted by the
        SHA-256 of their own pixels, so that neither a digest nor training can depend on the order of files.
    owner: int64 `(images,)`, the index into `ids` of each image's unit, non-decreasing.

    Made by `from_arrays`, `from_folder`, `from_dataset`, `from_idx`, `digits` or `load_units`, which all take

    size: None if all images have one size, else `14`, `"14"`, `"14x20"` or `(14, 20)` (height, width).
        Images are cropped about the centre to its aspect ratio, then shrunk by the exact area average (a
        whole-number factor gives the block mean, rounded half to even) or enlarged bicubically.
    channels: None if all are grey or all in colour, else 1 or 3. Grey is repeated, colour becomes its luma.

    and raise `DataError`, naming the file or row, for data that cannot be used, `SettingsError` for an
    impossible size, channels or limit. Alpha is composited on white, EXIF orientation applied, 16 bits are
    rounded to 8, and of an animation the first frame is taken. Memory stays about the size of `images`.
    """

    ids: tuple[str, ...]
    images: np.ndarray
    owner: np.ndarray

    def __post_init__(self) -> None:
        ids = tuple(self.ids)
        _check_ids(ids)
        images, owner = self.images, np.array(self.owner, dtype=np.int64)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise DataError(f"images must be uint8 (images, H, W, 1 or 3), got {images.dtype} {images.shape}")
        sound = owner.shape == images.shape[:1] and np.array_equal(np.unique(owner), np.arange(len(ids)))
        if not sound or (np.diff(owner) < 0).any():
            raise DataError("owner must be each image's unit, in order, with an image for every unit")
        sealed = images.flags.owndata and images.flags.c_contiguous and not images.flags.writeable
        if not (sealed and _is_sorted_within_units(images, owner)):
            images = np.array(images, order="C")  # a copy, which nobody else can change
            _sort_within_units(images, owner)
        for name, value in (("ids", ids), ("images", images), ("owner", owner)):
            object.__setattr__(self, name, value)
        self._freeze()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._freeze()  # pickling forgets that the arrays are read-only

    def _freeze(self) -> None:
        self.images.flags.writeable = False
        self.owner.flags.writeable = False

    # --- what there is ---

    def __len__(self) -> int:
        """The number of units (`len(units.images)` is the number of images)."""
        return len(self.ids)

    def __repr__(self) -> str:
        channels, height, width = self.shape
        return f"Units({len(self)} units, {len(self.images)} images of {height}x{width}x{channels})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)`, the shape of one sample as networks see it."""
        _, height, width, channels = self.images.shape
        return channels, height, width

    @cached_property
    def digests(self) -> tuple[str, ...]:
        r"""Per unit, the SHA-256 (hex) of its content.

        Over `b"ablatable unit v1\0"`, then the number of its images, H, W and C as little-endian uint64,
        then the images' pixels in their stored order. It depends on nothing but pixels: not on the id, nor
        on file names, their order or their format.
        """
        return tuple(_digest(self.images[start:stop]) for start, stop in self._bounds)

    def digest(self, id: str) -> str:
        """The SHA-256 (hex) of one unit's content, see `digests`. `DataError` for an unknown id."""
        return self.digests[self._rows([id])[0]]

    def of(self, id: str) -> np.ndarray:
        """One unit's images: uint8 `(k, H, W, C)`, read-only. `DataError` for an unknown id."""
        start, stop = self._bounds[self._rows([id])[0]]
        return self.images[start:stop]

    def fingerprint(self) -> str:
        r"""SHA-256 (hex) over all ids and digests in order: equal if and only if these are the same units.

        Over `b"ablatable units v1\0"`, then for each unit the length of its id in bytes as little-endian
        uint64, the id in UTF-8, and the 32 bytes of its digest.
        """
        total = hashlib.sha256(b"ablatable units v1\0")
        for id, digest in zip(self.ids, self.digests, strict=True):
            name = id.encode()
            total.update(struct.pack("<Q", len(name)) + name + bytes.fromhex(digest))
        return total.hexdigest()

    # --- fewer units ---

    def select(self, ids: Iterable[str]) -> Units:
        """Only these units, in the order given. `DataError` for an unknown or repeated id."""
        ids = (ids,) if isinstance(ids, str) else tuple(ids)
        bounds = [self._bounds[row] for row in self._rows(ids)]
        picked = np.concatenate([np.arange(start, stop) for start, stop in bounds] or [np.arange(0)])
        images = self.images[picked]
        images.flags.writeable = False
        return Units(ids, images, np.repeat(np.arange(len(ids)), [stop - start for start, stop in bounds]))

    def without(self, ids: Iterable[str]) -> Units:
        """All units but these, in order. `DataError` for an unknown id."""
        gone = set(self._rows((ids,) if isinstance(ids, str) else tuple(ids)))
        return self.select([id for row, id in enumerate(self.ids) if row not in gone])

    @cached_property
    def _bounds(self) -> list[tuple[int, int]]:
        return _bounds(self.owner, len(self))

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {id: row for row, id in enumerate(self.ids)}

    def _rows(self, ids: Sequence[str]) -> list[int]:
        for id in ids:
            if id not in self._row_of:
                hint = sources.close_to(str(id), self.ids) or f"; ids are like {', '.join(self.ids[:3])}"
                raise DataError(f"there is no unit {id!r} among these {len(self)}{hint}")
        return [self._row_of[id] for id in ids]

    # --- sources ---

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        ids: Iterable[object] | None = None,
        *,
        group: bool = False,
        size: Size = None,
        channels: int | None = None,
    ) -> Units:
        """Units from a NumPy array or torch tensor, one unit per image unless `group`.

        images: `(N, H, W)`; or with 4 dimensions, `(N, H, W, C)` for NumPy and anything NumPy can turn into
            an array, `(N, C, H, W)` for torch tensors: the type alone decides the layout, never the numbers.
            uint8, or float in [0, 1], rounded to 8 bits. C = 1 or 3; 2 and 4 have alpha last.
        ids: N texts or numbers, used as their text; `unit-0000` on if not given.
        group: equal ids form one unit, in order of first appearance. Without it a repeated id is an error.
        """
        return cls._from_entries(sources.array_entries(images, ids, group), size, channels)

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        unit_column: str | None = None,
        size: Size = None,
        channels: int | None = None,
    ) -> Units:
        """Units from image files, sorted by id. Three kinds of folder:

        - with a table `metadata.csv`, `.jsonl` or `.parquet` (the Hugging Face imagefolder convention): the
          column `file_name` holds paths relative to the folder, possibly in sub-folders, and decides which
          files are used. Without `unit_column` each row is a unit, its id the path without its suffix; with
          it, rows of equal value in that column form one unit, its id the value as text.
        - of sub-folders: each is a unit, its id the sub-folder's name, with all images in it, at any depth.
        - of images: each is a unit, its id the file name without its suffix.

        Image files are those ending in .bmp, .gif, .jpeg, .jpg, .pbm, .pgm, .png, .pnm, .ppm, .tif, .tiff or
        .webp in any case; others and hidden ones are ignored, unless a table lists them. Symbolic links are
        followed.
        """
        return cls._from_entries(sources.folder_entries(Path(path), unit_column), size, channels)

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        *,
        image_column: str = "image",
        unit_column: str | None = None,
        id_column: str | None = None,
        size: Size = None,
        channels: int | None = None,
    ) -> Units:
        """Units from a Hugging Face `datasets.Dataset` (one split, not streamed), in its order.

        image_column: encoded images (feature `Image`), or numbers as in `from_arrays`, channels last.
        unit_column: rows of equal value form one unit, its id the value as text (a class label's name).
        id_column: one unit per row, its id the value as text. With neither, ids are `row-0000` on.
        """
        entries = sources.dataset_entries(dataset, image_column, unit_column, id_column)
        return cls._from_entries(entries, size, channels)

    @classmethod
    def from_idx(
        cls,
        images: str | Path,
        labels: str | Path | None = None,
        *,
        unit_column: str | None = None,
        limit: int | None = None,
        size: Size = None,
        channels: int | None = None,
    ) -> Units:
        """Units from MNIST's IDX format, plain or gzipped: one per image, `image-0000` on.

        labels: the labels' IDX file, used with `unit_column`; by default the one beside the images.
        unit_column: `"label"` makes one unit of all images with one label, its id the label.
        limit: only the first so many images.
        """
        labels = Path(labels) if labels else None
        entries = sources.idx_entries(Path(images), labels, unit_column, limit, "image")
        return cls._from_entries(entries, size, channels)

    @classmethod
    def digits(cls, count: int = 48, *, size: Size = None, channels: int | None = None) -> Units:
        """The first `count` (at most 256) of the bundled MNIST test digits, 28 x 28 grey, `digit-0000` on.

        Digit k shows k mod 10, so every count is as balanced over the ten classes as it can be.
        """
        return cls._digits(count, None, size, channels)

    @classmethod
    def _digits(cls, count: int, unit_column: str | None, size: Size, channels: int | None) -> Units:
        if not 1 <= count <= BUNDLED_DIGITS:
            raise DataError(f"{count} digits were asked for, 1 to {BUNDLED_DIGITS} are bundled")
        with as_file(files("ablatable") / "data" / "assets") as assets:
            images = assets / "digits-images-idx3-ubyte.gz"
            entries = sources.idx_entries(images, None, unit_column, count, "digit")
        return cls._from_entries(entries, size, channels)

    @classmethod
    def _from_entries(cls, entries: Sequence[sources.Entry], size: Size, channels: int | None) -> Units:
        """Decode one picture after another into the one array, each at its unit's place."""
        target = parse_size(size)
        check_channels(channels)
        if not entries:
            raise DataError("no images found; expected at least one")
        rows = {id: row for row, id in enumerate(dict.fromkeys(entry.unit for entry in entries))}
        _check_ids(tuple(rows))
        owner = np.array([rows[entry.unit] for entry in entries])
        images = np.empty(0, np.uint8)
        for done, place in enumerate(np.argsort(np.argsort(owner, kind="stable"), kind="stable")):
            pixels = fit(recolour(entries[done].load(), channels), target)
            if done == 0:
                images = np.empty((len(entries), *pixels.shape), np.uint8)
            elif pixels.shape != images.shape[1:]:
                raise DataError(_disagreement(entries[0].name, images.shape[1:], entries[done].name, pixels.shape))
            images[place] = pixels
        owner.sort()
        _sort_within_units(images, owner)
        images.flags.writeable = False
        return cls(tuple(rows), images, owner)


def load_units(
    source: str | Path, *, unit_column: str | None = None, size: Size = None, channels: int | None = None
) -> Units:
    """Units from what the command line calls DATA.

    - `digits` or `digits:48`: the bundled digits (a folder of that name is `./digits`);
    - a folder as in `Units.from_folder`, or one with one IDX file of images (`...images-idx3-ubyte[.gz]`);
    - an IDX file of images, plain or gzipped (its labels beside it, for the unit column `label`);
    - a `.npy` file of images, or a `.npz` file with `images`, optionally `ids`, and unit columns.
    """
    name, colon, count = str(source).partition(":")
    if name == "digits":
        if colon and not count.isdecimal():
            raise DataError(f"{source!r} is not understood; write digits, or digits:48 for the first 48")
        return Units._digits(int(count) if colon else 48, unit_column, size, channels)
    path = Path(source)
    if not path.exists():
        raise DataError(
            f"there is no {path}; give a folder, an IDX, .npz or .npy file, or digits for the bundled digits"
        )
    if path.suffix.lower() in (".npy", ".npz"):
        return Units._from_entries(sources.npy_entries(path, unit_column), size, channels)
    if path.suffix.lower() in sources.IMAGE_SUFFIXES and path.is_file():
        raise DataError(f"{path} is a single image; give the folder that holds the images")
    if path.is_file():
        return Units.from_idx(path, unit_column=unit_column, size=size, channels=channels)
    found = sources.idx_images_in(path)
    if len(found) > 1:
        raise DataError(f"{path} has several IDX files of images; give one of them: {', '.join(map(str, found))}")
    if found:
        return Units.from_idx(found[0], unit_column=unit_column, size=size, channels=channels)
    return Units.from_folder(path, unit_column=unit_column, size=size, channels=channels)


def to_model(images: np.ndarray) -> torch.Tensor:
    """As networks see it: uint8 `(..., H, W, C)` -> float32 `(..., C, H, W)` in [-1, 1], x / 127.5 - 1."""
    import torch

    if images.dtype != np.uint8:
        raise TypeError(f"to_model takes uint8 pixels, got {images.dtype}")
    pixels = torch.tensor(images).movedim(-1, -3)
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)


def to_images(x: torch.Tensor) -> np.ndarray:
    """The inverse of `to_model`: float `(..., C, H, W)` -> uint8 `(..., H, W, C)`.

    Clamped to [-1, 1], scaled, rounded half to even. `AblatableError` for NaN, which no pixel can show.
    """
    import torch

    x = x.detach().cpu()
    x = x if x.dtype == torch.float64 else x.float()
    if x.isnan().any():
        raise AblatableError(
            "a sample contains NaN: the model diverged; train with a smaller learning rate or more precision"
        )
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.movedim(-3, -1).numpy())


# --- helpers ---


def _check_ids(ids: tuple[str, ...]) -> None:
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


def _bounds(owner: np.ndarray, units: int) -> list[tuple[int, int]]:
    edges = np.searchsorted(owner, np.arange(units + 1)).tolist()
    return list(pairwise(edges))


def _orders_within_units(images: np.ndarray, owner: np.ndarray) -> Iterable[tuple[int, int, list[int]]]:
    """For each unit of several images, where it is and the order that sorts its images by their SHA-256."""
    for start, stop in _bounds(owner, int(owner[-1]) + 1 if len(owner) else 0):
        if stop - start > 1:
            hashes = [hashlib.sha256(image).digest() for image in images[start:stop]]
            yield start, stop, sorted(range(stop - start), key=hashes.__getitem__)


def _is_sorted_within_units(images: np.ndarray, owner: np.ndarray) -> bool:
    return all(order == list(range(stop - start)) for start, stop, order in _orders_within_units(images, owner))


def _sort_within_units(images: np.ndarray, owner: np.ndarray) -> None:
    for start, stop, order in _orders_within_units(images, owner):
        images[start:stop] = images[start:stop][order]


def _digest(images: np.ndarray) -> str:
    digest = hashlib.sha256(b"ablatable unit v1\0" + struct.pack("<4Q", *images.shape))
    digest.update(images.data)
    return digest.hexdigest()


def _disagreement(first: str, first_shape: tuple[int, ...], name: str, shape: tuple[int, ...]) -> str:
    (height, width, channels), (h, w, c) = first_shape, shape
    if (height, width) != (h, w):
        return (
            f"mixed sizes: {first} is {height}x{width}, {name} is {h}x{w} (height x width); "
            "give one size for all: --size 28, or size=28 in Python"
        )
    kinds = {1: "grey", 3: "in colour"}
    return (
        f"mixed channels: {first} is {kinds[channels]}, {name} is {kinds[c]}; "
        "give channels=1 (grey) or channels=3 (colour)"
    )
