"""How a run's pictures were loaded, from its log: so that others are brought to the same pixels."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..data.images import Colour, parse_background
from ..data.loading import LoadOptions

EVENT = "loaded"


def recorded(run: Path) -> dict[str, Any] | None:
    """What `LoadReport.as_dict` said when the run was trained; None if no source of units was recorded."""
    found = None
    with suppress(OSError):
        for line in (run / "log.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, AttributeError):  # a line that was cut short
                entry = json.loads(line)
                if entry.get("event") == EVENT:
                    found = entry
    return found


def background_of(run: Path) -> Colour:
    """What the run's transparent pictures were put on; white if it does not say."""
    return parse_background((recorded(run) or {}).get("background", "white"))


def options_of(run: Path) -> LoadOptions:
    """The options to load the same units again with, but for their size and channels.

    A run that does not say was loaded before equal pictures were looked for, so they are kept.
    """
    said = recorded(run) or {}
    return {
        "background": background_of(run),
        "skip_broken": bool(said.get("skip_broken", False)),
        "duplicates": said.get("duplicates", "keep"),
    }
