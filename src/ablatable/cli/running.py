"""Run one command: every way it can end, with one line for each that is not a success."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from typing import NoReturn

import typer
from typer.exceptions import TyperException

from ..errors import AblatableError


def run_command_line(app: typer.Typer) -> NoReturn:
    """Run the command that `sys.argv` gives, and exit."""
    try:
        code = app(standalone_mode=False, prog_name="ablatable")
    except AblatableError as error:
        _fail(error.render(shell=True), error.exit_code)
    except TyperException as error:
        _fail(_usage(error), 2)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _fail(f"{error.strerror or error}{where}; what is finished is kept: fix this and give the command again", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _usage(error: TyperException) -> str:
    """A mistake in the command's words, in one line, with the nearest that would be right."""
    text = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    given, known, choices = text.partition(" is not one of ")
    if known:
        near = get_close_matches(
            given.rpartition(": ")[2].strip("'"), [name.strip("' ") for name in choices.split(",")]
        )
        text += f"; did you mean '{near[0]}'?" if near else ""
    context = getattr(error, "ctx", None)
    return text + (f" (see {context.command_path} --help)" if context is not None else "")


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
