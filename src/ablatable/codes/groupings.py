"""What makes a unit? Several groupings of one data set, each with what its code would give, before any training.

The same pictures can be removed one by one, by artist, or by subject. That decides how many units there are, how
unequal they are, and how evenly components share the pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..data.units import Units
from ..errors import Message, option
from .code import Code
from .planning import designed
from .survival import survivors_of


@dataclass(frozen=True)
class Spread:
    """How images are spread over units and components.

    Attributes:
        unit_least, unit_median, unit_most: images of a unit.
        split_least, split_most: images that a component trains on, under the code.
        even_least, even_most: the same under `Code.balanced(..., images=...)` of the same size and weight.
    """

    unit_least: int
    unit_median: float
    unit_most: int
    split_least: int
    split_most: int
    even_least: int
    even_most: int

    def rows(self) -> list[tuple[str, str]]:
        """Labels and values, for a table."""
        return [
            ("images per unit", f"{self.unit_least} to {self.unit_most}, median {self.unit_median:g}"),
            ("images per component", f"{self.split_least} to {self.split_most}"),
            ("the same, evened out", f"{self.even_least} to {self.even_most}"),
        ]

    @property
    def uneven(self) -> bool:
        """Whether a component has half as many images again as another, and evening them out would help."""
        return 2 * self.split_most > 3 * self.split_least and 2 * self.even_most <= 3 * self.even_least

    def sentences(self) -> list[Message]:
        """What to do about it."""
        if not self.uneven:
            return []
        return [
            Message(
                f"Units are so unequal that some components train on half as many images again as others: "
                f"{option('even', True)} gives each {self.even_least} to {self.even_most}, and makes tests on "
                "codewords approximate."
            )
        ]


@dataclass(frozen=True)
class Grouping:
    """One way to make units of a data set.

    Attributes:
        name: what makes a unit, such as `artist`.
        units, images: how many there are.
        components, weight: of the code.
        spares: codewords of this weight that no unit has.
        budget: how many units, whichever they are, can be removed together.
        spread: how images are spread.
    """

    name: str
    units: int
    images: int
    components: int
    weight: int
    spares: int
    budget: int
    spread: Spread

    def as_dict(self) -> dict[str, Any]:
        """The same for programs."""
        return asdict(self)


def image_counts(units: Units) -> np.ndarray:
    """How many images each unit has, int64 (units,)."""
    return np.bincount(units.owner, minlength=len(units))


def spread(code: Code, images: np.ndarray, seed: int = 0) -> Spread:
    """How the images of units, int (units,), are spread under a code of one weight."""
    splits = images @ code.matrix
    even = images @ Code.balanced(len(images), code.components, seed, weight=code.weight, images=images).matrix
    least, median, most = int(images.min()), float(np.median(images)), int(images.max())
    return Spread(least, median, most, int(splits.min()), int(splits.max()), int(even.min()), int(even.max()))


def compare_groupings(
    groupings: Mapping[str, Units],
    components: int | None = None,
    weight: int | None = None,
    *,
    seed: int = 0,
    removals: int | None = None,
) -> list[Grouping]:
    """What the codes of several groupings would give.

    Args:
        groupings: a name for each grouping of the data set, with its units.
        components, weight: of all codes; None = what `plan` recommends for each.
        seed: of the codes.
        removals: see `plan`'s `bear`.

    Raises:
        CodeError: there is no such code for one of them.
    """
    found = []
    for name, units in groupings.items():
        images = image_counts(units)
        code = designed(len(units), components, weight, seed=seed, bear=removals)
        found.append(
            Grouping(
                name=name,
                units=len(units),
                images=len(units.images),
                components=code.components,
                weight=int(code.matrix[0].sum()),
                spares=code.spare_capacity,
                budget=survivors_of(code, seed).budget()[0],
                spread=spread(code, images, seed),
            )
        )
    return found
