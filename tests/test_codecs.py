"""Codecs: orthonormal transforms that change nothing but coordinates, and autoencoders that all components share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable.diffusion.autoencoder import latent_config
from ablatable.diffusion.ideal import IdealDenoiser
from ablatable.diffusion.recipe import Recipe, TrainingConfig, UNetConfig
from ablatable.diffusion.sampling import sample
from ablatable.diffusion.schedule import Schedule
from ablatable.diffusion.tangents import push_through
from ablatable.diffusion.transforms import BlockTransform
from ablatable.diffusion.unet import build
from ablatable.errors import AblatableError, DataError, SettingsError
from ablatable.runs.run import check_run
from ablatable.unlearning.verification import repeat

HERE = Execution(workers=0, quiet=True)
CODE = ab.Code(np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 0]], bool))
SMALL = UNetConfig(channels=(8, 8), norm_groups=4)
RECIPE = Recipe(component=SMALL, training=TrainingConfig(steps=3, batch=2))


def units_of(channels: int = 1, side: int = 8) -> ab.Units:
    images = np.random.default_rng(0).integers(0, 256, (4, side, side, channels), dtype=np.uint8)
    return ab.Units(tuple("abcd"), images, np.arange(4))


# --- transforms ---


@pytest.mark.parametrize(("name", "block"), [("haar", 2), ("haar", 4), ("dct", 3), ("dct", 8)])
def test_transforms_are_orthonormal(name: str, block: int) -> None:
    transform = BlockTransform(name, block)
    pixels = 3 * (2 * block) * (3 * block)
    columns = transform.encode(torch.eye(pixels, dtype=torch.float64).reshape(pixels, 3, 2 * block, 3 * block))
    matrix = columns.reshape(pixels, -1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(pixels, dtype=torch.float64), rtol=0, atol=1e-12)
    x = torch.randn(2, 3, 2 * block, 3 * block, dtype=torch.float64)
    torch.testing.assert_close(transform.decode(transform.encode(x)), x, rtol=0, atol=1e-12)
    assert tuple(columns.shape[1:]) == transform.shape((3, 2 * block, 3 * block))


def test_they_are_what_their_names_say() -> None:
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    cosines = BlockTransform("dct", 8).encode(x).reshape(8, 8)
    np.testing.assert_allclose(cosines.numpy(), scipy.fft.dctn(x[0, 0].numpy(), norm="ortho"), atol=1e-12)
    a, b, c, d = x[0, 0, :2, :2].flatten().tolist()
    haar = BlockTransform("haar", 2).encode(x)[0, :, 0, 0].tolist()
    assert haar == pytest.approx([(a + b + c + d) / 2, (a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2])


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmsolver++"])
def test_an_ideal_denoiser_of_coefficients_draws_the_same_picture(sampler: str) -> None:
    """In Haar space from the transformed noise, and in pixels: the same picture, up to float64."""
    schedule, transform = Schedule(), BlockTransform("haar", 2)
    pixels = torch.from_numpy(np.moveaxis(units_of().images, -1, 1).copy())
    ideal = IdealDenoiser(pixels, schedule, torch.float64)
    data = transform.encode(pixels.double() / 127.5 - 1).flatten(1)

    def of_coefficients(y: Tensor, t: Tensor | int) -> Tensor:
        """By Bayes' rule over the transformed data, written out."""
        a, flat = schedule.alphas_cumprod()[t], y.flatten(1)
        away = (flat[:, None] - a.sqrt() * data).square().sum(-1)
        mean = torch.softmax(-away / (2 * (1 - a)), dim=1) @ data
        return ((flat - a.sqrt() * mean) / (1 - a).sqrt()).reshape(y.shape)

    noise = ab.noise_trajectory([1, 2], 12, (1, 8, 8)).double()
    sampling = Sampling(sampler, 12, clip=False)
    there = sample(of_coefficients, [transform.encode(z) for z in noise], schedule=schedule, sampling=sampling)
    here = sample(ideal, noise, schedule=schedule, sampling=sampling)
    assert here.std() > 0.3
    torch.testing.assert_close(transform.decode(there), here, rtol=0, atol=1e-6)


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_a_network_on_coefficients_is_the_network_between_two_transforms(prediction: Any) -> None:
    config = SMALL.model_copy(update={"codec": "dct", "block": 4, "prediction": prediction})
    denoiser, transform = build(config, (1, 16, 16), 5).eval(), BlockTransform("dct", 4)
    assert denoiser.unet.config.in_channels == 16
    x, a = torch.randn(2, 1, 16, 16), Schedule().alphas_cumprod()[300].float()
    with torch.no_grad():
        y = transform.encode(x)
        inside = denoiser.unet(y, 300).sample
        expected = inside if prediction == "noise" else a.sqrt() * inside + (1 - a).sqrt() * y
        torch.testing.assert_close(denoiser(x, 300), transform.decode(expected), rtol=0, atol=2e-5)
        directions = torch.randn(3, 1, 16, 16)
        predicted, along = denoiser.tangent(x[0], 300, directions)
        torch.testing.assert_close(predicted, denoiser(x, 300)[0], rtol=0, atol=2e-5)
    steps = torch.tensor([300])
    _, derivatives = push_through(lambda row: denoiser(row[None], steps)[0], x[0], directions)
    torch.testing.assert_close(along, derivatives, rtol=0, atol=1e-4)


def test_a_run_with_a_transform(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    run = ab.train(units_of(), CODE, RECIPE, out=tmp_path / "run", execution=HERE, codec="haar")
    assert run.recipe.component == SMALL.model_copy(update={"codec": "haar"}) and run.shared.records == ()
    assert run.noise_shape == run.shape and check_run(run.path) == [] and repeat(run, ["b"], [1], execution=HERE).holds
    given = ["digits:4", "--size", "8", "--components", "4", "--steps", "1", "--no-look", "--workers", "0"]
    code, _, wrong = call("train", *given, "--codec", "dct", "--out", str(tmp_path / "r"))
    assert code == 0, wrong
    assert getattr(ab.Run(tmp_path / "r").recipe.component, "codec", None) == "dct"
    code, _, wrong = call("train", *given, "--codec", "wavelet", "--out", str(tmp_path / "s"))
    assert code == 2 and "there is no codec 'wavelet'" in wrong and not (tmp_path / "s" / "settings.json").exists()
    with pytest.raises(SettingsError, match="do not fill pictures of 7 x 7"):
        ab.train(units_of(side=7), CODE, RECIPE, out=tmp_path / "t", execution=HERE, codec="haar")
    with pytest.raises(SettingsError, match="kind 'ideal' work on pixels alone"):
        ab.train(units_of(), CODE, "ideal", out=tmp_path / "u", execution=HERE, codec="haar")


# --- autoencoders ---


def autoencoder(kind: str, folder: Path) -> Any:
    torch.manual_seed(1)
    if kind == "AutoencoderKL":
        model = diffusers.AutoencoderKL(
            in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(4, 4), norm_num_groups=2, latent_channels=2,
            scaling_factor=0.7, shift_factor=0.1,
        )  # fmt: skip
    else:
        model = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4), num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1), latent_channels=2,
        )  # fmt: skip
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny"])
def test_latents_are_those_of_diffusers_and_samples_are_decoded(kind: str, tmp_path: Path) -> None:
    model, units = autoencoder(kind, tmp_path / "vae"), units_of(3, 16)
    run = ab.train(units, CODE, RECIPE, out=tmp_path / "run", execution=HERE, codec=tmp_path / "vae")
    scale, shift = (0.7, 0.1) if kind == "AutoencoderKL" else (1.0, 0.0)
    assert run.shape == (3, 16, 16) and run.noise_shape == (2, 8, 8)
    assert [(part.name, part.role) for part in run.shared.records] == [("codec", "codec")] and check_run(run.path) == []
    x = torch.from_numpy(units.images.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert run.codec is not None
    with torch.no_grad():
        encoded = model.encode(x)
        latents = encoded.latent_dist.mode() if kind == "AutoencoderKL" else encoded.latents
        torch.testing.assert_close(run.codec.encode(units.images), (latents - shift) * scale, rtol=0, atol=1e-5)
        # a universe by hand: the mean of the survivors in latents, diffusers' DDIM, then the decoder
        universe = ab.enumerate_universe(
            run, [3, 4], out=tmp_path / "u.zarr", sampling=Sampling("ddim", 4), execution=HERE
        )
        assert not universe.settings.clip
        scheduler = diffusers.DDIMScheduler(clip_sample=False)
        for row in range(4):
            nets = [
                diffusers.UNet2DModel.from_pretrained(run.component_folder(i))
                for i in range(3)
                if not CODE.matrix[row, i]
            ]
            scheduler.set_timesteps(4)
            y = ab.noise_trajectory([3, 4], 0, (2, 8, 8))[0]
            for t in scheduler.timesteps:
                y = scheduler.step(torch.stack([net(y, t).sample for net in nets]).mean(0), t, y)[0]  # pyright: ignore
            pictures = (model.decode(y / scale + shift).sample.clamp(-1, 1) + 1) * 127.5
            for s in range(2):
                drawn = universe.landscape(s)[universe.settings.ablation[row]]
                assert np.abs(drawn - pictures[s].permute(1, 2, 0).numpy()).max() <= 0.52


def test_everything_that_reads_a_latent_run(tmp_path: Path) -> None:
    autoencoder("AutoencoderTiny", tmp_path / "vae")
    run = ab.train(units_of(3, 16), CODE, RECIPE, out=tmp_path / "run", execution=HERE, codec=tmp_path / "vae")
    pipeline = ab.AblatablePipeline(run)
    drawn = pipeline(seeds=[3], num_inference_steps=4, sampler="ddim", output_type="np").images
    universe = ab.enumerate_universe(run, [3], out=tmp_path / "u.zarr", sampling=Sampling("ddim", 4), execution=HERE)
    assert np.abs(drawn[0].astype(int) - universe.factual[0]).max() <= 1
    paths = ab.draw_samples(run, [3], out=tmp_path / "s", sampling=Sampling("ddim", 4), execution=HERE)
    from PIL import Image

    assert np.array_equal(np.asarray(Image.open(paths[0])), universe.factual[0])
    assert ab.witness(run, [3], sampling=Sampling("ddim", 4)).p.shape == (4, 1)
    less, _ = ab.forget(run, ["b"], out=tmp_path / "less")
    repaired = ab.repair(less, out=tmp_path / "repaired", execution=HERE)
    assert check_run(repaired.path) == [] and repaired.noise_shape == (2, 8, 8)
    assert repeat(run, ["b"], [1], execution=HERE).holds
    with pytest.raises(SettingsError, match="differential ablation is not possible with latents"):
        ab.differentiate(run, tmp_path / "u.zarr", execution=HERE)


def test_bad_codecs_are_refused(tmp_path: Path) -> None:
    autoencoder("AutoencoderKL", tmp_path / "vae")
    pickled, other, torn = tmp_path / "pickled", tmp_path / "other", tmp_path / "torn"
    autoencoder("AutoencoderKL", pickled)
    (pickled / "diffusion_pytorch_model.safetensors").rename(pickled / "diffusion_pytorch_model.bin")
    build(SMALL, (1, 8, 8), 0).unet.save_pretrained(other)
    autoencoder("AutoencoderKL", torn)
    weights = torn / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    for codec, units, why in (
        (tmp_path / "nowhere", units_of(3, 16), "there is no codec"),
        (pickled, units_of(3, 16), "is a pickle"),
        (other, units_of(3, 16), "holds a UNet2DModel; a codec is one of"),
        (torn, units_of(3, 16), "the autoencoder cannot be read"),
        (tmp_path / "vae", units_of(1, 16), "takes 3 channels, and the pictures have 1"),
        (tmp_path / "vae", units_of(3, 15), "does not give pictures of 15 x 15 back"),
    ):
        with pytest.raises((DataError, SettingsError), match=why):
            ab.train(units, CODE, RECIPE, out=tmp_path / "run", execution=HERE, codec=codec)
    assert not (tmp_path / "run").exists()
    with pytest.raises(AblatableError, match="kind 'ideal' work on pixels alone"):
        ab.train(units_of(3, 16), CODE, "ideal", out=tmp_path / "run", execution=HERE, codec=tmp_path / "vae")


# --- an autoencoder's scale ---


def test_a_scale_that_is_not_in_the_file_is_that_of_diffusers(tmp_path: Path) -> None:
    autoencoder("AutoencoderKL", tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    del values["scaling_factor"], values["shift_factor"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    theirs: Any = diffusers.AutoencoderKL.from_pretrained(tmp_path)
    found = latent_config(tmp_path, (3, 16, 16))
    assert (found.scale, found.shift) == (theirs.config.scaling_factor, theirs.config.shift_factor or 0.0)


@pytest.mark.parametrize("wrong", [{"scaling_factor": 0}, {"scaling_factor": "1"}, {"shift_factor": float("nan")}])
def test_scales_that_do_not_fit_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    autoencoder("AutoencoderKL", tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | wrong))
    with pytest.raises(SettingsError, match=f"{next(iter(wrong))} is .*, and latents are multiplied"):
        latent_config(tmp_path, (3, 16, 16))


# --- models on latents that were trained elsewhere ---


def pipeline(folder: Path, number: int, kind: str | None = "AutoencoderKL") -> Path:
    """As diffusers lays out a pipeline of a denoiser and an autoencoder."""
    torch.manual_seed(number)
    diffusers.UNet2DModel(
        sample_size=8, in_channels=2, out_channels=2, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    ).save_pretrained(folder / "unet")  # fmt: skip
    diffusers.DDIMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")
    if kind is not None:
        autoencoder(kind, folder / "vae")
    return folder


def test_adopted_pipelines_bring_their_autoencoder(tmp_path: Path) -> None:
    """By hand: the mean of the survivors in latents, diffusers' DDIM, then diffusers' decoder."""
    folders, units = [pipeline(tmp_path / str(k), k) for k in range(3)], units_of(3, 16)
    run = ab.adopt(folders, units, CODE, out=tmp_path / "run")
    assert (run.shape, run.noise_shape) == ((3, 16, 16), (2, 8, 8)) and check_run(run.path) == []
    assert [part.name for part in run.shared.records] == ["codec"]
    universe = ab.enumerate_universe(run, [3], out=tmp_path / "u.zarr", sampling=Sampling("ddim", 4), execution=HERE)
    scheduler: Any = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(4)
    vae: Any = diffusers.AutoencoderKL.from_pretrained(folders[0] / "vae")
    nets: list[Any] = [diffusers.UNet2DModel.from_pretrained(folder / "unet") for folder in folders]
    for row in range(4):
        left, y = [nets[i] for i in range(3) if not CODE.matrix[row, i]], ab.noise_trajectory([3], 0, (2, 8, 8))[0]
        with torch.no_grad():
            for t in scheduler.timesteps:
                y = scheduler.step(torch.stack([net(y, t).sample for net in left]).mean(0), t, y)[0]
            picture = (vae.decode(y / 0.7 + 0.1).sample.clamp(-1, 1) + 1) * 127.5
        drawn = universe.landscape(0)[universe.settings.ablation[row]]
        assert np.abs(drawn - picture[0].permute(1, 2, 0).numpy()).max() <= 0.52
    less, certificate = ab.forget(run, ["b"], out=tmp_path / "less")
    assert check_run(less.path) == [] and less.shared.records == run.shared.records and certificate.claimed


def test_pipelines_whose_autoencoders_do_not_fit_are_refused(tmp_path: Path) -> None:
    folders, units = [pipeline(tmp_path / str(k), k) for k in range(3)], units_of(3, 16)
    with pytest.raises(SettingsError, match=r"latents of \(2, 16, 16\).*denoise \(2, 8, 8\).*such as 16x16"):
        ab.adopt(folders, units_of(3, 32), CODE, out=tmp_path / "run")
    pipeline(tmp_path / "other", 1, "AutoencoderTiny")
    with pytest.raises(SettingsError, match="are different autoencoders"):
        ab.adopt([*folders[:2], tmp_path / "other"], units, CODE, out=tmp_path / "run")
    with pytest.raises(SettingsError, match=r"vae is an autoencoder and .*bare has none"):
        ab.adopt([*folders[:2], pipeline(tmp_path / "bare", 1, None)], units, CODE, out=tmp_path / "run")
    with pytest.raises(SettingsError, match="there is no autoencoder's folder"):
        ab.adopt(folders, units, CODE, out=tmp_path / "run", codec=tmp_path / "nowhere")
    assert ab.adopt(folders, units, CODE, out=tmp_path / "run", codec=folders[0] / "vae").noise_shape == (2, 8, 8)


def test_adapters_on_a_pipeline_denoise_its_latents(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    base = pipeline(tmp_path / "base", 0)
    recipe, shared = ab.adapters(base, rank=1, steps=1, batch=2, statement="nothing")
    run = ab.train(units_of(3, 16), CODE, recipe, out=tmp_path / "run", execution=HERE, shared=shared)
    assert run.noise_shape == (2, 8, 8) and check_run(run.path) == [] and repeat(run, ["b"], [1], execution=HERE).holds
    assert [(part.name, part.statement) for part in run.shared.records] == [("base", "nothing"), ("codec", "nothing")]
    with pytest.raises(SettingsError, match="share an autoencoder already"):
        ab.train(
            units_of(3, 16), CODE, recipe, out=tmp_path / "no", execution=HERE, shared=shared, codec=base / "vae"
        )  # fmt: skip
    with pytest.raises(SettingsError, match=r"9 x 9 are no multiples of 2; choose another"):
        ab.train(units_of(3, 18), CODE, recipe, out=tmp_path / "no", execution=HERE, shared=shared)
    pickled = pipeline(tmp_path / "pickled", 0)
    (pickled / "vae" / "diffusion_pytorch_model.safetensors").rename(pickled / "vae" / "model.bin")
    with pytest.raises(SettingsError, match=r"'codec': model\.bin is a pickle"):
        ab.adapters(pickled)
