"""Commands that score attribution methods: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .._runtime.execution import Execution
from .common import Json, Overwrite, UniverseUrl, Workers, app, print_json, print_rows, say


@app.command()
def evaluate(
    universe_url: UniverseUrl,
    out: Annotated[Path, typer.Option(help="folder for the results; a stopped evaluation goes on")],
    attributor: Annotated[
        list[str] | None,
        typer.Option(
            help="a method: random, euclidean, euclidean-flips, features:NAME, tracin, grad-cos, trak, d-trak; "
            "may be given several times"
        ),
    ] = None,
    scores: Annotated[
        list[Path] | None,
        typer.Option(help="scores of another method, .parquet, .csv, .npy or .safetensors; may be given several times"),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="the run behind the universe, for what looks into components")
    ] = None,
    rule: Annotated[str, typer.Option(help="scores of a unit from those of its images: max, sum or mean")] = "max",
    workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compare attribution methods with what removal shows: a table, a figure, every method's scores."""
    from ..attribution.evaluation import evaluate as evaluate_methods
    from ..attribution.scoreboard import METRICS, terminal_rows
    from ..universes.universe import Universe

    names = [*(attributor or []), *map(str, scores or [])] or ["random", "euclidean", "euclidean-flips"]
    found = evaluate_methods(
        Universe.open(universe_url),
        names,
        out=out,
        run=run,
        rule=rule,
        execution=Execution(workers),
        overwrite=overwrite,
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
            say(f"{method}: names the same unit again in {p} of {count} without it, in {q} without another")
    say(f"\n{out}: results.csv, results.json, results.tex, results.png, scores/")
