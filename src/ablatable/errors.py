"""Errors a user can act on: each message says what was wrong, what was expected, and what to do.

The same message reaches people who use Python and people who use the command line, and each is told in their own
words. So a message names an option or a command by `option` and `command`, which put a mark in it, and `render`
writes the marks out: `--out x` or `out='x'`, `'ablatable universe create RUN'` or `ablatable.enumerate_universe(run)`.
"""

from __future__ import annotations

import shlex
from typing import Any

COMMANDS = {
    "demo": "run_demo",
    "plan": "plan",
    "train": "train",
    "witness": "witness",
    "evaluate": "evaluate",
    "report": "write_report",
    "explore": "write_explorer",
    "doctor": "diagnose",
    "universe create": "enumerate_universe",
    "universe screen": "screen_universe",
    "universe radius": "radius_table",
    "universe influence": "influence",
    "universe unattributable": "unattributable",
    "universe differential": "differentiate",
    "universe export": "export_ctf",
    "universe import": "import_ctf",
    "universe bundle": "export_benchmark",
    "run info": "Run",
    "run sample": "draw_samples",
    "run members": "members",
    "run forget": "forget",
    "run repair": "repair",
    "run extend": "extend",
    "run budget": "budget",
    "run push": "push_run",
    "universe push": "push_universe",
    "run adopt": "adopt",
    "audit verify": "audit",
    "audit check": "check",
    "audit certificate check": "check_certificate",
    "audit certificate show": "read_certificate",
    "audit certificate key": "new_key",
    "study radius-vs-size": "study_size",
    "study code": "study_code",
    "study unattributable": "study_unattributable",
    "study differential": "study_differential",
    "study retraining": "control",
}
"""Every command of the command line, and the public name that does the same in Python."""

SHELL_NAMES = {"units": "unit", "ids": "unit", "key": "sign"}
"""Options whose name on the command line is not the one in Python with `-` for `_`."""

_START, _BETWEEN, _END = "\ue000", "\ue001", "\ue002"  # of a mark: private characters, which no message has


def option(name: str, value: Any = None) -> str:
    """Name an option in a message, with a value if given: `--steps 50` or `steps=50`; flags have `True` or `False`."""
    if value is False:
        return words(shell=f"--no-{SHELL_NAMES.get(name, name).replace('_', '-')}", python=f"{name}=False")
    return _mark("option", name, *([] if value is None else [_value(value)]))


def words(*, shell: str, python: str) -> str:
    """What is called one thing on the command line and another in Python, such as a flag and a value."""
    return _mark("value", shell, f"`{python}`")


def command(name: str, *arguments: Any) -> str:
    """Name a command in a message, with arguments: strings, paths, numbers, `option(...)`, or placeholders like RUN."""
    assert name in COMMANDS, name
    return _mark("command", name, *map(_value, arguments))


def render(text: str, *, shell: bool = False) -> str:
    """Write out the marks in a message, for the command line or for Python."""
    while _END in text:  # the first to end has none within it
        before, _, after = text.partition(_END)
        before, _, mark = before.rpartition(_START)
        text = before + _written(*mark.split(_BETWEEN), shell=shell) + after
    return text


class Message(str):
    """A sentence that names options or commands: in Python's words itself, in the command line's as `.shell`."""

    shell: str
    marked: str

    def __new__(cls, text: str) -> Message:
        """`text` may have marks."""
        made = super().__new__(cls, render(text))
        made.shell, made.marked = render(text, shell=True), text
        return made


class AblatableError(Exception):
    """Base of every error raised on purpose. The command line prints it as one line, without a traceback.

    `exit_code` follows the command line's convention: 1 = something was found wrong, 2 = wrong usage.
    """

    exit_code = 2

    def __str__(self) -> str:
        """The message, in Python's words."""
        return render(self.marked)

    def __repr__(self) -> str:
        """As any exception's."""
        return f"{type(self).__name__}({str(self)!r})"

    def render(self, *, shell: bool = False) -> str:
        """The message for Python or for the command line."""
        return render(self.marked, shell=shell)

    @property
    def marked(self) -> str:
        """The message with its marks, to be part of another."""
        first = self.args[0] if self.args else ""
        return first.marked if isinstance(first, Message) else str(first)

    @property
    def message(self) -> Message:
        """The message for both."""
        return Message(self.marked)


class DataError(AblatableError):
    """The training data cannot be used as units: unreadable, inconsistent, duplicated, or missing."""


class CodeError(AblatableError):
    """A code that cannot exist, or a set of units that no component survives."""


class SettingsError(AblatableError):
    """A setting is impossible, or differs from what an existing run or universe was made with."""


class StoreError(AblatableError):
    """A run or universe on disk is missing, incomplete, held by another process, or corrupt."""

    exit_code = 1


class WorkerError(AblatableError):
    """A worker process died or a task failed in it; what was finished is kept."""

    exit_code = 1


def _mark(*fields: str) -> str:
    return _START + _BETWEEN.join(fields) + _END


def _value(value: Any) -> str:
    if value is True:
        return _mark("value", "", "True")
    if isinstance(value, (int, float)):
        return _mark("value", str(value), repr(value))
    text = str(value)
    if text.startswith(_START):
        return text
    if text.isupper() and text.isidentifier():  # a placeholder
        return _mark("value", text, text.lower())
    return _mark("value", shlex.quote(text), repr(text))


def _written(kind: str, *fields: str, shell: bool) -> str:
    if kind == "value":
        return fields[0] if shell else fields[1]
    name, arguments = fields[0], list(fields[1:])
    if kind == "option":
        if shell:
            return " ".join(filter(None, ["--" + SHELL_NAMES.get(name, name).replace("_", "-"), *arguments]))
        return f"`{'='.join([name, *arguments])}`"
    if shell:
        return f"'{' '.join(['ablatable', name, *arguments])}'"
    return f"`ablatable.{COMMANDS[name]}({', '.join(argument.strip('`') for argument in arguments) or '...'})`"
