"""Numbers, ids and settings as a page shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .._runtime.text import stretches

ID_CHARACTERS = 120  # longer ids are cut in the middle


def distance(value: float) -> str:
    """A distance as it is shown, in the paper's unit."""
    return f"{value:.1f}"


def percent(share: float) -> str:
    """A share of 0 to 1 as it is shown."""
    return f"{100 * share:.0f} %"


def probability(value: float) -> str:
    """A p- or q-value as it is shown."""
    return f"{value:.3f}"


def score(value: float) -> str:
    """A test's score as it is shown: with its sign, in standard deviations."""
    return f"{value:+.2f}"


def shorten(text: str, limit: int = ID_CHARACTERS) -> str:
    """A long id, cut in the middle: its ends are what tells it from others."""
    return text if len(text) <= limit else f"{text[: limit - limit // 3 - 1]}…{text[-(limit // 3) :]}"


def ranges(numbers: Sequence[int], limit: int = 24) -> str:
    """Numbers as ranges: `0–9, 12`; after so many of them, how many there are in all."""
    texts = [str(first) if first == last else f"{first}–{last}" for first, last in stretches(numbers)]
    more = f", … ({len(numbers)} in all)" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


def between(values: Iterable[Any]) -> str:
    """One number if all are equal, else the least and the largest."""
    low, high = min(values := [int(value) for value in values]), max(values)
    return str(low) if low == high else f"{low} to {high}"


def plain(value: object) -> str:
    """A setting as a reader would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
