"""What `plan` prints of how images are spread over units, and of several groupings of one data set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .output import next_step, print_json, print_rows, quoted, say

if TYPE_CHECKING:
    from ..codes.groupings import Grouping, Spread
    from ..data.units import Units


def spread_of(units: Units, components: int | None, weight: int | None, removals: int | None, seed: int) -> Spread:
    """How the images of units are spread under the code that `plan` describes."""
    from ..codes.groupings import compare_groupings

    return compare_groupings({"": units}, components, weight, seed=seed, removals=removals)[0].spread


def tell_groupings(
    by: dict[str, Units],
    data: str,
    components: int | None,
    weight: int | None,
    removals: int | None,
    seed: int,
    *,
    as_json: bool,
) -> None:
    """Several groupings of one data set, side by side."""
    from ..codes.groupings import compare_groupings

    found = compare_groupings(by, components, weight, seed=seed, removals=removals)
    if as_json:
        print_json([grouping.as_dict() for grouping in found])
        return
    labels = ["units", "components", "codewords to spare", "can be removed"]
    labels += [label for label, _ in found[0].spread.rows()]
    columns = [_cells(grouping) for grouping in found]
    print_rows(
        ["", *(_name(grouping.name) for grouping in found)],
        list(zip(labels, *columns, strict=True)),
        title=f"{found[0].images} images, {len(found)} groupings",
    )
    say("can be removed: so many units together, whichever they are; --removals plans for more")
    next_step(f"ablatable plan {quoted(data)} --unit-column {quoted(found[-1].name)}")


def _name(column: str) -> str:
    return "as they are" if column == "None" else column


def _cells(grouping: Grouping) -> list[str]:
    code = f"{grouping.components} of weight {grouping.weight}"
    cells = [str(grouping.units), code, f"{grouping.spares:,}", str(grouping.budget)]
    return [*cells, *(value for _, value in grouping.spread.rows())]
