"""Commands that read what was made: radius, influence, report, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import SettingsError
from .common import Json, Overwrite, UniverseUrl, app, print_json, print_table, say


@app.command()
def radius(
    universe_url: UniverseUrl,
    native: Annotated[bool, typer.Option(help="native distances")] = False,
    as_json: Json = False,
) -> None:
    """Print the counterfactual radius of every sample, beside the largest distance under a spare ablation."""
    import polars as pl

    from ..calibration import radius_p_values, without_spares
    from ..distance import geometric_mean
    from ..universe import Universe

    opened = Universe.open(universe_url)
    distances, spares = opened.distances(scaled=not native), opened.spare_distances(scaled=not native)
    none = [None] * len(opened.seeds)
    table = pl.DataFrame(
        {
            "sample": range(len(opened.seeds)),
            "seed": list(opened.seeds),
            "radius": distances.max(axis=0),
            "spare_radius": spares.max(axis=0) if len(spares) else none,
            "radius_p": radius_p_values(distances, spares) if len(spares) else none,
            "top_unit": [opened.units[k] for k in distances.argmax(axis=0)],
        }
    )
    if as_json:
        print_json(table.to_dicts())
        return
    unit = "native" if native else "scaled to 256 x 256 x 3"
    print_table(table, title=f"Counterfactual radius, Euclidean, {unit}")
    say(f"geometric mean of the radius: {geometric_mean(opened.radius(scaled=not native)):.2f}")
    if not len(spares):
        say(without_spares(opened))
        return
    say(f"geometric mean of the largest distance under {len(spares)} spares: {geometric_mean(spares.max(axis=0)):.2f}")
    say("radius p: the chance that the largest of as many ablations, units' and spares' mixed, is as large")


@app.command()
def influence(
    universe_url: UniverseUrl,
    sample_number: Annotated[int, typer.Option("--sample", min=0, help="which sample, from 0")] = 0,
    top: Annotated[int, typer.Option(min=1, help="how many units to print")] = 20,
    native: Annotated[bool, typer.Option(help="native distances")] = False,
    statistic: Annotated[
        str, typer.Option(help="what p compares: plain, directional, likeness, residual or both")
    ] = "likeness",
    features: Annotated[str | None, typer.Option(help="compare in a feature space: efficientnet-lite0, ..")] = None,
    as_json: Json = False,
) -> None:
    """Print the units that one sample depends on: distance, and p and q against spare ablations."""
    from .. import calibration
    from ..features import load_features
    from ..universe import Universe

    opened, tested = Universe.open(universe_url), None
    if opened.settings.spares:
        tested = calibration.calibrate(
            opened,
            statistic=statistic,
            features=load_features(features) if features else None,
            samples=[sample_number],
        )
    table = calibration.influence(opened, sample_number, tested, scaled=not native).head(top)
    if as_json:
        print_json(table.to_dicts())
        return
    shown = table.select("rank", "unit", "distance", *(["p", "q", "marked"] if tested else []))
    print_table(shown, title=f"Sample {sample_number} (seed {opened.seeds[sample_number]}): units by influence")
    say(tested.verdict(0, opened.units) if tested else calibration.without_spares(opened))
    if tested:
        say(f"p, q: {tested.statistic} statistic against {tested.spares} spare ablations, which remove no unit")


@app.command()
def report(
    universe_url: UniverseUrl,
    out: Annotated[Path, typer.Option(help="folder for the page and the pictures")],
    run: Annotated[Path | None, typer.Option(help="the run behind it, to tell its components on the page")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a page to look at: every sample, what it depends on, its whole landscape."""
    from ..report import write_report
    from ..universe import Universe

    page = write_report(Universe.open(universe_url), out, run=run, overwrite=overwrite)
    print_json({"report": str(page)}) if as_json else say(f"open {page} in a browser")


@app.command()
def check(
    path: Annotated[str, typer.Argument(metavar="PATH", help="a run or a universe")],
    as_json: Json = False,
) -> None:
    """Compare every hash and checksum of a run or universe with what is on disk. Exit code 1 if anything is wrong."""
    from ..run import check_run
    from ..universe import check_universe

    folder = Path(path)
    if "://" not in path and not folder.exists():
        raise SettingsError(f"there is nothing at {path}")
    is_run = (folder / "ensemble.json").exists() or (folder / "settings.json").exists()
    if not is_run and "://" not in path and not (folder / "zarr.json").exists():
        raise SettingsError(f"{path} is neither a run (ensemble.json) nor a universe (zarr.json)")
    wrong = check_run(folder) if is_run else check_universe(path)
    if as_json:
        print_json({"path": path, "kind": "run" if is_run else "universe", "wrong": wrong})
    else:
        for line in wrong:
            say(line)
        say(f"{path}: {len(wrong)} things are wrong" if wrong else f"{path}: intact")
    if wrong:
        raise typer.Exit(1)
