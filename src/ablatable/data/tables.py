"""Tables that say which picture belongs to whom: CSV in the dialects people have, JSON lines, Parquet."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError

DELIMITERS = (",", ";", "\t", "|")
FILE_COLUMN = "file_name"


@dataclass(frozen=True)
class Table:
    """The columns of a table, and per row its cells and its place, such as `/data/metadata.csv, line 3`."""

    path: Path
    columns: list[str]
    rows: list[dict[str, object]]
    places: list[str]


def read_table(path: Path) -> Table:
    """Read a table; `DataError` with the line's number if it cannot be.

    CSV may be separated by commas, semicolons, tabs or bars, in UTF-8 or UTF-16 with or without a byte order mark,
    with quoted line breaks, spaces around cells (they are removed), blank rows and blank cells beyond the header.
    """
    try:
        if path.suffix.lower() == ".parquet":
            import polars as pl

            frame = pl.read_parquet(path)
            return Table(path, frame.columns, frame.to_dicts(), [f"{path}, row {n + 1}" for n in range(len(frame))])
        text = _text(path)
        columns, numbered = _json_lines(text) if path.suffix.lower() == ".jsonl" else _csv(text)
    except Exception as error:  # the three readers share no base class of errors
        raise DataError(f"{path} cannot be read as a table: {' '.join(str(error).split())}") from error
    return Table(path, columns, [row for _, row in numbered], [f"{path}, line {line}" for line, _ in numbered])


def _text(path: Path) -> str:
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line} is not in UTF-8; save it as CSV UTF-8") from None


def _json_lines(text: str) -> tuple[list[str], list[tuple[int, dict[str, object]]]]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not a JSON object")
        rows.append((number, row))
    return list(dict.fromkeys(key for _, row in rows for key in row)), rows


def _csv(text: str) -> tuple[list[str], list[tuple[int, dict[str, object]]]]:
    delimiter, skipped = _delimiter(text)
    records = _records(text, delimiter)
    header = next((cells for line, cells in records if line > skipped), [])
    while header and not header[-1]:
        header.pop()
    repeated = [name for place, name in enumerate(header) if name and name in header[:place]]
    if repeated:
        raise ValueError(f"its header has the column '{repeated[0]}' twice")
    rows = []
    for line, cells in records:
        if any(cells[len(header) :]):
            raise ValueError(f"line {line} has more cells than the header")
        rows.append((line, dict(zip(header, cells, strict=False))))
    return header, rows


def _delimiter(text: str) -> tuple[str, int]:
    """What separates the cells, and how many lines to skip: by the header that has a column `file_name`."""
    said = re.match(r"sep=(.)\r?\n", text)  # as Excel writes it
    if said:
        return said[1], 1
    first = text.lstrip("\r\n")
    for delimiter in DELIMITERS:
        with suppress(ValueError):  # quotes that make no sense with this delimiter
            if FILE_COLUMN in next((cells for _, cells in _records(first, delimiter)), []):
                return delimiter, 0
    return ",", 0


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank, stripped of spaces, with the number of its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"line {line}: {error}") from None
        if cells is None:
            return
        cells = [cell.strip() for cell in cells]
        if any(cells):
            yield line, cells
