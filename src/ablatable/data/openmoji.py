"""The bundled OpenMoji drawings: colour pictures with named designers (see `assets/README.md`)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, partial
from importlib.resources import files

import numpy as np

from ..errors import DataError
from .images import from_array
from .sources import Entry, Source, close_to, require_column

SIDE = 32
BY = ("artist", "picture", "group", "subgroup")
WORDS = ("group", "subgroup", "annotation", "artist")  # that labels and captions can be taken from


def openmoji_source(
    artists: int | Iterable[str] | None, by: str, label_column: str | None = None, caption_column: str | None = None
) -> Source:
    """Entries of the drawings, by unit: see `Units.openmoji`."""
    if by not in BY:
        raise DataError(f"OpenMoji has no units by '{by}'; give one of {', '.join(BY)}")
    pictures, rows = _bundled()
    for column in filter(None, (label_column, caption_column)):
        require_column(column, WORDS, "OpenMoji")
    wanted = _artists(artists, rows)
    entries = []
    for picture, row in zip(pictures, rows, strict=True):
        if row["artist"] in wanted:
            name = f"OpenMoji {row['id']} ({row['annotation']})"
            unit = _picture_id(row) if by == "picture" else row[by]
            words = (row[column] if column else None for column in (label_column, caption_column))
            entries.append(Entry(unit, name, partial(from_array, picture, name), None, *words))
    return Source("openmoji", sorted(entries, key=lambda entry: entry.unit), f"each {by} was taken as a unit")


def _picture_id(row: dict[str, str]) -> str:
    """As in `grinning-face-1F600`: readable, without spaces, and unique by its code points."""
    return "-".join([*re.findall(r"\w+", row["annotation"]), row["id"]])


def _artists(asked: int | Iterable[str] | None, rows: list[dict[str, str]]) -> set[str]:
    """The names asked for; a number takes those with most drawings, in doubt by name."""
    drawings: dict[str, int] = {}
    for row in rows:
        drawings[row["artist"]] = drawings.get(row["artist"], 0) + 1
    if asked is None:
        return set(drawings)
    if isinstance(asked, int):
        if not 1 <= asked <= len(drawings):
            raise DataError(f"{asked} artists were asked for, 1 to {len(drawings)} are bundled")
        return set(sorted(drawings, key=lambda artist: (-drawings[artist], artist))[:asked])
    names = {asked} if isinstance(asked, str) else set(asked)
    for name in sorted(names - drawings.keys()):
        raise DataError(f"OpenMoji has no drawings by {name!r}{close_to(name, drawings)}")
    return names


@cache
def _bundled() -> tuple[np.ndarray, list[dict[str, str]]]:
    """All drawings, uint8 (N, 32, 32, 3), and a row of the table for each."""
    import polars as pl
    from PIL import Image

    assets = files("ablatable") / "data" / "assets"
    rows = pl.read_parquet((assets / "openmoji.parquet").read_bytes()).to_dicts()
    with (assets / "openmoji.webp").open("rb") as file, Image.open(file) as image:
        sheet = np.asarray(image.convert("RGB"))
    tiles = sheet.reshape(sheet.shape[0] // SIDE, SIDE, -1, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
    tiles.flags.writeable = False
    return tiles[: len(rows)], rows
