"""The command line, thin: reads arguments, calls the library, prints. Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys

from ..errors import AblatableError
from . import (  # noqa: F401  (their commands register themselves)
    auditing,
    discrete,
    estimating,
    evaluating,
    exchange,
    making,
    reading,
    removing,
    studying,
)
from .common import app


def main() -> None:
    """Run the command line. Exit codes: 0 fine, 1 something was found wrong, 2 wrong usage, 130 Ctrl-C."""
    try:
        app(standalone_mode=True)
    except AblatableError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _fail(f"{error.strerror or error}{where}; what is finished is kept, mend this and give the command again", 1)


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
