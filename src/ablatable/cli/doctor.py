"""The command that looks at the machine: doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Json, app, example
from .output import next_step, print_json, print_rows, quoted, say


@app.command(epilog=example("ablatable doctor", "ablatable doctor runs/digits"))
def doctor(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Check whether this machine reproduces this run's bits.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show versions, device, memory, disk and missing extras; with a run, whether its bits come out the same here."""
    from ..unlearning.diagnosis import diagnose

    found = diagnose(run)
    if as_json:
        print_json(found.as_dict())
        return
    print_rows([], found.rows(), title="This machine")
    for sentence in found.sentences():
        say(sentence)
    next_step("ablatable demo" if run is None else f"ablatable audit check {quoted(run)}")
