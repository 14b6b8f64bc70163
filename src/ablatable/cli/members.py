"""The command that looks into one unit of several images, seen from one sample: run members."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import SettingsError
from .common import Device, Json, Overwrite, RunPath, Sampler, SamplingSteps, example, runs
from .groups import Asked, grouped
from .output import next_step, print_json, print_table, quoted, say


@runs.command(epilog=example('ablatable run members bundled --unit "Sina Schulz" --seed 0 --sheet members.png'))
@grouped
def members(
    run: RunPath,
    unit: Annotated[str, typer.Option(help="The unit, such as an artist.")],
    seed: Annotated[int, typer.Option(min=0, help="The sample's seed.")] = 0,
    sheet: Annotated[
        Path | None, typer.Option(help="Write the sample above the unit's images, as a PNG file, here.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many images to print.")] = 10,
    sampler: Sampler = "ddpm",
    steps: SamplingSteps = 50,
    asked: Asked = Asked(),
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """List a unit's images by how near they are to a sample, with a test of each."""
    from .._runtime.devices import resolve_device
    from .._runtime.files import write_atomic
    from .._runtime.plotting import png
    from ..analysis.members import members as compare
    from ..diffusion.sampling_settings import Sampling

    if sheet is not None and sheet.exists() and not overwrite:
        raise SettingsError(f"{sheet} exists; choose another --sheet, or replace it with --overwrite")
    conditions = asked.conditions()
    found = compare(
        run,
        unit,
        seed,
        condition=None if conditions is None else conditions[0],
        sampling=Sampling(sampler, steps, guidance=asked.guidance),
        device=resolve_device(device),
    )
    if sheet is not None:
        write_atomic(sheet, png(found.sheet()))
    if as_json:
        print_json(found.table().to_dicts())
        return
    table = found.table().drop("unit").head(top)
    print_table(table, title=f"{unit}: {len(found.number)} images by distance from the sample of seed {seed}")
    say(
        "p: the chance that components that saw the unit would denoise the sample so much towards this image if the "
        "unit influenced none of them. Components saw all of a unit's images or none: one alone cannot be removed."
    )
    if sheet is not None:
        say(f"the sample above the images, the nearest first: {sheet}")
    next_step(f"ablatable run sample {quoted(run)} --seeds {seed} --without {quoted(unit)} --out images")
