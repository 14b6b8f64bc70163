"""Components: the ideal one against brute force, UNets as functions of what they are built from."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from safetensors.torch import load_file

from ablatable.data.units import Units
from ablatable.diffusion import fast_unet
from ablatable.diffusion.ideal import IdealDenoiser
from ablatable.diffusion.kinds import load_component, save_component
from ablatable.diffusion.recipe import PRESETS, IdealConfig, UNetConfig
from ablatable.diffusion.schedule import Schedule
from ablatable.diffusion.tangents import push
from ablatable.diffusion.unet import UNetDenoiser, build
from ablatable.errors import SettingsError, StoreError
from oracles import abar, data_of, ideal, posterior

TINY = UNetConfig(channels=(8, 8), norm_groups=4)
TIMES = [0, 1, 40, 300, 700, 998, 999]


def digits(count: int = 7) -> np.ndarray:
    return Units.digits(count, size=8).images


def denoiser(images: np.ndarray, dtype: torch.dtype = torch.float64) -> IdealDenoiser:
    return IdealDenoiser(torch.tensor(images).movedim(-1, 1).contiguous(), Schedule(), dtype)


def noisy(images: np.ndarray, t: int, rows: int, seed: int = 0) -> np.ndarray:
    """x_t of random data, the last row pure noise: float64 (rows, C, H, W)."""
    rng, a = np.random.default_rng(seed), abar()[t]
    noise = rng.standard_normal((rows, images.shape[-1], *images.shape[1:3]))
    x = a**0.5 * data_of(images)[rng.integers(len(images), size=rows)] + (1 - a) ** 0.5 * noise
    x[-1] = noise[-1]
    return x


# --- ideal ---


@pytest.mark.parametrize("t", TIMES)
def test_ideal_is_brute_force_over_the_data(t: int) -> None:
    images = digits()
    x = noisy(images, t, rows=5)
    expected = ideal(data_of(images), abar())(x, t)
    assert np.isfinite(expected).all()
    exact = denoiser(images)(torch.tensor(x), t)
    assert exact.dtype == torch.float64
    # float64's rounding of logits of up to 64 / 1e-4, divided by the noise's smallest deviation, 1e-2
    np.testing.assert_allclose(exact.numpy(), expected, rtol=0, atol=1e-7)
    single = denoiser(images, torch.float32)(torch.tensor(x, dtype=torch.float32), t)
    assert single.dtype == torch.float32
    # 1 - abar_0 = 1e-4 in float32 is off by 6e-8 at most, so its root by 3e-4 of itself
    np.testing.assert_allclose(single.numpy(), expected, rtol=5e-4, atol=1e-3)


def test_ideal_weighs_two_data_by_their_distances() -> None:
    """Where the posterior is mixed, not one datum's: the case that softmax and mean have to get right."""
    images, t = digits(2), 300
    first, second = data_of(images)
    a = abar()[t]
    mixed = 0
    for share in (0.5, 0.499, 0.501, 0.45, 0.2):
        x = a**0.5 * (share * first + (1 - share) * second)
        p, q = posterior(np.stack([first, second]), a, x)
        mixed += 0.01 < p < 0.99
        expected = (x - a**0.5 * (p * first + q * second)) / (1 - a) ** 0.5
        given = denoiser(images)(torch.tensor(x)[None], t)[0].numpy()
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-9)
    assert mixed >= 3


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 6, 6), (1, 12, 12)])
def test_ideal_gives_a_row_the_same_bits_at_every_place_of_a_batch(count: int, shape: tuple[int, int, int]) -> None:
    rng = torch.Generator().manual_seed(count)
    denoiser = IdealDenoiser(torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=rng), Schedule())
    row, seen = torch.randn(shape, generator=rng), []
    for place in range(8):
        x = torch.randn(8, *shape, generator=rng)
        x[place] = row
        seen.append(denoiser(x, 400)[place])
    assert all(torch.equal(seen[0], other) for other in seen)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ideal_stays_finite_far_from_all_data(dtype: torch.dtype) -> None:
    images = np.stack([np.zeros((8, 8, 1), np.uint8), np.full((8, 8, 1), 255, np.uint8)])
    for t in TIMES:
        for scale in (0.0, 1.0, 1e3):
            predicted = denoiser(images, dtype)(torch.full((2, 1, 8, 8), scale, dtype=dtype), t)
            assert predicted.isfinite().all(), (t, scale)


def test_ideal_takes_one_timestep_or_one_a_row() -> None:
    images = digits()
    x = torch.tensor(noisy(images, 500, rows=4))
    times = [3, 999, 250, 0]
    together = denoiser(images)(x, torch.tensor(times))
    for row, t in enumerate(times):
        for form in (t, torch.tensor(t), torch.tensor([t])):
            alone = denoiser(images)(x[row : row + 1], form)
            torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("t", [60, 300])
def test_ideal_minimises_the_denoising_loss(t: int) -> None:
    """Against 40,000 simulated pairs: any change of the predictor raises the training loss."""
    images = digits(5)
    data, a = torch.tensor(data_of(images)), abar()[t]
    rng = torch.Generator().manual_seed(0)
    count = 40_000
    noise = torch.randn((count, 1, 8, 8), generator=rng, dtype=torch.float64)
    x = a**0.5 * data[torch.randint(len(data), (count,), generator=rng)] + (1 - a) ** 0.5 * noise
    best = denoiser(images)(x, t)
    mean_datum = (x - a**0.5 * data.mean(0)) / (1 - a) ** 0.5
    fewer = denoiser(images[1:])(x, t)

    def loss(predicted: torch.Tensor) -> float:
        return float((predicted - noise).square().mean())

    others = {
        "larger": best * 1.05,
        "smaller": best * 0.95,
        "shifted": best + 0.05,
        "towards the mean of the data": best + 0.1 * (mean_datum - best),
        "as if one datum were not there": fewer,
        "as if it were earlier": denoiser(images)(x, t - 5),
        "as if it were later": denoiser(images)(x, t + 5),
    }
    for name, other in others.items():
        assert loss(best) < loss(other), name


# --- UNet ---


def test_unet_is_a_function_of_configuration_shape_and_seed() -> None:
    torch.manual_seed(1)
    first = build(TINY, (1, 8, 8), seed=5).state_dict()
    before = torch.random.get_rng_state()
    torch.manual_seed(2)
    torch.rand(100)
    state = torch.random.get_rng_state()
    second = build(TINY, (1, 8, 8), seed=5).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random state was used up"
    assert not torch.equal(before, state)
    other = build(TINY, (1, 8, 8), seed=6).state_dict()
    assert first.keys() == second.keys() == other.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(("height", "width"), [(9, 11), (8, 13), (10, 10)])
def test_unet_pads_what_its_levels_cannot_halve(height: int, width: int) -> None:
    config = UNetConfig(channels=(8, 8, 8), norm_groups=4)  # multiples of four
    model = build(config, (3, height, width), seed=0).eval()
    x, t = torch.randn(2, 3, height, width), torch.tensor([7, 900])
    with torch.no_grad():
        predicted = model(x, t)
        padded = torch.zeros(2, 3, -(-height // 4) * 4, -(-width // 4) * 4)
        padded[:, :, :height, :width] = x
        expected = model.unet(padded, t).sample[:, :, :height, :width]
        single = model(x[1:], 900)
    assert predicted.shape == x.shape
    torch.testing.assert_close(predicted, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(predicted[1:], single, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (TINY, (1, 8, 8)),
        (UNetConfig(channels=(8, 16, 8), layers=2, norm_groups=4), (3, 9, 14)),
        (UNetConfig(channels=(8, 16, 16), layers=2, attention=(1,), middle_attention=True, norm_groups=8), (1, 8, 12)),
        (UNetConfig(channels=(16,), attention=(0,)), (1, 5, 7)),
        (UNetConfig(channels=(8, 8), middle_attention=True), (1, 4, 4)),
    ],
)
def test_one_timestep_for_all_rows_predicts_what_diffusers_does(
    config: UNetConfig, shape: tuple[int, int, int]
) -> None:
    model = build(config, shape, seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # as after training: no layer is without effect
            parameter.add_(0.1 * torch.randn_like(parameter))
        for t in (0, 999):
            x = torch.randn(3, *shape)
            padded = torch.nn.functional.pad(x, (0, -shape[2] % config.multiple, 0, -shape[1] % config.multiple))
            expected = model.unet(padded, torch.full((3,), t)).sample[..., : shape[1], : shape[2]]
            torch.testing.assert_close(model(x, t), expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(model(x, torch.full((3,), t)), expected, rtol=1e-4, atol=1e-5)
    x = torch.randn(3, *shape, requires_grad=True)
    model(x, 5).sum().backward()  # where gradients are wanted they are there
    assert x.grad is not None


@pytest.mark.parametrize(
    "option",
    [
        {"center_input_sample": True},
        {"mid_block_scale_factor": 2.0},
        {"time_embedding_type": "fourier"},
        {"act_fn": "gelu"},
    ],
    ids=lambda option: next(iter(option)),
)
def test_an_architecture_the_fast_pass_does_not_know_gets_diffusers_own(option: dict, tmp_path: Path) -> None:
    """Such a folder can be put in place of a component; the fast passes would be silently wrong for it."""
    plain = build(TINY, (1, 8, 8), seed=0).unet
    unet = UNet2DModel(**{k: v for k, v in plain.config.items() if k[0] != "_"} | option).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    unet.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="fast forward pass does not compute"):
        fast_unet._AGREES.clear()
        component = load_component(tmp_path, TINY, Schedule())
    x, t = torch.randn(2, 1, 8, 8), 321
    with torch.no_grad():
        expected = unet(x, t).sample
        torch.testing.assert_close(component(x, t), expected, rtol=1e-5, atol=1e-6)
        wrong = fast_unet.SharedTimestepUNet(unet)
        with suppress(AttributeError):  # or it cannot be run at all
            assert (wrong(x, t) - expected).abs().max() > 1e-3 * expected.abs().max(), "the check is of no use here"
    step = 1e-3 * torch.randn(1, 1, 8, 8)
    predicted, derivative = push(component, x[0], t, step)
    torch.testing.assert_close(predicted, expected[0], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        central = (unet(x[:1] + step, t).sample - unet(x[:1] - step, t).sample)[0] / 2
    torch.testing.assert_close(derivative[0], central, rtol=0.05, atol=0.02 * float(central.abs().max()))


def test_the_architectures_of_the_presets_take_the_fast_pass(recwarn: pytest.WarningsRecorder) -> None:
    fast_unet._AGREES.clear()
    for config in (TINY, UNetConfig(channels=(8, 16, 16), layers=2, attention=(1,), middle_attention=True)):
        assert fast_unet.agrees(build(config, (1, 8, 8), seed=0).unet)
    assert not [warning for warning in recwarn if "fast forward" in str(warning.message)]


def test_a_component_opens_with_plain_diffusers(small) -> None:
    x, t = torch.randn(3, 1, 8, 8), 321
    for index in (0, 5):
        plain = UNet2DModel.from_pretrained(small.run.component_folder(index)).eval()
        with torch.no_grad():
            torch.testing.assert_close(small.run.load_component(index)(x, t), plain(x, t).sample, rtol=0, atol=1e-6)
            assert not torch.equal(small.run.load_component(1)(x, t), plain(x, t).sample)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_preset_small(shape: tuple[int, int, int]) -> None:
    config = PRESETS["small"].component
    assert isinstance(config, UNetConfig)
    model = build(config, shape, seed=0)
    assert 1.4e6 < sum(p.numel() for p in model.parameters()) < 1.6e6
    assert tuple(model.unet.config["block_out_channels"]) == (32, 64, 64)


def test_preset_paper_is_the_published_architecture() -> None:
    recipe = PRESETS["paper"]
    config = recipe.component
    assert isinstance(config, UNetConfig)
    with torch.device("meta"):  # 100 million parameters, none of them stored
        unet = build(config, (1, 32, 32), seed=0).unet
    facts = unet.config
    assert facts["sample_size"] == 32
    assert tuple(facts["block_out_channels"]) == (128, 256, 512, 512)
    assert facts["layers_per_block"] == 2
    assert tuple(facts["down_block_types"]) == ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D")
    assert tuple(facts["up_block_types"]) == ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    assert (recipe.training.optimizer, recipe.training.learning_rate, recipe.training.batch) == ("adam", 1e-4, 128)
    assert (recipe.training.weight_decay, recipe.training.decay, recipe.training.warmup) == (0, "constant", 0)
    assert recipe.schedule == Schedule(train_steps=1000, beta_start=1e-4, beta_end=0.02)


@pytest.mark.parametrize(("preset", "side", "fits"), [("tiny", 8, True), ("paper", 8, False), ("tiny", 2, False)])
def test_too_small_pictures(preset: str, side: int, fits: bool) -> None:
    config = PRESETS[preset].component
    assert isinstance(config, UNetConfig)
    if fits:
        assert build(config, (1, side, side), seed=0)(torch.zeros(1, 1, side, side), 0).shape == (1, 1, side, side)
    else:
        with pytest.raises(SettingsError, match=rf"{side} x {side} are too small for \d levels.*`size`"):
            build(config, (1, side, side), seed=0)


# --- to disk and back ---


def test_saved_and_loaded(tmp_path: Path) -> None:
    x = torch.randn(2, 1, 8, 8)
    unet = build(TINY, (1, 8, 8), seed=3).eval()
    save_component(unet, TINY, tmp_path / "unet")
    loaded = load_component(tmp_path / "unet", TINY, Schedule())
    assert isinstance(loaded, UNetDenoiser)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(x, 17), unet(x, 17))

    exact = denoiser(digits())
    save_component(exact, IdealConfig(), tmp_path / "ideal")
    again = load_component(tmp_path / "ideal", IdealConfig(dtype="float64"), Schedule())
    assert torch.equal(again(x.double(), 17), exact(x.double(), 17))
    assert load_file(tmp_path / "ideal" / "images.safetensors")["images"].dtype == torch.uint8

    with pytest.raises(TypeError, match="Linear"):
        save_component(torch.nn.Linear(1, 1), TINY, tmp_path / "no")


def test_damaged_files_are_told(small, tmp_path: Path) -> None:
    config = small.recipe.component
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        for damage in ("missing", "cut"):
            folder = tmp_path / f"{name}-{damage}" / "03"
            shutil.copytree(small.run.component_folder(3), folder)
            if damage == "missing":
                (folder / name).unlink()
            else:
                (folder / name).write_bytes((folder / name).read_bytes()[:-50])
            with pytest.raises(StoreError, match=r"component 03: cannot read .*ablatable.check"):
                load_component(folder, config, small.recipe.schedule)
