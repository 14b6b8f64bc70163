"""The house's own fixtures do what tests rely on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import conftest

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_one_thread() -> None:
    torch = pytest.importorskip("torch")
    assert torch.get_num_threads() == 1
    assert os.environ["HF_HUB_OFFLINE"] == "1"


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
