"""Commands that study the method itself: against retraining, how the radius falls with the data, which code to take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .._runtime.execution import Execution
from .common import Json, RunPath, Seeds, Workers, example, studies
from .groups import Drawing, Working, grouped
from .output import next_step, print_json, print_table, quoted, say

ConfigFile = Annotated[
    Path | None, typer.Argument(metavar="[CONFIG.json]", help="The study's settings.", show_default="small ones")
]
Out = Annotated[Path, typer.Option(help="The study's folder; an unfinished study in it is resumed.")]


@studies.command("radius-vs-size", epilog=example("ablatable study radius-vs-size --out study"))
def radius_vs_size(out: Out, config: ConfigFile = None, workers: Workers = None, as_json: Json = False) -> None:
    """Measure the counterfactual radius against the number of units, beside spares and the published curve."""
    from ..studies.cells import read_config
    from ..studies.size import SizeStudy, study_size

    table = study_size(read_config(config, SizeStudy), out, execution=Execution(workers))
    if as_json:
        print_json(table.to_dicts())
        return
    shown = ["series", "units", "radius", "spare_radius", "radius_fixed", "spare_radius_fixed", "nearest_likeness"]
    print_table(table.select(shown), title="Geometric means of the counterfactual radius")
    say(f"{out / 'table.csv'}, {out / 'slopes.csv'}, {out / 'figure.png'}")
    next_step(f"open {quoted(out / 'figure.png')}")


@studies.command("code", epilog=example("ablatable study code --out study"))
def code(out: Out, config: ConfigFile = None, workers: Workers = None, as_json: Json = False) -> None:
    """Compare codes of several sizes and weights: power, quality, radius, cost, survivors."""
    from ..studies.cells import read_config
    from ..studies.weight import CodeStudy, study_code

    table = study_code(read_config(config, CodeStudy), out, execution=Execution(workers))
    if as_json:
        print_json(table.to_dicts())
        return
    shown = ["components", "weight", "real_distance", "power_plain", "power_likeness", "excess_fixed", "survivors_2"]
    print_table(table.select(shown), title="Codes at equal total training cost")
    say(f"{out / 'table.csv'}, {out / 'figure.png'}")
    next_step(f"open {quoted(out / 'figure.png')}")


@studies.command("unattributable", epilog=example("ablatable study unattributable --out study"))
def unattributable(out: Out, config: ConfigFile = None, workers: Workers = None, as_json: Json = False) -> None:
    """Measure how many black-and-white samples no unit moves, against the number of units."""
    from ..studies.cells import read_config
    from ..studies.unattributable import UnattributableStudy, study_unattributable

    table = study_unattributable(read_config(config, UnattributableStudy), out, execution=Execution(workers))
    if as_json:
        print_json(table.to_dicts())
        return
    shown = ["series", "units", "samples", "unattributable", "share", "low", "high"]
    print_table(table.select(shown), title="Unattributable samples, with 95 % intervals of their share")
    say(f"{out / 'table.csv'}, {out / 'figure.png'}, {out / 'pictures.png'}")
    next_step(f"open {quoted(out / 'figure.png')}")


@studies.command("differential", epilog=example("ablatable study differential --out study"))
def differential(out: Out, config: ConfigFile = None, workers: Workers = None, as_json: Json = False) -> None:
    """Compare first-order counterfactuals with exact ones, by step size and number of units."""
    from ..studies.cells import read_config
    from ..studies.differential import DifferentialStudy, study_differential

    table = study_differential(read_config(config, DifferentialStudy), out, execution=Execution(workers))
    if as_json:
        print_json(table.to_dicts())
        return
    shown = ["series", "units", "error", "rank_correlation", "top_found", "top_tenth", "radius_ratio"]
    print_table(table.select(shown), title="Whole ablations: means over samples")
    say(f"{out / 'table.csv'}, {out / 'steps.csv'}, {out / 'figure.png'}")
    next_step(f"open {quoted(out / 'figure.png')}")


@studies.command("retraining", epilog=example("ablatable study retraining runs/digits --units 8 --out retraining"))
@grouped
def retraining(
    run: RunPath,
    out: Annotated[Path, typer.Option(help="Folder for the retrained models; an interrupted study resumes.")],
    units: Annotated[int, typer.Option(min=2, help="How many random units to leave out, one at a time.")] = 8,
    seeds: Seeds = "0-7",
    drawing: Drawing = Drawing(),
    seed: Annotated[int, typer.Option(help="Seed of the choice of units.")] = 0,
    working: Working = Working(),
    as_json: Json = False,
) -> None:
    """Train from scratch without some units, and compare with what ablating them shows."""
    from ..analysis.retraining import control as run_control
    from ..diffusion.sampling import parse_seeds

    found = run_control(
        run,
        units,
        parse_seeds(seeds),
        out=out,
        sampling=drawing.sampling(),
        seed=seed,
        execution=working.execution(),
    )
    table = found.table()
    if as_json:
        print_json(table.to_dicts())
        return
    print_table(table, title=f"{len(found.units)} units, {len(found.seeds)} samples: largest distances")
    say("ratio: the ablation's radius to that row's; correlation: over units, with the ablation's distances")
    next_step(f"open {quoted(out / 'figure.png')}")
