"""What a notebook shows of units: the first image of each of the first units."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from .._runtime.notebook import captioned

if TYPE_CHECKING:
    from .units import Units

SHOWN = 16  # units in a notebook's cell
PER_ROW = 8


def units_html(units: Units) -> str:
    """The units' key figures, and an image of each of the first `SHOWN`."""
    counts = np.bincount(units.owner, minlength=len(units))
    first = np.searchsorted(units.owner, np.arange(len(units)))
    cells = [
        captioned(units.images[first[row]], units.ids[row] + (f" ({counts[row]} images)" if counts[row] > 1 else ""))
        for row in range(min(SHOWN, len(units)))
    ]
    rows = [f"<tr>{''.join(cells[k : k + PER_ROW])}</tr>" for k in range(0, len(cells), PER_ROW)]
    more = "" if len(units) <= SHOWN else f"<p>and {len(units) - SHOWN:,} more units</p>"
    return f"<p><b>{escape(repr(units))}</b></p><table>{''.join(rows)}</table>{more}"
