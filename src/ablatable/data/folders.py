"""Folders of image files: which files are pictures, whose they are, and what is passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path, PurePosixPath

from ..errors import DataError
from .images import decode
from .sources import Entry, Source, ids_of_column, refuse_repeats, require_column
from .tables import FILE_COLUMN, Table, read_table
from .words import told

IMAGE_SUFFIXES = (
    ".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
)  # fmt: skip
HEIF_SUFFIXES = (".heic", ".heif")
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
JUNK = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin"}
HIDDEN = "hidden or system files"
Found = tuple[list[Entry], str, Counter[str], tuple[str, ...]]  # entries, what a unit is, skipped, remarks
BY_FOLDER = "folder"  # as a unit column that a table lacks: the first folder of each path


@cache
def readable_suffixes() -> tuple[str, ...]:
    """Endings of files that are read here: those that Pillow always knows, and those that extras add."""
    from PIL import features

    found = (*IMAGE_SUFFIXES, *((".avif",) if features.check("avif") else ()))
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ImportError:
        return found
    pillow_heif.register_heif_opener()
    return (*found, *HEIF_SUFFIXES)


@dataclass
class Scan:
    """The files below a folder: pictures, other files, and how many hidden ones."""

    pictures: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    hidden: int = 0

    def add(self, path: Path) -> None:
        """Sort one file in."""
        if is_junk(path.name):
            self.hidden += 1
        else:
            (self.pictures if path.suffix.lower() in readable_suffixes() else self.others).append(path)

    @property
    def skipped(self) -> Counter[str]:
        """How many of what is no picture."""
        endings = Counter(path.suffix.lower() or "without a suffix" for path in self.others)
        return +Counter({**endings, HIDDEN: self.hidden})


def is_junk(name: str) -> bool:
    """Hidden files and folders, and those that operating systems leave about."""
    return name.startswith(".") or name.lower() in JUNK


def scan(folder: Path) -> Scan:
    """All files below a folder, following links; a hidden folder counts as one thing."""
    found = Scan()
    # By default walk skips what it cannot read and linked folders, and with them pictures of this unit.
    for where, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        found.hidden += sum(map(is_junk, folders))
        folders[:] = sorted(name for name in folders if not is_junk(name))
        # Not is_file(): a link to nowhere has to be an error when it is read, not an image less.
        for name in sorted(files):
            found.add(Path(where) / name)
    found.pictures.sort()
    return found


@dataclass(frozen=True)
class Columns:
    """Of a table: which holds the units, the labels, and the captions."""

    unit: str | None = None
    label: str | None = None
    caption: str | None = None


def folder_source(folder: Path, columns: Columns, table: Path | None = None) -> Source:
    """Entries of a folder, sorted by unit id, then by path: see `Units.from_folder`."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder" if folder.exists() else f"there is no folder {folder}")
    tables = [table] if table else [folder / name for name in METADATA_NAMES if (folder / name).is_file()]
    if len(tables) > 1:
        raise DataError(f"{folder} has {' and '.join(table.name for table in tables)}; keep the one that is meant")
    if table is not None and not table.is_file():
        raise DataError(f"there is no table {table}")
    if columns.unit == BY_FOLDER and not tables:
        columns = replace(columns, unit=None)  # as it is anyway
    asked = {"unit": columns.unit, "label": columns.label, "caption": columns.caption}
    for what, column in asked.items():
        if column is not None and not tables:
            raise DataError(
                f"{folder} has no {', '.join(METADATA_NAMES)} to look up the {what} column '{column}' in; "
                f"add one with a column file_name, or leave the {what} column out"
            )
    try:
        entries, unit_is, skipped, remarks = _by_table(folder, tables[0], columns) if tables else _by_place(folder)
    except OSError as error:
        raise DataError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from error
    if any(skipped[suffix] for suffix in HEIF_SUFFIXES):
        remarks = (*remarks, 'HEIC pictures are read after: pip install "ablatable[heif]"')
    entries = sorted(entries, key=lambda entry: (entry.unit, entry.name))
    return Source(str(folder), entries, f"{unit_is} was taken as a unit", +skipped, remarks, folder.resolve())


# --- units by where files are ---


def _by_place(folder: Path) -> Found:
    top = Scan()
    below: dict[Path, Scan] = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not is_junk(path.name):
            below[path] = scan(path)
        else:
            top.add(path)
    skipped = sum((found.skipped for found in below.values()), top.skipped)
    filled = [path for path, found in below.items() if found.pictures]
    if top.pictures and filled:
        raise DataError(
            f"{folder} has images both at its top ({top.pictures[0].name}) and in sub-folders ({filled[0].name}/); "
            "use one sub-folder per unit, or no sub-folders, or a metadata.csv"
        )
    if top.pictures:
        entries = [_entry(path.stem, path) for path in top.pictures]
        refuse_repeats(entries, "rename one of them")
        return entries, "each image", skipped, ()
    if not filled:
        raise DataError(
            f"no images found in {folder}; files ending in {', '.join(readable_suffixes())} count as images"
            + _instead(skipped)
        )
    for path, found in below.items():
        if not found.pictures:
            raise DataError(
                f"empty unit: the sub-folder {path} has no images{_instead(found.skipped)}; fill it or remove it"
            )
    entries = [_entry(path.name, image) for path, found in below.items() for image in found.pictures]
    return entries, "each sub-folder", skipped, ()


def _instead(skipped: Counter[str]) -> str:
    """'; there are 3 .heic ...' for a message, or nothing."""
    told = [f"{count} {what}" for what, count in skipped.items() if what != HIDDEN]
    return f"; there are {', '.join(told)}, which cannot be read" if told else ""


# --- units by a table ---


def _by_table(folder: Path, path: Path, columns: Columns) -> Found:
    table, unit_column = read_table(path), columns.unit
    require_column(FILE_COLUMN, table.columns, str(path))
    if unit_column not in (None, BY_FOLDER):
        require_column(unit_column, table.columns, str(path))
    for column in filter(None, (columns.label, columns.caption)):
        require_column(column, table.columns, str(path))
    if not table.rows:
        raise DataError(f"no images found: {path} has no rows")
    files = ids_of_column((row.get(FILE_COLUMN) for row in table.rows), FILE_COLUMN, table.places.__getitem__)
    places = [f"{place} ({file})" for place, file in zip(table.places, files, strict=True)]
    paths = [_inside(folder, file, place) for file, place in zip(files, places, strict=True)]
    _refuse_listed_twice(paths, places)
    found = [row for row, listed in enumerate(paths) if _is_there(folder / listed)]
    if not found:
        raise DataError(f"{places[0]}: there is no file {folder / paths[0]}, nor any other that {path.name} names")
    units = _units_of(table, paths, places, unit_column, found)
    words = [_texts(table, column, places, found) for column in (columns.label, columns.caption)]
    entries = [
        _entry(unit, folder / paths[row], label, caption)
        for unit, row, label, caption in zip(units, found, *words, strict=True)
    ]
    if unit_column is None:
        refuse_repeats(entries, "rename one of them")
    skipped = _left_over(folder, path, {entry.path for entry in entries})
    remarks = tuple(
        told(column, map(str, texts), what)
        for what, column, texts in zip(("label", "caption"), (columns.label, columns.caption), words, strict=True)
        if column is not None
    )
    missing = [row for row in range(len(paths)) if row not in set(found)]
    if missing:
        skipped[f"rows of {path.name} without a file"] = len(missing)
        remarks = (
            f"{places[missing[0]]}: there is no file {folder / paths[missing[0]]}{_and_more(len(missing))}",
            *remarks,
        )
    unit_is = f"each value of the column '{unit_column}'" if unit_column in table.columns else "each folder"
    return entries, f"each row of {path.name}" if unit_column is None else unit_is, skipped, remarks


def _units_of(
    table: Table, paths: Sequence[PurePosixPath], places: Sequence[str], unit_column: str | None, rows: Sequence[int]
) -> list[str]:
    if unit_column is None:
        return [str(paths[row].with_suffix("")) for row in rows]
    if unit_column not in table.columns:  # BY_FOLDER
        at_top = [row for row in rows if len(paths[row].parts) == 1]
        if at_top:
            raise DataError(f"{places[at_top[0]]} is in no sub-folder, so that its unit is not known")
        return [paths[row].parts[0] for row in rows]
    return ids_of_column(
        (table.rows[row].get(unit_column) for row in rows), unit_column, lambda number: places[rows[number]]
    )


def _texts(table: Table, column: str | None, places: Sequence[str], rows: Sequence[int]) -> Sequence[str | None]:
    """The texts of a column in some rows, each there; None in each if there is no column."""
    if column is None:
        return [None] * len(rows)
    return ids_of_column((table.rows[row].get(column) for row in rows), column, lambda number: places[rows[number]])


def _inside(folder: Path, file: str, place: str) -> PurePosixPath:
    path = PurePosixPath(file)
    if "\\" in file and not (folder / path).exists():
        path = PurePosixPath(file.replace("\\", "/"))  # a table made on Windows
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise DataError(f"{place}: file_name must be a path inside the folder of the pictures, without '..'")
    return path


def _is_there(path: Path) -> bool:
    return path.is_file() or path.is_symlink()  # a link to nowhere is a picture that cannot be read


def _refuse_listed_twice(paths: Sequence[PurePosixPath], places: Sequence[str]) -> None:
    first: dict[PurePosixPath, str] = {}
    for path, place in zip(paths, places, strict=True):
        if path in first:  # a picture of two units would stay when one of them goes
            raise DataError(f"{path} is listed twice: {first[path]} and {place}; remove one of the rows")
        first[path] = place


def _left_over(folder: Path, table: Path, listed: set[Path | None]) -> Counter[str]:
    """What is below the folder and in no row of the table."""
    rest = scan(folder)
    rest.others = [path for path in rest.others if path not in listed and path != table]
    unlisted = sum(path not in listed for path in rest.pictures)
    return rest.skipped + Counter({f"not in {table.name}": unlisted})


def _and_more(count: int) -> str:
    return f", nor {count - 1} more files that are named" if count > 1 else ""


def _entry(unit: str, path: Path, label: str | None = None, caption: str | None = None) -> Entry:
    return Entry(unit, str(path), partial(decode, path, str(path)), path, label, caption)


def _raise(error: OSError) -> None:
    raise error
