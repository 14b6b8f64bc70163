"""Hugging Face datasets."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, SettingsError
from .images import Colour, Decoded, decode, from_array
from .sources import Entry, Source, by_column, ids_of_column, refuse_repeats, require_column


def dataset_source(
    dataset: Any,
    image_column: str,
    unit_column: str | None,
    id_column: str | None,
    label_column: str | None = None,
    caption_column: str | None = None,
) -> Source:
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
    for name in (image_column, column, label_column, caption_column):
        if name is not None:
            require_column(name, dataset.column_names, "the dataset")
    dataset = dataset.with_format(None)
    units = [f"row-{row:04d}" for row in range(len(dataset))] if column is None else _texts(dataset, column)
    nothing = [None] * len(dataset)
    labels, captions = (_texts(dataset, each) if each else nothing for each in (label_column, caption_column))
    pictures = dataset.select_columns([image_column])
    if isinstance(dataset.features[image_column], datasets.Image):
        # Undecoded, so that every source's files are decoded by the same rules and errors name the file.
        pictures = pictures.cast_column(image_column, datasets.Image(decode=False))
        load = _load_encoded
    else:
        pictures = pictures.with_format("numpy")
        load = _load_numbers
    entries = [
        Entry(unit, f"row {row} (id {unit!r})", partial(load, pictures, image_column, row), None, label, caption)
        for row, (unit, label, caption) in enumerate(zip(units, labels, captions, strict=True))
    ]
    if unit_column is None:
        refuse_repeats(
            entries, "make the ids distinct, or give the column as unit_column to put equal ids into one unit"
        )
    return Source("dataset", entries, "each row was taken as a unit" if unit_column is None else by_column(unit_column))


def _texts(dataset: Any, column: str) -> list[str]:
    """A column's texts, class labels by their names; `DataError` where one is missing."""
    import datasets

    label, values = dataset.features[column], list(dataset.select_columns([column])[column])
    if isinstance(label, datasets.ClassLabel):  # numbers; -1 is "no label"
        values = [None if value is None or value < 0 else label.int2str(value) for value in values]
    return ids_of_column(values, column, lambda row: f"row {row}")


def _load_encoded(pictures: Any, column: str, row: int, background: Colour) -> Decoded:
    cell = pictures[row][column]
    if cell is None:
        raise DataError(f"row {row}: column '{column}' has no image; remove the row")
    name = f"row {row}" + (f" ({cell['path']})" if cell["path"] else "")
    return decode(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else Path(cell["path"]), name, background)


def _load_numbers(pictures: Any, column: str, row: int, background: Colour) -> Decoded:
    try:
        values = np.asarray(pictures[row][column])
    except Exception as error:  # ragged or missing numbers, by whichever library forms the array
        raise DataError(f"row {row}: column '{column}' does not hold a picture ({error})") from error
    if np.issubdtype(values.dtype, np.integer) and values.size and values.min() >= 0 and values.max() <= 255:
        values = values.astype(np.uint8)  # datasets deliver small integers as int64
    return from_array(values, f"row {row}", background)
