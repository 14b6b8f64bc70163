"""Units whose images stay in a file, mapped into memory: those of a run, and each split on its way to a worker."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from . import words
from .pictures_file import map_pictures, write_pictures
from .unit_order import check_arrays, is_sorted_within_units

if TYPE_CHECKING:
    from .units import Units


class InFile:
    """What `Units` do with files."""

    ids: tuple[str, ...]
    images: np.ndarray
    _bounds: Any
    _rows: Callable[[Sequence[str]], list[int]]
    _packed: Callable[[slice | np.ndarray], bytes | None]

    def write_to(self, file: Path, ids: Iterable[str] | None = None, *, lasting: bool = True) -> Units:
        """Write these units (None = all) into a file, in the order given, and give them back, mapped from it.

        `lasting`: the file is on the disk when this returns, and not only on its way there.
        """
        ids = self.ids if ids is None else tuple(ids)
        bounds = [self._bounds[row] for row in self._rows(ids)]
        owner = np.repeat(np.arange(len(ids)), [stop - start for start, stop in bounds])
        rows = None if ids == self.ids else np.concatenate([np.arange(*span) for span in bounds])
        said = self._packed(slice(None) if rows is None else rows)
        write_pictures(file, self.images, owner, rows, said, lasting=lasting)
        return self.mapped(file, ids)

    @classmethod
    def mapped(cls, file: Path, ids: Iterable[str]) -> Any:
        """Units whose images stay in a file that `write_to` wrote and that nobody changes.

        Pickled, they are the file's path and their ids. `DataError` if the file holds no such units.
        """
        ids = tuple(ids)
        try:
            images, owner, packed = map_pictures(file)
            said = words.unpacked(packed)
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise DataError(f"{file} cannot be read as units' images ({error}); it is missing or damaged") from error
        check_arrays(ids, images, owner)
        labels, captions = said.get("labels"), said.get("captions")
        if any(each is not None and len(each) != len(images) for each in (labels, captions)):
            raise DataError(f"{file} does not say one thing of each image; it is damaged")
        if not is_sorted_within_units(images, owner, words.said(labels, captions)):
            raise DataError(f"{file} does not hold each unit's images in the order of their hashes; it is damaged")
        made: Any = object.__new__(cls)
        made._set(ids=ids, images=images, owner=owner, report=None, labels=labels, captions=captions, _file=file)
        return made
