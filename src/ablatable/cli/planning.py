"""The command that says beforehand what a code gives, what it costs, and what the data hold: plan."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SettingsError
from .common import Components, Json, Removals, Weight, app, example
from .data_options import Loading
from .groupings import spread_of, tell_groupings
from .groups import grouped
from .output import next_step, print_json, print_rows, quoted, say

if TYPE_CHECKING:
    from ..codes.groupings import Spread
    from ..codes.plan_table import Plan
    from ..data.likeness import NearPair
    from ..data.units import Units
    from ..diffusion.advice import Needs


Images = Annotated[
    int | None, typer.Option(min=1, help="How many images the units have in all; advises on training too.")
]


@app.command(
    epilog=example(
        "ablatable plan --units 48",
        "ablatable plan --units 256 --removals 10",
        "ablatable plan paintings/ --unit-column artist --size 32",
        "ablatable plan openmoji:32 --unit-column artist --compare subgroup",
    )
)
@grouped
def plan(
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="Training data, as for train; or say how many --units.")
    ] = None,
    units: Annotated[int | None, typer.Option(help="How many units there are, without DATA.")] = None,
    components: Components = None,
    weight: Weight = None,
    removals: Removals = None,
    seed: Annotated[int, typer.Option(help="The code's seed.", rich_help_panel="Code")] = 0,
    images: Images = None,
    size: Annotated[
        str | None,
        typer.Option(help="The images' size: 28, or 28x32.", show_default="as DATA, else 32", rich_help_panel="Data"),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(help="1 for grey, 3 for colour.", show_default="as DATA, else 3", rich_help_panel="Data"),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="Compare with units by this column; repeat for more.", rich_help_panel="Data"
        ),
    ] = None,
    loading: Loading = Loading(),
    as_json: Json = False,
) -> None:
    """Show what a code gives and costs before anything is trained, and which images look the same."""
    from ..codes.planning import plan as make_plan

    if (data is None) == (units is None):
        raise SettingsError("give either DATA, or how many units there are with --units")
    loaded = None
    if data is not None:
        lenient = _lenient(loading)
        if compare:
            columns = {str(column): replace(lenient, unit_column=column) for column in (loading.unit_column, *compare)}
            by = {name: one.units(data, size, channels, quiet=as_json) for name, one in columns.items()}
            tell_groupings(by, data, components, weight, removals, seed, as_json=as_json)
            return
        loaded = lenient.units(data, size, channels, quiet=as_json)
        units, images = len(loaded), len(loaded.images)
    made = make_plan(units or 0, components, weight, seed=seed, bear=removals)
    each = None if images is None else max(1, round(images * made.weight / made.components))
    spread = None if loaded is None else spread_of(loaded, components, weight, removals, seed)
    each = each if spread is None else spread.split_most
    training = _needs(loaded, each, size, channels)
    pairs = None if loaded is None else _near_duplicates(loaded)
    if as_json:
        told = {"training": training.as_dict()} if training else {}
        print_json({**made.as_dict(), **told, **(_found(loaded, spread, pairs) if loaded is not None else {})})
        return
    if loaded is not None:
        _tell(loaded, pairs)
    _tell_plan(made, spread, training)
    code = f"--components {made.components} --weight {made.weight}" if removals is None else f"--removals {removals}"
    what = ["DATA"] if data is None else [quoted(data), *_given(loading, size, channels)]
    next_step(" ".join(["ablatable train", *what, code, "--out RUN"]))


def _needs(loaded: Units | None, images: int | None, size: str | None, channels: int | None) -> Needs | None:
    """What training on so many images takes; None if nobody said how many there are."""
    from ..data.images import parse_size
    from ..diffusion.advice import needs

    height, width = parse_size(size) or (32, 32)
    shape = (3 if channels is None else channels, height, width) if loaded is None else loaded.shape
    return None if images is None else needs(shape, images)


def _lenient(loading: Loading) -> Loading:
    """What train would refuse is said, so that a plan tells all there is to decide."""
    decided = loading.merge_duplicates or loading.drop_duplicates
    return loading if decided else replace(loading, keep_duplicates=True)


def _found(loaded: Units, spread: Spread | None, pairs: list[NearPair] | None) -> dict[str, Any]:
    """What a plan says of the data, for programs."""
    return {
        "images": asdict(spread) if spread else None,
        "loaded": loaded.report and loaded.report.as_dict(),
        "near_duplicates": _rows(loaded, pairs),
    }


def _tell_plan(made: Plan, spread: Spread | None, training: Needs | None) -> None:
    rows, advice = (spread.rows(), spread.sentences()) if spread else ([], [])
    title = f"{made.units} units, {made.components} components, weight {made.weight}"
    print_rows([], [*made.rows(), *rows], title=title)
    print_rows(["removed", "survivors, mean", "worst", "none left"], made.survivor_rows(), title="After removals")
    for sentence in [*made.recommendation, *advice, *(training.sentences() if training else [])]:
        say(f"- {getattr(sentence, 'shell', sentence)}")


def _given(loading: Loading, size: str | None, channels: int | None) -> list[str]:
    """The options on data, to be given to another command."""
    values = {"--unit-column": loading.unit_column, "--table": loading.table, "--size": size, "--channels": channels}
    values["--background"] = loading.background
    flags = {
        "--skip-broken": loading.skip_broken,
        "--merge-duplicates": loading.merge_duplicates,
        "--drop-duplicates": loading.drop_duplicates,
        "--keep-duplicates": loading.keep_duplicates,
        "--no-cache": loading.no_cache,
    }
    given = [f"{name} {quoted(value)}" for name, value in values.items() if value is not None]
    return given + [name for name, asked in flags.items() if asked]


def _near_duplicates(units: Units) -> list[NearPair] | None:
    """Pairs of images of different units that look the same; None if there are too many images to look."""
    from ..data.likeness import MOST, near_duplicates

    return near_duplicates(units.images, units.owner) if len(units.images) <= MOST else None


def _names(units: Units) -> list[str]:
    """Each image's file, or its unit where it has none."""
    if units.report is not None and len(units.report.names) == len(units.images):
        return list(units.report.names)
    return [units.ids[owner] for owner in units.owner]


def _rows(units: Units, pairs: list[NearPair] | None) -> list[dict] | None:
    names = _names(units)
    if pairs is None:
        return None
    return [
        {
            "images": [names[pair.first], names[pair.second]],
            "units": [units.ids[units.owner[pair.first]], units.ids[units.owner[pair.second]]],
            "likeness": pair.likeness,
        }
        for pair in pairs
    ]


def _tell(units: Units, pairs: list[NearPair] | None) -> None:
    """Which images are in two units, and which look the same."""
    from ..data.likeness import MOST, told

    if units.report is not None and units.report.shared and units.report.duplicates == "keep":
        say("train wants to be told what to do with them: --merge-duplicates, --drop-duplicates or --keep-duplicates")
    if pairs is None:
        say(f"Near-duplicates were not looked for: there are more than {MOST:,} images.")
    else:
        for line in told(pairs, _names(units), [units.ids[owner] for owner in units.owner]):
            say(line)
