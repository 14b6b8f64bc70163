"""Numbers in sentences and in options."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, noun: str) -> str:
    """A count with its noun: `1 unit`, `2,000 units`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def stretches(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The first and the last number of each stretch of numbers that follow one another."""
    parts: list[tuple[int, int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1] = parts[-1][0], number
        else:
            parts.append((number, number))
    return parts


def as_option(numbers: Sequence[int]) -> str:
    """Numbers as options take them: `0-9,12`."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in stretches(numbers))
