"""Commands that read what was made: radius, influence, report, check."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._runtime.execution import Execution
from ..diffusion.sampling_settings import Sampling
from ..errors import SettingsError
from .common import Device, Json, Overwrite, UniverseUrl, app, print_json, print_table, say

if TYPE_CHECKING:
    from ..universes.screening.screen import Screen
    from ..universes.universe import Universe


@app.command()
def radius(
    universe_url: UniverseUrl,
    native: Annotated[bool, typer.Option(help="native distances")] = False,
    as_json: Json = False,
) -> None:
    """Print the counterfactual radius of every sample, beside the largest distance under a spare ablation."""
    import polars as pl

    from ..analysis.calibration import radius_p_values, without_spares
    from ..data.distance import geometric_mean
    from ..universes.screening.screen import Screen

    opened = _open(universe_url)
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
    if isinstance(opened, Screen):
        table = table.with_columns(
            drawn=pl.Series(opened.drawn().sum(axis=0)), chance=pl.Series(opened.chance(), dtype=pl.Float64)
        )
    if as_json:
        print_json(table.to_dicts())
        return
    unit = "native" if native else "scaled to 256 x 256 x 3"
    print_table(table, title=f"Counterfactual radius, Euclidean, {unit}")
    say(f"geometric mean of the radius: {geometric_mean(opened.radius(scaled=not native)):.2f}")
    if isinstance(opened, Screen):
        say("drawn: units' counterfactuals that were; chance: that none of the others is farther")
    if not len(spares):
        say(without_spares(opened))
        return
    say(f"geometric mean of the largest distance under {len(spares)} spares: {geometric_mean(spares.max(axis=0)):.2f}")
    say("radius p: the chance that the largest of as many ablations, units' and spares' mixed, is as large")


@app.command()
def influence(
    universe_url: Annotated[str, typer.Argument(metavar="U.zarr|RUN", help="a universe, or a run to screen")],
    sample_number: Annotated[int | None, typer.Option("--sample", min=0, help="which sample, from 0")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="of a run: the seed of the sample to screen")] = None,
    top: Annotated[int, typer.Option(min=1, help="how many units to print")] = 20,
    native: Annotated[bool, typer.Option(help="native distances")] = False,
    statistic: Annotated[
        str, typer.Option(help="what p compares: plain, directional, likeness, residual or both")
    ] = "likeness",
    features: Annotated[str | None, typer.Option(help="compare in a feature space: efficientnet-lite0, ..")] = None,
    sampler: Annotated[str, typer.Option(help="of a run: ddpm, ddim or dpmsolver++")] = "ddpm",
    steps: Annotated[int, typer.Option(min=1, help="of a run: sampling steps")] = 50,
    spares: Annotated[int, typer.Option(min=0, help="of a run: spare codewords to ablate as well")] = 0,
    screen: Annotated[float, typer.Option(help="of a run: draw at most this share of the units")] = 0.1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Print the units that one sample depends on: distance, and p and q against spare ablations.

    Of a run, without any universe, the sample of a seed is drawn and screened: --seed S --top 10.
    """
    from ..analysis import calibration
    from ..analysis.features import load_features
    from ..universes.screening.screen import Screen
    from ..universes.screening.screening_run import screen_universe

    is_run = _is_run(Path(universe_url))
    if is_run and (seed is None or sample_number is not None):
        raise SettingsError(f"{universe_url} is a run: name one seed to draw, with --seed (and no --sample)")
    if not is_run and seed is not None:
        raise SettingsError(f"{universe_url} is a universe, and --seed is for runs; name a sample with --sample")
    sample_number = sample_number or 0
    opened = (
        _open(universe_url)
        if seed is None
        else screen_universe(
            universe_url,
            [seed],
            out=f"memory://influence-{os.getpid()}",
            share=screen,
            top=top,
            sampling=Sampling(sampler, steps),
            spares=spares,
            execution=Execution(workers=0, device=device),
            overwrite=True,
        )
    )
    tested = None
    if opened.settings.spares:
        compare = load_features(features) if features else None
        tested = calibration.calibrate(opened, samples=[sample_number], statistic=statistic, features=compare)
    table = calibration.influence(opened, sample_number, tested, scaled=not native).head(top)
    if as_json:
        print_json(table.to_dicts())
        return
    extra = [*(["drawn"] if isinstance(opened, Screen) else []), *(["p", "q", "marked"] if tested else [])]
    shown = table.select("rank", "unit", "distance", *extra)
    print_table(shown, title=f"Sample {sample_number} (seed {opened.seeds[sample_number]}): units by influence")
    if isinstance(opened, Screen):
        _tell_screened(opened, sample_number, top)
    if tested:
        say(tested.verdict(0, opened.units))
        say(f"p, q: {tested.statistic} statistic against {tested.spares} spare ablations, which remove no unit")
    elif is_run:
        say("nothing tells a unit's influence from that of a smaller ensemble; --spares draws what does")
    else:
        say(calibration.without_spares(opened))


def _tell_screened(opened: Screen, sample_number: int, top: int) -> None:
    drawn, chance = int(opened.drawn()[:, sample_number].sum()), opened.chance(top=top)[sample_number]
    say(
        f"{drawn} of {len(opened.units)} units' counterfactuals were drawn; other distances are guesses. "
        f"Chance that no other unit is among the {top} farthest: {chance:.1%}"
    )
    if top > opened.made_with.top and chance < opened.made_with.sure:
        say(f"for more: ablatable influence RUN --seed {opened.seeds[sample_number]} --top {top}")


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
    from ..universes.universe import Universe

    page = write_report(Universe.open(universe_url), out, run=run, overwrite=overwrite)
    print_json({"report": str(page)}) if as_json else say(f"open {page} in a browser")


@app.command()
def check(
    path: Annotated[str, typer.Argument(metavar="PATH", help="a run or a universe")],
    as_json: Json = False,
) -> None:
    """Compare every hash and checksum of a run or universe with what is on disk. Exit code 1 if anything is wrong."""
    from ..runs.run import check_run
    from ..universes.screening.screen import check_screen
    from ..universes.store import state_of
    from ..universes.universe import check_universe

    folder = Path(path)
    if "://" not in path and not folder.exists():
        raise SettingsError(f"there is nothing at {path}")
    if _is_run(folder):
        kind, wrong = "run", check_run(folder)
    elif "://" not in path and state_of(path) in ("other", "nothing"):
        raise SettingsError(f"{path} is neither a run (ensemble.json) nor a universe (zarr.json)")
    elif state_of(path) == "screen":
        kind, wrong = "screened universe", check_screen(path)
    else:
        kind, wrong = "universe", check_universe(path)
    if as_json:
        print_json({"path": path, "kind": kind, "wrong": wrong})
    else:
        for line in wrong:
            say(line)
        say(f"{path}: {len(wrong)} things are wrong" if wrong else f"{path}: intact")
    if wrong:
        raise typer.Exit(1)


def _is_run(folder: Path) -> bool:
    return (folder / "ensemble.json").exists() or (folder / "settings.json").exists()


def _open(url: str) -> Universe | Screen:
    """A universe, enumerated or screened."""
    from ..universes.screening.screen import Screen
    from ..universes.store import state_of
    from ..universes.universe import Universe

    exists = "://" in url or Path(url).exists()
    return Screen.open(url) if exists and state_of(url) == "screen" else Universe.open(url)
