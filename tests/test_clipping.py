"""Clipping of every step's image: against diffusers' own, and as a setting that is on record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers import scheduling_ddpm
from torch import Tensor

import ablatable as ab
import oracles
from ablatable import Sampling
from ablatable.diffusion.clipping import clip_noise, clip_noise_along, scheduler_abar
from ablatable.diffusion.ensemble import Ensemble
from ablatable.diffusion.ideal import IdealDenoiser
from ablatable.diffusion.recipe import UNetConfig
from ablatable.diffusion.sampling import noise_trajectory, sample
from ablatable.diffusion.sampling_settings import SAMPLERS
from ablatable.diffusion.schedule import Schedule
from ablatable.diffusion.unet import build
from ablatable.errors import SettingsError
from ablatable.universes.reader import Universe
from ablatable.universes.settings import UniverseSettings
from calls import how

SHAPE, CLOSE = (3, 8, 8), {"rtol": 0, "atol": 2e-4}
LINEAR = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def untrained(seed: int = 0) -> Callable[[Tensor, Tensor | int], Tensor]:
    """Predicts nothing like the noise, so that nearly every step's image is out of range."""
    return build(UNetConfig(channels=(8, 8), norm_groups=4), SHAPE, seed).eval()


def clipped(denoiser: Callable[[Tensor, int], Tensor]) -> oracles.Predict:
    """The noise that belongs to the clipped image, in float64, where diffusers' scheduler has no clipping."""

    def predict(x: np.ndarray, t: int) -> np.ndarray:
        a = oracles.abar()[t]
        image = (x - (1 - a) ** 0.5 * denoiser(torch.from_numpy(x).float(), t).double().numpy()) / a**0.5
        return (x - a**0.5 * np.clip(image, -1, 1)) / (1 - a) ** 0.5

    return predict


def by_diffusers(sampler: str, denoiser, noise: Tensor, steps: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Drawn by diffusers' schedulers with clipping of their own."""
    options = {}
    if sampler == "ddpm":
        scheduler = DDPMScheduler(**LINEAR, variance_type="fixed_small", clip_sample=True)
        asked = iter(range(1, steps + 1))
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: noise[next(asked)])
    elif sampler == "ddim":
        scheduler, options = DDIMScheduler(**LINEAR, clip_sample=True), {"use_clipped_model_output": True}
    elif sampler == "heun":
        return torch.from_numpy(oracles.heun(clipped(denoiser), noise.numpy(), oracles.abar(), steps)).float()
    else:  # a threshold of at least and at most 1 is clipping
        scheduler = DPMSolverMultistepScheduler(
            **LINEAR, algorithm_type="dpmsolver++", solver_order=2, thresholding=True, sample_max_value=1.0
        )
    scheduler.set_timesteps(steps)
    x = noise[0]
    for t in scheduler.timesteps:
        x = scheduler.step(denoiser(x, int(t)), t, x, **options).prev_sample
    return x


@pytest.mark.parametrize("steps", [1, 7, 20, 50])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_it_is_diffusers_clipping(sampler: str, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    noise, denoiser = noise_trajectory([3, 1, 4], steps, SHAPE), untrained()
    expected = by_diffusers(sampler, denoiser, noise, steps, monkeypatch)
    drawn = sample(denoiser, noise, sampling=Sampling(sampler, steps, clip=True))
    torch.testing.assert_close(drawn, expected, **CLOSE)
    assert drawn.abs().max() <= 1 + 1e-4
    assert sample(denoiser, noise, sampling=Sampling(sampler, steps, clip=False)).abs().max() > 2


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_the_mean_is_clipped_and_not_what_it_is_the_mean_of(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    components, noise = [untrained(seed) for seed in range(3)], noise_trajectory([3, 1], 10, SHAPE)

    def mean(x: Tensor, t: int) -> Tensor:
        return (components[0](x, t) + components[2](x, t)) / 2

    survivors = Ensemble(components, np.array([True, False, True]))
    drawn = sample(survivors, noise, sampling=Sampling(sampler, 10, clip=True))
    torch.testing.assert_close(drawn, by_diffusers(sampler, mean, noise, 10, monkeypatch), **CLOSE)


def test_an_image_in_range_is_left_alone() -> None:
    """The ideal denoiser's image is a mean of training images, so the samples agree but for rounding at the edge."""
    images = torch.tensor(ab.Units.digits(9, size=8).images).movedim(-1, 1).contiguous()
    noise, denoiser = noise_trajectory([3, 1], 20, (1, 8, 8)), IdealDenoiser(images, Schedule())
    for sampler in SAMPLERS:
        clipped, plain = (sample(denoiser, noise, sampling=Sampling(sampler, 20, clip=clip)) for clip in (True, False))
        torch.testing.assert_close(clipped, plain, rtol=0, atol=2e-4)

    x0, noise = torch.rand(2, 3, 8, 8) * 1.9 - 0.95, torch.randn(2, 3, 8, 8)
    x0[0, 0, 0, 0], x0[1, 2, 7, 7] = 1.4, -3.0
    for abar in (0.9999, 0.5, 1e-3):
        x = abar**0.5 * x0 + (1 - abar) ** 0.5 * noise
        changed = clip_noise(noise, x, abar) != noise
        assert changed.sum() == 2 and changed[0, 0, 0, 0] and changed[1, 2, 7, 7]


def test_derivative_where_it_is_clipped_and_where_not() -> None:
    x, predicted, dx, along = torch.randn(4, 1, 3, 8, 8, dtype=torch.float64)
    h, abar = 1e-6, 0.4
    ahead, back = (clip_noise(predicted + s * h * along, x + s * h * dx, abar) for s in (1, -1))
    moved = clip_noise_along(along, dx, predicted, x, abar)
    torch.testing.assert_close(moved, (ahead - back) / (2 * h), rtol=1e-6, atol=1e-6)
    kept = (moved == along).double().mean()
    assert 0.2 < kept < 0.8


def test_the_schedule_is_diffusers_to_the_bit() -> None:
    assert scheduler_abar(Schedule()) == DDIMScheduler(**LINEAR).alphas_cumprod.tolist()


# --- on record ---


def drawn_universe(run: Path, out: Path, **options: object) -> Universe:
    settings = {"seeds": [5, 0], "steps": 6, "workers": 0, "quiet": True, **options}
    return ab.enumerate_universe(run, out=out, **how(**settings))


def test_a_universe_says_whether_it_was_clipped(small, tmp_path: Path, fingerprints) -> None:
    clipped = drawn_universe(small.run.path, tmp_path / "clipped.zarr")
    plain = drawn_universe(small.run.path, tmp_path / "plain.zarr", clip=False)
    assert clipped.settings.sampling.clip and not plain.settings.sampling.clip
    assert not np.array_equal(clipped.factual, plain.factual)
    for universe in (clipped, plain):
        again = Universe.open(universe.url)
        assert again.settings == universe.settings
        expected = ab.AblatablePipeline.from_pretrained(small.run.path)(
            [5, 0], num_inference_steps=6, clip=again.settings.clip, output_type="np"
        ).images
        assert np.abs(expected.astype(int) - again.factual.astype(int)).max() <= 1


def test_without_clipping_the_description_is_as_before() -> None:
    """So hashes over the description, and what is sealed with it, stay valid."""
    values = {
        **{"run_sha256": "0", "shape": (1, 8, 8), "components": 2, "sampler": "ddpm", "steps": 3, "batch": 8},
        **{"block": (1, 1), "seeds": (0,), "units": ("a",), "digests": ("0",), "words": ("10",), "ablation": (0,)},
    }
    old = UniverseSettings.model_validate(values)
    assert not old.clip and "clip" not in old.model_dump(mode="json")
    assert UniverseSettings.model_validate({**values, "clip": True}).model_dump(mode="json")["clip"] is True


def test_another_setting_names_both_values(small, tmp_path: Path) -> None:
    drawn_universe(small.run.path, tmp_path / "u.zarr", clip=False)
    with pytest.raises(SettingsError, match="clip: False there, True asked for"):
        drawn_universe(small.run.path, tmp_path / "u.zarr", clip=True)
    assert drawn_universe(small.run.path, tmp_path / "u.zarr", clip=False, seeds=[5, 0, 7]).settings.clip is False


def test_command_line(small, tmp_path: Path, call) -> None:
    for options, clip in (((), True), (("--no-clip",), False)):
        out = tmp_path / f"u{clip}.zarr"
        code, _, told = call(
            "universe",
            "create",
            small.run.path,
            "--out",
            out,
            "--seeds",
            "0",
            "--steps",
            "3",
            "--workers",
            "0",
            *options,
        )
        assert code == 0, told
        assert Universe.open(out).settings.clip is clip
