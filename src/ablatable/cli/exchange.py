"""Commands that exchange universes with other programs: export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import SettingsError
from .common import Json, Overwrite, UniverseUrl, app, print_json, say


@app.command()
def export(
    universe_url: UniverseUrl,
    ctf: Annotated[
        Path | None, typer.Option(help="an archive to write, in the authors' format CTF (a tar of PNG files)")
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="a matrix to write: the distance of every unit's counterfactual; .npy, .safetensors, .parquet"
        ),
    ] = None,
    orientation: Annotated[
        str, typer.Option(help="of the matrix: quanda = samples x units, dattri = units x samples")
    ] = "quanda",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a universe for other programs: its pictures (--ctf), or what every removal changes (--scores)."""
    from ..attribution.scores import write_scores
    from ..universes.ctf import export_ctf
    from ..universes.universe import Universe

    if ctf is None and scores is None:
        raise SettingsError("nothing to export; give --ctf FILE, --scores FILE, or both")
    opened = Universe.open(universe_url)
    written = []
    if ctf is not None:
        written.append(export_ctf(opened, ctf, overwrite=overwrite))
    if scores is not None:
        matrix = opened.distances().T
        written.append(write_scores(scores, matrix, units=opened.units, orientation=orientation, overwrite=overwrite))
    if as_json:
        print_json({"written": list(map(str, written)), "units": len(opened.units), "samples": len(opened.seeds)})
        return
    for path in written:
        say(f"{path}: {len(opened.units)} units, {len(opened.seeds)} samples, {path.stat().st_size / 2**20:.1f} MiB")


@app.command("import")
def import_(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="a CTF archive")],
    out: Annotated[str, typer.Option(help="where the universe goes; an interrupted import goes on")],
    most_gib: Annotated[float, typer.Option(help="refuse an archive whose pictures take more than this")] = 16.0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Read a CTF archive into a universe, to measure, report and evaluate it. Nothing of it is extracted to disk."""
    from ..universes.ctf import import_ctf

    made = import_ctf(archive, out, most_gib=most_gib, overwrite=overwrite)
    told = {"universe": out, "units": len(made.units), "samples": len(made.seeds)}
    if as_json:
        print_json(told)
        return
    say(f"{out}: {told['units']} units, {told['samples']} samples")
    say(f"next: ablatable report {out} --out report")
