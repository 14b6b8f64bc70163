"""Samplers against diffusers' own schedulers in a plain loop, and against the papers' formulas in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    HeunDiscreteScheduler,
)
from diffusers.schedulers import scheduling_ddpm
from torch import Tensor

import ablatable as ab
import oracles
from ablatable import Sampling
from ablatable.diffusion.denoiser import Denoiser
from ablatable.diffusion.heun import heun_timesteps
from ablatable.diffusion.ideal import IdealDenoiser
from ablatable.diffusion.sampling import Trajectories, noise_trajectory, parse_seeds, sample
from ablatable.diffusion.sampling_settings import SAMPLERS
from ablatable.diffusion.schedule import Schedule
from ablatable.errors import SettingsError

CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # what the rounding of float32, in another order, may add up to
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def ideal(train_steps: int = 1000, dtype: torch.dtype = torch.float32) -> IdealDenoiser:
    images = torch.tensor(ab.Units.digits(9, size=8).images).movedim(-1, 1).contiguous()
    return IdealDenoiser(images, Schedule(train_steps=train_steps), dtype)


@pytest.fixture(params=["ideal", "unet"])
def denoiser(request: pytest.FixtureRequest, small) -> Denoiser:
    return ideal() if request.param == "ideal" else small.run.load_component(2)


def feed(monkeypatch: pytest.MonkeyPatch, noise: Tensor) -> Callable[[], int]:
    """Give `DDPMScheduler` our noise: it asks once a step, for all steps but the last."""
    used = [0]

    def next_noise(shape, **options) -> Tensor:
        used[0] += 1
        assert tuple(shape) == tuple(noise[used[0]].shape)
        return noise[used[0]]

    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", next_noise)
    return lambda: used[0]


def plain_loop(scheduler, denoiser: Denoiser, noise: Tensor, steps: int, options=lambda k: {}) -> Tensor:
    scheduler.set_timesteps(steps)
    x = noise[0]
    for k, t in enumerate(scheduler.timesteps, start=1):
        x = scheduler.step(denoiser(x, t), t, x, **options(k)).prev_sample
    return x


# --- against diffusers' schedulers ---


@pytest.mark.parametrize("steps", [1, 12, 60])
def test_ddpm_is_diffusers_ddpm(denoiser: Denoiser, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All the steps of a short schedule, and its strided form."""
    schedule, noise = Schedule(train_steps=60), noise_trajectory([3, 1, 4], steps, (1, 8, 8))
    used = feed(monkeypatch, noise)
    scheduler = DDPMScheduler(60, **LINEAR, variance_type="fixed_small", clip_sample=False)
    if isinstance(denoiser, IdealDenoiser):
        denoiser = ideal(60)
    expected = plain_loop(scheduler, denoiser, noise, steps)
    assert used() == steps - 1
    given = sample(denoiser, noise, schedule=schedule, sampling=Sampling(sampler="ddpm", steps=steps, clip=False))
    torch.testing.assert_close(given, expected, **CLOSE)


def test_ddpm_of_all_thousand_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = noise_trajectory([0, 1], 1000, (1, 8, 8))
    feed(monkeypatch, noise)
    scheduler = DDPMScheduler(1000, **LINEAR, variance_type="fixed_small", clip_sample=False)
    expected = plain_loop(scheduler, ideal(), noise, 1000)
    torch.testing.assert_close(
        sample(ideal(), noise, sampling=Sampling(steps=1000, clip=False)), expected, rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("steps", [1, 7, 20])
def test_ddim_is_diffusers_ddim(denoiser: Denoiser, steps: int) -> None:
    noise = noise_trajectory([3, 1, 4], steps, (1, 8, 8))
    scheduler = DDIMScheduler(1000, **LINEAR, clip_sample=False)
    expected = plain_loop(scheduler, denoiser, noise, steps)
    torch.testing.assert_close(
        sample(denoiser, noise, sampling=Sampling(sampler="ddim", steps=steps, clip=False)), expected, **CLOSE
    )


@pytest.mark.parametrize("steps", [1, 10, 50])
def test_ddpm_is_ddim_with_eta_one(denoiser: Denoiser, steps: int) -> None:
    noise = noise_trajectory([3, 1, 4], steps, (1, 8, 8))
    scheduler = DDIMScheduler(1000, **LINEAR, clip_sample=False)
    expected = plain_loop(scheduler, denoiser, noise, steps, lambda k: {"eta": 1.0, "variance_noise": noise[k]})
    torch.testing.assert_close(
        sample(denoiser, noise, sampling=Sampling(sampler="ddpm", steps=steps, clip=False)), expected, **CLOSE
    )


@pytest.mark.parametrize("steps", [1, 2, 10, 25])
def test_dpmsolver_is_diffusers_dpmsolver(denoiser: Denoiser, steps: int) -> None:
    noise = noise_trajectory([3, 1, 4], steps, (1, 8, 8))
    scheduler = DPMSolverMultistepScheduler(1000, **LINEAR, algorithm_type="dpmsolver++", solver_order=2)
    expected = plain_loop(scheduler, denoiser, noise, steps)
    given = sample(denoiser, noise, sampling=Sampling(sampler="dpmsolver++", steps=steps, clip=False))
    torch.testing.assert_close(given, expected, **CLOSE)


@pytest.mark.parametrize("steps", [1, 6, 10, 18])
def test_heun_is_diffusers_heun(denoiser: Denoiser, steps: int) -> None:
    """Its own scheduler, given the same timesteps; it does not scale pictures down, so its loop does."""
    noise, visits = noise_trajectory([3, 1, 4], steps, (1, 8, 8)), []

    def watched(x: Tensor, t: int) -> Tensor:
        visits.append(t)
        return denoiser(x, t)

    given = sample(watched, noise, sampling=Sampling(sampler="heun", steps=steps, clip=False))
    times = visits[::2]
    assert len(visits) == 2 * steps - 1 == Sampling("heun", steps).passes
    assert visits[1::2] == times[1:]
    scheduler = HeunDiscreteScheduler(1000, **LINEAR)
    scheduler.set_timesteps(timesteps=times)
    first = oracles.abar()[times[0]]
    x = noise[0] / first**0.5
    for t in scheduler.timesteps:
        x = scheduler.step(denoiser(scheduler.scale_model_input(x, t), int(t)), t, x).prev_sample
    torch.testing.assert_close(given, x, **CLOSE)


def test_heun_s_noise_levels_are_edm_s() -> None:
    """diffusers' EDM scheduler from 80 to the schedule's lowest; the schedule has others close by."""
    abar = np.array(oracles.abar())
    sigma = np.sqrt((1 - abar) / abar)
    edm = EDMEulerScheduler(sigma_min=float(sigma[0]), sigma_max=80.0)
    for steps in (2, 10, 18):
        edm.set_timesteps(steps)
        assert heun_timesteps(sigma, steps) == [
            int(np.abs(np.log(sigma / s)).argmin()) for s in edm.sigmas[:-1].numpy()
        ]


def test_heun_is_second_order() -> None:
    """Towards the solution of the differential equation, with many more steps of the same closed-form denoiser.

    Levels are those of a schedule so fine that moving them to the nearest does not matter, and the last step, of first
    order for every number of steps, is left out: it starts at the lowest level in each.
    """
    fine = Schedule(train_steps=100_000, beta_start=1e-6, beta_end=2e-4)
    denoiser = IdealDenoiser(torch.tensor([[[[-0.5]]], [[[0.1]]], [[[0.6]]]], dtype=torch.float64), fine, torch.float64)
    noise = torch.linspace(-1.5, 1.5, 40, dtype=torch.float64).reshape(1, 40, 1, 1, 1)

    def error(steps: int) -> float:
        drawn = sample(denoiser, noise, schedule=fine, sampling=Sampling("heun", steps, clip=False))
        return (drawn - exact).square().mean().sqrt().item()

    exact = sample(denoiser, noise, schedule=fine, sampling=Sampling("heun", 800, clip=False))
    errors = [error(steps) for steps in (50, 100, 200)]
    orders = [np.log2(one / half) for one, half in pairwise(errors)]
    assert all(1.7 < order < 2.4 for order in orders), orders


# --- against the papers' formulas, in NumPy and float64 ---


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("train_steps", "steps"), [(1000, 1), (1000, 8), (1000, 40), (40, 39), (40, 40)])
def test_formulas(sampler: str, train_steps: int, steps: int) -> None:
    if sampler == "dpmsolver++":
        steps = min(steps, train_steps - 1)  # all it takes
    noise = noise_trajectory([0, 7], steps, (1, 8, 8))
    schedule = Schedule(train_steps=train_steps)
    given = sample(
        ideal(train_steps, torch.float64),
        noise,
        schedule=schedule,
        sampling=Sampling(sampler, steps, clip=False),
    )
    table = oracles.abar(train_steps)
    predict = oracles.ideal(oracles.data_of(ab.Units.digits(9, size=8).images), table)
    expected = oracles.SAMPLERS[sampler](predict, noise.double().numpy(), table, steps)
    # diffusers keeps abar in float32, and 1 - abar_0 = 1e-4 only to 6e-4 of itself
    np.testing.assert_allclose(given.numpy(), expected, rtol=0, atol=2e-3)


def test_every_sampler_draws_something_else(small) -> None:
    noise = noise_trajectory([0, 7], 12, (1, 8, 8))
    drawn = [
        sample(small.run.load_component(2), noise, sampling=Sampling(sampler=sampler, steps=12)) for sampler in SAMPLERS
    ]
    assert all((a - b).abs().max() > 0.01 for k, a in enumerate(drawn) for b in drawn[:k])


def test_the_schedule_is_the_papers() -> None:
    np.testing.assert_allclose(Schedule().alphas_cumprod().numpy(), oracles.abar(), rtol=1e-12)
    np.testing.assert_allclose(
        Schedule().alphas_cumprod().numpy(), DDPMScheduler(1000, **LINEAR).alphas_cumprod.numpy(), rtol=1e-4
    )


# --- the loop ---


def test_noise_is_asked_for_only_where_it_is_added() -> None:
    class Watched:
        def __init__(self) -> None:
            self.asked: list[int] = []

        def __getitem__(self, step: int) -> Tensor:
            self.asked.append(step)
            return torch.zeros(2, 1, 8, 8)

    for sampler in SAMPLERS:
        noise, steps = Watched(), []
        sample(ideal(), noise, sampling=Sampling(sampler=sampler, steps=4), on_step=steps.append)
        assert steps == [1, 2, 3, 4]  # as many as were asked for, with whatever number of passes
        assert set(noise.asked) == ({0, 1, 2, 3, 4} if sampler == "ddpm" else {0})


def test_impossible_settings() -> None:
    noise = noise_trajectory([0], 4, (1, 8, 8))
    with pytest.raises(SettingsError, match=r"no sampler 'euler'; there are ddpm, ddim, dpmsolver\+\+, heun"):
        sample(ideal(), noise, sampling=Sampling(sampler="euler", steps=4))
    short = Schedule(train_steps=4)
    for sampler, steps, expected in (
        ("ddpm", 5, "1 to 4"),
        ("ddim", 0, "1 or more"),
        ("dpmsolver++", 4, "1 to 3"),
        ("ddim", -1, "1 or more"),
    ):
        with pytest.raises(SettingsError, match=f"{steps} sampling steps.* {expected}"):
            sample(ideal(4), noise, schedule=short, sampling=Sampling(sampler=sampler, steps=steps))


@pytest.mark.parametrize("train_steps", [1, 2, 3, 17])
def test_as_many_steps_as_a_short_schedule_has(train_steps: int) -> None:
    for sampler in SAMPLERS:
        steps = max(1, train_steps - 1) if sampler == "dpmsolver++" else train_steps
        noise = noise_trajectory([0], steps, (1, 8, 8))
        schedule = Schedule(train_steps=train_steps)
        drawn = sample(ideal(train_steps), noise, schedule=schedule, sampling=Sampling(sampler, steps, clip=False))
        assert drawn.isfinite().all(), sampler


# --- noise trajectories ---


def test_a_row_depends_on_its_seed_and_step_alone() -> None:
    whole = noise_trajectory([4, 8, 15], 6, (3, 5, 7))
    assert whole.shape == (7, 3, 3, 5, 7)
    assert whole.dtype == torch.float32
    assert torch.equal(noise_trajectory([15, 4], 6, (3, 5, 7)), whole[:, [2, 0]])  # neighbours, order, number
    assert torch.equal(noise_trajectory([8], 2, (3, 5, 7))[:, 0], whole[:3, 1])  # number of steps
    assert torch.equal(noise_trajectory(np.array([4, 8, 15]), 6, (3, 5, 7)), whole)  # NumPy's integers
    lazily = Trajectories(iter([4, 8, 15]), (3, 5, 7))
    for step in (5, 0, 3, 5):  # any order, and again
        assert torch.equal(lazily[step], whole[step])
    shared = Trajectories([4, 8, 15], (3, 5, 7), rows=np.array([2, 0, 0, 1]))  # rows of several ablations
    assert torch.equal(shared[1], whole[1][[2, 0, 0, 1]])
    assert torch.equal(torch.stack(list(shared.ahead([0, 3]))), whole[[0, 3]][:, [2, 0, 0, 1]])
    rows = whole.flatten(0, 1).flatten(1)
    assert len(torch.unique(rows, dim=0)) == len(rows)  # no two alike


def test_noise_is_standard_normal_and_independent() -> None:
    """Each statistic within five of its standard deviations under that hypothesis."""
    seeds, steps, shape = 100, 19, (1, 6, 6)
    noise = noise_trajectory(range(seeds), steps, shape).double().flatten(2).numpy()  # (20, 100, 36)
    values = noise.ravel()
    count = len(values)
    assert abs(values.mean()) < 5 / count**0.5
    assert abs(values.var() - 1) < 5 * (2 / count) ** 0.5
    assert abs((values**3).mean()) < 5 * (15 / count) ** 0.5
    assert abs((values**4).mean() - 3) < 5 * (96 / count) ** 0.5

    bins = 32  # equally likely under the normal distribution
    uniform = torch.special.ndtr(torch.tensor(values)).numpy()
    observed = np.bincount((uniform * bins).astype(int), minlength=bins)
    chi_square = ((observed - count / bins) ** 2 / (count / bins)).sum()
    assert abs(chi_square - (bins - 1)) < 5 * (2 * (bins - 1)) ** 0.5

    def correlation(a: np.ndarray, b: np.ndarray) -> float:
        return abs((a * b).mean()) * a.size**0.5  # in standard deviations

    assert correlation(noise[1:], noise[:-1]) < 5  # steps
    assert correlation(noise[:, 1:], noise[:, :-1]) < 5  # seeds
    assert correlation(noise[:, :, 1:], noise[:, :, :-1]) < 5  # pixels
    assert correlation(noise[1:, :-1], noise[:-1, 1:]) < 5  # seed s at step k, seed s + 1 at step k - 1


# --- seeds as text ---


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0-9", list(range(10))),
        ("1,5,7", [1, 5, 7]),
        ("7, 5,1", [7, 5, 1]),
        ("3", [3]),
        ("4-4", [4]),
        ("0-2,8,5-6", [0, 1, 2, 8, 5, 6]),
        ([2, 0], [2, 0]),
        (range(3), [0, 1, 2]),
    ],
)
def test_seeds(text, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", ",", "a", "1-", "-1", "1--3", "1-2-3", "0.5", "1,,2", "²", "5-3", "1 2", []])
def test_bad_seeds(text) -> None:
    with pytest.raises(SettingsError, match="write them as 0-9 or 1,5,7"):
        parse_seeds(text)


@pytest.mark.parametrize("text", ["1,1", "0-4,2", [3, 3]])
def test_a_seed_named_twice(text) -> None:
    with pytest.raises(SettingsError, match="a seed is named twice"):
        parse_seeds(text)
