"""A CTF archive, opened for reading and trusted in nothing.

An archive may come from anywhere. Nothing in it is extracted to disk, and no name in it is used as a path. Before an
image is decoded, its place in the file, its size and its dimensions are compared with `config.json`.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, NoReturn

import numpy as np
from pydantic import ValidationError

from ...data.units import Units
from ...errors import AblatableError, DataError
from .config import MOST_UNITS, Config

MOST_GIB = 16.0  # images of a whole archive, decoded
MOST_HEADER = 2**20  # bytes that a tar header may add
MOST_NAME = 200  # characters of a member's name


@dataclass(frozen=True)
class _Member:
    """Where a member's bytes are."""

    start: int
    size: int


class Archive:
    """An open archive: its members by name, `config.json`, and the images. Use it as a context manager.

    Attributes:
        path: the file.
        config: `config.json`.
        training_files: name and number of images of each unit's training file, in the units' order.
    """

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.file = path, file
        self.members = self._index()
        self.config = self._config()
        self.training_files = self._training_files()
        generated = ["factual.png", *(f"leave_{u}_out.png" for u in range(1, self.config.TrainingUnits + 1))]
        missing = [name for name in generated if name not in self.members]
        if missing:
            self.refuse(f"{_listed(missing)} missing; config.json announces {self.config.TrainingUnits} units")

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def refuse(self, reason: str) -> NoReturn:
        """Raise `DataError` with the reason why the archive is not read."""
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
                        self.refuse(f"it has two members '{name}'")
                    members[name] = _Member(member.offset_data, member.size)
                    if len(members) > 2 * MOST_UNITS + 3:
                        self.refuse(f"it has more than {len(members) - 1} members")
        except tarfile.ReadError as error:
            self.refuse(f"it is not an uncompressed tar, or a damaged one ({error})")
        except (tarfile.TarError, EOFError, ValueError, OverflowError, OSError) as error:
            self.refuse(f"its tar headers cannot be read ({error})")
        return members

    def _check_member(self, member: tarfile.TarInfo, length: int) -> None:
        name = member.name
        shown = repr(name[:60])
        if len(name) > MOST_NAME:
            self.refuse(f"the name {shown}... has {len(name)} characters")
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
            self.refuse(f"the member {shown} has a path that leads out of the archive")
        if member.issym() or member.islnk():
            self.refuse(f"the member {shown} is a link")
        if member.isdir() and name.strip("./") == "":
            return
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse is not None:
            self.refuse(f"the member {shown} is not a plain file")
        if "/" in name.removeprefix("./"):
            self.refuse(f"the member {shown} is in a folder; all of an archive's files are at its top")
        if member.size < 0 or member.offset_data + member.size > length:
            self.refuse(f"the member {shown} claims {member.size} bytes, more than the file has: it is cut off")

    def _read(self, name: str, most: int) -> bytes:
        member = self.members[name]
        if member.size > most:
            self.refuse(f"{name} has {member.size} bytes, more than the {most} that it can need")
        self.file.seek(member.start)
        content = self.file.read(member.size)
        if len(content) != member.size:
            self.refuse(f"{name} is cut off")
        return content

    # --- what is in it ---

    def _config(self) -> Config:
        if "config.json" not in self.members:
            self.refuse("it has no config.json, so it is not a CTF archive")
        try:
            return Config.model_validate(json.loads(self._read("config.json", 2**26)))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "it"
            self.refuse(f"config.json: {where}: {first['msg']}")
        except (ValueError, RecursionError) as error:
            self.refuse(f"config.json is not JSON ({str(error)[:100]})")

    def _training_files(self) -> list[tuple[str, int]]:
        """Name and number of images of every unit's training file, in the units' order (ONEFILE: of the one)."""
        config = self.config
        if config.one_file:
            if "training_set.png" not in self.members:
                self.refuse("training_set.png is missing, which its format ONEFILE needs")
            return [("training_set.png", config.TrainingUnits)]
        found: dict[int, tuple[str, int]] = {}
        for name in self.members:
            if match := re.fullmatch(r"train_(\d{1,9})_(?:.*_)?(\d{1,9})\.png", name, re.ASCII):
                number, count = int(match[1]), int(match[2])
                if number in found:
                    self.refuse(f"{found[number][0]} and {name} both belong to unit {number}")
                if count < 1:
                    self.refuse(f"{name} announces {count} images; a unit has at least one")
                found[number] = (name, count)
        first = 0 if 0 in found else 1  # counted from 1, as leave_<u>_out.png; from 0 is understood too
        expected = range(first, first + config.TrainingUnits)
        if set(found) != set(expected):
            strange = sorted(set(found) ^ set(expected))
            self.refuse(
                f"it has training files (train_<i>_.._<count>.png) of {len(found)} units, and config.json announces "
                f"{config.TrainingUnits}; the first number that does not fit is {strange[0]}"
            )
        return [found[number] for number in expected]

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
            self.refuse(str(error))

    def generated(self, name: str) -> np.ndarray:
        """A file of generated images, uint8 (NumberGenerated, H, W, C)."""
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
                    self.refuse(
                        f"{name} has mode {image.mode}; config.json announces {channels} "
                        f"channel{'s' if channels > 1 else ''}, which is mode {'L' if channels == 1 else 'RGB'}"
                    )
                pixels = np.asarray(image)
        except DataError:
            raise
        except Exception as error:  # on damaged files Pillow raises nearly anything
            self.refuse(f"{name} is not a PNG that can be read ({' '.join(str(error).split())[:100]})")
        rows, columns = pixels.shape[0] // height, pixels.shape[1] // width
        tiles = pixels.reshape(rows, height, columns, width, channels).swapaxes(1, 2)
        return tiles.reshape(-1, height, width, channels)[:count]

    def _check_png(self, name: str, size: tuple[int, int], count: int, shape: tuple[int, int, int]) -> None:
        (width, height), (h, w, _) = size, shape
        columns, rows = width // w, height // h
        # a last row that is not full may be filled up; anything more has no business to be there
        if width % w or height % h or not count <= rows * columns < count + max(1, columns):
            self.refuse(
                f"{name} is {height} x {width}, which is not {count} tiles of {h} x {w} (height x width) row by row"
            )


def open_archive(path: Path) -> Archive:
    """Open an archive and look its members up; `DataError` if it is no CTF archive, or must not be read."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise DataError(f"there is no {path}; give a CTF archive") from None
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error.strerror}); give a CTF archive") from error
    try:
        return Archive(path, file)
    except BaseException:
        file.close()
        raise


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


def size_text(shape: tuple[int, int, int]) -> str:
    """For messages, such as `8 x 8 x 1`."""
    return " x ".join(map(str, shape))


def _listed(names: list[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} is"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} are"
