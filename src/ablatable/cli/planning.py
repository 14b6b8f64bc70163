"""The command that says beforehand what a code gives and costs: plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SettingsError
from .common import Components, Json, Removals, Weight, app, example
from .output import next_step, print_json, print_rows, quoted, say

if TYPE_CHECKING:
    from ..codes.groupings import Grouping
    from ..data.units import Units

_DATA = "Data"
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--unit-column",
        help="Column whose values are the units; repeat it to compare several groupings.",
        rich_help_panel=_DATA,
    ),
]


@app.command(
    epilog=example(
        "ablatable plan --units 48",
        "ablatable plan --units 256 --removals 10",
        "ablatable plan openmoji:32 --size 16",
        "ablatable plan openmoji:32 --unit-column artist --unit-column subgroup",
    )
)
def plan(
    data: Annotated[
        str | None,
        typer.Argument(metavar="[DATA]", help="The data set to plan for, as 'train' takes it; or give --units."),
    ] = None,
    units: Annotated[int | None, typer.Option(help="How many units there are.")] = None,
    components: Components = None,
    weight: Weight = None,
    removals: Removals = None,
    seed: Annotated[int, typer.Option(help="The code's seed.", rich_help_panel="Code")] = 0,
    images: Annotated[
        int | None, typer.Option(min=1, help="How many images the units have in all; advises on training too.")
    ] = None,
    side: Annotated[
        int | None,
        typer.Option("--size", min=1, help="The images' longer side, in pixels.", show_default="32, or as DATA is"),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, help="1 for grey, 3 for colour.", show_default="3, or as DATA is")
    ] = None,
    unit_column: Columns = None,
    as_json: Json = False,
) -> None:
    """Show what a code gives and costs before anything is trained, and recommend one."""
    if (data is None) == (units is None):
        raise SettingsError("say what to plan for: DATA, or --units and a number")
    if data is not None:
        loaded = _load(data, unit_column, side, channels)
        code = (components, weight, removals, seed)
        if len(loaded) > 1:
            _compare(data, loaded, code, as_json)
            return
        ((name, only),) = loaded.items()
        _plan(len(only), code, len(only.images), only.shape, only, data, name, as_json)
        return
    assert units is not None
    shape = (channels or 3, side or 32, side or 32)
    _plan(units, (components, weight, removals, seed), images, shape, None, "DATA", "", as_json)


_Code = tuple[int | None, int | None, int | None, int]  # components, weight, removals, seed


def _load(data: str, columns: list[str] | None, side: int | None, channels: int | None) -> dict[str, Units]:
    from ..data.units import load_units

    # copies in two units are for 'train' to refuse
    return {
        column or "": load_units(data, unit_column=column, size=side, channels=channels, duplicates="keep")
        for column in dict.fromkeys(columns or [None])
    }


def _plan(
    units: int,
    code: _Code,
    images: int | None,
    shape: tuple[int, int, int],
    loaded: Units | None,
    data: str,
    column: str,
    as_json: bool,
) -> None:
    """One grouping, in full."""
    from ..codes.groupings import compare_groupings
    from ..codes.planning import plan as make_plan
    from ..diffusion.advice import needs

    components, weight, removals, seed = code
    made = make_plan(units, components, weight, seed=seed, bear=removals)
    spread = None
    each = None if images is None else max(1, round(images * made.weight / made.components))
    if loaded is not None:
        spread = compare_groupings({column: loaded}, components, weight, seed=seed, removals=removals)[0].spread
        each = spread.split_most
    training = None if each is None else needs(shape, each)
    if as_json:
        told = {"images": spread.__dict__} if spread else {}
        print_json({**made.as_dict(), **told, **({"training": training.as_dict()} if training else {})})
        return
    rows = [*made.rows(), *(spread.rows() if spread else [])]
    print_rows([], rows, title=f"{made.units} units, {made.components} components, weight {made.weight}")
    print_rows(["removed", "survivors, mean", "worst", "none left"], made.survivor_rows(), title="After removals")
    for sentence in made.recommendation:
        say(f"- {sentence}")
    if spread and spread.uneven:
        say(
            "- Units are so unequal that some components train on half as many images again as others: --even "
            f"gives each {spread.even_least} to {spread.even_most}, and makes tests on codewords approximate."
        )
    for sentence in training.sentences() if training else []:
        say(f"- {sentence.shell}")
    chosen = f"--components {made.components} --weight {made.weight}" if removals is None else f"--removals {removals}"
    by = f" --unit-column {quoted(column)}" if column else ""
    next_step(f"ablatable train {quoted(data)}{by} {chosen} --out RUN")


def _compare(data: str, loaded: dict[str, Units], code: _Code, as_json: bool) -> None:
    """Several groupings of one data set, side by side."""
    from ..codes.groupings import compare_groupings

    components, weight, removals, seed = code
    found = compare_groupings(loaded, components, weight, seed=seed, removals=removals)
    if as_json:
        print_json([grouping.as_dict() for grouping in found])
        return
    labels = ["units", "components", "codewords to spare", "can be removed", *(label for label, _ in _spread(found[0]))]
    columns = [_cells(grouping) for grouping in found]
    print_rows(
        ["", *(grouping.name for grouping in found)],
        list(zip(labels, *columns, strict=True)),
        title=f"{found[0].images} images, {len(found)} groupings",
    )
    say("can be removed: so many units together, whichever they are; --removals plans for more")
    next_step(f"ablatable plan {quoted(data)} --unit-column {quoted(found[0].name)}")


def _spread(grouping: Grouping) -> list[tuple[str, str]]:
    return grouping.spread.rows()


def _cells(grouping: Grouping) -> list[str]:
    code = f"{grouping.components} of weight {grouping.weight}"
    cells = [str(grouping.units), code, f"{grouping.spares:,}", str(grouping.budget)]
    return [*cells, *(value for _, value in _spread(grouping))]
