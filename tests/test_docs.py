"""The documents keep their word: snippets run, messages are real, links lead somewhere, the site builds.

Sybil finds the snippets. All documents run in one folder, README first, so the small ensemble that several pages train
is trained once: the same command on a finished run returns at once. `ablatable` commands run in this process.
A block after `<!-- skip: next "reason" -->` is left out.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from unittest import SkipTest
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).resolve().parent.parent
# Blocks that are shown and not run; a block in any other language is an error, so no misspelling stays unrun.
SHOWN = {"", "text", "json", "toml", "yaml", "bibtex", "math"}
MAKE_VARIABLES = ("MAKE", "MFLAGS")
PREPARE = re.compile(r"(git clone|cd ablatable|python3? -m venv|source \.venv|apt-get install|\.venv/bin/pre-commit)\b")


# --- snippets ---


def run_ablatable(arguments: list[str]) -> tuple[int, str]:
    """A command in this process: exit code and all it printed."""
    from ablatable import cli

    said = io.StringIO()
    before, sys.argv = sys.argv, ["ablatable", *arguments]
    try:
        with redirect_stdout(said), redirect_stderr(said):
            cli.main()
    except SystemExit as stopped:
        return int(stopped.code or 0), said.getvalue()
    finally:
        sys.argv = before
    return 0, said.getvalue()


def run_command(command: str) -> tuple[int, str]:
    """A documented command as a reader would give it; what needs another machine or a package index is looked up."""
    words = shlex.split(command, comments=True)
    text = " ".join(words)
    if words[:1] == ["ablatable"] and not set("|&;><") & set(text):
        return run_ablatable(words[1:])
    if "pip install" in text:
        offered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = {extra for group in re.findall(r"\[(.*?)\]", text) for extra in group.split(",")}
        return len(named - offered.keys()), f"extras that do not exist: {named - offered.keys()}"
    if words[:1] == ["open"]:
        return int(not Path(words[1]).exists()), f"there is no {words[1]}"
    if PREPARE.match(text):
        return 0, ""
    if words[:1] == ["make"]:
        command = shlex.join(["make", "-n", "-C", str(ROOT), *words[1:]])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(MAKE_VARIABLES)}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euc", command], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    return done.returncode, done.stdout + done.stderr


def evaluate_bash(example: Example) -> None:
    """Every command of the block succeeds."""
    for command in re.sub(r"\\\n", " ", example.parsed).splitlines():
        if shlex.split(command, comments=True):
            code, said = run_command(command)
            assert code == 0, f"{example.path}:{example.line}: {command}\n{said}"


def evaluate_console(example: Example) -> None:
    """After `$ command`, the lines that it prints, in order; `...` stands for anything. An error has an exit code."""
    for block in re.split(r"^\$ ", example.parsed, flags=re.MULTILINE)[1:]:
        command, _, shown = re.sub(r"\\\n", " ", block).partition("\n")
        code, said = run_command(command)
        where = f"{example.path}:{example.line}: {command}\n{said}"
        assert (code != 0) == shown.startswith("error:"), where
        pattern = ".*".join(re.escape(" ".join(part.split())) for part in shown.split("..."))
        assert re.search(pattern, " ".join(said.split())), f"{where}\nis not what the page shows:\n{shown}"


SYBIL = Sybil(
    parsers=[
        PythonCodeBlockParser(),
        CodeBlockParser("bash", evaluate_bash),
        CodeBlockParser("console", evaluate_console),
        SkipParser(),
    ]
)


def documents() -> list[Path]:
    """README first: the others use what it makes."""
    pages = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_site" not in path.parts)
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *pages]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def run_document(path: Path) -> None:
    for example in SYBIL.parse(path).examples():
        try:
            example.evaluate()
        except SkipTest:
            continue


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reader")


@pytest.fixture
def reader(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader's folder, a wide terminal, and work done in this process, which gives the same bytes."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("ablatable._runtime.execution.default_workers", lambda: 0)


def write_stand_in(folder: Path) -> None:
    """A pipeline of random weights, with the parts of the one that the guide makes and trains."""
    pytest.importorskip("peft")
    pytest.importorskip("transformers")
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    from text_stand_in import write_text_encoder, write_text_pipeline

    write_text_pipeline(folder, 0, side=16, channels=4, text=False)
    write_text_encoder(folder, tokens=77)
    layers = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    AutoencoderKL(block_out_channels=(4, 4), norm_num_groups=2, latent_channels=4, **layers).save_pretrained(
        folder / "vae"
    )


@pytest.mark.parametrize("document", documents(), ids=named)
@pytest.mark.usefixtures("reader")
def test_snippets_run(document: Path) -> None:
    languages = re.findall(r"^ *```+(\w*)", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(languages) <= {"python", "bash", "console"} | SHOWN, (
        "a block in a language that is neither run nor shown"
    )
    if document.stem == "stable-diffusion":
        write_stand_in(Path("stand-in"))
    run_document(document)


@pytest.mark.parametrize(
    "block",
    [
        "```python\nassert 1 == 2\n```",
        "```bash\nfalse\n```",
        "```bash\nablatable nonsense\n```",
        "```bash\nmake nonsense\n```",
        "```bash\npip install 'ablatable[nonsense]'\n```",
        "```console\n$ ablatable --version\nerror: none\n```",
        "```console\n$ ablatable run info nowhere\nerror: another message\n```",
    ],
)
@pytest.mark.usefixtures("reader")
def test_a_wrong_snippet_fails(block: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(f"# Page\n\n{block}\n")
    with pytest.raises(AssertionError):
        run_document(tmp_path / "page.md")


# --- links ---


def tokens_of(text: str) -> Iterator:
    for token in MarkdownIt().parse(text):
        yield token
        yield from token.children or []


def anchors(path: Path) -> set[str]:
    """The fragments of a document's headings, by the rule of code hosts (no heading here occurs twice)."""
    found = set()
    for opening, inline in pairwise(MarkdownIt().parse(path.read_text(encoding="utf-8"))):
        if opening.type == "heading_open":
            text = "".join(part.content for part in inline.children or [])
            found.add(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"))
    return found


def broken_links(document: Path) -> list[str]:
    """Links and images that lead to no file of the repository, or to no heading of it."""
    broken = []
    for token in tokens_of(document.read_text(encoding="utf-8")):
        target = urlsplit(str(token.attrs.get("href") or token.attrs.get("src") or ""))
        if target.scheme or "reference/" in target.path or not (target.path or target.fragment):
            continue  # the reference is generated; the site's own check follows these links
        aim = document.parent / unquote(target.path) if target.path else document
        headless = target.fragment and aim.suffix == ".md" and aim.exists() and target.fragment not in anchors(aim)
        if not aim.exists() or headless:
            broken.append(target.geturl())
    return broken


@pytest.mark.parametrize("document", [*documents(), ROOT / "CHANGELOG.md"], ids=named)
def test_links_lead_somewhere(document: Path) -> None:
    assert broken_links(document) == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A b\n\n[a](none.md) [b](#none) [c](page.md#none) ![d](none.png) [e](#a-b) [f](https://x.org)\n")
    assert broken_links(page) == ["none.md", "#none", "page.md#none", "none.png"]


# --- the site ---


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it: any warning is an error."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    import importlib.util

    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "_site" / "reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_documented(site: Path) -> None:
    import ablatable

    page = (site / "reference" / "api.html").read_text(encoding="utf-8")
    names = [name for name in ablatable.__all__ if not name.startswith("_")]
    assert names
    assert [name for name in names if f'id="{name}"' not in page] == []
    for name in names:
        thing = getattr(ablatable, name)
        described = f'id="{thing.__module__}.{name}"' if hasattr(thing, "__module__") else f'id="{name}"'
        assert described in page, f"{name} has a heading and no description"


def test_every_command_is_documented(site: Path) -> None:
    import typer

    from ablatable.cli.common import app

    page = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    pending = [("ablatable", typer.main.get_command(app))]
    while pending:
        name, command = pending.pop()
        assert f"<code>{name}</code>" in page or name == "ablatable"
        pending += [(f"{name} {sub}", below) for sub, below in getattr(command, "commands", {}).items()]


def test_the_site_asks_the_network_for_nothing(site: Path) -> None:
    remote = re.compile(
        r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=["']?(?:https?:)?//|"""
        r"""<link\b[^>]*\brel=["']?(?:stylesheet|preconnect|preload|icon)[^>]*\bhref=["']?(?:https?:)?//|"""
        r"""@import\s+["'(]*(?:https?:)?//|url\(["']?(?:https?:)?//"""
    )
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 20
    assert {path.name: found[0] for path in pages if (found := remote.search(path.read_text(encoding="utf-8")))} == {}


def test_formulas_are_mathml(site: Path) -> None:
    page = (site / "concepts.html").read_text(encoding="utf-8")
    assert page.count("<math") > 20
    assert "arithmatex" not in page
