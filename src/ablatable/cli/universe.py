"""The commands that make universes or pass them on: universe create, screen, export, import."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import SettingsError
from . import choices
from .common import (
    Json,
    OnlyUnits,
    Overwrite,
    RunPath,
    Samples,
    Seeds,
    Spares,
    Threshold,
    UniverseUrl,
    example,
    universes,
)
from .groups import Asked, EnsembleWorking, FastDrawing, grouped
from .output import next_step, print_json, print_table, quoted, say

if TYPE_CHECKING:
    from ..universes.screening.screen import Screen


@universes.command(epilog=example("ablatable universe create runs/digits --seeds 0-7 --spares 22 --out u.zarr"))
@grouped
def create(
    run: RunPath,
    out: Annotated[str, typer.Option(help="Where it goes; an unfinished universe there is resumed or extended.")],
    seeds: Seeds = "0-7",
    unit: OnlyUnits = None,
    spares: Spares = 0,
    drawing: FastDrawing = FastDrawing(),
    asked: Asked = Asked(),
    threshold: Threshold = None,
    working: EnsembleWorking = EnsembleWorking(),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw factual samples and the counterfactual sample without each unit."""
    from ..diffusion.sampling import parse_seeds
    from ..universes.enumeration import enumerate_universe

    made = enumerate_universe(
        run,
        parse_seeds(seeds),
        out=out,
        units=unit,
        sampling=drawing.sampling(threshold=threshold, guidance=asked.guidance),
        spares=spares,
        conditions=asked.conditions(),
        execution=working.execution(),
        overwrite=overwrite,
    )
    told: dict[str, Any] = {
        "universe": out,
        "samples": len(made.seeds),
        "units": len(made.unit_ids),
        "ablations": made.settings.ablations,
    }
    error = None
    backend = made.settings.backend
    if drawing.precision != "fp32" or backend in ("stacked", "openvino"):
        from ..universes.precision import precision_error

        device = "auto" if working.ray else working.device  # a cluster's GPUs are not this machine's
        error = precision_error(made, run, max_resident=working.max_resident, device=device)
        told["error"] = asdict(error)
    if as_json:
        print_json(told)
        return
    say(f"{out}: {told['samples']} samples, {told['units']} units, {told['ablations']} distinct ablations")
    if error is not None:
        say(f"{drawing.precision}{'' if backend == 'eager' else f', {backend}'} {error.sentence()}")
    next_step(f"ablatable report {quoted(out)} --run {quoted(run)} --out report")


@universes.command(
    epilog=example(
        "ablatable universe screen runs/digits --seeds 0-7 --share 0.1 --out s.zarr",
        "ablatable universe screen runs/digits --seeds 7 --top 10",
    )
)
@grouped
def screen(
    run: RunPath,
    out: Annotated[
        str | None, typer.Option(help="Where it goes; an unfinished screen there is resumed.", show_default="not kept")
    ] = None,
    seeds: Seeds = "0",
    unit: OnlyUnits = None,
    share: Annotated[float, typer.Option(help="Draw at most this share of the counterfactuals.")] = 0.1,
    top: Annotated[int, typer.Option(min=1, help="How many of the units that move a sample most to look for.")] = 1,
    spares: Spares = 0,
    drawing: FastDrawing = FastDrawing(),
    asked: Asked = Asked(),
    working: EnsembleWorking = EnsembleWorking(),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Find the units that move samples most without drawing every counterfactual."""
    from ..analysis.calibration import calibrate, influence
    from ..diffusion.sampling import parse_seeds
    from ..universes.screening.screening_run import screen_universe

    made = screen_universe(
        run,
        parse_seeds(seeds),
        out=out or f"memory://screen-{os.getpid()}",
        share=share,
        top=top,
        units=unit,
        sampling=drawing.sampling(guidance=asked.guidance),
        spares=spares,
        conditions=asked.conditions(),
        # a screen that is not kept lives in this process's memory, which no worker can reach
        execution=(working if out else replace(working, workers=0, ray=None)).execution(),
        overwrite=overwrite or out is None,
    )
    passes, all_passes = made.passes()
    told: dict[str, Any] = {
        "universe": out,
        "samples": len(made.seeds),
        "units": len(made.unit_ids),
        "drawn": made.drawn().sum(axis=0).tolist(),
        "chance": made.chance().tolist(),
        "passes": passes,
        "passes_of_all": all_passes,
    }
    tables = [
        influence(made, sample, calibrate(made, samples=[sample]) if spares else None).head(top)
        for sample in range(len(made.seeds))
    ]
    if as_json:
        print_json({**told, "top": {str(made.seeds[k]): table.to_dicts() for k, table in enumerate(tables)}})
        return
    if out is None:
        for seed, table in zip(made.seeds, tables, strict=True):
            shown = ["rank", "unit", "distance", "drawn", *(["p", "q"] if spares else [])]
            print_table(table.select(shown), title=f"Seed {seed}: the units that move it most")
    _say_screened(out, made)
    target = f"screen {quoted(run)} --seeds {seeds} --out SCREEN" if out is None else f"radius {quoted(out)}"
    next_step(f"ablatable universe {target}")


def _say_screened(out: str | None, made: Screen) -> None:
    drawn, (passes, all_passes) = made.drawn().sum(axis=0), made.passes()
    say(
        f"{out or 'screened'}: {len(made.seeds)} samples, {len(made.unit_ids)} units, of which {drawn.min()} to "
        f"{drawn.max()} were drawn, with {passes / all_passes:.1%} of the forward passes of a whole universe"
    )
    if unsure := int((made.chance() < made.made_with.sure).sum()):
        say(
            f"In {unsure} samples the chance that no other unit is farther is below {made.made_with.sure:.0%}; "
            "draw more with a larger --share (and --overwrite)."
        )


@universes.command(epilog=example("ablatable universe export u.zarr --ctf u.tar --scores distances.parquet"))
def export(
    universe_url: UniverseUrl,
    ctf: Annotated[
        Path | None, typer.Option(help="Archive to write: the samples, in the CTF format of the paper's authors.")
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="File to write: how far each unit's removal moves each sample; .npy, .safetensors, .parquet."
        ),
    ] = None,
    orientation: Annotated[
        choices.Orientation,
        typer.Option(help="Of the scores: quanda is samples x units, dattri is units x samples."),
    ] = "quanda",
    samples: Samples = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a universe for other programs: its samples, or how far each removal moves them."""
    from ..attribution.scores import write_scores
    from ..diffusion.sampling import parse_seeds
    from ..universes.ctf import export_ctf
    from ..universes.reader import Universe

    if ctf is None and scores is None:
        raise SettingsError("there is nothing to export; give --ctf FILE, --scores FILE, or both")
    if samples is not None and scores is not None:
        raise SettingsError("--samples is for --ctf; a file of scores has all samples")
    opened, numbers = Universe.open(universe_url), None if samples is None else parse_seeds(samples, "samples")
    count, written = len(opened.seeds if numbers is None else numbers), []
    if ctf is not None:
        written.append(export_ctf(opened, ctf, samples=numbers, overwrite=overwrite))
    if scores is not None:
        matrix = opened.distances().T
        written.append(
            write_scores(scores, matrix, units=opened.unit_ids, orientation=orientation, overwrite=overwrite)
        )
    if as_json:
        print_json({"written": list(map(str, written)), "units": len(opened.unit_ids), "samples": count})
        return
    if ctf is not None and opened.settings.conditions is not None:
        say("note: a CTF archive has no place for the samples' labels and prompts, so they are left out")
    for path in written:
        say(f"{path}: {len(opened.unit_ids)} units, {count} samples, {path.stat().st_size / 2**20:.1f} MiB")
    next_step(
        f"ablatable universe import {quoted(ctf)} --out COPY.zarr"
        if ctf is not None
        else f"ablatable evaluate {quoted(universe_url)} --scores {quoted(scores)} --out scores"
    )


@universes.command("import", epilog=example("ablatable universe import mnist.tar --out mnist.zarr"))
def import_(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="A CTF archive.")],
    out: Annotated[str, typer.Option(help="Where the universe goes; an interrupted import resumes.")],
    most_gib: Annotated[
        float, typer.Option(help="Refuse an archive whose images take more than this many GiB.")
    ] = 16.0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Read a CTF archive into a universe, to measure, report and evaluate it."""
    from ..universes.ctf import import_ctf

    made = import_ctf(archive, out, most_gib=most_gib, overwrite=overwrite)
    told = {"universe": out, "units": len(made.unit_ids), "samples": len(made.seeds)}
    if as_json:
        print_json(told)
        return
    say(f"{out}: {told['units']} units, {told['samples']} samples")
    next_step(f"ablatable report {quoted(out)} --out report")
