"""What an explorer's folder holds is what the run and the universe hold; it is written whole, and served here alone."""

from __future__ import annotations

import base64
import concurrent.futures
import gzip
import hashlib
import http.client
import json
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch

import ablatable as ab
from ablatable.analysis.calibration import calibrate
from ablatable.errors import SettingsError, StoreError
from ablatable.explorer import content, site
from ablatable.explorer.serving import HOST, file_server
from ablatable.runs.run import Run

if TYPE_CHECKING:
    from ablatable.universes.reader import Universe
    from conftest import Explored, Small

Call = Callable[..., tuple[int, str, str]]


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "data/manifest.json").read_bytes())


def unpacked(path: Path, dtype: Any = np.uint8) -> np.ndarray:
    return np.frombuffer(gzip.decompress(path.read_bytes()), dtype)


def channels_first(pictures: np.ndarray) -> np.ndarray:
    return np.moveaxis(pictures, -1, -3)


# --- what is told -----------------------------------------------------------------------------------------------


def test_the_manifest_tells_the_run(group_site: Explored) -> None:
    told, run = manifest_of(group_site.path), group_site.run
    units = run.units()
    assert [unit["id"] for unit in told["units"]] == list(run.unit_ids)
    assert [unit["word"] for unit in told["units"]] == run.code.words()
    assert [unit["images"] for unit in told["units"]] == [len(units.of(unit)) for unit in run.unit_ids]
    assert (told["kind"], told["engine"], told["shape"]) == ("ideal", "browser", [3, 9, 7])
    assert (told["sampler"], told["steps"], told["seeds"]) == ("ddpm", 12, [0, 1, 2, 3, 4])
    assert told["schedule"] == {"train_steps": 1000, "beta_start": 1e-4, "beta_end": 0.02}
    weight = run.code.weight
    assert told["spares"] and all(word.count("1") == weight for word in told["spares"])
    assert not set(told["spares"]) & set(run.code.words())
    images = unpacked(group_site.path / told["files"]["images"])
    assert np.array_equal(images.reshape(-1, 3, 9, 7), channels_first(units.images))


def test_stored_pictures_distances_and_tests_are_the_universes(group_site: Explored) -> None:
    told, universe = manifest_of(group_site.path), group_site.universe
    stored, folder = told["stored"], group_site.path
    factual = unpacked(folder / told["files"]["factual"]).reshape(-1, 3, 9, 7)
    assert np.array_equal(factual, channels_first(universe.factual))
    for sample, name in enumerate(stored["samples"]):
        assert np.array_equal(unpacked(folder / name).reshape(-1, 3, 9, 7), channels_first(universe.landscape(sample)))
    distances = unpacked(folder / stored["distances"], np.float32).reshape(len(stored["words"]), -1)
    assert np.array_equal(distances[stored["ablation"]], universe.distances())
    assert np.array_equal(distances[stored["spares"]], universe.spare_distances())
    p, q = unpacked(folder / stored["tests"], np.float32).reshape(2, len(universe.unit_ids), -1)
    tested = calibrate(universe, statistic="likeness")
    assert np.array_equal(p, tested.p.astype(np.float32)) and np.array_equal(q, tested.q.astype(np.float32))


def test_components_in_onnx_predict_as_they_do(network_site: Explored) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    x = np.random.default_rng(1).standard_normal((3, *network_site.run.shape)).astype(np.float32)
    names = manifest_of(network_site.path)["files"]["components"]
    assert names == [f"data/components/{k:02d}.onnx" for k in range(network_site.run.code.components)]
    for index in (0, 4):
        model = onnx.load(network_site.path / names[index])
        onnx.checker.check_model(model)
        component = network_site.run.load_component(index)
        for t in (0, 617):
            (ours,) = ReferenceEvaluator(model).run(None, {"x": x, "t": np.array([t])})
            with torch.no_grad():
                theirs = component(torch.from_numpy(x), torch.tensor([t])).numpy()
            assert np.abs(ours - theirs).max() < 1e-4
    assert b"/work" not in (network_site.path / names[0]).read_bytes()  # no paths of the machine that exported it
    assert str(Path(__file__).parents[1]).encode() not in (network_site.path / names[0]).read_bytes()


def test_without_a_universe_the_factual_pictures_are_drawn(small: Small, tmp_path: Path) -> None:
    sampling = ab.Sampling("ddim", 5)
    made = ab.write_explorer(small.run, out=tmp_path / "site", seeds=[9, 2], sampling=sampling, max_mb=0.01)
    told = manifest_of(made.path)
    assert (told["seeds"], told["sampler"], told["steps"], told.get("stored")) == ([9, 2], "ddim", 5, None)
    pictures = unpacked(made.path / told["files"]["factual"]).reshape(2, *small.run.shape)
    universe = ab.enumerate_universe(
        small.run.path,
        [9, 2],
        out=tmp_path / "u.zarr",
        sampling=sampling,
        execution=ab.Execution(workers=0, quiet=True),
    )
    assert np.array_equal(pictures, channels_first(universe.factual))


def test_what_does_not_fit_is_left_out_and_told(group_site: Explored, tmp_path: Path) -> None:
    made = ab.write_explorer(group_site.run, universe=group_site.universe, out=tmp_path / "site", max_mb=0.03)
    told = manifest_of(made.path)
    assert (made.samples, made.of) == (2, 5)
    assert told["seeds"] == [0, 1] and len(told["stored"]["samples"]) == 2
    assert sum(path.stat().st_size for path in (made.path / "data").rglob("*.gz")) < 30_000
    assert len(unpacked(made.path / told["files"]["factual"])) == 2 * 3 * 9 * 7
    assert unpacked(made.path / told["stored"]["distances"], np.float32).size == 2 * len(told["stored"]["words"])


def test_a_run_too_big_for_a_browser_needs_a_server(network_site: Explored, tmp_path: Path) -> None:
    made = ab.write_explorer(network_site.run, out=tmp_path / "site", max_mb=0.05)
    assert made.needs_server
    told = manifest_of(made.path)
    assert told["engine"] == "server" and told["files"]["components"] == []
    assert not (made.path / "data/components").exists()


# --- writing ----------------------------------------------------------------------------------------------------


def test_the_same_site_is_kept_and_another_is_not_overwritten(
    group_site: Explored, tmp_path: Path, fingerprints: Callable[[Path], dict[str, str]]
) -> None:
    out = tmp_path / "site"
    ab.write_explorer(group_site.run, out=out, seeds=[3])
    before = fingerprints(out)
    assert ab.write_explorer(group_site.run, out=out, seeds=[3]).was_there
    with pytest.raises(SettingsError, match="overwrite=True"):
        ab.write_explorer(group_site.run, out=out, seeds=[4])
    assert fingerprints(out) == before
    ab.write_explorer(group_site.run, out=out, seeds=[4], overwrite=True)
    assert manifest_of(out)["seeds"] == [4]
    ab.write_explorer(group_site.run, out=out, seeds=[3], overwrite=True)
    assert fingerprints(out) == before  # the same bytes again
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


def test_other_folders_are_left_alone(group_site: Explored, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(SettingsError, match=r"no explorer.*mine\.txt"):
        ab.write_explorer(group_site.run, out=tmp_path, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "precious"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text("{}")  # the name of ours, and of many others'
    with pytest.raises(SettingsError, match="no explorer"):
        ab.write_explorer(group_site.run, out=tmp_path, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "precious"
    out = tmp_path / "site"
    ab.write_explorer(group_site.run, out=out, seeds=[3])
    (out / "mine.txt").write_text("precious")
    with pytest.raises(SettingsError, match=r"mine\.txt"):
        ab.write_explorer(group_site.run, out=out, seeds=[4], overwrite=True)
    assert (out / "mine.txt").read_text() == "precious"
    assert manifest_of(out)["seeds"] == [3]


def test_settings_that_cannot_be(group_site: Explored, small: Small, small_universe: Universe, tmp_path: Path) -> None:
    out = tmp_path / "site"
    with pytest.raises(SettingsError, match="not a universe of the run"):
        ab.write_explorer(group_site.run, universe=small_universe, out=out)
    with pytest.raises(SettingsError, match="brings its own seeds"):
        ab.write_explorer(group_site.run, universe=group_site.universe, out=out, seeds=[1])
    with pytest.raises(SettingsError, match="named twice"):
        ab.write_explorer(group_site.run, out=out, seeds=[1, 1])
    with pytest.raises(SettingsError, match="501 seeds are too many for one page"):
        ab.write_explorer(group_site.run, out=out, seeds=range(501))
    part = ab.enumerate_universe(
        small.run.path,
        [1],
        out=tmp_path / "u.zarr",
        units=small.run.unit_ids[:3],
        sampling=ab.Sampling(steps=2),
        execution=ab.Execution(workers=0, quiet=True),
    )
    with pytest.raises(SettingsError, match="3 of the run's 12 units"):
        ab.write_explorer(small.run, universe=part, out=out)
    assert not out.exists()


@pytest.mark.parametrize("missing", ["onnx", "onnxscript.optimizer"])
def test_a_missing_package_is_named(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SettingsError, match=r"pip install 'ablatable\[explorer\]'"):
        ab.write_explorer(small.run, out=tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_an_installation_without_the_page_says_so(
    group_site: Explored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "__file__", str(tmp_path / "a/b/c/d/site.py"))
    with pytest.raises(StoreError, match="no explorer page"):
        ab.write_explorer(group_site.run, out=tmp_path / "site")


def test_the_command(call: Call, group_site: Explored, tmp_path: Path) -> None:
    out = tmp_path / "site"
    arguments = ("explore", group_site.run.path, "--universe", group_site.universe.url, "--out", out)
    code, text, _ = call(*arguments)
    assert code == 0 and str(out) in text and "--serve" in text
    code, text, _ = call(*arguments, "--json")
    assert code == 0 and json.loads(text)["needs_server"] is False
    code, _, err = call(*arguments, "--steps", "5")
    assert code == 2 and "--universe brings its own seeds" in err


def test_the_readme_makes_a_static_space(group_site: Explored) -> None:
    text = (group_site.path / "README.md").read_text()
    header = dict(line.split(": ", 1) for line in text.split("---")[1].strip().splitlines())
    assert (header["sdk"], header["app_file"]) == ("static", "index.html")


def test_a_site_holds_what_a_gpu_needs_only_if_asked(group_site: Explored, network_site: Explored) -> None:
    assert (network_site.path / "vendor/webgpu").is_dir()
    assert not (group_site.path / "vendor/webgpu").exists()


def test_what_is_vendored_is_what_is_recorded() -> None:
    folder = site.page_folder() / "vendor"
    told = json.loads((folder / "vendored.json").read_text())
    assert len(told["files"]) == 4
    for name, digest in told["files"].items():
        packed = folder / f"{name}.gz"
        stored = gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / name).read_bytes()
        assert hashlib.sha256(stored).hexdigest() == digest, name
    lock = json.loads((folder.parents[1] / "package-lock.json").read_text())
    assert lock["packages"]["node_modules/onnxruntime-web"]["version"] == told["version"]
    assert "MIT License" in (folder / "LICENSE-onnxruntime.txt").read_text()
    assert "http" not in json.dumps([entry.get("resolved", "") for entry in lock["packages"].values()])


# --- serving files ------------------------------------------------------------------------------------------------


@pytest.fixture
def served(group_site: Explored) -> Iterator[str]:
    with file_server(group_site.path) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_address[1]}"
        server.shutdown()


def asked(address: str, path: str, *, method: str = "GET", body: Any = None) -> tuple[int, bytes, str]:
    """Status, body and type of an answer; the path is sent as it is."""
    host, port = urlsplit(address).hostname, urlsplit(address).port
    connection = http.client.HTTPConnection(str(host), port, timeout=60)
    headers = {} if body is None else {"Content-Type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    told = (answer.status, answer.read(), answer.getheader("Content-Type") or "")
    connection.close()
    return told


def test_files_are_served_on_this_machine_alone(served: str, group_site: Explored) -> None:
    assert HOST == "127.0.0.1"
    status, body, kind = asked(served, "/")
    assert status == 200 and body == (group_site.path / "index.html").read_bytes() and "text/html" in kind
    assert asked(served, "/app.js")[2].startswith("text/javascript")
    assert asked(served, "/vendor/ort.wasm.bundle.min.mjs")[2].startswith("text/javascript")
    assert asked(served, "/data/")[0] == 404
    for outside in ("/../run/ensemble.json", "/%2e%2e/run/ensemble.json", "/..%2frun/ensemble.json"):
        assert asked(served, outside)[0] == 404


def test_a_port_in_use_is_a_setting_to_change(served: str, group_site: Explored) -> None:
    with pytest.raises(SettingsError, match="port"):
        file_server(group_site.path, urlsplit(served).port or 0)


# --- serving an ensemble ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawing(group_site: Explored, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Run]]:
    pytest.importorskip("fastapi", reason="needs fastapi and uvicorn: pip install 'ablatable[serve]'")
    from ablatable.explorer.server import Background, application

    sampling = group_site.universe.settings.sampling
    with Background(application(group_site.run, group_site.path, sampling)) as address:
        yield address.rstrip("/"), group_site.run


def events(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(part.removeprefix("data: ")) for part in body.decode().split("\n\n") if part]


def test_the_server_draws_what_the_universe_holds(drawing: tuple[str, Run], group_site: Explored) -> None:
    address, run = drawing
    alive = [[bit == "0" for bit in run.code.words()[unit]] for unit in (3, 8)]
    rows = [{"seed": 2, "alive": alive[0]}, {"seed": 4, "alive": alive[1]}]
    status, body, kind = asked(address, "/api/draw", method="POST", body={"rows": rows})
    assert status == 200 and kind.startswith("text/event-stream")
    told = events(body)
    assert [event["step"] for event in told] == list(range(13)) and told[0]["of"] == 12
    drawn = np.frombuffer(base64.b64decode(told[-1]["levels"]), np.uint8).reshape(2, 3, 9, 7).astype(int)
    for row, (unit, sample) in enumerate(((3, 2), (8, 4))):
        exact = channels_first(group_site.universe.counterfactual(run.unit_ids[unit])[sample]).astype(int)
        assert np.abs(drawn[row] - exact).max() <= 1


@pytest.mark.parametrize(
    "row",
    [
        {"seed": -1},
        {"seed": 2**53},
        {"seed": "1"},
        {"seed": 1.5},
        {"alive": [True] * 8},
        {"alive": [1] * 9},
        {"alive": [False] * 9},
        {"path": "/etc/passwd"},
    ],
)
def test_what_a_request_may_hold_is_bounded(drawing: tuple[str, Run], row: dict[str, Any]) -> None:
    rows = [{"seed": 1, "alive": [True] * 9, **row}]
    assert asked(drawing[0], "/api/draw", method="POST", body={"rows": rows})[0] == 422


def test_a_request_has_a_bounded_number_of_rows(drawing: tuple[str, Run]) -> None:
    row = {"seed": 1, "alive": [True] * 9}
    assert asked(drawing[0], "/api/draw", method="POST", body={"rows": []})[0] == 422
    assert asked(drawing[0], "/api/draw", method="POST", body={"rows": [row] * 17})[0] == 422
    assert asked(drawing[0], "/api/draw", method="POST", body={"rows": [row], "run": "/tmp"})[0] == 422


def test_requests_wait_in_one_queue_and_too_many_are_sent_away(drawing: tuple[str, Run]) -> None:
    body = {"rows": [{"seed": seed, "alive": [True] * 9} for seed in range(16)]}

    def ask(_: int) -> int:
        return asked(drawing[0], "/api/draw", method="POST", body=body)[0]

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        statuses = list(pool.map(ask, range(24)))
    assert set(statuses) <= {200, 503} and statuses.count(200) >= 1
    assert ask(0) == 200  # and the queue is empty again


def test_the_server_serves_the_page_and_nothing_else(drawing: tuple[str, Run], group_site: Explored) -> None:
    address = drawing[0]
    with urllib.request.urlopen(address + "/") as answer:
        assert answer.read() == (group_site.path / "index.html").read_bytes()
    for outside in ("/../run/ensemble.json", "/%2e%2e/run/ensemble.json", "/docs", "/openapi.json", "/data/"):
        assert asked(address, outside)[0] in (404, 405)


def test_packing_is_repeatable() -> None:
    array = np.arange(1000, dtype=np.uint8)
    assert content.packed(array) == content.packed(array.copy())
