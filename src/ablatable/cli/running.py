"""Run one command: every way it can end, with one line for each that is not a success, and a log with the details."""

from __future__ import annotations

import sys
import time
import traceback
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

import typer
from typer.exceptions import TyperException

from .._runtime.files import disk_is_full
from .._version import __version__
from ..errors import AblatableError
from .interruption import interruptible

LOG_SIZE = 2**20  # bytes of log, after which a new one is begun


def run_command_line(app: typer.Typer) -> NoReturn:
    """Run the command that `sys.argv` gives, and exit."""
    with interruptible() as interruption:
        try:
            code = app(standalone_mode=False, prog_name="ablatable")
        except TyperException as error:
            _fail(_usage(error), 2)
        except AblatableError as error:
            _fail(error.render(shell=True), error.exit_code, error)
        except OSError as error:
            _fail(_system(error), 1, error)
        except KeyboardInterrupt:
            code = interruption.exit_code
        except Exception as error:
            if interruption.stopped is None:  # else a library made an error of its own of the interruption
                _fail(f"{type(error).__name__}: {error}; this is a fault of the program, please report it", 1, error)
            code = interruption.exit_code
        if interruption.stopped is not None:
            interruption.tell()
            code = interruption.exit_code
    sys.exit(code if isinstance(code, int) else 0)


def _system(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    what = disk_is_full(error.filename or Path.cwd(), error) or f"{error.strerror or error}"
    return f"{what}{where}; what is finished is kept: fix this, and give the same command again"


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


def _fail(message: str, code: int, error: Exception | None = None) -> NoReturn:
    """Say what is wrong, in one line, and where the details are."""
    print(f"error: {message}", file=sys.stderr)
    log = None if error is None else _log(error)
    if log is not None:
        print(f"details: {log}", file=sys.stderr)
    sys.exit(code)


def _log(error: Exception) -> Path | None:
    """Append the traceback to the user's log; None if that cannot be written, which is no reason to fail twice."""
    from platformdirs import user_log_path

    try:
        path = user_log_path("ablatable", appauthor=False) / "errors.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > LOG_SIZE:
            path.replace(path.with_suffix(".old.log"))
        with path.open("a") as file:
            file.write(f"--- {time.strftime('%F %T')} ablatable {__version__}: {' '.join(sys.argv[1:])}\n")
            file.write("".join(traceback.format_exception(error)) + "\n")
    except OSError:
        return None
    return path
