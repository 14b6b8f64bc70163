"""The commands that read a universe: universe radius, influence, unattributable, differential."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .._runtime.execution import Execution
from . import choices
from .common import Device, Json, RunPath, UniverseUrl, Workers, example, universes
from .output import next_step, print_json, print_table, quoted, say

if TYPE_CHECKING:
    import numpy as np

    from ..universes.landscapes import Landscapes
    from ..universes.screening.screen import Screen

Native = Annotated[bool, typer.Option("--native", help="Distances of the images as they are, not scaled to 256 x 256.")]


@universes.command(epilog=example("ablatable universe radius u.zarr"))
def radius(universe_url: UniverseUrl, native: Native = False, as_json: Json = False) -> None:
    """Print how far removing one unit moves each sample at most, beside the same for spare ablations."""
    from ..analysis.calibration import without_spares
    from ..analysis.radii import radius_table
    from ..universes.opening import open_landscapes
    from ..universes.screening.screen import Screen

    opened = open_landscapes(universe_url)
    table = radius_table(opened, scaled=not native)
    if as_json:
        print_json(table.to_dicts())
        return
    unit = "native" if native else "scaled to 256 x 256 x 3"
    print_table(table, title=f"Counterfactual radius, Euclidean, {unit}")
    say(_geometric_mean("the radius", table["radius"].to_numpy()))
    if isinstance(opened, Screen):
        say("drawn: how many units' counterfactuals were drawn; chance: that none of the others is farther")
    if spares := len(opened.settings.spares):
        say(_geometric_mean(f"the largest distance under {spares} spares", table["spare_radius"].to_numpy()))
        say("radius p: the chance that the largest of as many ablations, units' and spares' mixed, is as large")
        floor = len(opened.unit_ids) / (len(opened.unit_ids) + spares)
        say(f"  (with {len(opened.unit_ids)} units and {spares} spares it cannot be below {floor:.2f})")
        say("farthest unit: by distance; 'universe influence' orders by what it tests, and shows both")
    else:
        say(without_spares(opened))
    next_step(f"ablatable universe influence {quoted(universe_url)} --sample 0")


@universes.command(epilog=example("ablatable universe influence u.zarr --sample 2 --top 5"))
def influence(
    universe_url: UniverseUrl,
    sample_number: Annotated[int, typer.Option("--sample", min=0, help="Which sample, counted from 0.")] = 0,
    top: Annotated[int, typer.Option(min=1, help="How many units to print.")] = 20,
    statistic: Annotated[
        choices.Statistic | None,
        typer.Option(
            metavar="NAME",
            help=f"What is compared: {choices.told(choices.Statistic)}, which needs no spares.",
            show_default="regressed, of a screened one likeness",
        ),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(help="Compare in a feature space, for example efficientnet-lite0.", show_default="pixels"),
    ] = None,
    native: Native = False,
    as_json: Json = False,
) -> None:
    """Print the units that one sample depends on, tested against spare ablations."""
    from ..analysis import calibration
    from ..analysis.features import load_features
    from ..analysis.statistics import SPARED
    from ..universes.opening import open_landscapes
    from ..universes.screening.screen import Screen

    opened, tested = open_landscapes(universe_url), None
    if calibration.comparable(opened, statistic):
        compare = load_features(features) if features else None
        tested = calibration.calibrate(opened, samples=[sample_number], statistic=statistic, features=compare)
    table = calibration.influence(opened, sample_number, tested, scaled=not native).head(top)
    if as_json:
        print_json(table.to_dicts())
        return
    extra = [*(["drawn"] if isinstance(opened, Screen) else []), *(["score", "p", "q", "marked"] if tested else [])]
    shown = table.select("rank", "unit", "distance", *extra)
    if tested:
        shown = shown.rename({"score": f"{tested.statistic}_score"})
    print_table(shown, title=f"Sample {sample_number} (seed {opened.seeds[sample_number]}): units by influence")
    if isinstance(opened, Screen):
        _tell_screened(opened, sample_number, top)
    if tested:
        say(tested.verdict(0, opened.unit_ids))
        spared = tested.statistic in SPARED
        against = "spare ablations that remove no unit" if spared else "codewords that no unit has"
        say(
            f"Units are in the order of p, then of the {tested.statistic} score, which p compares with that of "
            f"{tested.spares} {against}. By distance alone, the first is {_farthest(opened, sample_number)}."
        )
        if doubt := tested.approximate():
            say(f"{doubt[0].upper()}{doubt[1:]}.")
        say(_other_view(opened, sample_number))
    else:
        say(calibration.without_spares(opened))
    next_step(
        f"ablatable run sample RUN --seeds {opened.seeds[sample_number]} --without {quoted(table['unit'][0])} "
        "--out images"
    )


def _other_view(opened: Landscapes, sample: int) -> str:
    """What this is about, and which command asks the components instead."""
    how, seed = opened.settings.sampling, opened.seeds[sample]
    return (
        "This is about what removals show. Which units the components recognise in the sample is another question: "
        f"ablatable witness RUN --seed {seed} --sampler {how.sampler} --steps {how.steps}"
        f"{'' if how.clip else ' --no-clip'}. Units that are "
        "nearly the same share their influence, so that both can miss each of them."
    )


def _farthest(opened: Landscapes, sample: int) -> str:
    return opened.influence(sample)["unit"][0]


def _tell_screened(opened: Screen, sample_number: int, top: int) -> None:
    drawn, chance = int(opened.drawn()[:, sample_number].sum()), opened.chance(top=top)[sample_number]
    say(
        f"{drawn} of {len(opened.unit_ids)} units' counterfactuals were drawn; other distances are estimates. "
        f"Chance that no other unit is among the {top} farthest: {chance:.1%}"
    )
    if top > opened.made_with.top and chance < opened.made_with.sure:
        say(f"for more: ablatable universe screen RUN --seeds {opened.seeds[sample_number]} --top {top}")


@universes.command(epilog=example("ablatable universe unattributable u.zarr --top 5"))
def unattributable(
    universe_url: UniverseUrl,
    top: Annotated[
        int, typer.Option(min=1, help="How many samples to print, those that fewest units move first.")
    ] = 20,
    as_json: Json = False,
) -> None:
    """List the samples that stay the same, pixel for pixel, whichever unit is removed."""
    from ..analysis.unattributable import unattributable as find
    from ..universes.reader import Universe

    found = find(Universe.open(universe_url))
    low, high = found.interval()
    if as_json:
        print_json(
            {
                "samples": found.samples.tolist(),
                "seeds": [found.seeds[k] for k in found.samples],
                "share": found.share,
                "interval": [low, high],
                "table": found.table().to_dicts(),
            }
        )
        return
    print_table(found.table().head(top), title="Samples, those that fewest units move first")
    say(
        f"unattributable: {len(found.samples)} of {len(found.seeds)} samples "
        f"({100 * found.share:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
    )
    if found.pixels is None:
        say("These images have 256 grey levels, and a change of one level counts. To draw in black and white:")
        next_step("ablatable universe create RUN --threshold 128 --out BLACK_AND_WHITE.zarr")
    else:
        next_step(f"ablatable report {quoted(universe_url)} --out report")


@universes.command(epilog=example("ablatable universe differential runs/digits u.zarr"))
def differential(
    run: RunPath, universe_url: UniverseUrl, workers: Workers = None, device: Device = "auto", as_json: Json = False
) -> None:
    """Estimate counterfactuals from derivatives, and compare them with the exact ones."""
    import polars as pl

    from ..universes.differential import differentiate

    table = differentiate(run, universe_url, execution=Execution(workers, device)).compare()
    if as_json:
        print_json(table.to_dicts())
        return
    print_table(table, title="First-order counterfactuals beside the exact ones")
    means = table.select(pl.col("error", "rank_correlation", "top_found", "top_tenth", "radius_ratio").mean()).row(0)
    say(
        "mean over samples: relative error {:.2f}, rank correlation {:.2f}, top unit found {:.0%}, "
        "in the estimates' top tenth {:.0%}, radius estimated at {:.2f} times the exact one".format(*means)
    )
    next_step(f"ablatable universe influence {quoted(universe_url)}")


def _geometric_mean(of: str, values: np.ndarray) -> str:
    """The mean of those above 0, and how many are not."""
    from ..data.distance import geometric_mean

    zeros = int((values == 0).sum())
    left_out = f" ({zeros} of {len(values)} are 0 and left out)" if zeros else ""
    return f"geometric mean of {of}: {geometric_mean(values[values > 0]):.2f}{left_out}"
