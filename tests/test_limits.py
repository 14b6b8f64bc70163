"""Modules and functions stay as small as CONTRIBUTING.md says, so that each can be read at once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ablatable

MODULE, FUNCTION = 350, 60  # lines
SOURCES = sorted(Path(ablatable.__file__).parent.rglob("*.py"))


def long_functions(source: str) -> list[str]:
    """Functions of more than `FUNCTION` lines, docstring and decorators aside."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = ast.get_docstring(node) is not None
            about = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
            if (node.end_lineno or 0) - node.lineno + 1 - about > FUNCTION:
                found.append(node.name)
    return found


def test_sources_are_short() -> None:
    assert len(SOURCES) > 100
    for path in SOURCES:
        source = path.read_text()
        assert source.count("\n") <= MODULE, f"{path} has more than {MODULE} lines"
        assert long_functions(source) == [], f"functions of {path} with more than {FUNCTION} lines"


@pytest.mark.parametrize(("lines", "found"), [(59, []), (60, ["f"])])
def test_a_long_function_is_found(lines: int, found: list[str]) -> None:
    assert long_functions('@g\ndef f():\n    """About.\n\n    More.\n    """\n' + "    x = 1\n" * lines) == found
