"""What a network computes, the noise levels it trains at, how weights are kept: against diffusers and formulas."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EDMEulerScheduler, UNet2DModel
from safetensors.torch import load_file
from scipy.stats import kstest
from torch import Tensor
from torch.func import jvp

import ablatable as ab
import oracles
from ablatable import Execution, Sampling
from ablatable.diffusion import tangents
from ablatable.diffusion.recipe import PRESETS, Recipe, TrainingConfig, UNetConfig, recipe_from
from ablatable.diffusion.sampling import noise_trajectory, sample
from ablatable.diffusion.unet import UNetDenoiser, build
from ablatable.errors import SettingsError
from ablatable.runs.component_training import TrainTask, timesteps_of, train_component
from ablatable.runs.run import Run, check_run

VELOCITY = UNetConfig(channels=(8, 8), norm_groups=4, prediction="velocity")
EDM = UNetConfig(channels=(8, 8), norm_groups=4, prediction="edm", sigma_data=0.6)
SHAPE = (3, 8, 8)
LINEAR = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def component(config: UNetConfig = VELOCITY) -> UNetDenoiser:
    return build(config, SHAPE, seed=3).eval()


# --- the velocity ---


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("sampler", ["ddim", "dpmsolver++"])
def test_it_is_diffusers_v_prediction(sampler: str, clip: bool) -> None:
    """The same network, its output handed to diffusers' schedulers as `v_prediction`."""
    velocity, noise, options = component(), noise_trajectory([3, 1], 12, SHAPE), {}
    if sampler == "ddim":
        scheduler = DDIMScheduler(**LINEAR, prediction_type="v_prediction", clip_sample=clip)
        options = {"use_clipped_model_output": clip}
    else:
        scheduler = DPMSolverMultistepScheduler(
            **LINEAR, prediction_type="v_prediction", thresholding=clip, sample_max_value=1.0
        )
    scheduler.set_timesteps(12)
    x = noise[0]
    with torch.inference_mode():
        for t in scheduler.timesteps:
            x = scheduler.step(velocity.unet(x, t).sample, t, x, **options).prev_sample
        drawn = sample(velocity, noise, sampling=Sampling(sampler, 12, clip=clip))
    torch.testing.assert_close(drawn, x, rtol=1e-4, atol=2e-4)


def test_it_is_edm_preconditioning_for_data_of_unit_size() -> None:
    """Karras et al. 2022, table 1, with sigma_data = 1, by diffusers: its image is the one that our noise implies."""
    edm = EDMEulerScheduler(sigma_data=1.0, prediction_type="v_prediction")
    velocity, x, table = component(), torch.randn(4, *SHAPE), oracles.abar()
    for t in (0, 100, 400, 999):
        a, sigma = table[t], torch.tensor(((1 - table[t]) / table[t]) ** 0.5)
        with torch.inference_mode():
            network, noise = velocity.unet(x, t).sample, velocity(x, t)
        noisy = x * (1 + sigma**2) ** 0.5  # what EDM calls the noisy picture: not scaled down
        torch.testing.assert_close(edm.precondition_inputs(noisy, sigma), x, rtol=1e-4, atol=1e-4)
        image = edm.precondition_outputs(noisy, network, sigma)
        torch.testing.assert_close((1 - a) ** 0.5 * noise, x - a**0.5 * image, rtol=1e-3, atol=1e-3)


def test_edm_is_diffusers_edm() -> None:
    """Karras et al. 2022, table 1, by diffusers: its inputs, its c_noise (times 1000), and the image made of both."""
    edm = EDMEulerScheduler(sigma_data=0.6)
    model, x, table = component(EDM), torch.randn(4, *SHAPE), oracles.abar()
    for t in (0, 100, 400, 999):
        a, sigma = table[t], torch.tensor(((1 - table[t]) / table[t]) ** 0.5)
        noisy = x * (1 + sigma**2) ** 0.5
        with torch.inference_mode():
            network = model.unet(edm.precondition_inputs(noisy, sigma), 1000 * edm.precondition_noise(sigma)).sample
            noise = model(x, t)
        image = edm.precondition_outputs(noisy, network, sigma)
        torch.testing.assert_close((1 - a) ** 0.5 * noise, x - a**0.5 * image, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("config", [VELOCITY, EDM])
def test_one_timestep_or_one_per_row_and_any_dtype(config: UNetConfig) -> None:
    velocity, x = component(config), torch.randn(3, *SHAPE)
    rows = torch.cat([velocity(x[k : k + 1], t) for k, t in enumerate((5, 500, 990))])
    torch.testing.assert_close(velocity(x, torch.tensor([5, 500, 990])), rows, rtol=1e-4, atol=1e-5)
    low = velocity.to(torch.bfloat16)
    assert low(x, 990).dtype == torch.float32  # nearly all of it is x, which must not be rounded to eight bits
    torch.testing.assert_close(low(x, 990), rows[2:].expand(3, -1, -1, -1) * 0 + x, rtol=0, atol=0.1)


@pytest.mark.parametrize("config", [VELOCITY, EDM])
def test_directions(config: UNetConfig) -> None:
    velocity = component(config).double()
    x, directions = torch.randn(2, 5, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        predicted, moved = tangents.push(velocity, x[0], 300, directions)
    torch.testing.assert_close(predicted, velocity(x[:1], torch.tensor([300]))[0], rtol=1e-9, atol=1e-11)
    for direction, got in zip(directions, moved, strict=True):
        expected = jvp(lambda v: velocity(v[None], torch.tensor([300]))[0], (x[0],), (direction,))[1]
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


def trained(folder: Path, component: UNetConfig = VELOCITY, **training: object) -> Path:
    units = ab.Units.from_arrays(np.random.default_rng(0).integers(0, 256, (6, *SHAPE[1:], 3)).astype(np.uint8))
    config = TrainingConfig(**{"steps": 3, "batch": 4, **training})  # pyright: ignore[reportArgumentType]
    train_component(TrainTask(units, Recipe(component=component, training=config), 0, 7, folder))
    return folder


@pytest.mark.parametrize("config", [VELOCITY, EDM])
def test_the_loss(config: UNetConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first step's recorded loss, from the network's own output.

    Of the velocity v = sqrt(a) eps - sqrt(1-a) x_0, or of the image that diffusers' EDM scheduler makes, weighted by
    lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 (Karras et al. 2022, table 1).
    """
    from ablatable.diffusion.kinds import build_component
    from ablatable.runs import component_training as training

    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    original = training.batch_at

    def watched(*arguments: object) -> tuple[Tensor, Tensor, Tensor]:
        seen.append(original(*arguments))  # pyright: ignore[reportArgumentType]
        return seen[-1]

    built: list[UNetDenoiser] = []
    monkeypatch.setattr(training, "batch_at", watched)
    monkeypatch.setattr(
        training,
        "build_component",
        lambda *a: built.append(build_component(*a)) or build_component(*a),  # pyright: ignore
    )
    folder = trained(tmp_path / "00", config, steps=1)
    (x0, t, noise), table = seen[0], torch.tensor(oracles.abar())
    a = table[t].float()[:, None, None, None]
    network = built[0].train().unet
    with torch.no_grad():
        if config is VELOCITY:
            velocity = network(a.sqrt() * x0 + (1 - a).sqrt() * noise, t).sample
            expected = (velocity - (a.sqrt() * noise - (1 - a).sqrt() * x0)).square().mean().item()
        else:
            edm, sigma = EDMEulerScheduler(sigma_data=0.6), ((1 - a) / a).sqrt()
            noisy = x0 + sigma * noise
            said = network(edm.precondition_inputs(noisy, sigma), 1000 * edm.precondition_noise(sigma.flatten())).sample
            weight = (sigma**2 + 0.36) / (sigma * 0.6) ** 2
            expected = (weight * (edm.precondition_outputs(noisy, said, sigma) - x0).square()).mean().item()
    import json

    assert json.loads((folder / "training.json").read_text())["loss"][0][1] == pytest.approx(expected, rel=1e-3)


# --- noise levels ---


def test_levels_are_normally_distributed() -> None:
    recipe = Recipe(training=TrainingConfig(levels=(0.3, 1.4)))
    t = timesteps_of(np.random.default_rng(0).random(4000), recipe)
    table = np.array(oracles.abar())
    sigma = ((1 - table[t]) / table[t]) ** 0.5
    assert kstest(np.log(sigma), "norm", args=(0.3, 1.4)).statistic < 0.03
    assert t.dtype == np.int64 and t.min() >= 0 and t.max() <= 999
    assert timesteps_of(np.array([0.0, 1 - 1e-16]), recipe).tolist() == [0, 999]


def test_levels_are_uniform_unless_asked_for() -> None:
    t = timesteps_of(np.array([0.0, 0.1234, 0.5, 0.9999]), Recipe())
    assert t.tolist() == [0, 123, 500, 999]
    with pytest.raises(SettingsError, match="standard deviation must be above 0"):
        Recipe().replace(levels=(0.0, 0.0))


# --- how weights are kept ---


@pytest.mark.parametrize("stored", ["float16", "bfloat16"])
def test_stored_weights_are_the_rounded_ones(tmp_path: Path, stored: str) -> None:
    plain, rounded = trained(tmp_path / "00"), trained(tmp_path / "01", stored=stored)
    weights, low = (load_file(folder / UNetConfig.weights) for folder in (plain, rounded))
    for name, tensor in weights.items():
        assert low[name].dtype == getattr(torch, stored)
        assert torch.equal(low[name], tensor.to(low[name].dtype))
    sizes = [(folder / UNetConfig.weights).stat().st_size for folder in (plain, rounded)]
    assert sizes[1] < 0.6 * sizes[0]
    assert next(UNet2DModel.from_pretrained(rounded).parameters()).shape  # any diffusers user opens it


def test_a_run_of_rounded_weights_is_checked_and_computes_in_float32(tmp_path: Path) -> None:
    units, code = ab.Units.digits(4, size=8), ab.Code.balanced(units=4, components=4, seed=0)
    recipe = Recipe(
        component=UNetConfig(channels=(8, 8), norm_groups=4, prediction="velocity"),
        training=TrainingConfig(steps=3, batch=4, stored="float16", levels=(0.0, 1.0)),
    )
    run = ab.train(units, code, recipe, out=tmp_path / "run", execution=Execution(workers=0, quiet=True))
    assert check_run(run.path) == []
    assert Run(run.path).recipe == recipe
    loaded = Run(run.path).load_component(1)
    assert isinstance(loaded, UNetDenoiser) and loaded.abar is not None
    for name, tensor in loaded.unet.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, load_file(run.component_folder(1) / UNetConfig.weights)[name].float())


# --- on record ---


def test_settings_that_came_later_are_left_out_where_unused() -> None:
    """The recipe's text is part of settings that are compared and hashed: that of older runs must not change."""
    for name in ("tiny", "small", "paper"):
        values = PRESETS[name].model_dump(mode="json")
        assert not {"prediction", "sigma_data"} & values["component"].keys()
        assert not {"levels", "stored"} & values["training"].keys()
    values = PRESETS["colour"].replace(stored="float16").model_dump(mode="json")
    assert recipe_from(values) == PRESETS["colour"].replace(stored="float16")
    assert values["component"]["prediction"] == "velocity" and values["training"]["stored"] == "float16"


def test_training_is_the_same_bytes_again(tmp_path: Path) -> None:
    folders = [trained(tmp_path / name, levels=(0.3, 1.4), stored="float16") for name in ("00", "01")]
    first, second = (hashlib.sha256((folder / UNetConfig.weights).read_bytes()).hexdigest() for folder in folders)
    assert first == second
