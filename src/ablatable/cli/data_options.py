"""The options of commands that load pictures, and what they come to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SettingsError
from .common import CaptionColumn, LabelColumn, UnitColumn
from .output import say

if TYPE_CHECKING:
    from ..data.images import Colour, Size
    from ..data.loading import LoadOptions
    from ..data.units import Units

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


@dataclass(frozen=True)
class Loading:
    """How pictures are loaded."""

    unit_column: UnitColumn = None
    label_column: LabelColumn = None
    caption_column: CaptionColumn = None
    table: Table = None
    background: Background = None
    skip_broken: SkipBroken = False
    merge_duplicates: Merge = False
    drop_duplicates: Drop = False
    keep_duplicates: Keep = False
    no_cache: NoCache = False

    def units(
        self, data: str, size: Size, channels: int | None, *, background: Colour | None = None, quiet: bool = False
    ) -> Units:
        """Load units, and say what was found, unless `quiet`. `background` stands where no other is asked for.

        Raises `SettingsError` if two of the options on duplicates are given, and what `load_units` raises.
        """
        from ..data.naming import load_units

        asked = {"merge": self.merge_duplicates, "drop": self.drop_duplicates, "keep": self.keep_duplicates}
        chosen = [policy for policy in asked if asked[policy]]
        if len(chosen) > 1:
            raise SettingsError(f"--{chosen[0]}-duplicates and --{chosen[1]}-duplicates exclude each other")
        options: LoadOptions = {
            "size": size,
            "channels": channels,
            "skip_broken": self.skip_broken,
            "cache": not self.no_cache,
        }
        if self.background is not None:
            options["background"] = self.background
        elif background is not None:
            options["background"] = background
        if chosen:
            options["duplicates"] = chosen[0]
        columns = {"label_column": self.label_column, "caption_column": self.caption_column}
        loaded = load_units(data, unit_column=self.unit_column, table=self.table, **columns, **options)
        if loaded.report is not None and not quiet:
            for line in loaded.report.lines():
                say(line)
        return loaded
