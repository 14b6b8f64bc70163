"""Where units come from: each source becomes a list of entries, one per picture, not yet decoded."""

from __future__ import annotations

import difflib
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..errors import DataError
from .images import Colour, Decoded, from_array
from .words import checked, said


@dataclass(frozen=True)
class Entry:
    """One picture to be decoded: the id of its unit, its name in messages, and how to get its pixels."""

    unit: str
    name: str
    load: Callable[[Colour], Decoded]  # background -> pixels
    path: Path | None = None  # the file it is in, if it has one of its own
    label: str | None = None  # the name of its class; in a source all entries have one, or none
    caption: str | None = None


@dataclass(frozen=True)
class Source:
    """All pictures of a source, and what was left out.

    `skipped` counts what was passed over, by the words it is told in; `remarks` are sentences for the user. `folder`
    is set if every entry has a file of its own below it: these may be decoded at the same time and kept in a cache.
    """

    name: str
    entries: Sequence[Entry]
    unit_is: str = "each image was taken as a unit"
    skipped: Counter[str] = field(default_factory=Counter)
    remarks: tuple[str, ...] = ()
    folder: Path | None = None


# --- ids and columns ---


def by_column(column: str) -> str:
    """What makes a unit, if a column does."""
    return f"each value of the column '{column}' was taken as a unit"


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


def array_source(
    images: Any,
    ids: Iterable[object] | None,
    group: bool,
    where: str = "",
    *,
    labels: Iterable[object] | None = None,
    captions: Iterable[object] | None = None,
) -> Source:
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
    words = said(checked(labels, len(rows), "label"), checked(captions, len(rows), "caption"))
    entries = [
        Entry(key, name, partial(from_array, rows[row], name), None, *(words[row] if words else ()))
        for row, (key, name) in enumerate(zip(keys, names, strict=True))
    ]
    if not group:
        refuse_repeats(entries, "make them distinct, or put equal ids into one unit (group=True, or a unit column)")
    unit_is = "images with one id were taken as a unit" if group else "each image was taken as a unit"
    return Source(where.removesuffix(", ") or "arrays", entries, unit_is)


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


def npy_source(
    path: Path, unit_column: str | None, label_column: str | None = None, caption_column: str | None = None
) -> Source:
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
    for column in filter(None, (unit_column, label_column, caption_column)):
        require_column(column, [key for key, array in arrays.items() if array.ndim == 1], str(path))
    ids = arrays[unit_column] if unit_column is not None else arrays.get("ids")
    words = {"labels": label_column, "captions": caption_column}
    given = {name: arrays[column] for name, column in words.items() if column is not None}
    return array_source(arrays[images], ids, unit_column is not None, f"{path}, ", **given)
