"""What commands print: tables, sentences, JSON, and what to do next."""

from __future__ import annotations

import json
import math
import shlex
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl


def print_json(value: Any) -> None:
    """Print one value for programs to read."""
    print(json.dumps(value, indent=2, default=float))


def say(text: str) -> None:
    """Print a sentence of plain text, wrapped to the terminal; a `Message` in the command line's words."""
    from rich.console import Console

    Console(highlight=False, markup=False).print(_printable(getattr(text, "shell", text)))


def next_step(command: str) -> None:
    """Print the command one would give next, on one line that can be copied."""
    from rich.console import Console

    Console(highlight=False, markup=False, soft_wrap=True).print(f"next: {_printable(command)}")


def quoted(value: object) -> str:
    """A path or a unit's name as a part of a command that can be copied: in quotes if a shell needs them."""
    from ..runs.bundled import FOLDER, WORD

    return WORD if str(value) == str(FOLDER) else shlex.quote(str(value))


def print_table(table: pl.DataFrame, title: str) -> None:
    """Print a data frame under a title; a column's name is its heading."""
    print_rows([name.replace("_", " ") for name in table.columns], table.rows(), title)


def print_rows(columns: list[str], rows: list[tuple], title: str) -> None:
    """Print rows under a title; without `columns`, there are no headings."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, show_header=bool(columns), box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*(_cell(value, name) for value, name in zip_longest(row, columns, fillvalue="")))
    if rows:
        for column, value in zip(table.columns, rows[0], strict=True):
            column.justify = "right" if isinstance(value, (int, float)) and not isinstance(value, bool) else "left"
    console = Console(highlight=False, markup=False)
    console.print(f"\n{title}\n")
    console.print(table)
    console.print()


def _cell(value: Any, column: str = "") -> str:
    if isinstance(value, float) and math.isfinite(value) and column.split()[-1:] in (["p"], ["q"]):
        return f"{math.ceil(value * 1000 - 1e-6) / 1000:.3f}"  # rounded up: never better than it is
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else _printable(str(value))


def _printable(text: str) -> str:
    """Text with control characters written out: a unit's name must not be able to rewrite the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
