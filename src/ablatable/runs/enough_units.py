"""Whether there are enough units for a code, said in a way that helps."""

from __future__ import annotations

import math

import numpy as np

from ..codes.code import Code
from ..data.units import Units
from ..errors import SettingsError, option


def refuse_too_few(units: Units, code: Code) -> None:
    """`SettingsError` if a component would train on nothing: how many units there are, and how many it takes."""
    sizes = code.split_sizes()
    if len(units) > 1 and sizes.min() > 0:
        return
    how = f" ({units.report.unit_is})" if units.report is not None else ""
    there = f"there {'are' if len(units) > 1 else 'is'} {len(units)} unit{'s' * (len(units) > 1)}{how}"
    if len(units) == 1:
        raise SettingsError(
            f"{there}; at least 2 are needed, since a unit can only be removed if some component trains on others. "
            "Give more units: one sub-folder per unit, images without sub-folders, or a table with a unit column "
            f"({option('unit_column', 'artist')})"
        )
    empty = int(np.argmin(sizes))
    remedy = f"fewer {option('components')} or a higher {option('weight')}"
    needed = math.ceil(code.components / code.weight) if code.weight else 0
    if len(units) < needed:
        raise SettingsError(
            f"{there}, each seen by {code.weight} of {code.components} components, so that component {empty} would "
            f"train on nothing; at least {needed} units are needed for that. Give more units, {remedy}"
        )
    raise SettingsError(f"{there}, and by this code component {empty} would train on nothing; take {remedy}")
