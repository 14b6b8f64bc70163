"""Units from what the command line calls DATA: a name of bundled images, a file or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from ..errors import DataError, option
from . import folders, idx, sources
from .loading import LoadOptions, LoadSettings
from .units import Units


def load_units(
    source: str | Path,
    *,
    unit_column: str | None = None,
    table: str | Path | None = None,
    label_column: str | None = None,
    caption_column: str | None = None,
    **options: Unpack[LoadOptions],
) -> Units:
    """Units from what the command line calls DATA; `options` as in `Units`.

    - `digits` or `digits:48`: the bundled digits (a folder of that name is `./digits`);
    - `openmoji`, or `openmoji:32` for the drawings of the 32 artists who have most; the unit column is `artist` (if
      none is given), `picture`, `group` or `subgroup`;
    - a folder as in `Units.from_folder`, or one with one IDX file of images (`...images-idx3-ubyte[.gz]`);
    - an IDX file of images, plain or gzipped (its labels beside it, for the unit column `label`);
    - a `.npy` file of images, or a `.npz` file with `images`, optionally `ids`, and unit columns.

    `label_column`, `caption_column`: where each image's label and caption are, as each source has them.
    """
    words = {"label_column": label_column, "caption_column": caption_column}
    name, colon, count = str(source).partition(":")
    if name in ("digits", "openmoji"):
        if colon and not count.isdecimal():
            raise DataError(f"{source!r} is not understood; write {name}, or {name}:{'48' if name == 'digits' else 32}")
        if table:
            raise DataError(
                f"{name} is bundled, so a table of files says nothing about it; leave {option('table')} out"
            )
        if name == "openmoji":
            return Units.openmoji(int(count) if colon else None, by=unit_column or "artist", **words, **options)
        _without_captions(caption_column, str(source))
        count = int(count) if colon else 48
        return Units.digits(count, unit_column=unit_column, label_column=label_column, **options)
    path = Path(source)
    if not path.exists():
        raise DataError(
            f"there is no {path}; give a folder, an IDX, .npz or .npy file, or digits or openmoji for bundled pictures"
        )
    if path.suffix.lower() in (".npy", ".npz"):
        return Units._load(
            sources.npy_source(path, unit_column, label_column, caption_column), LoadSettings.of(options)
        )
    if path.suffix.lower() in folders.readable_suffixes() and path.is_file():
        raise DataError(f"{path} is a single image; give the folder that holds the images")
    found = [path] if path.is_file() else idx.idx_images_in(path)
    if len(found) > 1:
        raise DataError(f"{path} has several IDX files of images; give one of them: {', '.join(map(str, found))}")
    if found:
        _without_captions(caption_column, str(found[0]))
        return Units.from_idx(found[0], unit_column=unit_column, label_column=label_column, **options)
    return Units.from_folder(path, unit_column=unit_column, table=table, **words, **options)


def _without_captions(column: str | None, source: str) -> None:
    if column is not None:
        raise DataError(f"{source} has no captions; leave {option('caption_column')} out")
