"""The documents keep their word: every snippet runs, every link leads somewhere.

A document's ```python and ```bash (or ```console) blocks run in the order in which they stand, in one folder
and one namespace, as a reader would type them. They are turned into one script whose line numbers are the
document's, so a traceback points at the document. It is a real script, not an `exec` within the test:
what works in a notebook alone (worker processes started from an unguarded main module) fails here as it would
for a reader. A block after an HTML comment `<!-- not run: reason -->` is left out; the reason is required.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parent.parent

# What the first word after a fence means. Any other word is an error, so that no misspelling goes unrun.
PYTHON = {"python", "py"}
SHELL = {"bash", "sh", "shell"}
TYPED = {"console"}  # `$ ` before each command; the other lines are its output
PROSE = {"", "text", "json", "jsonl", "toml", "yaml", "csv", "html", "bibtex", "mermaid", "diff"}

HANGS_AFTER = 900  # seconds; a guard, not a measure


# --- snippets -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snippet:
    """One fenced block: language, text, the document's line (from 1) its text starts at, why it isn't run."""

    language: str
    text: str
    line: int
    not_run: str | None = None


def snippets(markdown: str) -> list[Snippet]:
    """The fenced blocks of a document in order; ValueError for a `not run` comment that gives no reason."""
    found = []
    before: Token | None = None
    for token in MarkdownIt().parse(markdown):
        if token.type == "fence":
            assert token.map is not None
            language = (token.info.split() or [""])[0].lower()
            found.append(Snippet(language, token.content, token.map[0] + 2, reason_not_to_run(before)))
        before = token
    return found


def reason_not_to_run(token: Token | None) -> str | None:
    """The reason given by a `<!-- not run: reason -->` comment; None when the token is no such comment."""
    if token is None or token.type != "html_block":
        return None
    comment = re.fullmatch(r"<!--\s*not run\b\s*:?\s*(.*?)\s*-->", token.content.strip(), re.DOTALL)
    if comment is None:
        return None
    if not comment[1]:
        raise ValueError("`<!-- not run -->` without a reason: write `<!-- not run: reason -->`")
    return comment[1]


def commands(snippet: Snippet) -> Iterator[tuple[int, str]]:
    """The commands of a shell block, each with the document's line where it starts; a last `\\` goes on."""
    start, parts = 0, []
    for number, line in enumerate(snippet.text.splitlines(), snippet.line):
        if parts:
            text = line
        elif snippet.language in TYPED:
            if not line.startswith("$ "):
                continue
            text = line.removeprefix("$ ")
        else:
            text = line
        start = start if parts else number
        parts.append(text.removesuffix("\\"))
        if text.endswith("\\"):
            continue
        command = "".join(parts).strip()
        parts = []
        if command and not command.startswith("#"):
            yield start, command
    if parts:
        raise ValueError(f"line {start}: the command ends in a backslash and nothing follows")


# --- commands that a test cannot take at their word ---------------------------------------------------------


def extras_exist(words: list[str]) -> str:
    """For `pip install ...`: nothing, after a look whether the extras that it names are the project's."""
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    groups = re.findall(r"\[(.*?)\]", " ".join(words))
    named = {extra.strip() for group in groups for extra in group.split(",")}
    if missing := named - offered.keys():
        raise ValueError(f"pip install names extras that pyproject.toml lacks: {', '.join(sorted(missing))}")
    return ":"


def target_exists(words: list[str]) -> str:
    """For `make TARGET`: what make would do, said and not done; fails when there is no such target."""
    return shlex.join(["make", "-n", "-C", str(ROOT), *words[1:]])


def nothing(words: list[str]) -> str:
    """For what only prepares a reader's machine."""
    return ":"


def file_exists(words: list[str]) -> str:
    """For `open FILE`: the file is there to be opened."""
    return shlex.join(["test", "-e", words[-1]])


STAND_INS: list[tuple[str, Callable[[list[str]], str]]] = [
    (r"(sudo )?apt-get (install|update)\b.*", nothing),
    (r"git clone \S+( \S+)?", nothing),
    (r"cd ablatable/?", nothing),
    (r"python3? -m venv \S+", nothing),
    (r"(source|\.) \.venv/bin/activate", nothing),
    (r"(python3? -m )?pip install\b.*", extras_exist),
    (r"make( \w+)+", target_exists),
    (r"(xdg-)?open \S+", file_exists),
]


def stand_in(command: str) -> str:
    """What the test runs for a documented command: nearly always the command itself."""
    return " && ".join(stand_in_for_one(part) for part in re.split(r"\s+&&\s+", command))


def stand_in_for_one(command: str) -> str:
    try:
        words = shlex.split(command, comments=True)
    except ValueError:  # bash will say what is wrong with it
        return command
    for pattern, stand in STAND_INS:
        if re.fullmatch(pattern, " ".join(words)):
            return stand(words)
    return command


# --- one document, one script -------------------------------------------------------------------------------


def script(markdown: str) -> str:
    """The document as a Python script, line for line: Python as it stands, a call for each command, or blank.

    The calls borrow no name from the document's namespace and leave none in it: a snippet that forgets an
    import fails. They run in the main process only, for a worker process may well read the script again.
    """
    lines = [""] * (len(markdown.splitlines()) + 1)
    for snippet in snippets(markdown):
        if snippet.not_run is not None:
            continue
        if snippet.language in PYTHON:
            text = snippet.text.splitlines()
            lines[snippet.line - 1 : snippet.line - 1 + len(text)] = text
        elif snippet.language in SHELL | TYPED:
            for number, command in commands(snippet):
                words = ["bash", "-euo", "pipefail", "-c", stand_in(command)]
                lines[number - 1] = f"__name__ == '__main__' and __import__('subprocess').run({words!r}, check=True)"
        elif snippet.language not in PROSE:
            raise ValueError(f"line {snippet.line - 1}: no rule for ```{snippet.language} blocks")
    return "\n".join(lines) + "\n"


def run(markdown: str, name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a document's snippets with an empty sub-folder of `folder` as the working folder."""
    work = folder / "work"
    work.mkdir()
    path = folder / f"{name}.py"
    path.write_text(script(markdown), encoding="utf-8")
    # `make` says what it was called with to any make below it; ours is nobody's child.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    return subprocess.run(
        [sys.executable, "-u", str(path)],
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HANGS_AFTER,
        check=False,
    )


# --- links --------------------------------------------------------------------------------------------------


HTML_TARGET = re.compile(r"""<(?:a|img|source)\b[^>]*?\b(?:href|src|srcset)\s*=\s*["']([^"']*)""")


def targets(markdown: str) -> list[str]:
    """Where the links and images of a document lead, code left out; Markdown's and HTML's own."""
    found = []
    pending = list(reversed(MarkdownIt().parse(markdown)))
    while pending:
        token = pending.pop()
        pending.extend(reversed(token.children or []))
        if token.type in ("link_open", "image"):
            found.append(str(token.attrs.get("href") or token.attrs.get("src") or ""))
        elif token.type in ("html_block", "html_inline"):
            found += HTML_TARGET.findall(token.content)
    return found


def anchors(markdown: str) -> set[str]:
    """The fragments that the document's headings answer to, by GitHub's rule."""
    found: set[str] = set()
    tokens = MarkdownIt().parse(markdown)
    for heading, inline in pairwise(tokens):
        if heading.type == "heading_open":
            text = "".join(part.content for part in inline.children or [])
            slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            repeat = 1
            unique = slug
            while unique in found:
                unique = f"{slug}-{repeat}"
                repeat += 1
            found.add(unique)
    return found


def broken_links(document: Path, root: Path) -> list[str]:
    """The links of a document that lead to no file below `root`, or to no heading of the file they name."""
    markdown = document.read_text(encoding="utf-8")
    broken = []
    for target in targets(markdown):
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            continue
        path = unquote(parts.path)
        if not path:
            aim = document
        elif path.startswith("/"):  # from the repository's root, as GitHub reads it
            aim = root / path.lstrip("/")
        else:
            aim = document.parent / path
        outside = not aim.resolve().is_relative_to(root.resolve())
        headless = (
            parts.fragment
            and aim.suffix == ".md"
            and aim.is_file()
            and unquote(parts.fragment) not in anchors(aim.read_text(encoding="utf-8"))
        )
        if outside or not aim.exists() or headless:
            broken.append(target)
    return broken


# --- the documents ------------------------------------------------------------------------------------------


def markdown_files() -> list[Path]:
    """The project's own Markdown files: what git knows or would add; without git, all but hidden folders'."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.md"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")
        found = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        found = [
            path
            for path in ROOT.rglob("*.md")
            if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        ]
    return sorted(path for path in found if path.is_file())


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def has_snippets(path: Path) -> bool:
    return named(path) in ("README.md", "CONTRIBUTING.md") or named(path).startswith("docs/")


@pytest.mark.parametrize("document", filter(has_snippets, markdown_files()), ids=named)
def test_snippets_run(document: Path, tmp_path: Path) -> None:
    done = run(document.read_text(encoding="utf-8"), document.name, tmp_path)
    assert done.returncode == 0, f"a snippet failed (line numbers are {named(document)}'s)\n{done.stdout}"


@pytest.mark.parametrize("document", markdown_files(), ids=named)
def test_links_lead_somewhere(document: Path) -> None:
    assert broken_links(document, ROOT) == []


# --- the machinery itself, on documents small enough to know by heart ---------------------------------------

SMALL = """\
# A document

```python
number = 20
```

<!-- not run: it would never end -->
```python
while True: ...
```

1. In a list:

   ```bash
   # a comment, then a command over two lines
   echo one \\
     two > said.txt
   python -c 'import sys; print(sys.executable)' > which.txt
   ```

```text
$ rm -rf everything
```

```console
$ cat said.txt
one two
$ echo three >> said.txt
```

~~~python
from pathlib import Path
Path("read.txt").write_text(f"{number + 1} {Path('said.txt').read_text()}")
~~~
"""


def test_blocks_are_found_with_their_lines() -> None:
    found = [(block.language, block.line, block.not_run) for block in snippets(SMALL)]
    assert found == [
        ("python", 4, None),
        ("python", 9, "it would never end"),
        ("bash", 15, None),
        ("text", 22, None),
        ("console", 26, None),
        ("python", 32, None),
    ]
    assert all(SMALL.splitlines()[block.line - 1].strip() == block.text.splitlines()[0] for block in snippets(SMALL))


def test_blocks_run_in_order_in_one_place_and_namespace(tmp_path: Path) -> None:
    done = run(SMALL, "SMALL.md", tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stdout == "one two\n"
    assert (tmp_path / "work" / "read.txt").read_text() == "21 one two\nthree\n"
    which = (tmp_path / "work" / "which.txt").read_text().strip()
    assert Path(which).parent == Path(sys.executable).parent


@pytest.mark.parametrize(
    ("block", "line", "says"),
    [
        ("```python\nx = 1\nassert x == 2\n```", 5, "AssertionError"),
        ("```bash\ntrue\nfalse\n```", 5, "CalledProcessError"),
        ("```bash\nfalse | true\n```", 4, "CalledProcessError"),
        ("```console\n$ no-such-command-here\n```", 4, "no-such-command-here"),
        ("```python\nsubprocess\n```", 4, "NameError"),
    ],
)
def test_a_failure_names_the_documents_line(block: str, line: int, says: str, tmp_path: Path) -> None:
    done = run(f"# Title\n\n{block}\n", "BAD.md", tmp_path)
    assert done.returncode != 0
    assert f'BAD.md.py", line {line}, in' in done.stdout
    assert says in done.stdout


def test_worker_processes_need_no_second_run_of_the_commands(tmp_path: Path) -> None:
    markdown = """
```bash
echo once >> log.txt
```
```python
import multiprocessing

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(abs, [-3]))
```
"""
    done = run(markdown, "SPAWN.md", tmp_path)
    assert (done.returncode, done.stdout) == (0, "[3]\n"), done.stdout
    assert (tmp_path / "work" / "log.txt").read_text() == "once\n"


@pytest.mark.parametrize("comment", ["<!-- not run -->", "<!-- not run: -->", "<!--not run:   -->"])
def test_a_skipped_block_needs_a_reason(comment: str) -> None:
    with pytest.raises(ValueError, match="reason"):
        script(f"{comment}\n```python\n1 / 0\n```\n")


def test_only_the_block_right_after_the_comment_is_skipped() -> None:
    first, second, third = (f"```python\n{name}\n```\n\n" for name in "abc")
    markdown = f"<!-- not run: slow -->\n\n{first}{second}<!-- a note -->\n{third}"
    assert script(markdown).split() == ["b", "c"]


@pytest.mark.parametrize("language", ["pycon", "pyhton", "zsh"])
def test_an_unknown_language_is_an_error(language: str) -> None:
    with pytest.raises(ValueError, match=f"line 3.*{language}"):
        script(f"# Title\n\n```{language}\n1\n```\n")


def test_a_dangling_backslash_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"line 2.*backslash"):
        script("```bash\necho \\\n```\n")


@pytest.mark.parametrize(
    ("command", "runs"),
    [
        ("git clone https://example.org/ablatable", ":"),
        ("git clone https://example.org/ablatable && cd ablatable", ": && :"),
        ("cd ablatable", ":"),
        ("cd elsewhere", "cd elsewhere"),
        ("apt-get install chromium  # for the browser tests", ":"),
        ("pip install ablatable", ":"),
        ("pip install -e '.[dev]'", ":"),
        ('pip install "ablatable[datasets]"', ":"),
        ("make demo", f"make -n -C {shlex.quote(str(ROOT))} demo"),
        ("ablatable plan --units 48", "ablatable plan --units 48"),
        ("echo make demo", "echo make demo"),
        ("xdg-open demo/index.html", "test -e demo/index.html"),
        ("echo 'unbalanced", "echo 'unbalanced"),
    ],
)
def test_stand_ins(command: str, runs: str) -> None:
    assert stand_in(command) == runs


def test_an_extra_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="lacks: nonsense"):
        stand_in("pip install 'ablatable[datasets,nonsense]'")


@pytest.mark.parametrize(("target", "exists"), [("demo", True), ("test", True), ("nonsense", False)])
def test_make_targets_are_looked_up(target: str, exists: bool, tmp_path: Path) -> None:
    done = run(f"```bash\nmake {target}\n```\n", "MAKE.md", tmp_path)
    assert (done.returncode == 0) is exists, done.stdout


def test_links(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a picture.png").touch()
    (tmp_path / "other.md").write_text("# One `two`, three\n\n# Same\n\n## Same\n")
    document = tmp_path / "docs" / "page.md"
    good = """
# Here it is

[a](../other.md) [b](../other.md#one-two-three) [c](#here-it-is) [d](/docs/page.md) [e](https://example.org/none)
![p](a%20picture.png) <img src="a%20picture.png" width=10> [f][ref] [g](../other.md#same-1)
[m](mailto:a@example.org)

`[code](none.md)`

```text
[code](none.md)
```

[ref]: ../other.md
"""
    document.write_text(good)
    assert broken_links(document, tmp_path) == []
    bad = [
        "none.md",
        "../other.md#none",
        "#none",
        "/page.md",
        "none.png",
        "none.gif",
        "../../out.md",
        "../other.md#same-2",
    ]
    document.write_text(
        "# Here\n\n[a](none.md) [b](../other.md#none) [c](#none) [d](/page.md) ![e](none.png)\n\n"
        '<p><img alt="x" src="none.gif"></p>\n\n[f][out] [g](../other.md#same-2)\n\n[out]: ../../out.md\n'
    )
    (tmp_path.parent / "out.md").touch()
    assert broken_links(document, tmp_path) == bad
