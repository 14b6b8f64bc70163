"""The house's own fixtures do what tests rely on."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import conftest
from prepared import Template

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_one_thread() -> None:
    torch = pytest.importorskip("torch")
    assert torch.get_num_threads() == 1
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_a_prepared_process_is_like_a_fresh_one(template: Template, tmp_path: Path) -> None:
    """Its arguments, environment, standard files and modules are its own; it has a session, can be killed, and ends."""
    program = (
        "import os, sys, pathlib\n"
        "told = [sys.argv[2], os.environ.get('ONLY'), os.getsid(0) == os.getpid(), 'torch' in sys.modules]\n"
        "told += [any(name.startswith(('ablatable', '_pytest')) for name in sys.modules), __name__]\n"
        "told += sorted(map(int, os.listdir('/proc/self/fd')))[:-1]\n"
        "pathlib.Path(sys.argv[1]).write_text(repr(told))\n"
        "sys.exit(os.read(0, 1) == b'' and 3)\n"
    )
    environment = {"ONLY": "this", "PATH": os.environ["PATH"]}
    ended = template.start(program, tmp_path / "told", "x", env=environment, start_new_session=True)
    assert ended.wait() == 3
    told = ast.literal_eval((tmp_path / "told").read_text())
    assert told[:6] == ["x", "this", True, True, False, "__main__"]
    assert told[6:] == [0, 1, 2], "it has no files of those that came before it"

    waits = template.start("import os; os.read(0, 1)", stdin=subprocess.PIPE)
    killed = template.start("import os; os.read(0, 1)", stdin=subprocess.PIPE)
    assert waits.poll() is None and killed.poll() is None
    killed.kill()
    assert killed.wait() == -signal.SIGKILL and waits.poll() is None
    assert waits.stdin is not None
    waits.stdin.close()  # no other process holds it open
    assert waits.wait() == 0
    with (tmp_path / "stderr").open("wb") as stderr:
        assert template.start("raise ValueError('why')", stderr=stderr).wait() == 1
    assert "ValueError: why" in (tmp_path / "stderr").read_text()


def test_chromium_named_wrongly_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMIUM", "/nowhere/chromium")
    with pytest.raises(pytest.fail.Exception, match="CHROMIUM=/nowhere/chromium"):
        conftest.find_chromium()


def test_no_chromium_is_found_where_none_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(conftest, "CHROMIUM_NAMES", (str(tmp_path / "chromium"), "no-such-chromium"))
    assert conftest.find_chromium() is None


def test_a_page_from_disk_uses_no_network(page: Page, network_requests: list[str], tmp_path: Path) -> None:
    (tmp_path / "part.js").write_text("document.title = 'from a file'")
    (tmp_path / "index.html").write_text(
        "<script src=part.js></script><img src=data:image/gif;base64,R0lGODlhAQABAAAAACw=>"
    )
    page.goto((tmp_path / "index.html").as_uri())
    assert page.title() == "from a file"
    assert network_requests == []


def test_network_use_is_refused_and_recorded(page: Page, network_requests: list[str], tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        """<link rel=stylesheet href="http://127.0.0.1:9/style.css">
        <script>
          const closed = new Promise((done) => {
            new WebSocket("ws://127.0.0.1:9/socket").addEventListener("close", done);
          });
          const failed = fetch("http://127.0.0.1:9/data").catch(() => {});
          Promise.all([closed, failed]).then(() => { document.title = "refused" });
        </script>"""
    )
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_function("document.title === 'refused'")
    assert sorted(network_requests) == [
        "http://127.0.0.1:9/data",
        "http://127.0.0.1:9/style.css",
        "ws://127.0.0.1:9/socket",
    ]


def test_browser_tests_are_marked(request: pytest.FixtureRequest) -> None:
    mine = {item.name: item for item in request.session.items if item.path == Path(__file__)}
    drawn = {name for name, item in mine.items() if item.get_closest_marker("browser")}
    assert drawn == {name for name in mine if "network" in name}
