"""The reference pages are generated: the API from the stub file of public names, the command line from its own help."""

from __future__ import annotations

import ast
import re
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

STUB = Path(__file__).resolve().parents[2] / "src" / "ablatable" / "__init__.pyi"

# Rooms in the order of the work, with what a reader looks for there.
ROOMS = {
    "data": "Training data and distances",
    "codes": "Codes",
    "diffusion": "Models and sampling",
    "runs": "Runs",
    "universes": "Universes",
    "analysis": "Analysis",
    "attribution": "Attribution methods",
    "unlearning": "Removal, audit and certificates",
    "report": "Reports",
    "explorer": "Explorer",
    "studies": "Studies",
    "demo": "The demo",
    "_runtime": "Execution",
    "errors": "Errors",
}


def public_names(stub: str) -> list[tuple[str, str]]:
    """`(name, full path of what it is)` for each public name of a stub file, in the file's order."""
    found = []
    for node in ast.parse(stub).body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("_version"):
            found += [(alias.asname or alias.name, f"ablatable.{node.module}.{alias.name}") for alias in node.names]
    return found


def api_page(stub: str) -> str:
    """Markdown with an entry for each public name, by room."""

    def room(entry: tuple[str, str]) -> str:
        return entry[1].split(".")[1]

    order = list(ROOMS)
    names = sorted(public_names(stub), key=lambda entry: (order.index(room(entry)), entry[0].lower()))
    lines = [
        "# Python API\n",
        "Everything public, by topic. All names are available as `ablatable.NAME`; pages of this site write",
        "`import ablatable as ab`. Names are loaded when first used, so `import ablatable` is quick.\n",
    ]
    for key, entries in groupby(names, room):
        lines.append(f"## {ROOMS[key]}\n")
        for name, path in entries:
            lines += [f'<span id="{name}"></span>\n', f"::: {path}", "    options:", "      heading_level: 3\n"]
    return "\n".join(lines)


def command_page() -> str:
    """Markdown with every command, its arguments and options."""
    import typer
    from typer.cli import get_docs_for_click

    import ablatable.cli  # noqa: F401  (its commands register)
    from ablatable.cli.common import app

    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="ablatable")
    text = get_docs_for_click(obj=command, ctx=context, name="ablatable", title="Command line")
    # `[OPTIONS]` and the like are no links; `<` is no tag
    return re.sub(r"\\?\[(required|default: [^\]]*)\]", r"(\1)", text)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for path, text in (
        ("reference/api.md", api_page(STUB.read_text(encoding="utf-8"))),
        ("reference/cli.md", command_page()),
    ):
        files.append(File.generated(config, path, content=text))
    return files
