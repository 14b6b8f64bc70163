"""A table of who saw what: the user's statement about components that were trained elsewhere, as a code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..codes.code import Code
from ..data.tables import Table, read_table
from ..errors import DataError


def read_splits(path: str | Path, unit_ids: Sequence[str], components: int) -> Code:
    """A code from a table (CSV, JSON lines, Parquet) with one row per unit, or one per unit and component.

    Args:
        path: the table. It has a column `unit`, and either `codeword` (a text such as `0110`, one digit per component)
            or `component` (the number of one that trained on the unit, from 0).
        unit_ids: the units, one row of the code each.
        components: how many there are.

    Raises:
        DataError: a column is missing; a unit is unknown, missing or named twice; or a cell is no such value.
    """
    table = read_table(Path(path))
    if "unit" not in table.columns or not {"codeword", "component"} & set(table.columns):
        raise DataError(f"{path} needs the column unit, and codeword or component; it has {', '.join(table.columns)}")
    matrix = np.zeros((len(unit_ids), components), bool)
    row_of, seen = {unit: row for row, unit in enumerate(unit_ids)}, set[str]()
    for cells, place in zip(table.rows, table.places, strict=True):
        unit = str(cells.get("unit"))
        if unit not in row_of:
            raise DataError(
                f"{place}: there is no unit '{unit}' in the data; the units are {unit_ids[0]} .. {unit_ids[-1]}"
            )
        if "codeword" in table.columns:
            if unit in seen:
                raise DataError(f"{place}: unit '{unit}' is named twice")
            matrix[row_of[unit]] = _word(str(cells.get("codeword")), components, place)
        else:
            matrix[row_of[unit], _number(str(cells.get("component")), components, place)] = True
        seen.add(unit)
    return _checked(matrix, unit_ids, table, seen)


def _checked(matrix: np.ndarray, unit_ids: Sequence[str], table: Table, seen: set[str]) -> Code:
    if missing := [unit for unit in unit_ids if unit not in seen]:
        raise DataError(f"{table.path} says nothing about unit '{missing[0]}', and {len(missing) - 1} more")
    if empty := np.flatnonzero(~matrix.any(axis=0)).tolist():
        raise DataError(
            f"by {table.path} component {empty[0]:02d} saw no unit at all; leave its folder out, or add a row"
        )
    return Code(matrix, allow_dummy=True)


def _word(text: str, components: int, place: str) -> np.ndarray:
    if len(text) != components or set(text) - {"0", "1"}:
        raise DataError(f"{place}: '{text}' is no codeword of {components} digits 0 and 1, one per component")
    return np.array([bit == "1" for bit in text])


def _number(text: str, components: int, place: str) -> int:
    if not text.isdecimal() or int(text) >= components:
        raise DataError(f"{place}: '{text}' is no component; they are 0 to {components - 1}")
    return int(text)
