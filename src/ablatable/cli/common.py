"""What all commands share: the application, the arguments that several take, and printing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._version import __version__

if TYPE_CHECKING:
    import polars as pl

app = typer.Typer(
    name="ablatable",
    help="Train an ensemble whose training data can be removed exactly, and see what it would have drawn without it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="a trained run's folder")]
UniverseUrl = Annotated[str, typer.Argument(metavar="U.zarr", help="a universe: a folder or an object-store URL")]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="start anew over what is there")]
Workers = Annotated[int | None, typer.Option(min=0, help="worker processes; one per core if not given, 0 for none")]
Ray = Annotated[str | None, typer.Option(help="work on a Ray cluster: auto, local or its address")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:k")]
Seeds = Annotated[str, typer.Option(help="one picture a seed: 0-9 or 1,5,7")]
SamplerOption = Annotated[str, typer.Option(help="ddpm, ddim or dpmsolver++")]
SamplingSteps = Annotated[int, typer.Option("--steps", min=1, help="sampling steps")]


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


def print_json(value: Any) -> None:
    """One value, for programs."""
    print(json.dumps(value, indent=2, default=float))


def say(text: str) -> None:
    """One line of plain text, wrapped to the terminal."""
    from rich.console import Console

    Console(highlight=False, markup=False).print(text)


def print_table(table: pl.DataFrame, title: str) -> None:
    """A data frame under a title; a column's name is its heading."""
    print_rows([name.replace("_", " ") for name in table.columns], table.rows(), title)


def print_rows(columns: list[str], rows: list[tuple], title: str) -> None:
    """Rows under a title; without `columns`, no headings."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, show_header=bool(columns), box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*map(_cell, row))
    if rows:
        for column, value in zip(table.columns, rows[0], strict=True):
            column.justify = "right" if isinstance(value, (int, float)) and not isinstance(value, bool) else "left"
    console = Console(highlight=False, markup=False)
    console.print(f"\n{title}\n")
    console.print(table)
    console.print()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
