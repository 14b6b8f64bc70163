"""Numbers in sentences."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A count with its noun: `1 unit`, `2,000 units`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
