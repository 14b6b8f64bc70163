"""Commands that exchange universes with other programs: export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Json, Overwrite, UniverseUrl, app, print_json, say


@app.command()
def export(
    universe_url: UniverseUrl,
    ctf: Annotated[Path, typer.Option(help="the archive to write, in the authors' format CTF (a tar of PNG files)")],
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a universe's pictures as a CTF archive, which the method's authors' programs read."""
    from ..ctf import export_ctf
    from ..universe import Universe

    opened = Universe.open(universe_url)
    path = export_ctf(opened, ctf, overwrite=overwrite)
    told = {"ctf": str(path), "units": len(opened.units), "samples": len(opened.seeds), "bytes": path.stat().st_size}
    if as_json:
        print_json(told)
        return
    say(f"{path}: {told['units']} units, {told['samples']} samples, {told['bytes'] / 2**20:.1f} MiB")


@app.command("import")
def import_(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="a CTF archive")],
    out: Annotated[str, typer.Option(help="where the universe goes; an interrupted import goes on")],
    most_gib: Annotated[float, typer.Option(help="refuse an archive whose pictures take more than this")] = 16.0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Read a CTF archive into a universe, to measure, report and evaluate it. Nothing of it is extracted to disk."""
    from ..ctf import import_ctf

    made = import_ctf(archive, out, most_gib=most_gib, overwrite=overwrite)
    told = {"universe": out, "units": len(made.units), "samples": len(made.seeds)}
    if as_json:
        print_json(told)
        return
    say(f"{out}: {told['units']} units, {told['samples']} samples")
    say(f"next: ablatable report {out} --out report")
