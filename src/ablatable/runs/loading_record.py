"""How a run's pictures were loaded, from its log: so that others are brought to the same pixels."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from ..data.images import Colour, parse_background
from ..data.loading import LoadOptions
from .records import LOG, UnitsLoaded


def recorded(run: Path) -> UnitsLoaded | None:
    """How the run's units were loaded when it was trained; None if no source of units was recorded."""
    found = None
    with suppress(OSError):
        for line in (run / LOG).read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, AttributeError):  # a line that was cut short
                entry = json.loads(line)
                if entry.get("event") == UnitsLoaded.name:
                    found = UnitsLoaded.model_validate(entry)
    return found


def background_of(run: Path) -> Colour:
    """What the run's transparent pictures were put on; white if it does not say."""
    said = recorded(run)
    return parse_background("white" if said is None else said.background)


def options_of(run: Path) -> LoadOptions:
    """The options to load the same units again with, but for their size and channels.

    A run that does not say was loaded before equal pictures were looked for, so they are kept.
    """
    said = recorded(run)
    return {
        "background": background_of(run),
        "skip_broken": said is not None and said.skip_broken,
        "duplicates": "keep" if said is None else said.duplicates,
    }
