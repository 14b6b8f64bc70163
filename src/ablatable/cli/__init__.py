"""The command line, thin: reads arguments, calls the library, prints. Heavy imports wait until a command needs them."""

from __future__ import annotations

from . import (  # noqa: F401  (their commands register themselves)
    adopting,
    audit,
    common,
    doctor,
    exploring,
    members,
    planning,
    results,
    run,
    sharing,
    start,
    study,
    universe,
    universe_reading,
    witness,
)
from .running import run_command_line

for _group, _names in common.IN_ORDER:
    _group.registered_commands.sort(
        key=lambda known, names=_names: names.index(known.name or getattr(known.callback, "__name__", ""))
    )


def main() -> None:
    """Run the command line. Exit codes: 0 fine, 1 something was found wrong, 2 wrong usage, 130 Ctrl-C."""
    run_command_line(common.app)
