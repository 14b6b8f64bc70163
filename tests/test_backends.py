"""What computes forward passes: one choice, recorded as it always was, and OpenVINO as one of them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable._runtime.provenance import environment
from ablatable.cli.groups import FastDrawing
from ablatable.diffusion import openvino_unet
from ablatable.diffusion.recipe import UNetConfig
from ablatable.diffusion.unet import UNetDenoiser, build
from ablatable.errors import SettingsError
from ablatable.runs.backends import backend_of
from ablatable.universes import enumeration
from ablatable.universes.checking import check_universe
from ablatable.universes.settings import UniverseSettings
from conftest import Small

BEFORE = Path(__file__).parent / "data" / "before_the_move" / "universe" / "zarr.json"
HERE = Execution(0, "cpu", quiet=True)
STEPS, SEEDS, SPARES = 6, [5, 0, 9], 3  # as the fixture `small_universe` has them


@pytest.fixture(scope="module")
def openvino() -> Any:
    """The package, as the library imports it: importing it in another way sends a message."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("needs OpenVINO: pip install 'ablatable[openvino]'")
    return openvino_unet._openvino()


def drawn(run: ab.Run, out: Path, backend: Any = "openvino", **more: Any) -> ab.Universe:
    sampling = Sampling(steps=STEPS, backend=backend, precision=more.pop("precision", "fp32"))
    given = {"seeds": SEEDS, "spares": SPARES, "execution": HERE, **more}
    return ab.enumerate_universe(run, out=out, sampling=sampling, **given)


# --- one choice, and its record ------------------------------------------------------------------


def test_settings_are_written_as_they_were_read() -> None:
    old = json.loads(BEFORE.read_text())["attributes"]["ablatable"]
    settings = UniverseSettings.model_validate(old)
    again = settings.model_dump(mode="json")
    assert settings.backend == "eager" and json.dumps(again) == json.dumps(old), "its place is the old one, too"
    for more, backend in (({"compiled": True}, "compiled"), ({"stacked": True}, "stacked"), ({}, "eager")):
        then = UniverseSettings.model_validate({**old, **more})
        assert then.backend == backend and then.model_dump(mode="json") == {**old, **more}
    new = UniverseSettings.model_validate({**old, "backend": "openvino"})
    assert new.model_dump(mode="json") == {**old, "backend": "openvino"}, "an older version refuses to read it"


@pytest.mark.parametrize(
    ("options", "backend"),
    [
        ({}, None),
        ({"backend": "openvino"}, "openvino"),
        ({"compiled": True}, "compiled"),
        ({"compiled": False}, "eager"),
        ({"stacked": True}, "stacked"),
        ({"stacked": True, "compiled": False}, "stacked"),
        ({"backend": "openvino", "compiled": False}, "openvino"),
        ({"backend": "compiled", "compiled": True}, "compiled"),
    ],
)
def test_older_options_still_name_a_backend(options: dict[str, Any], backend: str | None) -> None:
    assert FastDrawing(**options).sampling().backend == backend


@pytest.mark.parametrize("options", [{"stacked": True, "compiled": True}, {"backend": "openvino", "compiled": True}])
def test_two_backends_exclude_each_other(options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="exclude each other"):
        FastDrawing(**options).sampling()


def test_an_unknown_backend_is_named() -> None:
    unknown: Any = "tensorflow"
    with pytest.raises(SettingsError, match="no backend 'tensorflow'; there are eager, compiled, stacked, openvino"):
        Sampling(backend=unknown)


# --- what OpenVINO needs ---------------------------------------------------------------------------


def test_without_the_package_it_says_what_to_install(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_unet, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'ablatable\[openvino\]', or take `backend='eager'`"):
        drawn(small.run, tmp_path / "u.zarr")
    assert not (tmp_path / "u.zarr").exists()


def test_it_needs_a_cpu_and_all_components_in_memory(small: Small) -> None:
    with pytest.raises(SettingsError, match=r"needs a CPU .*, and this is NVIDIA"):
        backend_of(small.run, "openvino", "fp32", "NVIDIA A100, CUDA 12.8, cuDNN 91002")
    with pytest.raises(SettingsError, match="leave `max_resident` out"):
        small.run.ensemble(batch=8, backend="openvino", max_resident=2)


def test_bf16_needs_a_processor_that_has_it(small: Small, monkeypatch: pytest.MonkeyPatch, openvino: Any) -> None:
    class Old:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino_unet, "_core", Old)
    with pytest.raises(SettingsError, match="instructions for bf16"):
        backend_of(small.run, "openvino", "bf16", "cpu")
    assert backend_of(small.run, "openvino", "fp32", "cpu") == "openvino"


def test_other_kinds_are_refused(small: Small, tmp_path: Path) -> None:
    run = ab.train(small.units, small.code, ab.preset("ideal"), out=tmp_path / "run", execution=HERE)
    with pytest.raises(SettingsError, match=r"kind 'ideal'.* no method 'by_openvino'; take `backend='eager'`"):
        drawn(run, tmp_path / "u.zarr")


def test_nothing_is_reported_to_a_server(openvino: Any) -> None:
    """OpenVINO's own stand-in takes the place of its telemetry, installed or not."""
    told = importlib.import_module("openvino.tools.ovc.telemetry_utils")
    assert told.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


# --- what it computes ------------------------------------------------------------------------------

CONFIGS = {
    "noise": UNetConfig(channels=(8, 16), norm_groups=4),
    "attention": UNetConfig(channels=(8, 16), norm_groups=4, attention=(1,), middle_attention=True),
    "classes": UNetConfig(channels=(8, 16), norm_groups=4, classes=("a", "b")),
    "edm on coefficients": UNetConfig(channels=(8, 16), norm_groups=4, prediction="edm", codec="haar"),
}


@pytest.mark.parametrize("config", CONFIGS)
def test_it_predicts_what_torch_does(config: str, openvino: Any) -> None:
    """Two components of one architecture, which share a graph, and differ in their weights."""
    given = {"class_labels": torch.tensor([0, 2, 1])} if config == "classes" else {}
    x = torch.randn(3, 1, 10, 12, generator=torch.Generator().manual_seed(0))
    for seed in (0, 1):
        plain: UNetDenoiser = build(CONFIGS[config], (1, 10, 12), seed).eval()
        ours = build(CONFIGS[config], (1, 10, 12), seed).eval().by_openvino("fp32")
        for t in (700, 3, 700):
            every = torch.full((3,), t)  # with a gradient and a timestep for each row, diffusers' own pass predicts
            expected = plain(x, every, **given).detach()
            with torch.no_grad():
                torch.testing.assert_close(ours(x, t, **given), expected, rtol=1e-4, atol=2e-5)
                assert torch.equal(ours(x, t, **given), ours(x, t, **given))


def test_each_worker_has_one_thread(openvino: Any) -> None:
    ours = build(CONFIGS["noise"], (1, 8, 8), 0).eval().by_openvino("fp32")
    with torch.no_grad():
        ours(torch.zeros(2, 1, 8, 8), 5)
    inference: Any = ours.inference
    (request,) = inference._requests.values()
    compiled = request._request.get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == compiled.get_property("NUM_STREAMS") == 1
    assert not compiled.get_property("ENABLE_CPU_PINNING") and compiled.get_property("INFERENCE_PRECISION_HINT") == (
        openvino.Type.f32
    )


def test_a_pass_that_is_more_than_rounding_off_is_refused(
    small: Small, monkeypatch: pytest.MonkeyPatch, openvino: Any
) -> None:
    ask = openvino_unet.Request.__call__
    monkeypatch.setattr(openvino_unet.Request, "__call__", lambda self, x, biases: 1.001 * ask(self, x, biases))
    with pytest.raises(SettingsError, match=r"differs from torch's by 1\.0e-03"):
        small.run.ensemble(batch=8, backend="openvino")


def test_a_place_that_matters_is_noticed(small: Small, monkeypatch: pytest.MonkeyPatch, openvino: Any) -> None:
    ask, tilt = openvino_unet.Request.__call__, 1 + 1e-6 * torch.arange(8.0)[:, None, None, None]
    monkeypatch.setattr(openvino_unet.Request, "__call__", lambda self, x, biases: tilt * ask(self, x, biases))
    with pytest.raises(SettingsError, match=r"depends on its place in a batch of 8 .*and with `backend='eager'`"):
        small.run.ensemble(batch=8, backend="openvino")


# --- universes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def universe(small: Small, tmp_path_factory: pytest.TempPathFactory, openvino: Any) -> ab.Universe:
    return drawn(small.run, tmp_path_factory.mktemp("openvino") / "u.zarr")


def test_its_pictures_are_those_of_torch_but_for_rounding(
    universe: ab.Universe, small_universe: ab.Universe, openvino: Any
) -> None:
    assert universe.settings.backend == "openvino"
    for unit in universe.unit_ids:
        apart = universe.counterfactual(unit).astype(int) - small_universe.counterfactual(unit).astype(int)
        assert np.abs(apart).max() <= 1
    recorded = json.loads((Path(universe.url) / "zarr.json").read_text())["attributes"]
    assert recorded["environment"]["openvino"] == importlib.metadata.version("openvino")
    assert {**recorded["environment"], "openvino": ""} == {**environment(), "openvino": ""}
    other = json.loads((Path(small_universe.url) / "zarr.json").read_text())["attributes"]
    assert "openvino" not in other["environment"] and "backend" not in other["ablatable"]


def test_it_resumes_with_openvino_alone(
    universe: ab.Universe, small_universe: ab.Universe, small: Small, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="backend: openvino there, eager asked for"):
        drawn(small.run, Path(universe.url), "eager")
    with pytest.raises(SettingsError, match="backend: eager there, openvino asked for"):
        drawn(small.run, Path(shutil.copytree(small_universe.url, tmp_path / "copy")))


def test_the_same_bytes_beside_others_and_after_an_interruption(
    universe: ab.Universe, small: Small, tmp_path: Path, fingerprints: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grown from some units and seeds, so that other rows stood beside each; and stopped amid the work."""
    grown = tmp_path / "grown.zarr"
    drawn(small.run, grown, seeds=[5], units=[small.run.unit_ids[k] for k in (7, 2)], spares=1)
    whole = drawn(small.run, grown, seeds=SEEDS)
    assert check_universe(grown) == []
    for unit in universe.unit_ids:
        assert np.array_equal(whole.counterfactual(unit), universe.counterfactual(unit))

    monkeypatch.setattr(enumeration, "BLOCK_ROWS", (4, 4))
    compute, done = enumeration.compute_block, []

    def interrupted(task: Any, report: Any) -> None:
        if len(done) == 3:
            raise KeyboardInterrupt
        compute(task, report)
        done.append(task)

    again = tmp_path / "again.zarr"
    monkeypatch.setattr(enumeration, "compute_block", interrupted)
    with pytest.raises(KeyboardInterrupt):
        drawn(small.run, again)
    monkeypatch.setattr(enumeration, "compute_block", compute)
    rest = drawn(small.run, again)
    assert len(done) == 3
    for unit in universe.unit_ids:
        assert np.array_equal(rest.counterfactual(unit), universe.counterfactual(unit))


@pytest.mark.slow
def test_the_same_bytes_with_two_workers(
    universe: ab.Universe, small: Small, tmp_path: Path, fingerprints: Callable
) -> None:
    drawn(small.run, tmp_path / "two.zarr", execution=Execution(2, "cpu", quiet=True))
    assert fingerprints(tmp_path / "two.zarr") == fingerprints(Path(universe.url))


def test_the_command_says_how_far_it_is_from_torch(small: Small, tmp_path: Path, call: Any, openvino: Any) -> None:
    code, text, *_ = call(
        "universe", "create", small.run.path, "--seeds", "0", "--steps", "3", "--unit", small.run.unit_ids[0],
        "--backend", "openvino", "--workers", "0", "--out", tmp_path / "u.zarr",
    )  # fmt: skip
    assert code == 0 and "fp32, openvino against fp32" in text
    code, text, *_ = call(
        "universe", "create", small.run.path, "--seeds", "0", "--steps", "3", "--unit", small.run.unit_ids[0],
        "--backend", "openvino", "--precision", "bf16", "--workers", "0", "--out", tmp_path / "b.zarr",
    )  # fmt: skip
    assert "bf16, openvino against fp32" in text or "instructions for bf16" in text


def test_screens_and_samples_are_drawn_with_it(
    universe: ab.Universe, small: Small, tmp_path: Path, openvino: Any
) -> None:
    from PIL import Image

    sampling = Sampling(steps=STEPS, backend="openvino")
    screen = ab.screen_universe(small.run, [5], out=tmp_path / "s.zarr", share=1.0, sampling=sampling, execution=HERE)
    assert screen.settings.backend == "openvino" and np.array_equal(screen.factual[0], universe.factual[0])
    (path,) = ab.draw_samples(small.run, [5], out=tmp_path / "images", sampling=sampling, execution=HERE)
    assert np.array_equal(np.asarray(Image.open(path)), universe.factual[0, ..., 0])
