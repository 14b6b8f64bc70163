"""Open what a caller names: a universe, enumerated or screened, by its place; what is open already is given back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .landscapes import place_of
from .reader import Universe
from .screening.screen import Screen
from .store import state_of

if TYPE_CHECKING:
    from .landscapes import Landscapes


def open_landscapes(universe: str | Path | Landscapes) -> Landscapes:
    """A universe or a screened universe.

    Raises:
        StoreError: there is neither, or it is unfinished or damaged.
    """
    if not isinstance(universe, (str, Path)):
        return universe
    place = place_of(universe)
    there = "://" in str(place) or Path(place).exists()
    return Screen.open(place) if there and state_of(place) == "screen" else Universe.open(place)
