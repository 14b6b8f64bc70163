"""Components computed as one network: what each gives is what it gives by itself, and nothing reaches across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ablatable as ab
from ablatable import Execution, Recipe, Sampling, Units
from ablatable.diffusion.ensemble import Ensemble
from ablatable.diffusion.recipe import TrainingConfig, UNetConfig
from ablatable.diffusion.stacked import StackedEnsemble, refuse_unless_alone, stacked
from ablatable.diffusion.unet import UNetDenoiser, build
from ablatable.errors import SettingsError
from ablatable.runs.component_training import TrainTask, first_marks, training_loop
from ablatable.runs.records import read_training
from ablatable.runs.stacked_training import StackTask, groups, train_stack
from ablatable.unlearning.verification import repeat
from conftest import Small

CONFIG = UNetConfig(channels=(8, 16), norm_groups=4)
HERE = Execution(0, "cpu", quiet=True)


def components(count: int = 3, config: UNetConfig = CONFIG) -> list[UNetDenoiser]:
    return [build(config, (1, 7, 8), seed).eval() for seed in range(count)]


class Launches(TorchDispatchMode):
    """Counts operations that launch a kernel, on whatever device: all but those that only look at memory otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count += not func.is_view and "unsafe_view" not in str(func) and "detach" not in str(func)
        return out


# --- drawing --------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["noise", "edm"])
@torch.no_grad()
def test_it_predicts_what_each_component_does(prediction: Any) -> None:
    alone = components(config=UNetConfig(channels=(8, 16), norm_groups=4, prediction=prediction))
    together = stacked(alone, "unet").eval()
    x = torch.randn(6, 1, 7, 8, generator=torch.Generator().manual_seed(0))  # padded to 8 x 8, like each alone
    for t in (700, torch.arange(6) * 150):
        parts = [
            c(x[2 * k : 2 * k + 2], t if isinstance(t, int) else t[2 * k : 2 * k + 2]) for k, c in enumerate(alone)
        ]
        torch.testing.assert_close(together(x, t), torch.cat(parts), rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_an_ensemble_of_a_stack_is_the_mean_over_survivors() -> None:
    alone = components()
    alive = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 1], [1, 1, 0]], bool)
    plain, ours = (
        Ensemble(alone, alive, batch=2),
        StackedEnsemble(stacked(alone, "unet").eval(), 3, batch=2).ablate(alive),
    )
    x = torch.randn(5, 1, 7, 8, generator=torch.Generator().manual_seed(1))
    for t in (500, torch.tensor([1, 999, 30, 500, 2])):
        torch.testing.assert_close(ours(x, t), plain(x, t), rtol=1e-4, atol=2e-5)
    rows = torch.tensor([0, 2, 1, 2, 0])
    torch.testing.assert_close(ours.shared(x[:3], rows, 500), plain(x[:3][rows], 500), rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(ours.components[1](x, 40), alone[1](x, 40), rtol=1e-4, atol=2e-5)


def test_a_stack_launches_little_more_than_one_component() -> None:
    """On `meta`, where nothing is computed: a pass, and a training step's, of six components."""
    alone = [component.to("meta") for component in components(6)]
    from ablatable.diffusion import fast_unet

    assert fast_unet.agrees(alone[0].unet)
    together = stacked(alone, "unet")

    def launched(modules: Sequence[Any], t: Any, train: bool) -> int:
        x = torch.empty(4 * 6 // len(modules), 1, 7, 8, device="meta")
        times = t if isinstance(t, int) else t.expand(len(x))
        with torch.set_grad_enabled(train), Launches() as seen:
            for module in modules:
                module.train(train)
                said = module(x, times)
                if train:
                    said.square().mean().backward()
        return seen.count

    for t, train, least in ((500, False, 2.5), (torch.empty(1, device="meta", dtype=torch.int64), True, 4.5)):
        for modules in (alone, [together]):
            launched(modules, t, train)  # what is computed once
        assert launched(alone, t, train) > least * launched([together], t, train)


def test_a_universe_that_is_drawn_stacked(small: Small, small_universe: ab.Universe, tmp_path: Path) -> None:
    how = {"units": small.run.unit_ids[:4], "execution": HERE}
    plain = ab.enumerate_universe(small.run, [5, 0], out=tmp_path / "p", sampling=Sampling("ddim", 3), **how)
    made = ab.enumerate_universe(
        small.run, [5, 0], out=tmp_path / "s", sampling=Sampling("ddim", 3, backend="stacked"), **how
    )
    assert made.settings.backend == made.settings.sampling.backend == "stacked" and plain.settings.backend == "eager"
    apart = np.abs(made.factual.astype(int) - plain.factual.astype(int))
    assert apart.max() <= 1, "but for rounding"
    for unit in how["units"]:
        apart = np.abs(made.counterfactual(unit).astype(int) - plain.counterfactual(unit).astype(int))
        assert apart.max() <= 1
    with pytest.raises(SettingsError, match="backend: stacked there, eager asked for"):
        ab.enumerate_universe(small.run, [5, 0], out=tmp_path / "s", sampling=Sampling("ddim", 3), **how)
    assert "stacked" not in (tmp_path / "p/zarr.json").read_text(), "other records are as they were"


@dataclass(frozen=True)
class OnACluster(Execution):
    """It works here, and keeps the memory that a cluster would be asked for."""

    def pool(self, function: Any, *, run: Path | None = None, gpu_bytes: int | None = None) -> Any:
        ASKED.append(gpu_bytes or 0)
        return HERE.pool(function)


ASKED: list[int] = []


def test_a_cluster_reserves_memory_for_all_that_compute_at_once(small: Small, tmp_path: Path) -> None:
    """Three or six batches at once: what they take grows as many times, and what the weights take does not shrink."""
    there = OnACluster(ray="1:1", device="cpu", quiet=True)
    ASKED.clear()
    for count in (1, 3):
        recipe = RECIPE.replace(steps=1, stacked=count)
        ab.train(UNITS, ab.Code.balanced(len(UNITS), 6), recipe, out=tmp_path / str(count), execution=there)
    one, three = ASKED
    assert three == 3 * one, "weights, gradients, moments, and a batch for each"
    ASKED.clear()
    for backend in ("eager", "stacked"):
        sampling = Sampling("ddim", 1, backend=backend)
        for name, draw, more in (("u", ab.enumerate_universe, {}), ("s", ab.screen_universe, {"share": 1.0})):
            out = tmp_path / f"{name}{backend}"
            draw(small.run, [5], out=out, sampling=sampling, execution=there, **more)  # pyright: ignore
    weights = sum(path.stat().st_size for path in small.run.path.rglob("*_model.safetensors"))
    (plain, screened), (all_of_it, screened_stacked) = ASKED[:2], ASKED[2:]
    assert all_of_it - weights == 6 * (plain - weights) > 0 and screened_stacked - weights == 6 * (screened - weights)


def test_what_cannot_be_stacked() -> None:
    attention = UNetConfig(channels=(8, 16), norm_groups=4, attention=(1,))
    with pytest.raises(SettingsError, match="attention"):
        stacked(components(2, attention), "unet")
    with pytest.raises(SettingsError, match="kind 'ideal' cannot be stacked"):
        stacked([], "ideal")


# --- training --------------------------------------------------------------------------------

RECIPE = Recipe(component=CONFIG, training=TrainingConfig(steps=6, batch=3, clip=0.05, stacked=3))
UNITS = Units.digits(9, size=8)
SPLITS = [UNITS.ids[:4], UNITS.ids[3:8], UNITS.ids[2:6]]


def tasks(folder: Path, units: Units = UNITS, recipe: Recipe = RECIPE) -> list[TrainTask]:
    return [TrainTask(units.select(ids), recipe, k, 7, folder / f"{k:02d}") for k, ids in enumerate(SPLITS)]


def hashes(folder: Path, units: Units = UNITS, which: Sequence[int] = (0, 1, 2)) -> list[str]:
    every = tasks(folder, units)
    return train_stack(StackTask(tuple(every[k] for k in which), "cpu"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("stack")
    return folder, hashes(folder)


def test_it_trains_each_component_as_if_alone(trained: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Up to rounding: the same batches, losses and clipped steps as the plain loop has for each."""
    from safetensors.torch import load_file

    plain = Recipe(component=CONFIG, training=RECIPE.training.model_copy(update={"stacked": 1}))
    for k, task in enumerate(tasks(tmp_path, recipe=plain)):
        model, state = training_loop(task, task.split)
        weights = load_file(trained[0] / f"{k:02d}" / CONFIG.weights)
        record = read_training(trained[0] / f"{k:02d}")
        np.testing.assert_allclose([loss for _, loss in record.loss], state.losses, rtol=2e-3)
        expected: Any = model.unet
        apart = max(float((weights[name] - value).abs().max()) for name, value in expected.state_dict().items())
        assert apart < 5e-4, "steps are up to 2e-3 each"
        assert record.recipe.training.stacked == 3 and record.marks[-1][0] == 6


def test_a_unit_outside_a_split_changes_nothing(trained: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Non-interference: other pixels of a unit of component 1 alone leave the others' weights bit-identical."""
    images = UNITS.images.copy()
    images[UNITS.ids.index(SPLITS[1][-1])] ^= 255
    other = hashes(tmp_path, Units(UNITS.ids, images, UNITS.owner))
    assert [a == b for a, b in zip(other, trained[1], strict=True)] == [True, False, True]


def test_gradients_clipped_together_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: a norm over all components lets a unit reach those that never saw it."""
    from ablatable.runs.checkpoint import TrainingState
    from ablatable.runs.stacked_training import StackedState

    monkeypatch.setattr(StackedState, "clip", TrainingState.clip)
    images = UNITS.images.copy()
    images[UNITS.ids.index(SPLITS[1][-1])] ^= 255
    leaky, other = hashes(tmp_path / "a"), hashes(tmp_path / "b", Units(UNITS.ids, images, UNITS.owner))
    assert all(a != b for a, b in zip(leaky, other, strict=True))


@pytest.mark.parametrize("which", [[0], [2, 1], [1, 0]])
def test_a_component_does_not_depend_on_its_company(
    trained: tuple[Path, list[str]], tmp_path: Path, which: list[int]
) -> None:
    """Whatever it is stacked with and wherever, so that an audit can repeat it alone."""
    assert hashes(tmp_path, which=which) == [trained[1][k] for k in which]


def test_an_audit_repeats_it_alone(trained: tuple[Path, list[str]], tmp_path: Path) -> None:
    marks = first_marks(tasks(tmp_path)[1], 4)
    assert marks == read_training(trained[0] / "01").marks[: len(marks)] and marks[-1][0] == 4


def test_it_resumes_to_the_same_bits(
    trained: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ablatable.runs.checkpoint import TrainingState

    saved, update = [], TrainingState.update

    def stop(self: Any, loss: torch.Tensor, step: int, rate: float) -> None:
        if step == 4 and not saved:
            self.save(tmp_path / "00.partial/checkpoint", step)
            saved.append(step)
            raise KeyboardInterrupt
        if saved:
            assert step >= 4, "it goes on from the checkpoint"
        update(self, loss, step, rate)

    monkeypatch.setattr(TrainingState, "update", stop)
    with pytest.raises(KeyboardInterrupt):
        hashes(tmp_path)
    assert hashes(tmp_path) == trained[1]


def test_a_device_that_mixes_slots_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ablatable.diffusion.stacked_unet import StackedUNet

    predict = StackedUNet._predict
    monkeypatch.setattr(StackedUNet, "_predict", lambda self, x, *s: predict(self, x, *s) * (1 + 1e-6 * x.mean()))
    with pytest.raises(SettingsError, match="depend on the others"):
        hashes(tmp_path)
    with pytest.raises(SettingsError, match="depend on the others"):
        refuse_unless_alone([[torch.ones(2)], [torch.tensor([1.0, 1.0 + 2e-7])]])


def test_stacks_are_of_one_batch_size() -> None:
    """Splits smaller than the batch are taken whole."""
    assert groups(RECIPE, {0: 9, 1: 2, 2: 8, 3: 3, 4: 2, 5: 7}) == [[0, 2, 3], [5], [1, 4]]


def test_a_run_in_stacks(tmp_path: Path) -> None:
    units = Units.digits(6, size=8)
    code = ab.Code.balanced(6, 4, seed=0)
    recipe = RECIPE.replace(steps=2, batch=2)
    run = ab.train(units, code, recipe, out=tmp_path / "run", execution=HERE)
    assert run.recipe.training.stacked == 3 and len(run.present) == 4
    (again,) = repeat(run, (), [2], steps=1, execution=HERE).repeated
    assert again.exact and again.steps == 1
    with pytest.raises(SettingsError, match="attention cannot be stacked"):
        ab.train(units, code, ab.preset("paper", stacked=2), out=tmp_path / "paper", execution=HERE)
    assert not (tmp_path / "paper").exists()
