"""Everything that computes with networks does so on the device that it is given: pretended devices, and `meta`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ablatable import AblatablePipeline, Execution, Sampling, Units, Universe, draw_samples, evaluate
from ablatable.attribution import gradients, methods, pieces
from ablatable.attribution.truth import component_sets, diffusion_loss
from ablatable.diffusion.recipe import UNetConfig
from ablatable.diffusion.schedule import Schedule
from ablatable.diffusion.unet import UNetDenoiser, build
from ablatable.runs.batches import batch_alone
from conftest import Small
from pretended import NAME, Pretended


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretended]:
    monkeypatch.setattr(torch, "inference_mode", lambda mode=True: torch.no_grad())
    with Pretended() as pretended:
        yield pretended


@pytest.mark.usefixtures("device")
def test_the_witness_method_asks_components_on_the_device(small: Small) -> None:
    images = small.units.images[:2]
    pictures: Any = SimpleNamespace(images=images, trajectories=None)
    here, there = (methods.by_witness(where).prepare(small.units, small.run)(pictures) for where in ("cpu", NAME))
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("device")
def test_losses_of_sets_are_computed_on_the_device(
    small: Small, small_universe: Universe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ablatable.attribution import truth

    monkeypatch.setattr(truth, "NOISES", 2)
    sets = component_sets(small.run.code.components)[:5]
    here = diffusion_loss(small_universe, small.run, sets)
    monkeypatch.setattr(truth, "ROWS", 2)  # of three samples
    np.testing.assert_allclose(diffusion_loss(small_universe, small.run, sets, NAME), here, rtol=1e-5)


@pytest.mark.parametrize("name", ["tracin", "grad-cos"])
def test_gradients_are_computed_on_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On `meta`, which computes nothing but refuses to mix with another device: all of it is there until the end."""
    pytest.importorskip("dattri")
    monkeypatch.setattr(gradients, "NOISES", 2)
    brought = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: brought.append(self.device.type) or torch.zeros(self.shape))
    images = Units.digits(5, size=8).images
    model = build(UNetConfig(channels=(4,), norm_groups=2), (1, 8, 8), 0).eval().to("meta")
    part = gradients._Part(gradients.METHODS[name], model, Schedule(), images[:3], None, "meta")
    assert part.score(images[3:]).shape == (2, 3) and "meta" in brought


def test_evaluate_hands_its_device_on(
    small_universe: Universe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    find = methods.find_method
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(
        pieces, "find_method", lambda name, u, device, samples: asked.append(device) or find(name, u, device)
    )
    pieces._prepared.cache_clear()
    evaluate(small_universe, ["random"], out=tmp_path / "e", execution=Execution(0, "mps", quiet=True))
    pieces._prepared.cache_clear()
    assert asked == ["mps"]
    seen: list[Any] = []
    monkeypatch.setattr(methods, "load_features", lambda name, device: seen.append(device) or (lambda images: images))
    monkeypatch.setattr(methods, "prepare_gradient", lambda *given: seen.append(given[-1]))
    for name in ("features:x", "trak"):
        prepared: Any = find(name, small_universe, "mps").prepare
        prepared(SimpleNamespace(images=np.zeros((1, 2))), object())
    assert seen == ["mps", "mps"]


def test_samples_have_a_batch_of_their_own_on_a_gpu() -> None:
    run: Any = SimpleNamespace(shape=(3, 32, 32), recipe=SimpleNamespace(component=SimpleNamespace(channels=(128,))))
    assert batch_alone(run, "fp32", "NVIDIA A100", 80 * 2**30) == 32
    assert batch_alone(run, "fp32", "NVIDIA A100", 2**30) == 8, "a quarter of 1 GiB, for rows of 21 MB"
    assert batch_alone(run, "fp32", "cpu") == 8 and batch_alone(run, "bf16", "cpu") == 16


def test_the_pipeline_on_a_device_draws_what_sample_draws(
    small: Small, device: Pretended, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In batches of one size, deterministically, and to the same picture as the CPU's, but for rounding."""
    seen, flags = [], []
    forward = UNetDenoiser.forward

    def look(self: UNetDenoiser, x: torch.Tensor, t: int) -> torch.Tensor:
        seen.append(len(x))
        flags.append(torch.are_deterministic_algorithms_enabled())
        return forward(self, x, t)

    sampling = Sampling("ddim", 2)
    draw: Any = AblatablePipeline.draw.__wrapped__  # pyright: ignore[reportFunctionMemberAccess] without inference mode
    expected = draw(AblatablePipeline(small.run), [3, 5], sampling=sampling)
    monkeypatch.setattr(UNetDenoiser, "forward", look)
    drawn = draw(AblatablePipeline(small.run).to(NAME), [3, 5], sampling=sampling)
    assert torch.allclose(drawn.cpu(), expected, atol=1e-4)
    assert set(seen) == {32} and all(flags)
    seen.clear()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr("ablatable.runs.samples.Execution.resolved", lambda self: Execution(0, NAME, quiet=True))
    draw_samples(small.run, [3, 5], out=tmp_path / "s", sampling=sampling)
    assert set(seen) == {32}
