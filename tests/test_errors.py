"""Messages: one text, told in Python's words or in the command line's."""

from __future__ import annotations

import ast
import pickle
import re
from pathlib import Path

import pytest

import ablatable
from ablatable.errors import COMMANDS, Message, SettingsError, command, option, render

SOURCES = Path(ablatable.__file__).parent
SHELL_WORDS = re.compile(
    rf"(?<![\w-])--[a-z]|\bablatable ({'|'.join(sorted({name.split()[0] for name in COMMANDS}))})\b"
)
KINDS = {"ablatable run", "ablatable universe", "ablatable report", "ablatable demo"}  # what files say they are


@pytest.mark.parametrize(
    ("marked", "python", "shell"),
    [
        (option("channels", 3), "`channels=3`", "--channels 3"),
        (option("max_resident"), "`max_resident`", "--max-resident"),
        (option("overwrite", True), "`overwrite=True`", "--overwrite"),
        (option("out", "my run"), "`out='my run'`", "--out 'my run'"),
        (option("units"), "`units`", "--unit"),
        (command("train"), "`ablatable.train(...)`", "'ablatable train'"),
        (
            command("universe create", "RUN", option("spares", 40)),
            "`ablatable.enumerate_universe(run, spares=40)`",
            "'ablatable universe create RUN --spares 40'",
        ),
    ],
)
def test_two_renderings(marked: str, python: str, shell: str) -> None:
    text = f"so {marked}; and {option('size')}"
    assert render(text) == f"so {python}; and `size`" and render(text, shell=True) == f"so {shell}; and --size"
    for error in (SettingsError(text), pickle.loads(pickle.dumps(SettingsError(text))), SettingsError(Message(text))):
        assert str(error) == render(text) and error.render(shell=True) == render(text, shell=True)
        assert error.message == render(text) and error.message.shell == render(text, shell=True)


def spoken(tree: ast.Module) -> list[ast.Constant]:
    """Every string of a module but its docstrings."""
    silent = set()
    for node in ast.walk(tree):
        for statement in getattr(node, "body", []) if not isinstance(node, (ast.Lambda, ast.IfExp)) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                silent.add(statement.value)
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in silent
    ]


def test_the_library_uses_no_words_of_the_command_line() -> None:
    """Outside `cli`, options and commands are named by `option` and `command` alone."""
    wrong = []
    for path in SOURCES.rglob("*.py"):
        room = path.relative_to(SOURCES).parts[0]
        if room in ("cli", "errors.py"):
            continue
        for node in spoken(ast.parse(path.read_text())):
            if SHELL_WORDS.search(node.value) and node.value not in KINDS and "ray start" not in node.value:
                wrong.append(f"{path.relative_to(SOURCES)}:{node.lineno}: {node.value}")
    assert not wrong, "\n".join(wrong)
