"""The options of commands that load pictures, and what they come to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SettingsError

if TYPE_CHECKING:
    from ..data.images import Size
    from ..data.loading import LoadOptions

_DATA = "Data"
Background = Annotated[
    str | None,
    typer.Option(
        help="Put transparent images on this: white, black or #rrggbb.", show_default="white", rich_help_panel=_DATA
    ),
]
SkipBroken = Annotated[
    bool, typer.Option("--skip-broken", help="Leave out images that cannot be read.", rich_help_panel=_DATA)
]
Merge = Annotated[
    bool,
    typer.Option(
        "--merge-duplicates", help="Make one unit of units that have an image in common.", rich_help_panel=_DATA
    ),
]
Drop = Annotated[
    bool,
    typer.Option("--drop-duplicates", help="Leave out images that several units have.", rich_help_panel=_DATA),
]
Keep = Annotated[
    bool,
    typer.Option(
        "--keep-duplicates",
        help="Accept that an image of two units stays when one of them is removed.",
        rich_help_panel=_DATA,
    ),
]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache", help="Neither read nor keep decoded images in the user's cache folder.", rich_help_panel=_DATA
    ),
]
Table = Annotated[
    Path | None,
    typer.Option(
        help="A table (CSV, JSON lines, Parquet) with the column file_name, instead of the folder's metadata.csv.",
        rich_help_panel=_DATA,
    ),
]


def load_options(
    size: Size,
    channels: int | None,
    background: str | None = None,
    skip_broken: bool = False,
    merge: bool = False,
    drop: bool = False,
    keep: bool = False,
    no_cache: bool = False,
) -> LoadOptions:
    """As the library takes them; `SettingsError` if two of the options on duplicates are given."""
    chosen = [policy for policy, asked in (("merge", merge), ("drop", drop), ("keep", keep)) if asked]
    if len(chosen) > 1:
        raise SettingsError(f"--{chosen[0]}-duplicates and --{chosen[1]}-duplicates exclude each other")
    options: LoadOptions = {
        "size": size,
        "channels": channels,
        "skip_broken": skip_broken,
        "cache": not no_cache,
    }
    if background is not None:
        options["background"] = background
    if chosen:
        options["duplicates"] = chosen[0]
    return options
