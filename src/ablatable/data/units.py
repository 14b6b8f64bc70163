"""Training data as units, the smallest removable pieces: images, ids, content hashes.

Canonical pixels are uint8, channels last, 1 (grey) or 3 (colour) channels. `to_model` and `to_images` are
the only places where they are turned into what networks see, float32 in [-1, 1], channels first, and back.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from ..errors import DataError
from . import folders, hub_datasets, idx, openmoji, sources, words
from .load_cache import gather
from .load_report import LoadReport
from .loading import LoadOptions, LoadSettings, load
from .showing import units_html
from .tensors import to_images, to_model
from .unit_file import InFile
from .unit_order import bounds_of, check_arrays, check_ids, digest_of, fingerprint_of, sort_units

__all__ = ["Units", "to_images", "to_model"]

BUNDLED_DIGITS = 256


@dataclass(frozen=True, eq=False, repr=False)
class Units(InFile):
    """Training data as removable units. Immutable: the arrays are read-only.

    ids: one distinct, non-empty string per unit, in the source's order (folders: sorted).
    images: uint8 `(images, H, W, C)`, C = 1 or 3, grouped by unit. Within a unit they are sorted by the
        SHA-256 of their own pixels, so that neither a digest nor training can depend on the order of files.
    owner: int64 `(images,)`, the index into `ids` of each image's unit, non-decreasing.

    labels, captions: each image's label (the name of a class) and caption, one text per image; None = there are none.

    report: what was loaded and what was done to it; None for units that no source gave, such as a selection.

    Made by `from_arrays`, `from_folder`, `from_dataset`, `from_idx`, `digits`, `openmoji`, or `load_units`, which all
    take

    size: None if all images have one size, else `14`, `"14"`, `"14x20"` or `(14, 20)` (height, width).
        Images are cropped about the centre to its aspect ratio, then shrunk by the exact area average (a
        whole-number factor gives the block mean, rounded half to even) or enlarged bicubically.
    channels: None if all are grey or all in colour, else 1 or 3. Grey is repeated, colour becomes its luma.
    background: what transparent pictures are put on: `"white"` (the default), `"black"`, `"#rrggbb"` or three numbers.
    skip_broken: leave out pictures that cannot be read (the report counts them) instead of listing all in an error.
    duplicates: what to do with a picture that several units have, since it would stay when one of them is removed:
        `"refuse"` (an error with names, the default), `"merge"` (units that share a picture become one), `"drop"` (the
        picture is left out of all of them) or `"keep"` (the default of `from_arrays`, which warns). With `"drop"` a
        unit's content depends on which pictures others have; that is settled here, before any training.
    cache: whether a folder's decoded pictures may be kept in, and read from, the user's cache directory.
    quiet: no progress display.

    and raise `DataError`, naming the file or row, for data that cannot be used, `SettingsError` for an
    impossible setting. EXIF orientation is applied, 16 bits are rounded to 8, and of an animation the first
    frame is taken. Memory stays about the size of `images`; those of more than 1 GiB are mapped from a file.
    """

    ids: tuple[str, ...]
    images: np.ndarray
    owner: np.ndarray
    report: LoadReport | None = None
    labels: tuple[str, ...] | None = None
    captions: tuple[str, ...] | None = None
    _repr_html_ = units_html  # for notebooks

    def __post_init__(self) -> None:
        ids = tuple(self.ids)
        images, owner = self.images, np.array(self.owner, dtype=np.int64)
        check_arrays(ids, images, owner)
        labels = words.checked(self.labels, len(images), "label")
        captions = words.checked(self.captions, len(images), "caption")
        images, said = sort_units(images, owner, words.said(labels, captions))
        labels, captions = words.columns(said)
        self._set(ids=ids, images=images, owner=owner, labels=labels, captions=captions)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._freeze()

    def __getstate__(self) -> dict[str, Any]:
        if (file := self.__dict__.get("_file")) is not None:  # the file is read where they arrive
            return {"ids": self.ids, "_file": file}
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        if (file := state.get("_file")) is not None:
            state = Units.mapped(file, state["ids"]).__dict__
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
        on file names, their order or their format. Images with labels or captions have v2 there, and after the
        pixels, canonical JSON with lists `captions` and `labels`, those that there are, in the images' order.
        """
        return tuple(digest_of(self.images[a:b], self._packed(slice(a, b))) for a, b in self._bounds)

    def _packed(self, images: slice | np.ndarray) -> bytes | None:
        rows = np.arange(len(self.images))[images]
        return words.packed(*(each and [each[row] for row in rows] for each in (self.labels, self.captions)))

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
        return fingerprint_of(self.ids, self.digests)

    # --- fewer units ---

    def select(self, ids: Iterable[str]) -> Units:
        """Only these units, in the order given. `DataError` for an unknown or repeated id."""
        if (ids := (ids,) if isinstance(ids, str) else tuple(ids)) == self.ids:
            return self
        bounds = [self._bounds[row] for row in self._rows(ids)]
        picked = np.concatenate([np.arange(start, stop) for start, stop in bounds] or [np.arange(0)])
        images = gather(self.images, picked)
        owner = np.repeat(np.arange(len(ids)), [stop - start for start, stop in bounds])
        labels, captions = (each and tuple(each[row] for row in picked) for each in (self.labels, self.captions))
        return Units(ids, images, owner, labels=labels, captions=captions)

    @property
    def said(self) -> words.Words:
        """`labels` and `captions` by these names, to make other units with."""
        return {"labels": self.labels, "captions": self.captions}

    def without(self, ids: Iterable[str]) -> Units:
        """All units but these, in order. `DataError` for an unknown id."""
        gone = set(self._rows((ids,) if isinstance(ids, str) else tuple(ids)))
        return self.select([id for row, id in enumerate(self.ids) if row not in gone])

    @cached_property
    def _bounds(self) -> list[tuple[int, int]]:
        return bounds_of(self.owner, len(self))

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
        labels: Iterable[object] | None = None,
        captions: Iterable[object] | None = None,
        **options: Unpack[LoadOptions],
    ) -> Units:
        """Units from a NumPy array or torch tensor, one unit per image unless `group`; `options` as in `Units`.

        images: `(N, H, W)`; or with 4 dimensions, `(N, H, W, C)` for NumPy and anything NumPy can turn into
            an array, `(N, C, H, W)` for torch tensors: the type alone decides the layout, never the numbers.
            uint8, or float in [0, 1], rounded to 8 bits. C = 1 or 3; 2 and 4 have alpha last.
        ids: N texts or numbers, used as their text; `unit-0000` on if not given.
        group: equal ids form one unit, in order of first appearance. Without it a repeated id is an error.
        labels, captions: N texts or numbers, used as their text.
        """
        settings = LoadSettings.of(options, duplicated="keep")
        units = cls._load(sources.array_source(images, ids, group, labels=labels, captions=captions), settings)
        shared = units.report.shared if units.report else None
        if shared and "duplicates" not in options:
            warnings.warn(shared, stacklevel=2)
        return units

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        unit_column: str | None = None,
        table: str | Path | None = None,
        label_column: str | None = None,
        caption_column: str | None = None,
        **options: Unpack[LoadOptions],
    ) -> Units:
        """Units from image files, sorted by id; `options` as in `Units`. Three kinds of folder:

        - with a table `metadata.csv`, `.jsonl` or `.parquet` (the Hugging Face imagefolder convention), or with one
          elsewhere, given as `table`: the column `file_name` holds paths relative to the folder, possibly in
          sub-folders, and decides which files are used. Without `unit_column` each row is a unit, its id the path
          without its suffix; with it, rows of equal value in that column form one unit, its id the value as text.
          The unit column `folder`, unless the table has one, is the first folder of each path. The columns for labels
          and captions hold one text per image.
        - of sub-folders: each is a unit, its id the sub-folder's name, with all images in it, at any depth.
        - of images: each is a unit, its id the file name without its suffix.

        Image files are those ending in .bmp, .gif, .jpeg, .jpg, .pbm, .pgm, .png, .pnm, .ppm, .tif, .tiff or
        .webp in any case, .avif if Pillow reads it, and .heic and .heif with the extra `heif`. Others, and hidden
        ones, are passed over and counted in the report, unless a table lists them. Symbolic links are followed.
        """
        settings = LoadSettings.of(options)
        columns = folders.Columns(unit_column, label_column, caption_column)
        return cls._load(folders.folder_source(Path(path), columns, Path(table) if table else None), settings)

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        *,
        image_column: str = "image",
        unit_column: str | None = None,
        id_column: str | None = None,
        label_column: str | None = None,
        caption_column: str | None = None,
        **options: Unpack[LoadOptions],
    ) -> Units:
        """Units from a Hugging Face `datasets.Dataset` (one split, not streamed), in its order.

        image_column: encoded images (feature `Image`), or numbers as in `from_arrays`, channels last.
        unit_column: rows of equal value form one unit, its id the value as text (a class label's name).
        id_column: one unit per row, its id the value as text. With neither, ids are `row-0000` on.
        label_column, caption_column: each image's label (a class label's name) and caption.
        options: as in `Units`.
        """
        columns = (image_column, unit_column, id_column, label_column, caption_column)
        return cls._load(hub_datasets.dataset_source(dataset, *columns), LoadSettings.of(options))

    @classmethod
    def from_idx(
        cls,
        images: str | Path,
        labels: str | Path | None = None,
        *,
        unit_column: str | None = None,
        label_column: str | None = None,
        limit: int | None = None,
        **options: Unpack[LoadOptions],
    ) -> Units:
        """Units from MNIST's IDX format, plain or gzipped: one per image, `image-0000` on.

        labels: the labels' IDX file, used with either column; by default the one beside the images.
        unit_column: `"label"` makes one unit of all images with one label, its id the label.
        label_column: `"label"` gives every image its label.
        limit: only the first so many images.
        options: as in `Units`.
        """
        labels = Path(labels) if labels else None
        source = idx.idx_source(Path(images), labels, unit_column, limit, "image", label_column)
        return cls._load(source, LoadSettings.of(options))

    @classmethod
    def digits(
        cls,
        count: int = 48,
        *,
        unit_column: str | None = None,
        label_column: str | None = None,
        **options: Unpack[LoadOptions],
    ) -> Units:
        """The first `count` (at most 256) of the bundled MNIST test digits, 28 x 28 grey, `digit-0000` on.

        Digit k shows k mod 10, so every count is as balanced over the ten classes as it can be. With the unit column
        `"label"` all images of one class are a unit, and the label column `"label"` gives each its class. `options` as
        in `Units`.
        """
        if not 1 <= count <= BUNDLED_DIGITS:
            raise DataError(f"{count} digits were asked for, 1 to {BUNDLED_DIGITS} are bundled")
        with as_file(files("ablatable") / "data" / "assets") as assets:
            source = idx.idx_source(
                assets / "digits-images-idx3-ubyte.gz", None, unit_column, count, "digit", label_column
            )
        return cls._load(source, LoadSettings.of(options))

    @classmethod
    def openmoji(
        cls,
        artists: int | Iterable[str] | None = None,
        *,
        by: str = "artist",
        label_column: str | None = None,
        caption_column: str | None = None,
        **options: Unpack[LoadOptions],
    ) -> Units:
        """The bundled OpenMoji drawings: 1,675 by 96 designers, 32 x 32 in colour on white; sorted by id.

        artists: only drawings by the so many artists who have most, or by those named; all if not given.
        by: what is a unit: `"artist"`, `"picture"` (ids such as `grinning-face-1F600`), `"group"` or `"subgroup"`.
        label_column, caption_column: such as `"group"` (or `"subgroup"`) and `"annotation"`.
        options: as in `Units`; `size=16` and `size=24` shrink the drawings by the area average.

        No drawing is another's copy, also at 24 x 24 and 16 x 16. The drawings are by OpenMoji, CC BY-SA 4.0.
        """
        source = openmoji.openmoji_source(artists, by, label_column, caption_column)
        return cls._load(source, LoadSettings.of(options))

    @classmethod
    def _load(cls, source: sources.Source, settings: LoadSettings) -> Units:
        loaded = load(source, settings)
        check_ids(loaded.ids)
        made = object.__new__(cls)  # what was loaded is nobody else's and in order: neither copied nor checked again
        made._set(**{field.name: getattr(loaded, field.name) for field in fields(loaded)})
        return made
