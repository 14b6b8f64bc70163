"""Training one component: stateless data, bit-identical resumption, and the same weights as a plain loop's."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from safetensors.torch import load_file

from ablatable._runtime.rng import torch_seed
from ablatable.data.units import Units, to_model
from ablatable.diffusion.recipe import IdealConfig, Recipe, TrainingConfig, UNetConfig
from ablatable.runs import component_training as fitting
from ablatable.runs.component_training import TrainTask, batch_at, learning_rate, train_component
from oracles import abar

TINY = UNetConfig(channels=(8, 8), norm_groups=4)
UNITS = Units.digits(10, size=8)


def task(folder: Path, *, component: int = 2, seed: int = 7, checkpoint_seconds: float = 1e9, **training) -> TrainTask:
    recipe = Recipe(component=TINY, training=TrainingConfig(**{"steps": 12, "batch": 4, **training}))
    return TrainTask(UNITS, recipe, component, seed, folder / "02", checkpoint_seconds=checkpoint_seconds, saving=0)


def drawn(of: TrainTask, step: int, images: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    return batch_at(of, step, to_model(of.split.images) if images is None else images, 1000)


def weights(of: TrainTask) -> dict[str, torch.Tensor]:
    return load_file(of.folder / UNetConfig.weights)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second passes whenever the clock is read, so every step is reported."""
    monkeypatch.setattr(fitting, "time", SimpleNamespace(monotonic=itertools.count().__next__))


# --- what a step sees ---


def test_a_batch_depends_on_the_step_alone(tmp_path: Path) -> None:
    of = task(tmp_path)
    forwards = [drawn(of, step) for step in range(12)]
    torch.rand(3), np.random.default_rng().random(3)
    for step in (11, 3, 7, 0, 3):
        for given, expected in zip(drawn(of, step), forwards[step], strict=True):
            assert torch.equal(given, expected)
    for other in (task(tmp_path, component=3), task(tmp_path, seed=8)):
        for step in range(12):
            assert not torch.equal(drawn(other, step)[2], forwards[step][2])
    noises = torch.stack([noise for *_, noise in forwards])
    assert len(torch.unique(noises.flatten(0, 1).flatten(1), dim=0)) == 12 * 4


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (7, 3), (8, 4), (5, 5), (3, 32), (1, 4), (11, 9)])
def test_passes_take_each_image_equally(tmp_path: Path, count: int, batch: int) -> None:
    of = task(tmp_path, batch=batch)
    images = torch.arange(count, dtype=torch.float32)[:, None, None, None]  # each shows its own number
    seen, orders = np.zeros(count, int), []
    for step in range(3 * count):
        x0, t, noise = drawn(of, step, images)
        assert len(x0) == len(t) == len(noise) == min(batch, count)
        rows = x0.flatten().int().tolist()
        orders += rows
        np.add.at(seen, rows, 1)
        assert seen.max() - seen.min() <= 1, "an image came a second time before another's first"
    passes = np.array(orders).reshape(-1, count)
    if count > 3:
        assert len({tuple(row) for row in passes.tolist()}) > len(passes) // 2, "passes are not shuffled anew"


def test_timesteps_are_stratified(tmp_path: Path) -> None:
    of, everything = task(tmp_path, batch=7), []
    images = torch.zeros(7, 1, 2, 2)
    for step in range(300):
        t = drawn(of, step, images)[1].tolist()
        for stratum, value in enumerate(t):
            assert math.floor(stratum * 1000 / 7) <= value < (stratum + 1) * 1000 / 7
        everything += t
    assert min(everything) < 5
    assert max(everything) > 994
    # uniform within its stratum: ten bins of 0 .. 999, each with 210 of 2100 draws
    counts = np.histogram(everything, 10, (0, 1000))[0]
    assert ((counts - 210) ** 2 / 210).sum() < 9 + 5 * 18**0.5


def test_noise_is_standard_normal(tmp_path: Path) -> None:
    values = torch.stack([drawn(task(tmp_path), step)[2] for step in range(200)]).double()
    assert abs(values.mean()) < 5 / values.numel() ** 0.5
    assert abs(values.var() - 1) < 5 * (2 / values.numel()) ** 0.5


def test_flips(tmp_path: Path) -> None:
    plain, flipping = task(tmp_path), task(tmp_path, flips=True)
    images = to_model(UNITS.images)
    originals = {image.numpy().tobytes() for image in images}
    mirrored = {image.flip(-1).numpy().tobytes() for image in images}
    assert not originals & mirrored
    flipped = 0
    for step in range(100):
        x0 = [image.numpy().tobytes() for image in drawn(flipping, step)[0]]
        assert all(image in originals | mirrored for image in x0)
        flipped += sum(image in mirrored for image in x0)
        assert all(image.numpy().tobytes() in originals for image in drawn(plain, step)[0])
        assert torch.equal(drawn(plain, step)[2], drawn(flipping, step)[2])
    assert abs(flipped - 200) < 5 * 10  # 400 coins


def test_learning_rate() -> None:
    config = TrainingConfig(steps=100, learning_rate=0.5, warmup=0.2, decay="cosine")
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.5 / 20)
    assert rates[9] == pytest.approx(0.25)
    assert max(rates) == rates[19] == rates[20] == pytest.approx(0.5)
    assert rates[60] == pytest.approx(0.25)  # half-way down the cosine
    assert rates[40] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)) / 2)
    assert 0 < rates[99] < 0.5 * 0.001
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)

    constant = TrainingConfig(steps=10, learning_rate=0.5, warmup=0, decay="constant")
    assert {learning_rate(constant, step) for step in range(10)} == {0.5}


# --- the loop ---


def reference(of: TrainTask) -> tuple[dict[str, torch.Tensor], dict[str, np.ndarray], list[float]]:
    """Train in a plain loop. Returns the averaged weights, their average by hand in float64, and the losses."""
    config = of.recipe.training
    torch.manual_seed(torch_seed("weights", of.seed, of.component))
    model = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        add_attention=False,
    ).train()
    data = to_model(UNITS.images)
    schedule = torch.tensor(abar()).float()
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimizer = kinds[config.optimizer](
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    averaged = {name: p.detach().clone() for name, p in model.named_parameters()}
    by_hand = {name: p.detach().double().numpy().copy() for name, p in model.named_parameters()}
    losses = []
    for step in range(config.steps):
        x0, t, noise = batch_at(of, step, data, 1000)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        signal, spread = schedule[t].sqrt().reshape(-1, 1, 1, 1), (1 - schedule[t]).sqrt().reshape(-1, 1, 1, 1)
        loss = torch.nn.functional.mse_loss(model(signal * x0 + spread * noise, t).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        losses.append(loss.item())
        decay = min(config.ema, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            averaged[name].lerp_(parameter.detach(), 1 - decay)
            by_hand[name] = decay * by_hand[name] + (1 - decay) * parameter.detach().double().numpy()
    return averaged, by_hand, losses


@pytest.mark.parametrize(
    "training",
    [
        {"optimizer": "adamw", "decay": "cosine"},
        {"optimizer": "adam", "decay": "constant", "warmup": 0, "weight_decay": 0, "flips": True, "batch": 32},
        {"clip": 1e-3, "ema": 0.5, "weight_decay": 0.5},
    ],
)
def test_weights_are_those_of_a_plain_loop(tmp_path: Path, training: dict) -> None:
    of = task(tmp_path, **training)
    train_component(of)
    averaged, by_hand, losses = reference(of)
    given = weights(of)
    assert same(given, averaged)
    for name, tensor in given.items():
        np.testing.assert_allclose(tensor.numpy(), by_hand[name], rtol=1e-5, atol=1e-6)
    told = json.loads((of.folder / "training.json").read_text())["loss"]
    assert [step for step, _ in told] == list(range(1, 13))
    np.testing.assert_allclose([loss for _, loss in told], losses, rtol=0, atol=2e-6)


def test_every_setting_reaches_the_weights(tmp_path: Path) -> None:
    found = []
    for number, training in enumerate(
        [
            {},
            {"steps": 11},
            {"batch": 5},
            {"learning_rate": 1e-3},
            {"decay": "constant"},
            {"warmup": 0.5},
            {"optimizer": "adam"},
            {"weight_decay": 0.5},
            {"clip": 1e-3},
            {"ema": 0.5},
            {"flips": True},
            {"precision": "bf16"},
            {"seed": 8},
            {"component": 3},
        ]
    ):
        found.append(train_component(task(tmp_path / str(number), **training)))
        assert found.count(found[-1]) == 1, training


def test_loss_falls_and_is_told(tmp_path: Path, clock: None) -> None:
    of = task(tmp_path, steps=250, learning_rate=5e-3)
    events: list[dict] = []
    train_component(of, events.append)
    assert [event["step"] for event in events] == list(range(1, 251))
    assert events[-1]["images"] == 250 * 4
    history = json.loads((of.folder / "training.json").read_text())["loss"]
    assert len(history) <= 200
    assert history[-1][0] == 250
    losses = [loss for _, loss in history]
    assert 0.5 < np.mean(losses[:5]) < 2  # predicting no noise at all costs 1
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:5])


def test_bf16(tmp_path: Path) -> None:
    single, half = task(tmp_path / "a"), task(tmp_path / "b", precision="bf16")
    train_component(single)
    train_component(half)
    assert not same(weights(single), weights(half))
    for name, tensor in weights(half).items():
        assert tensor.dtype == torch.float32
        # twelve steps of at most 2e-3 each, give or take
        torch.testing.assert_close(tensor, weights(single)[name], rtol=0, atol=2 * 12 * 2e-3)


def test_ideal_is_the_split(tmp_path: Path) -> None:
    shuffled = UNITS.select(UNITS.ids[::-1])
    hashes = set()
    for number, split in enumerate((UNITS, shuffled)):
        of = TrainTask(split, Recipe(component=IdealConfig()), 0, 0, tmp_path / str(number) / "00")
        hashes.add(train_component(of))
        images = load_file(of.folder / "images.safetensors")["images"].numpy()
        np.testing.assert_array_equal(images, UNITS.images.transpose(0, 3, 1, 2))
    assert len(hashes) == 1


# --- stopping and going on ---


class Stopped(Exception):
    pass


def interrupted(of: TrainTask, at: int) -> int:
    """Train until step `at` is told. Returns the first step that this call did."""
    steps: list[int] = []

    def report(event: dict) -> None:
        steps.append(event["step"])
        if event["step"] == at:
            raise Stopped

    with pytest.raises(Stopped):
        train_component(of, report)
    assert not of.folder.exists()
    return steps[0]


def finished(of: TrainTask) -> int:
    """Train to the end. Returns the first step that this call did."""
    steps: list[int] = []
    train_component(of, lambda event: steps.append(event["step"]))
    return steps[0]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, bytes]]:
    of = task(tmp_path_factory.mktemp("undisturbed"))
    train_component(of)
    yield contents(of)


def contents(of: TrainTask) -> dict[str, bytes]:
    assert list(of.folder.parent.iterdir()) == [of.folder]
    return {path.name: path.read_bytes() for path in of.folder.iterdir()}


@pytest.mark.parametrize("every", [0.5, 2.5])  # a checkpoint each step, or each third
@pytest.mark.parametrize("stops", [[1], [3], [4, 8], [2, 2, 12], [5, 6, 7]])
def test_resumed_is_the_same_run(
    tmp_path: Path, clock: None, undisturbed: dict[str, bytes], every: float, stops: list[int]
) -> None:
    of = task(tmp_path, checkpoint_seconds=every)
    begun = [interrupted(of, at) for at in stops] + [finished(of)]
    assert contents(of) == undisturbed
    assert begun[0] == 1
    if every < 1:  # the step that was told last was not saved yet
        assert begun[1:] == stops
    elif max(stops) > 4:
        assert begun[-1] > 1, "it started anew"


@pytest.mark.parametrize("training", [{"optimizer": "adam"}, {"precision": "bf16"}, {"flips": True, "batch": 32}])
def test_resumed_with_other_settings(tmp_path: Path, clock: None, training: dict) -> None:
    whole, broken = task(tmp_path / "a", **training), task(tmp_path / "b", checkpoint_seconds=0.5, **training)
    train_component(whole)
    interrupted(broken, 5)
    assert finished(broken) == 5
    assert contents(broken) == contents(whole)


def damages(content: bytes) -> Iterator[tuple[str, bytes]]:
    for place in (0, 7, 9, 200, len(content) // 2, len(content) - 33, len(content) - 32, len(content) - 1):
        flipped = bytearray(content)
        flipped[place] ^= 4
        yield f"bit flipped in byte {place}", bytes(flipped)
    for length in (0, 5, 31, 32, 33, len(content) // 2, len(content) - 1):
        yield f"cut to {length} bytes", content[:length]
    yield "a byte too many", content + b"\0"
    yield "zeros", bytes(len(content))


def test_a_damaged_checkpoint_is_not_used(tmp_path: Path, clock: None, undisturbed: dict[str, bytes]) -> None:
    of = task(tmp_path, checkpoint_seconds=0.5)
    interrupted(of, 4)
    checkpoint = of.folder.with_name("02.partial") / "checkpoint"
    content = checkpoint.read_bytes()
    for what, damaged in damages(content):
        checkpoint.write_bytes(damaged)
        assert interrupted(of, 2) == 1, what
    checkpoint.write_bytes(content)
    assert finished(of) == 4
    assert contents(of) == undisturbed


def test_a_checkpoint_of_something_else_is_not_used(tmp_path: Path, clock: None) -> None:
    mine = task(tmp_path / "mine", checkpoint_seconds=0.5)
    others = {
        "component": task(tmp_path / "component", component=3, checkpoint_seconds=0.5),
        "seed": task(tmp_path / "seed", seed=8, checkpoint_seconds=0.5),
        "settings": task(tmp_path / "settings", ema=0.5, checkpoint_seconds=0.5),
        "split": TrainTask(
            UNITS.without([UNITS.ids[0]]),
            mine.recipe,
            2,
            7,
            tmp_path / "split" / "02",
            checkpoint_seconds=0.5,
            saving=0,
        ),
    }
    place = mine.folder.with_name("02.partial") / "checkpoint"
    interrupted(mine, 2)
    for what, other in others.items():
        interrupted(other, 6)
        place.write_bytes((other.folder.with_name("02.partial") / "checkpoint").read_bytes())
        assert interrupted(mine, 1) == 1, what


def test_what_a_killed_write_left_is_not_kept(tmp_path: Path, clock: None, undisturbed: dict[str, bytes]) -> None:
    of = task(tmp_path, checkpoint_seconds=0.5)
    interrupted(of, 4)
    partial = of.folder.with_name("02.partial")
    (partial / ".checkpoint.12345.partial").write_bytes(b"half of it")
    (partial / ".training.json.12345.partial").write_bytes(b"half of it")
    (partial / "config.json").write_bytes(b"half of it")
    (partial / UNetConfig.weights).write_bytes(b"half of it")
    assert finished(of) == 4
    assert contents(of) == undisturbed


def test_a_finished_component_is_left_alone(tmp_path: Path) -> None:
    of = task(tmp_path)
    digest = train_component(of)
    times = {path: path.stat().st_mtime_ns for path in of.folder.iterdir()}
    events: list[dict] = []
    assert train_component(of, events.append) == digest
    assert not events
    assert {path: path.stat().st_mtime_ns for path in of.folder.iterdir()} == times


def test_threads_are_given_back(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train_component(task(tmp_path / "a"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    train_component(task(tmp_path / "b"))
    assert same(weights(task(tmp_path / "a")), weights(task(tmp_path / "b")))
