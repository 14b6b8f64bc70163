"""What is said of each image: its label, the name of a class, and its caption. Both are part of a unit's content."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

from ..errors import DataError

Said = tuple[str | None, str | None]
"""An image's label and caption, None where its source has none."""


class Words(TypedDict, total=False):
    """What is said of some images, as `Units` takes it."""

    labels: tuple[str, ...] | None
    captions: tuple[str, ...] | None


def checked(texts: Iterable[object] | None, images: int, what: str) -> tuple[str, ...] | None:
    """One text per image, numbers as their text; `DataError` for another number of them, or a blank one."""
    if texts is None:
        return None
    values: Any = texts.tolist() if hasattr(texts, "tolist") else list(texts)  # pyright: ignore
    made = tuple("" if value is None else str(value) for value in values)
    if len(made) != images:
        raise DataError(f"{len(made)} {what}s for {images} images; give one per image")
    for row, text in enumerate(made):
        if not text.strip():
            raise DataError(f"image {row} has no {what}; give every image one, or none of them")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise DataError(f"image {row}: the {what} {text!r} cannot be written in UTF-8") from None
    return made


def said(labels: Sequence[str] | None, captions: Sequence[str] | None) -> list[Said] | None:
    """Image by image; None if nothing is said of any."""
    if labels is None and captions is None:
        return None
    images = len(labels if labels is not None else captions or ())
    return list(zip(labels or [None] * images, captions or [None] * images, strict=True))


def columns(said: Sequence[Said] | None) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Labels and captions, None where there are none: what `said` was made of."""
    made = [tuple(words[place] for words in said or ()) for place in (0, 1)]
    labels, captions = (None if not column or None in column else tuple(filter(None, column)) for column in made)
    return labels, captions


def packed(labels: Sequence[str] | None, captions: Sequence[str] | None) -> bytes | None:
    """As bytes: canonical JSON, in the images' order; None if nothing is said."""
    values = {name: list(each) for name, each in (("captions", captions), ("labels", labels)) if each is not None}
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode() if values else None


def unpacked(data: bytes | None) -> Words:
    """`labels` and `captions` from what `packed` made, those that are there."""
    values = json.loads(data) if data else {}
    if not set(values) <= {"labels", "captions"}:
        raise ValueError("it says other things of images than labels and captions")
    return Words(**{name: tuple(each) for name, each in values.items()})


def joined(first: Sequence[str] | None, second: Sequence[str] | None, what: str) -> tuple[str, ...] | None:
    """Two units' texts one after the other; `DataError` if only one of them has any."""
    if (first is None) != (second is None):
        raise DataError(
            f"the {'new' if second is None else 'old'} units have no {what}s and the others have; give all of them "
            f"{what}s, or none"
        )
    return None if first is None else (*first, *(second or ()))


def told(column: str, values: Iterable[str], what: str) -> str:
    """A sentence on what a column gave."""
    return f"{what}s from the column '{column}': {len(set(values)):,} different"
