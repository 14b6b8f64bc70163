"""What passes between a device and the CPU while it works: real code and real arithmetic on a pretended device."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ablatable import Units
from ablatable.analysis.features import CLIP, Network
from ablatable.diffusion.captured import Captured
from ablatable.diffusion.ensemble import Ensemble
from ablatable.diffusion.fast_unet import agrees
from ablatable.diffusion.ideal import IdealDenoiser
from ablatable.diffusion.recipe import Recipe, TrainingConfig, UNetConfig
from ablatable.diffusion.sampling_settings import Sampling
from ablatable.diffusion.schedule import Schedule
from ablatable.diffusion.stacked import stacked
from ablatable.diffusion.unet import build
from ablatable.runs import component_training
from ablatable.runs.checkpoint import TrainingState
from ablatable.runs.component_training import TrainTask, train_component, training_loop
from ablatable.universes.drawing import draw
from conftest import Small
from pretended import NAME, CUDAGraph, Pretended

UNITS = Units.digits(6, size=8)
SMALL = UNetConfig(channels=(8, 8), norm_groups=4)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pretended]:
    # tensors of our own do not know inference mode
    monkeypatch.setattr(torch, "inference_mode", lambda mode=True: torch.no_grad())
    with Pretended() as pretended:
        yield pretended


def components(prediction: Any) -> list[Any]:
    if prediction == "ideal":
        pixels = torch.from_numpy(np.moveaxis(UNITS.images, -1, 1).copy())
        return [IdealDenoiser(pixels[k : k + 3], Schedule()).eval() for k in range(3)]
    config = UNetConfig(channels=(8, 8), norm_groups=4, prediction=prediction)
    made = [build(config, (1, 8, 8), k).eval() for k in range(3)]
    assert agrees(made[0].unet)  # asked when a component is loaded, on the CPU
    return made


@pytest.mark.parametrize("prediction", ["noise", "velocity", "edm", "ideal"])
def test_drawing_copies_each_steps_noise_and_the_result(device: Pretended, prediction: str) -> None:
    ablations = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 1]], bool)

    def drawn(where: str, sampler: str, steps: int) -> tuple[np.ndarray, Counter[str]]:
        ensemble = Ensemble([component.to(where) for component in components(prediction)], batch=4)
        device.copies.clear()
        device.beside.clear()
        images = draw(
            ensemble,
            ablations,
            [3, 1],
            shape=(1, 8, 8),
            schedule=Schedule(),
            sampling=Sampling(sampler, steps),
            device=where,
        )
        beside.append(len(device.beside))
        return images, Counter(device.copies)

    beside: list[int] = []
    far, few = drawn(NAME, "ddim", 2)
    assert np.array_equal(far, drawn("cpu", "ddim", 2)[0])
    assert few["out"] == 1 and few["item"] == 0, "nothing waits for the device but the end"
    assert drawn(NAME, "ddim", 6)[1] == few, "a step of ddim copies nothing, however many passes it makes"
    assert drawn(NAME, "ddpm", 6)[1] == few, "one of ddpm neither"
    assert beside[-1] == 7, "a thread sends the noise of the start and of each step"


@torch.no_grad()
def test_what_depends_on_the_timestep_is_computed_once(device: Pretended) -> None:
    """A component's second pass at a timestep launches neither sines nor the linear layers of the time embedding."""
    component, x = components("noise")[0].to(NAME), torch.ones(2, 1, 8, 8).to(NAME)
    first, once = component(x, 500), Counter(device.calls)
    device.calls.clear()
    again, twice = component(x, 500), Counter(device.calls)
    assert torch.equal(first.cpu(), again.cpu())
    linear = "aten.addmm.default"
    assert once["aten.sin.default"] == 1 and once[linear] > 2 and not twice["aten.sin.default"] + twice[linear]
    assert sum(twice.values()) < 0.8 * sum(once.values())
    device.calls.clear()
    component(x, 499)
    assert Counter(device.calls)[linear] == once[linear], "another timestep has its own"


@torch.no_grad()
def test_a_pass_is_one_launch(device: Pretended) -> None:
    """A pass that was recorded is replayed, with the bits that it has unrecorded, whatever came before it."""
    plain, recorded = components("noise")[0].to(NAME), components("noise")[0].to(NAME).capture()
    xs = [torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(k)).to(NAME) for k in range(3)]
    asked = [(xs[0], 500), (xs[1], 500), (xs[2], 20), (xs[0], 500)]
    expected = [plain(x, t).cpu() for x, t in asked]
    found = []
    for x, t in asked:
        device.calls.clear()
        found.append(recorded(x, t))
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True)), "no answer changes later"
    launched = Counter(call for call in device.calls if call != "aten.alias.default")  # a view
    assert launched == {"aten._foreach_copy_.default": 1, "replay": 1, "aten.clone.default": 1}
    longer = torch.cat([xs[0], xs[1]])
    assert torch.equal(recorded(longer, 500).cpu(), plain(longer, 500).cpu()), "another batch is another recording"


@torch.no_grad()
def test_a_pass_of_a_stack_is_one_launch(device: Pretended) -> None:
    plain, recorded = (stacked(components("noise"), "unet").eval().to(NAME) for _ in range(2))
    recorded.capture()  # pyright: ignore[reportCallIssue]
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(NAME)
    recorded(x, 500)
    device.calls.clear()
    found = recorded(x, 500)
    assert Counter(device.calls)["replay"] == 1 and len(device.calls) <= 4
    assert torch.equal(found.cpu(), plain(x, 500).cpu())


@torch.no_grad()
@pytest.mark.parametrize("fault", ["other bits", "reads a value"])
def test_what_cannot_be_recorded_is_computed(device: Pretended, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    if fault == "other bits":
        monkeypatch.setattr(CUDAGraph, "broken", True)
    calls = []

    def function(x: torch.Tensor) -> tuple[torch.Tensor]:
        calls.append(x)
        return (x * (float(x.sum()) if fault == "reads a value" else 2.0) + 1,)

    captured, x = Captured(function), torch.arange(3.0).to(NAME)
    expected = function(x)[0].cpu()
    with pytest.warns(UserWarning, match="not recorded as a CUDA graph"):
        assert torch.equal(captured(x)[0].cpu(), expected)
    before = len(calls)
    assert torch.equal(captured(x)[0].cpu(), expected) and len(calls) == before + 1, "it isn't tried again"
    here = Captured(lambda x: (x + 1,))
    assert torch.equal(here(torch.ones(2))[0], torch.full((2,), 2.0)) and not here._graphs, "a CPU records nothing"


def test_components_of_a_run_are_recorded_unless_they_come_and_go(small: Small, device: Pretended) -> None:
    assert all(component.captured for component in small.run.ensemble().components)
    few = small.run.ensemble(max_resident=1).components
    assert not any(few[k].captured for k in range(len(few)))


def test_training_waits_for_nothing(device: Pretended, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(component_training, "REPORT_SECONDS", 1e9)

    def trained(where: str, steps: int) -> tuple[Any, Counter[str]]:
        recipe = Recipe(component=SMALL, training=TrainingConfig(steps=64, batch=4))
        device.copies.clear()
        device.beside.clear()
        model, state = training_loop(TrainTask(UNITS, recipe, 0, 0, tmp_path / "00", where), UNITS, until=steps)
        beside.append(len(device.beside))
        return (model.state_dict(), state.losses), Counter(device.copies)

    beside: list[int] = []
    (weights, losses), six = trained(NAME, 6)
    assert device.calls.count("replay") >= 6 - 1, "forward and backward are one launch"
    near, near_losses = trained("cpu", 6)[0]
    assert weights.keys() == near.keys() and np.allclose(losses, near_losses, rtol=1e-4)
    seven = trained(NAME, 7)[1]
    assert seven == six and not six["item"], "a step copies nothing there or back"
    assert beside == [24, 0, 28], "a thread sends its batch, which is made beforehand: x_t, t, noise and abar"


def test_what_a_pass_on_the_device_launches_does_not_hide_copies(device: Pretended) -> None:
    """The instrument sees a copy, an item and two places mixed."""
    x = torch.ones(2).to(NAME)
    _ = x[torch.tensor([0]).to(NAME)].cpu(), torch.tensor([1.0], device=NAME), float(x.sum())
    assert Counter(device.copies) == {"in": 3, "out": 1, "item": 1}
    with pytest.raises(RuntimeError, match="two places"):
        _ = x + torch.ones(2)


def test_checkpoints_cost_a_fiftieth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes a second and a checkpoint two: the second comes a hundred steps after the first."""
    clock, saved = [0.0], []
    update = TrainingState.update

    def step(self: TrainingState, *arguments: Any) -> None:
        clock[0] += 1
        update(self, *arguments)

    def save(self: TrainingState, path: Path, step: int) -> None:
        clock[0] += 2
        saved.append(step)

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(TrainingState, "update", step)
    monkeypatch.setattr(TrainingState, "save", save)
    recipe = Recipe(component=UNetConfig(channels=(4,), norm_groups=2), training=TrainingConfig(steps=250, batch=1))
    train_component(TrainTask(UNITS.select(UNITS.ids[:1]), recipe, 0, 0, tmp_path / "00"))
    assert saved == [21, 122, 223], "the first after twenty seconds, then one after 50 times what the last one took"


def test_loading_draws_no_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablatable.diffusion.kinds import load_component, save_component

    made = build(SMALL, (1, 8, 8), 5)
    save_component(made, SMALL, tmp_path / "00")
    before = torch.get_rng_state()
    loaded = load_component(tmp_path / "00", SMALL, Schedule())
    assert torch.equal(torch.get_rng_state(), before)
    expected = made.state_dict()
    found = loaded.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(weight.requires_grad and not weight.is_meta for weight in loaded.parameters())
    halves = SMALL
    save_component(made, halves, tmp_path / "01", "bfloat16")
    assert {w.dtype for w in load_component(tmp_path / "01", halves, Schedule()).parameters()} == {torch.float32}


def test_features_are_computed_on_the_device(device: Pretended) -> None:
    """One copy there and one back per batch of pictures, and the CPU's numbers."""
    net = torch.nn.Linear(3, 5)
    here = Network(lambda x: net(x.mean((2, 3))), 8, *CLIP, net)
    pictures = np.random.default_rng(0).integers(0, 256, (130, 8, 8, 3), dtype=np.uint8)
    expected = here(pictures)
    there = here.on(NAME)
    device.copies.clear()
    assert np.allclose(there(pictures), expected, atol=1e-6)
    assert Counter(device.copies) == {"in": 3 + 2, "out": 3}, "three batches, and what they are normalised by"
