"""CTF, the authors' interchange format: a universe's pictures as PNG files in one uncompressed tar.

Members: `config.json`; `factual.png`; `leave_<u>_out.png`, u counted from 1, for every unit; and the training images,
`training_set.png` (format ONEFILE, one image a unit) or `train_<i>_<id>_<count>.png` for every unit. A PNG tiles its
pictures row by row; we write one column, as the authors' scripts do, and read any number of columns. Grey is mode L.

An archive comes from anywhere. Nothing in it is extracted to disk, no name in it is used as a path, and nothing is
decoded before its place in the file, its size and its dimensions are known to be what `config.json` says.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal, NoReturn
from urllib.parse import quote

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .._runtime.files import writing
from .._runtime.outputs import check_file, output_folder
from .._runtime.progress import Display
from .._runtime.workers import chunks
from ..data.units import Units
from ..errors import AblatableError, DataError
from .store import UNIVERSE
from .universe import Block, Universe, UniverseSettings

BUFFER = 2**26  # bytes of pictures held at once
MOST_PIXELS = 2**26  # in one PNG: 67 million
MOST_GIB = 16.0  # pictures of a whole archive, decoded
MOST_UNITS = 100_000
MOST_HEADER = 2**20  # bytes that a tar header may bring along
MOST_NAME = 200  # characters of a member's name


class Config(BaseModel):
    """`config.json`. Keys that nobody knows are ignored, as other programs may write more."""

    model_config = ConfigDict(frozen=True)

    Format: str = Field(max_length=100)
    TrainingUnits: int = Field(ge=1, le=MOST_UNITS, strict=True)
    NumberGenerated: int = Field(ge=1, le=1_000_000, strict=True)
    TrainHeight: int = Field(ge=1, le=65_536, strict=True)
    TrainWidth: int = Field(ge=1, le=65_536, strict=True)
    TrainChannel: Literal[1, 3]
    GenHeight: int = Field(ge=1, le=65_536, strict=True)
    GenWidth: int = Field(ge=1, le=65_536, strict=True)
    GenChannel: Literal[1, 3]
    UnitIds: tuple[str, ...] | None = None  # ours: ids do not fit into the rest of a ONEFILE archive
    Seeds: tuple[int, ...] | None = None  # ours

    @model_validator(mode="after")
    def _check(self) -> Config:
        for name, values, count in (
            ("UnitIds", self.UnitIds, self.TrainingUnits),
            ("Seeds", self.Seeds, self.NumberGenerated),
        ):
            if values is not None and not len(values) == len(set(values)) == count:
                raise ValueError(f"{name} must be {count} different values")
        return self

    @property
    def one_file(self) -> bool:
        """Whether all training images are in one PNG, one a unit."""
        return self.Format == "ONEFILE"

    @property
    def picture(self) -> tuple[int, int, int]:
        """A generated picture's (H, W, C)."""
        return self.GenHeight, self.GenWidth, self.GenChannel

    @property
    def training(self) -> tuple[int, int, int]:
        """A training image's (H, W, C)."""
        return self.TrainHeight, self.TrainWidth, self.TrainChannel


# --- writing ----------------------------------------------------------------------------------------------------


def export_ctf(universe: Universe, path: str | Path, *, overwrite: bool = False, quiet: bool = False) -> Path:
    """Write a universe as a CTF archive; what CTF has no place for (codewords, spares, distances) is left out.

    The pictures are the same 8 bits; memory stays bounded; the file appears when it is complete, and the same universe
    gives the same bytes.

    Raises:
        SettingsError: `path` exists and `overwrite` is not given, or it is no archive; or it cannot be written.
        StoreError: it cannot be written.
    """
    path = Path(path)
    check_file(path, "a CTF archive", _is_archive, overwrite=overwrite)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with writing(path):
            with aside.open("wb") as file:
                with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                    for name, content in _members(universe, quiet):
                        member = tarfile.TarInfo(name)
                        member.size, member.mode = len(content), 0o644
                        archive.addfile(member, io.BytesIO(content))
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def _is_archive(path: Path) -> bool:
    with tarfile.open(path, "r:") as archive:
        first = archive.next()
        file = (
            archive.extractfile(first) if first and first.name == "config.json" and first.size < MOST_HEADER else None
        )
        return file is not None and "Format" in json.loads(file.read())


def _members(universe: Universe, quiet: bool) -> Iterator[tuple[str, bytes]]:
    settings, training = universe.settings, universe.training
    channels, height, width = settings.shape
    one_file = len(training.images) == len(training)
    config = Config(
        Format="ONEFILE" if one_file else "MULTIFILE",
        TrainingUnits=len(training),
        NumberGenerated=len(universe.seeds),
        TrainHeight=height,
        TrainWidth=width,
        TrainChannel=channels,  # pyright: ignore[reportArgumentType]
        GenHeight=height,
        GenWidth=width,
        GenChannel=channels,  # pyright: ignore[reportArgumentType]
        UnitIds=training.ids,
        Seeds=universe.seeds,
    )
    yield "config.json", json.dumps(config.model_dump(mode="json"), indent=1).encode()
    yield "factual.png", _png(universe.factual)
    if one_file:
        yield "training_set.png", _png(training.images)
    else:
        for number, unit in enumerate(training.ids, start=1):
            images = training.of(unit)
            yield f"train_{number}_{_short(unit)}_{len(images)}.png", _png(images)
    each = len(universe.seeds) * int(np.prod(settings.shape))
    with Display(f"exporting {len(training)} units", len(training), quiet=quiet) as display:
        for first, last in chunks(len(training), max(1, BUFFER // each)):
            rows = np.array(settings.ablation[first:last])
            distinct, place = np.unique(rows, return_inverse=True)
            pictures = universe.ablations(distinct)  # (rows, samples, H, W, C)
            for number, row in enumerate(place, start=first + 1):
                yield f"leave_{number}_out.png", _png(pictures[row])
                display.finish(number, 1)


def _short(unit: str) -> str:
    """As much of a unit's id as a file name can hold; the whole is in `UnitIds`."""
    return quote(unit, safe="")[:40]


def _png(pictures: np.ndarray) -> bytes:
    """Pictures, uint8 (n, H, W, C), below one another."""
    from PIL import Image

    column = np.ascontiguousarray(pictures).reshape(-1, *pictures.shape[2:])
    if column.shape[0] * column.shape[1] > MOST_PIXELS:
        raise DataError(
            f"{len(pictures)} pictures of {pictures.shape[1]} x {pictures.shape[2]} are more than the "
            f"{MOST_PIXELS} pixels that a PNG of an archive may have; make a universe of fewer seeds"
        )
    buffer = io.BytesIO()
    Image.fromarray(column[..., 0] if column.shape[2] == 1 else column).save(buffer, "PNG")
    return buffer.getvalue()


# --- reading ----------------------------------------------------------------------------------------------------


def import_ctf(
    path: str | Path,
    out: str | Path,
    *,
    most_gib: float = MOST_GIB,
    overwrite: bool = False,
    quiet: bool = False,
) -> Universe:
    """Read a CTF archive into a universe; nothing of it is extracted to disk, and memory stays bounded.

    The universe has no run, no codewords and no spares. Ids are those that we wrote, else `unit-0001` and so on;
    seeds likewise, else 0, 1, .. in order. An import that was interrupted goes on.

    Args:
        path: the archive, an uncompressed tar with its members in any order.
        most_gib: refuse an archive whose pictures take more than this, decoded.

    Raises:
        DataError: it is not a CTF archive, or one that must not be read; the message says why.
        SettingsError: `out` holds something else.
    """
    path = Path(path)
    with _opened(path) as archive:
        settings = archive.settings(most_gib)
        with output_folder(out, UNIVERSE):
            universe = Universe.begin(out, settings, lambda: archive.training, overwrite=overwrite)
            todo = [block for block in universe.blocks() if not universe.has(block)]
            total, done = len(settings.words), len(settings.words) - len(_rows_of(todo))
            with Display(f"importing {total} units", total, done=done, quiet=quiet) as display:
                for block in (block for block in todo if block.ablations is None):
                    first, last = block.samples
                    universe.write(block, _channels_first(archive.generated("factual.png")[None, first:last]))
                for rows in _rows_of(todo, spans=True):
                    pictures = np.stack([archive.generated(f"leave_{u + 1}_out.png") for u in range(*rows)])
                    for block in (block for block in todo if block.ablations == rows):
                        universe.write(block, _channels_first(pictures[:, slice(*block.samples)]))
                    display.finish(rows[0], rows[1] - rows[0])
    return Universe.open(out)


def _rows_of(blocks: list[Block], spans: bool = False) -> list[Any]:
    """The ablations that some blocks hold: one by one, or as they are cut."""
    cut = sorted({block.ablations for block in blocks if block.ablations is not None})
    return cut if spans else [row for first, last in cut for row in range(first, last)]


def _channels_first(pictures: np.ndarray) -> np.ndarray:
    return np.moveaxis(pictures, -1, -3)


@dataclass(frozen=True)
class _Member:
    """Where a member's bytes are."""

    start: int
    size: int


def _opened(path: Path) -> _Archive:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise DataError(f"there is no {path}; give a CTF archive") from None
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}); give a CTF archive") from error
    try:
        return _Archive(path, file)
    except BaseException:
        file.close()
        raise


class _Archive:
    """An archive's members, looked up by their headers, and what they must be."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.file = path, file
        self.members = self._index()
        self.config = self._config()
        self.training_files = self._training_files()
        generated = ["factual.png", *(f"leave_{u}_out.png" for u in range(1, self.config.TrainingUnits + 1))]
        missing = [name for name in generated if name not in self.members]
        if missing:
            self._refuse(f"{_listed(missing)} missing, of {self.config.TrainingUnits} units that config.json tells of")

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def _refuse(self, reason: str) -> NoReturn:
        raise DataError(f"{self.path} is refused: {reason}")

    # --- the tar ---

    def _index(self) -> dict[str, _Member]:
        """Every member by name, from the headers alone. Tars are read in one pass, so any order will do."""
        length, members = os.fstat(self.file.fileno()).st_size, {}
        try:
            with tarfile.open(fileobj=_Bounded(self.file), mode="r:") as archive:  # uncompressed only
                while (member := archive.next()) is not None:
                    vars(archive)["members"] = []  # or it would remember them all
                    self._check_member(member, length)
                    name = member.name.removeprefix("./")
                    if member.isdir():
                        continue  # `tar -C folder .` begins with one
                    if name in members:
                        self._refuse(f"it has two members '{name}'")
                    members[name] = _Member(member.offset_data, member.size)
                    if len(members) > 2 * MOST_UNITS + 3:
                        self._refuse(f"it has more than {len(members) - 1} members")
        except tarfile.ReadError as error:
            self._refuse(f"it is not an uncompressed tar, or a damaged one ({error})")
        except (tarfile.TarError, EOFError, ValueError, OverflowError, OSError) as error:
            self._refuse(f"its tar headers cannot be read ({error})")
        return members

    def _check_member(self, member: tarfile.TarInfo, length: int) -> None:
        name = member.name
        shown = repr(name[:60])
        if len(name) > MOST_NAME:
            self._refuse(f"the name {shown}... has {len(name)} characters")
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
            self._refuse(f"the member {shown} has a path that leads out of the archive")
        if member.issym() or member.islnk():
            self._refuse(f"the member {shown} is a link")
        if member.isdir() and name.strip("./") == "":
            return
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse is not None:
            self._refuse(f"the member {shown} is not a plain file")
        if "/" in name.removeprefix("./"):
            self._refuse(f"the member {shown} is in a folder; all of an archive's files are at its top")
        if member.size < 0 or member.offset_data + member.size > length:
            self._refuse(f"the member {shown} claims {member.size} bytes, more than the file has: it is cut off")

    def _read(self, name: str, most: int) -> bytes:
        member = self.members[name]
        if member.size > most:
            self._refuse(f"{name} has {member.size} bytes, more than its {most} that it could need")
        self.file.seek(member.start)
        content = self.file.read(member.size)
        if len(content) != member.size:
            self._refuse(f"{name} is cut off")
        return content

    # --- what is in it ---

    def _config(self) -> Config:
        if "config.json" not in self.members:
            self._refuse("it has no config.json, so it is not a CTF archive")
        try:
            return Config.model_validate(json.loads(self._read("config.json", 2**26)))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "it"
            self._refuse(f"config.json: {where}: {first['msg']}")
        except (ValueError, RecursionError) as error:
            self._refuse(f"config.json is not JSON ({str(error)[:100]})")

    def _training_files(self) -> list[tuple[str, int]]:
        """Name and number of images of every unit's training file, in the units' order (ONEFILE: of the one)."""
        config = self.config
        if config.one_file:
            if "training_set.png" not in self.members:
                self._refuse("training_set.png is missing, which its format ONEFILE needs")
            return [("training_set.png", config.TrainingUnits)]
        found: dict[int, tuple[str, int]] = {}
        for name in self.members:
            if match := re.fullmatch(r"train_(\d{1,9})_(?:.*_)?(\d{1,9})\.png", name, re.ASCII):
                number, count = int(match[1]), int(match[2])
                if number in found:
                    self._refuse(f"{found[number][0]} and {name} are both of unit {number}")
                if count < 1:
                    self._refuse(f"{name} tells of {count} images; a unit has at least one")
                found[number] = (name, count)
        first = 0 if 0 in found else 1  # counted from 1, as leave_<u>_out.png; from 0 is understood too
        expected = range(first, first + config.TrainingUnits)
        if set(found) != set(expected):
            strange = sorted(set(found) ^ set(expected))
            self._refuse(
                f"it has training files (train_<i>_.._<count>.png) of {len(found)} units, and config.json tells of "
                f"{config.TrainingUnits}; the first that does not fit is {strange[0]}"
            )
        return [found[number] for number in expected]

    def settings(self, most_gib: float) -> UniverseSettings:
        """The universe that it will be."""
        config, images = self.config, sum(count for _, count in self.training_files)
        if config.training != config.picture:
            self._refuse(
                f"its training images are {_size(config.training)} and its generated ones {_size(config.picture)} "
                "(height x width x channels); a universe compares them, so they must be alike"
            )
        each = int(np.prod(config.picture))
        gib = each * (config.NumberGenerated * (config.TrainingUnits + 1) + images) / 2**30
        if gib > most_gib:
            self._refuse(f"its pictures take {gib:.1f} GiB, more than {most_gib:g}; allow more with --most-gib")
        for what, count in [("generated", config.NumberGenerated), *self.training_files]:
            if count * config.GenHeight * config.GenWidth > MOST_PIXELS:
                self._refuse(f"{count} pictures in one PNG ({what}) are more than {MOST_PIXELS} pixels")
        samples = min(config.NumberGenerated, max(1, BUFFER // 4 // each))
        ablations = min(config.TrainingUnits, max(1, BUFFER // (each * config.NumberGenerated)), 128)
        training = self.training
        return UniverseSettings(
            run_sha256=None,
            shape=(config.GenChannel, config.GenHeight, config.GenWidth),
            components=0,
            sampler="unknown",
            steps=0,
            batch=0,
            block=(ablations, samples),
            seeds=config.Seeds or tuple(range(config.NumberGenerated)),
            units=training.ids,
            digests=training.digests,
            words=("",) * config.TrainingUnits,
            ablation=tuple(range(config.TrainingUnits)),
        )

    @cached_property
    def training(self) -> Units:
        """The training images."""
        ids = self.config.UnitIds or [f"unit-{u:04d}" for u in range(1, self.config.TrainingUnits + 1)]
        images = np.concatenate(
            [self._pictures(name, count, self.config.training) for name, count in self.training_files]
        )
        counts = [1] * len(ids) if self.config.one_file else [count for _, count in self.training_files]
        try:
            return Units(tuple(ids), images, np.repeat(np.arange(len(ids)), counts))
        except AblatableError as error:
            self._refuse(str(error))

    def generated(self, name: str) -> np.ndarray:
        """A file of generated pictures, uint8 (NumberGenerated, H, W, C)."""
        return self._pictures(name, self.config.NumberGenerated, self.config.picture)

    def _pictures(self, name: str, count: int, shape: tuple[int, int, int]) -> np.ndarray:
        """The first `count` tiles of a PNG, uint8 (count, H, W, C). Its dimensions are checked before it is decoded."""
        from PIL import Image

        height, width, channels = shape
        # a PNG cannot need more than its pixels and a little: more is something else than pixels
        content = self._read(name, count * (height + 1) * (width + 1) * channels * 2 + 2**16)
        try:
            with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
                self._check_png(name, image.size, count, shape)
                if image.mode != ("L" if channels == 1 else "RGB"):
                    self._refuse(
                        f"{name} has mode {image.mode}; config.json tells of {channels} "
                        f"channel{'s' if channels > 1 else ''}, which is mode {'L' if channels == 1 else 'RGB'}"
                    )
                pixels = np.asarray(image)
        except DataError:
            raise
        except Exception as error:  # on damaged files Pillow raises nearly anything
            self._refuse(f"{name} is not a PNG that can be read ({' '.join(str(error).split())[:100]})")
        rows, columns = pixels.shape[0] // height, pixels.shape[1] // width
        tiles = pixels.reshape(rows, height, columns, width, channels).swapaxes(1, 2)
        return tiles.reshape(-1, height, width, channels)[:count]

    def _check_png(self, name: str, size: tuple[int, int], count: int, shape: tuple[int, int, int]) -> None:
        (width, height), (h, w, _) = size, shape
        columns, rows = width // w, height // h
        # a last row that is not full may be filled up; anything more has no business to be there
        if width % w or height % h or not count <= rows * columns < count + max(1, columns):
            self._refuse(
                f"{name} is {height} x {width}, which is not {count} tiles of {h} x {w} (height x width) row by row"
            )


class _Bounded(io.RawIOBase):
    """A file whose single reads are small: `tarfile` would read whatever length an extended header claims."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= MOST_HEADER:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return self.file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _size(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))


def _listed(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} is"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} are"
