"""The public API: every name survives being used, agrees with its stub, and does what the command line does."""

from __future__ import annotations

import ast
import inspect
import os
import pkgutil
import random
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import ablatable as ab
from ablatable.cli.common import app
from ablatable.errors import COMMANDS
from prepared import Template

SOURCES = Path(ab.__file__).parent
WANTED = {
    "Sampling",
    "Execution",
    "forget",
    "repair",
    "extend",
    "audit",
    "check",
    "calibrate",
    "evaluate",
    "differentiate",
    "write_report",
    "budget",
    "control",
    "export_ctf",
    "import_ctf",
    "Screen",
    "Attributor",
    "Run",
    "Universe",
    "Units",
    "Code",
    "train",
    "enumerate_universe",
    "screen_universe",
    "plan",
}
EITHER = {  # by name, the argument that takes a path or what is open already
    "run": "audit budget control diagnose differentiate enumerate_universe extend forget repair screen_universe",
    "universe": "calibrate evaluate export_ctf influence radius_table unattributable write_report",
}


def stub() -> dict[str, str]:
    """Public names and the modules that they live in, as the stub file has them."""
    tree = ast.parse((SOURCES / "__init__.pyi").read_text())
    lines = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in lines for alias in node.names}


def fresh(program: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)


def test_stub_and_runtime_agree() -> None:
    tree = ast.parse((SOURCES / "__init__.pyi").read_text())
    for node in ast.walk(tree):
        for alias in node.names if isinstance(node, ast.ImportFrom) else []:
            assert alias.asname == alias.name  # exported, and under its own name
    assert set(stub()) == set(ab.__all__) and set(ab.__all__) >= WANTED
    for name, module in stub().items():
        found = getattr(ab, name)
        assert found is getattr(__import__(f"ablatable.{module}", fromlist=[name]), name), name


def test_no_name_is_a_modules() -> None:
    modules = {module.name for module in pkgutil.iter_modules([str(SOURCES)])}
    assert not modules & set(ab.__all__)


def test_every_name_is_documented() -> None:
    for name in ab.__all__:
        found = getattr(ab, name)
        if callable(found) and not name.startswith("__") and inspect.getmodule(found) is not None:
            assert inspect.getdoc(found), name


@pytest.mark.parametrize("seed", range(3))
def test_names_can_be_used_twice_in_any_order(seed: int, template: Template, tmp_path: Path) -> None:
    """Nothing of this package is loaded at first: loading one name must not put a module in the place of another."""
    names = sorted(ab.__all__) * 2
    random.Random(seed).shuffle(names)
    program = (
        "import types, ablatable as ab\nfirst = {}\n"
        f"for name in {names}:\n"
        "    found = getattr(ab, name)\n"
        "    assert not isinstance(found, types.ModuleType), name\n"
        "    assert first.setdefault(name, found) is found, name\n"
        "code = ab.plan(12, 6)\nassert ab.plan(12, 6) == code\n"
    )
    with (tmp_path / "stderr").open("wb") as stderr:
        code = template.start(program, stderr=stderr).wait()
    assert code == 0, (tmp_path / "stderr").read_text()


def test_importing_loads_nothing_heavy() -> None:
    done = fresh("import sys, ablatable; print(sorted({'torch', 'diffusers', 'zarr', 'polars'} & set(sys.modules)))")
    assert done.stdout.strip() == "[]", done


def commands(group: object = None, path: str = "") -> set[str]:
    group = typer.main.get_command(app) if group is None else group
    found: set[str] = set()
    for name, command in group.commands.items():  # pyright: ignore[reportAttributeAccessIssue]
        words = f"{path} {name}".strip()
        found |= commands(command, words) if hasattr(command, "commands") else {words}
    return found


def test_every_command_has_its_counterpart() -> None:
    assert commands() == set(COMMANDS)
    for command, name in COMMANDS.items():
        assert name in ab.__all__, (command, name)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in EITHER.items() for name in names.split()])
def test_a_path_will_do(kind: str, name: str) -> None:
    """The first argument may be a path or what is open: both types are in the signature."""
    first = next(iter(inspect.signature(getattr(ab, name)).parameters.values()))
    wanted = {"run": {"Run"}, "universe": {"Universe", "Landscapes"}}[kind]
    written = {part.strip() for part in str(first.annotation).split("|")}
    assert {"str", "Path"} <= written and written & wanted, (name, first.annotation)


def test_open_and_path_give_the_same(small, small_universe) -> None:
    """Mission work, twice: from places and from objects."""
    run, universe = small.run, small_universe
    assert ab.budget(run) == ab.budget(run.path)
    assert ab.audit(run, run.unit_ids[0]) == ab.audit(run.path, run.unit_ids[0])
    assert ab.check(run) == ab.check(str(run.path)) == ab.check(universe) == ab.check(Path(universe.url)) == []
    assert ab.radius_table(universe).equals(ab.radius_table(universe.url))
    assert ab.influence(universe, 1).equals(ab.influence(universe.url, 1))
    ours, theirs = ab.calibrate(universe), ab.calibrate(universe.url)
    assert ours.to_polars().equals(theirs.to_polars()) and len(ours.to_polars()) == 12 * 3
    assert ab.unattributable(universe).to_polars().equals(ab.unattributable(universe.url).to_polars())
    assert ab.budget(run).to_polars()["components"].to_list() == [3] * 12
