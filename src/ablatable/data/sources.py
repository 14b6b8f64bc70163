"""Where units come from: each source becomes a list of entries, one per picture, not yet decoded."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np

from ..errors import DataError, SettingsError
from .images import from_array, read_picture

IMAGE_SUFFIXES = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
IDX_IMAGES = re.compile(r"images[-.]idx3-ubyte(\.gz)?$")


@dataclass(frozen=True)
class Entry:
    """One picture to be decoded: the id of its unit, its name in messages, and how to get its pixels."""

    unit: str
    name: str
    load: Callable[[], np.ndarray]  # -> uint8 (H, W, C), C in {1, 3}


# --- ids and columns ---


def as_text(value: object) -> str | None:
    """A table cell's text, or None if it is missing (None, NaN, blank). `TypeError` if it is no scalar."""
    if isinstance(value, bytes | list | tuple | dict | set | np.ndarray):
        raise TypeError(f"a value of type {type(value).__name__}")
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return None
    text = str(value)
    return text if text.strip() else None


def ids_of_column(values: Iterable[object], column: str, name_of: Callable[[int], str]) -> list[str]:
    """Every cell's text; `DataError`, naming the row, for a missing or unusable one."""
    ids = []
    for row, value in enumerate(values):
        try:
            text = as_text(value)
        except TypeError as error:
            raise DataError(
                f"{name_of(row)}: column '{column}' holds {error}; a unit's id must be text or a number"
            ) from None
        if text is None:
            raise DataError(f"{name_of(row)}: column '{column}' is missing its value; fill it in or remove the row")
        ids.append(text)
    return ids


def require_column(column: str, columns: Sequence[str], where: str) -> None:
    """`DataError` that lists the columns there are, unless `column` is one of them."""
    if column not in columns:
        raise DataError(
            f"{where} has no column '{column}'{close_to(column, columns)}; "
            f"its columns are: {', '.join(columns) or 'none'}"
        )


def close_to(word: str, words: Iterable[str]) -> str:
    """' (did you mean ...?)' for a message, or nothing if no word is close."""
    close = difflib.get_close_matches(word, list(words), n=3)
    return f" (did you mean {' or '.join(repr(match) for match in close)}?)" if close else ""


def refuse_repeats(entries: Sequence[Entry], remedy: str) -> None:
    """`DataError` that names both pictures if two entries have one id."""
    seen: dict[str, str] = {}
    for entry in entries:
        if entry.unit in seen:
            raise DataError(f"duplicate id {entry.unit!r}: {seen[entry.unit]} and {entry.name}; {remedy}")
        seen[entry.unit] = entry.name


# --- arrays ---


def array_entries(images: Any, ids: Iterable[object] | None, group: bool, where: str = "") -> list[Entry]:
    """Entries of a NumPy array or torch tensor: see `Units.from_arrays`. `where` begins every row's name."""
    rows = _channels_last(images)
    if ids is None:
        keys = [f"unit-{row:04d}" for row in range(len(rows))]
        names = [f"{where}row {row}" for row in range(len(rows))]
    else:
        # Elements of tensors and arrays print as tensor(3), np.int64(3): their plain values are the ids.
        values = cast("Any", ids).tolist() if hasattr(ids, "tolist") else list(ids)
        if len(values) != len(rows):
            raise DataError(f"{where}{len(values)} ids for {len(rows)} images; give one id per image")
        keys = ids_of_column(values, "ids", lambda row: f"{where}row {row}")
        names = [f"{where}row {row} (id {key!r})" for row, key in enumerate(keys)]
    entries = [
        Entry(key, name, partial(from_array, rows[row], name))
        for row, (key, name) in enumerate(zip(keys, names, strict=True))
    ]
    if not group:
        refuse_repeats(entries, "make them distinct, or put equal ids into one unit (group=True, or a unit column)")
    return entries


def _channels_last(images: Any) -> np.ndarray:
    """A torch tensor `(N[, C], H, W)`, or what NumPy can make an array `(N, H, W[, C])` of, as the latter."""
    if hasattr(images, "movedim"):  # a tensor, told without importing torch
        tensor = images.detach().cpu()
        if tensor.is_floating_point() and tensor.element_size() < 4:
            tensor = tensor.float()  # NumPy has no bfloat16
        if tensor.ndim == 4 and tensor.shape[1] > 4:
            raise DataError(
                f"a torch tensor of shape {tuple(tensor.shape)} has {tensor.shape[1]} channels; "
                "tensors are channels first (N, C, H, W): give .numpy() if this one is channels last"
            )
        array = (tensor.movedim(1, -1) if tensor.ndim == 4 else tensor).numpy()
    else:
        try:
            array = np.asarray(images)
        except ValueError as error:
            raise DataError(f"the images are not one array ({error}); all must have the same shape") from None
    if array.ndim not in (3, 4):
        raise DataError(
            f"images of shape {array.shape} are not a stack of pictures; expected (N, H, W) or (N, H, W, C)"
        )
    return array


def npy_entries(path: Path, unit_column: str | None) -> list[Entry]:
    """Entries of a `.npy` file of images, or a `.npz` file with `images`, optionally `ids` and columns."""
    try:
        # Memory-mapped: rows are read as they are converted. Never unpickled.
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        columns = {"images": loaded} if isinstance(loaded, np.ndarray) else loaded
        arrays = {key: columns[key] for key in columns}
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read as NumPy arrays: {error}; save it with numpy.save or numpy.savez"
        ) from error
    stacks = [key for key, array in arrays.items() if array.ndim >= 3]
    images = "images" if "images" in arrays else stacks[0] if len(stacks) == 1 else None
    if images is None:
        raise DataError(f"{path} has no array 'images'; its arrays are: {', '.join(arrays) or 'none'}")
    if unit_column is not None:
        require_column(unit_column, [key for key, array in arrays.items() if array.ndim == 1], str(path))
    ids = arrays[unit_column] if unit_column is not None else arrays.get("ids")
    return array_entries(arrays[images], ids, unit_column is not None, f"{path}, ")


# --- folders ---


def folder_entries(folder: Path, unit_column: str | None) -> list[Entry]:
    """Entries of a folder, sorted by unit id, then by path: see `Units.from_folder`."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder" if folder.exists() else f"there is no folder {folder}")
    tables = [folder / name for name in METADATA_NAMES if (folder / name).is_file()]
    if len(tables) > 1:
        raise DataError(f"{folder} has {' and '.join(table.name for table in tables)}; keep the one that is meant")
    if unit_column is not None and not tables:
        raise DataError(
            f"{folder} has no {', '.join(METADATA_NAMES)} to look up the unit column '{unit_column}' in; "
            "add one with a column file_name, or leave the unit column out"
        )
    try:
        entries = _metadata_entries(folder, tables[0], unit_column) if tables else _plain_entries(folder)
    except OSError as error:
        raise DataError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from error
    return sorted(entries, key=lambda entry: (entry.unit, entry.name))


def _plain_entries(folder: Path) -> list[Entry]:
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    flat = [path for path in visible if _is_image(path)]
    below = {path: _images_below(path) for path in visible if path.is_dir()}
    filled = [path for path, images in below.items() if images]
    if flat and filled:
        raise DataError(
            f"{folder} has images both at its top ({flat[0].name}) and in sub-folders ({filled[0].name}/); "
            "use one sub-folder per unit, or no sub-folders, or a metadata.csv"
        )
    if flat:
        entries = [_file_entry(path.stem, path) for path in flat]
        refuse_repeats(entries, "rename one of them")
        return entries
    if not filled:
        raise DataError(f"no images found in {folder}; files ending in {', '.join(IMAGE_SUFFIXES)} count as images")
    for path, images in below.items():
        if not images:
            raise DataError(f"empty unit: the sub-folder {path} has no images; fill it or remove it")
    return [_file_entry(path.name, image) for path, images in below.items() for image in images]


def _metadata_entries(folder: Path, table: Path, unit_column: str | None) -> list[Entry]:
    columns, rows = _read_table(table)
    require_column("file_name", columns, str(table))
    if unit_column is not None:
        require_column(unit_column, columns, str(table))
    if not rows:
        raise DataError(f"no images found: {table} has no rows")
    files = ids_of_column((row.get("file_name") for row in rows), "file_name", lambda row: f"{table}, row {row + 1}")
    named = [f"{table}, row {row + 1} ({file})" for row, file in enumerate(files)]
    paths = [_inside(file, name) for file, name in zip(files, named, strict=True)]
    first_row: dict[PurePosixPath, str] = {}
    for path, name in zip(paths, named, strict=True):
        if path in first_row:  # a picture of two units would stay when one of them goes
            raise DataError(f"{path} is listed twice: {first_row[path]} and {name}; remove one of the rows")
        first_row[path] = name
    if unit_column is None:
        units = [str(path.with_suffix("")) for path in paths]
    else:
        units = ids_of_column((row.get(unit_column) for row in rows), unit_column, named.__getitem__)
    entries = []
    for unit, path, name in zip(units, paths, named, strict=True):
        if not (folder / path).is_file():
            raise DataError(f"{name}: there is no file {folder / path}")
        entries.append(_file_entry(unit, folder / path))
    if unit_column is None:
        refuse_repeats(entries, "rename one of them")
    return entries


def _inside(file: str, name: str) -> PurePosixPath:
    path = PurePosixPath(file)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise DataError(f"{name}: file_name must be a path inside the folder of the table, without '..'")
    return path


def _read_table(table: Path) -> tuple[list[str], list[dict[str, object]]]:
    """The columns and rows of a CSV (all cells text), JSON-lines or Parquet file."""
    try:
        if table.suffix == ".parquet":
            import polars as pl

            frame = pl.read_parquet(table)
            return frame.columns, frame.to_dicts()
        text = table.read_text(encoding="utf-8-sig")
        if table.suffix == ".csv":
            reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
            cells = [cast("dict[str, object]", row) for row in reader]
            for number, row in enumerate(cells, 1):
                if None in row:  # where DictReader puts what is beyond the header
                    raise ValueError(f"row {number} has more cells than the header")
            return list(reader.fieldnames or []), cells
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict):
                raise ValueError(f"row {number} is not a JSON object")
        return list(dict.fromkeys(key for row in rows for key in row)), rows
    except Exception as error:  # the three readers share no base class of errors
        raise DataError(f"{table} cannot be read as a table: {' '.join(str(error).split())}") from error


def _is_image(path: Path) -> bool:
    # Not is_file(): a link to nowhere has to be an error when it is read, not an image less.
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def _images_below(folder: Path) -> list[Path]:
    found: list[Path] = []
    # By default walk skips what it cannot read and linked folders, and with them pictures of this unit.
    for where, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [path for path in (Path(where) / name for name in files) if _is_image(path)]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _file_entry(unit: str, path: Path) -> Entry:
    return Entry(unit, str(path), partial(read_picture, path, str(path)))


# --- IDX, MNIST's format ---


def idx_entries(
    images: Path, labels: Path | None, unit_column: str | None, limit: int | None, prefix: str
) -> list[Entry]:
    """Entries of an IDX file of images: see `Units.from_idx`. Ids are `<prefix>-0000` on, or the labels."""
    if limit is not None and limit < 1:
        raise SettingsError(f"limit {limit} is not possible; take at least 1 image")
    pixels = _read_idx(images, 3)
    keys = [f"{prefix}-{row:04d}" for row in range(len(pixels))]
    if unit_column is not None:
        require_column(unit_column, ["label"], str(images))
        labels = labels or _labels_beside(images)
        keys = [str(label) for label in _read_idx(labels, 1)]
        if len(keys) != len(pixels):
            raise DataError(
                f"{labels} has {len(keys)} labels, {images} has {len(pixels)} images; they do not belong together"
            )
    named = [(key, f"{images}, image {row}") for row, key in enumerate(keys[:limit])]
    return [Entry(key, name, partial(from_array, pixels[row], name)) for row, (key, name) in enumerate(named)]


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


# --- Hugging Face datasets ---


def dataset_entries(dataset: Any, image_column: str, unit_column: str | None, id_column: str | None) -> list[Entry]:
    """Entries of a Hugging Face `datasets.Dataset`: see `Units.from_dataset`."""
    try:
        import datasets
    except ImportError:
        raise DataError('reading a dataset needs the datasets package: pip install "ablatable[datasets]"') from None
    if isinstance(dataset, dict):  # DatasetDict is one
        raise DataError(f"this is a dict of splits, not a dataset; choose one of: {', '.join(map(str, dataset))}")
    if not isinstance(dataset, datasets.Dataset):
        raise DataError(f"expected a datasets.Dataset, got {type(dataset).__name__}; load it with streaming=False")
    if unit_column is not None and id_column is not None:
        raise SettingsError("give unit_column (equal values form one unit) or id_column (one unit per row), not both")
    column = unit_column or id_column
    for name in (image_column, column):
        if name is not None:
            require_column(name, dataset.column_names, "the dataset")
    dataset = dataset.with_format(None)
    if column is None:
        units = [f"row-{row:04d}" for row in range(len(dataset))]
    else:
        label = dataset.features[column]
        values: list[Any] = list(dataset.select_columns([column])[column])
        if isinstance(label, datasets.ClassLabel):  # numbers, known by their names; -1 is "no label"
            values = [None if value is None or value < 0 else label.int2str(value) for value in values]
        units = ids_of_column(values, column, lambda row: f"row {row}")
    pictures = dataset.select_columns([image_column])
    if isinstance(dataset.features[image_column], datasets.Image):
        # Undecoded, so that every source's files are decoded by the same rules and errors name the file.
        pictures = pictures.cast_column(image_column, datasets.Image(decode=False))
        load = _load_encoded
    else:
        pictures = pictures.with_format("numpy")
        load = _load_numbers
    entries = [
        Entry(unit, f"row {row} (id {unit!r})", partial(load, pictures, image_column, row))
        for row, unit in enumerate(units)
    ]
    if unit_column is None:
        refuse_repeats(
            entries, "make the ids distinct, or give the column as unit_column to put equal ids into one unit"
        )
    return entries


def _load_encoded(pictures: Any, column: str, row: int) -> np.ndarray:
    cell = pictures[row][column]
    if cell is None:
        raise DataError(f"row {row}: column '{column}' has no image; remove the row")
    name = f"row {row}" + (f" ({cell['path']})" if cell["path"] else "")
    return read_picture(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else Path(cell["path"]), name)


def _load_numbers(pictures: Any, column: str, row: int) -> np.ndarray:
    try:
        values = np.asarray(pictures[row][column])
    except Exception as error:  # ragged or missing numbers, by whichever library forms the array
        raise DataError(f"row {row}: column '{column}' does not hold a picture ({error})") from error
    if np.issubdtype(values.dtype, np.integer) and values.size and values.min() >= 0 and values.max() <= 255:
        values = values.astype(np.uint8)  # datasets deliver small integers as int64
    return from_array(values, f"row {row}")
