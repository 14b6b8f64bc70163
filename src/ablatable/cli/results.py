"""The commands at the top level that show results: evaluate, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .._runtime.execution import Execution
from . import choices
from .common import Device, Json, Overwrite, Samples, UniverseUrl, Workers, app, example, located_run
from .output import next_step, print_json, print_rows, quoted, say


def _complete_attributor(incomplete: str) -> list[str]:
    return [name for name in choices.Attributors if name.startswith(incomplete)]


@app.command(epilog=example("ablatable evaluate u.zarr --attributor euclidean --attributor random --out scores"))
def evaluate(
    universe_url: UniverseUrl,
    out: Annotated[Path, typer.Option(help="Folder for the results; an interrupted evaluation resumes.")],
    attributor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"A method: {', '.join(choices.Attributors)} or features:NAME; repeat for more.",
            autocompletion=_complete_attributor,
        ),
    ] = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Scores of another method: .parquet, .csv, .npy or .safetensors; repeat for more."
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="The run of the universe, for methods that look into components.", callback=located_run),
    ] = None,
    rule: Annotated[choices.Rule, typer.Option(help="How scores of images become scores of units.")] = "max",
    samples: Samples = None,
    workers: Workers = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compare attribution methods with what removing units shows."""
    from ..attribution.evaluation import evaluate as evaluate_methods
    from ..attribution.scoreboard import METRICS, terminal_rows
    from ..diffusion.sampling import parse_seeds
    from ..universes.reader import Universe

    names = [*(attributor or []), *map(str, scores or [])] or ["random", "euclidean", "euclidean-flips"]
    universe, execution = Universe.open(universe_url), Execution(workers, device)
    numbers = None if samples is None else parse_seeds(samples, "samples")
    found = evaluate_methods(
        universe, names, out=out, run=run, rule=rule, samples=numbers, execution=execution, overwrite=overwrite
    )
    if as_json:
        print_json({"out": str(out), "not_measured": found.why, "results": found.table().to_dicts()})
        return
    print_rows(*terminal_rows(found), title=f"Attribution methods, {found.samples} samples, {found.units} units")
    for metric, (heading, about) in METRICS.items():
        say(f"{heading:>9}  {about}" + (f": not measured, {found.why[metric]}" if metric in found.why else ""))
    for method, answer in found.scored.items():
        if answer.far:
            p, q, count = answer.far.counts
            say(f"{method}: names the same unit again in {p} of {count} without it, in {q:.3g} without another")
    say("Without another: the mean over all other units; for methods that look into components, one at random.")
    say(f"\n{out}: results.csv, results.json, results.tex, results.png, scores/")
    next_step(f"open {quoted(out / 'results.png')}")


@app.command(epilog=example("ablatable report u.zarr --run runs/digits --out report"))
def report(
    universe_url: UniverseUrl,
    out: Annotated[Path, typer.Option(help="Folder for the page and its images.")],
    run: Annotated[
        Path | None,
        typer.Option(help="The run of the universe, to show how its components were trained.", callback=located_run),
    ] = None,
    explorer: Annotated[
        str | None, typer.Option(help="Link to this explorer: the folder that 'ablatable explore' wrote, or a URL.")
    ] = None,
    notebook: Annotated[bool, typer.Option("--notebook", help="Write report.ipynb too, for Jupyter.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a page that shows every sample, the units it depends on, and its whole landscape."""
    from ..report import write_report
    from ..universes.reader import Universe

    page = write_report(
        Universe.open(universe_url), out, run=run, explorer=explorer, notebook=notebook, overwrite=overwrite
    )
    if as_json:
        print_json({"report": str(page)})
        return
    say(f"{out}: the report and its images" + (", and report.ipynb" if notebook else ""))
    next_step(f"open {quoted(page)} in a browser")
