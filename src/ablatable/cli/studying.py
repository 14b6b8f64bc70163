"""Commands that study the method itself: how the radius falls with the data, and which code to take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Json, Workers, app, print_json, print_table, say

study = typer.Typer(help="Studies over many ensembles; a study that was interrupted goes on.", no_args_is_help=True)
app.add_typer(study, name="study")

ConfigFile = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG.json]", help="the study's settings; small ones if not given")
]
Out = Annotated[Path, typer.Option(help="the study's folder; if it holds this study unfinished, work goes on")]


@study.command("radius-vs-size")
def radius_vs_size(out: Out, config: ConfigFile = None, workers: Workers = None, as_json: Json = False) -> None:
    """The counterfactual radius against the number of units, beside spares and the published curve."""
    from ..studies.cells import read_config
    from ..studies.size import SizeStudy, study_size

    table = study_size(read_config(config, SizeStudy), out, workers=workers)
    if as_json:
        print_json(table.to_dicts())
        return
    shown = ["series", "units", "radius", "spare_radius", "radius_fixed", "spare_radius_fixed", "nearest_likeness"]
    print_table(table.select(shown), title="Geometric means of the counterfactual radius")
    say(f"{out / 'table.csv'}, {out / 'slopes.csv'}, {out / 'figure.png'}")


@study.command("code")
def code(out: Out, config: ConfigFile = None, workers: Workers = None, as_json: Json = False) -> None:
    """Every weight at several numbers of components: power, quality, radius, cost, survivors."""
    from ..studies.cells import read_config
    from ..studies.weight import CodeStudy, study_code

    table = study_code(read_config(config, CodeStudy), out, workers=workers)
    if as_json:
        print_json(table.to_dicts())
        return
    shown = ["components", "weight", "real_distance", "power_plain", "power_likeness", "excess_fixed", "survivors_2"]
    print_table(table.select(shown), title="Codes at equal total training cost")
    say(f"{out / 'table.csv'}, {out / 'figure.png'}")
