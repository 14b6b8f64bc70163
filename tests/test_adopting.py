"""Adopted components: diffusers' own pipelines and schedulers are the oracle; what is claimed is called so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable.analysis.retraining import control
from ablatable.diffusion.schedule import Schedule
from ablatable.errors import AblatableError, DataError, SettingsError
from ablatable.report.facts import _component_facts
from ablatable.runs.card import model_card
from ablatable.runs.run import check_run
from ablatable.unlearning.certificate import check_certificate, render_certificate
from ablatable.unlearning.verification import audit, repeat

HERE = Execution(workers=0, quiet=True)
CODE = ab.Code(np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 0]], bool))
SIDE = 8
UNET: dict[str, Any] = {
    "sample_size": SIDE,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}


def unet(seed: int, **more: Any) -> Any:
    torch.manual_seed(seed)
    return diffusers.UNet2DModel(**{**UNET, **more}).eval()


def saved(folder: Path, model: Any, scheduler: Any) -> Path:
    """As diffusers lays a pipeline out."""
    model.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    return folder


def data(channels: int = 1) -> ab.Units:
    images = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, channels), dtype=np.uint8)
    return ab.Units(tuple("abcd"), images, np.arange(4))


def three(folder: Path, scheduler: Any, make: Callable[[int], Any] = unet) -> list[Path]:
    return [saved(folder / str(k), make(k), scheduler) for k in range(3)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ab.Run:
    place = tmp_path_factory.mktemp("adopted")
    folders = three(place / "models", diffusers.DDPMScheduler(clip_sample=False))
    return ab.adopt(folders, data(), CODE, out=place / "run", claim="as the authors' log says")


# --- the same pictures as diffusers draws ---


SCHEDULERS = {
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {"beta_schedule": "sigmoid"},
    "trained_betas": {"trained_betas": [0.001 + 0.0003 * k for k in range(60)], "num_train_timesteps": 60},
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_betas_are_those_of_diffusers(name: str) -> None:
    theirs = diffusers.DDPMScheduler(**SCHEDULERS[name])
    given = dict(SCHEDULERS[name])
    betas = given.pop("trained_betas", None)
    ours = Schedule(
        train_steps=theirs.config.num_train_timesteps,
        trained_betas=betas,
        **{"curve" if key == "beta_schedule" else key: value for key, value in given.items() if "beta" in key},
    )
    np.testing.assert_allclose(ours.alphas_cumprod().numpy(), theirs.alphas_cumprod.numpy(), rtol=2e-4, atol=1e-9)
    ddim = diffusers.DDIMScheduler(**ours.for_diffusers())
    np.testing.assert_allclose(ddim.alphas_cumprod.numpy(), theirs.alphas_cumprod.numpy(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_single_model_draws_what_its_pipeline_draws(
    name: str, prediction: str, clip: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`DDPMPipeline` on the same noise, step by step; DDIM as well where diffusers' DDIM knows the schedule."""
    scheduler = diffusers.DDPMScheduler(**SCHEDULERS[name], prediction_type=prediction, clip_sample=clip)
    folder, units = saved(tmp_path / "m", unet(3), scheduler), data().select(["a", "b"])
    run = ab.adopt([folder, folder], units, ab.Code(np.eye(2, dtype=bool)), out=tmp_path / "r")
    config: Any = run.recipe.component
    assert (config.prediction, config.clip_sample) == (prediction, clip)
    steps = 10
    noise = ab.noise_trajectory([5], steps, (1, SIDE, SIDE))
    ours = ab.AblatablePipeline(run)(seeds=[5], num_inference_steps=steps, clip=clip, output_type="pt").images

    drawn = iter(noise)
    import diffusers.pipelines.ddpm.pipeline_ddpm as pipeline_module
    import diffusers.schedulers.scheduling_ddpm as scheduler_module

    for module in (pipeline_module, scheduler_module):
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(drawn).clone())
    pipeline: Any = diffusers.DDPMPipeline(unet=unet(3), scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    theirs = torch.from_numpy(pipeline(num_inference_steps=steps, output_type="np").images).permute(0, 3, 1, 2) * 2 - 1
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours.clamp(-1, 1), theirs.float(), rtol=0, atol=2e-3)


def test_the_mean_of_predictions_is_the_mean_of_velocities(tmp_path: Path) -> None:
    scheduler = diffusers.DDIMScheduler(
        prediction_type="v_prediction", clip_sample=False, beta_schedule="scaled_linear"
    )
    run = ab.adopt(three(tmp_path, scheduler), data(), CODE, out=tmp_path / "run")
    universe = ab.enumerate_universe(
        run, [7], out=tmp_path / "u.zarr", sampling=Sampling("ddim", 5, clip=False), execution=HERE
    )
    for row in range(4):
        survivors = [unet(k) for k in range(3) if not CODE.matrix[row, k]]
        scheduler.set_timesteps(5)
        x = ab.noise_trajectory([7], 0, (1, SIDE, SIDE))[0]
        with torch.no_grad():
            for t in scheduler.timesteps:
                mean = torch.stack([model(x, t).sample for model in survivors]).mean(0)
                x = scheduler.step(mean, t, x)[0]  # pyright: ignore[reportArgumentType]
        drawn = universe.landscape(0)[universe.settings.ablation[row], ..., 0]
        assert np.abs(drawn - ((x[0, 0].clamp(-1, 1) + 1) * 127.5).numpy()).max() <= 0.52


def test_models_with_a_fixed_condition(tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = torch.randn(3, 12)
    save_file({"prompt": text[None]}, tmp_path / "text.safetensors")
    conditional = diffusers.UNet2DConditionModel(
        sample_size=SIDE, in_channels=3, out_channels=3, block_out_channels=(8, 8), norm_num_groups=4,
        layers_per_block=1, cross_attention_dim=12, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip
    dit = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=3, out_channels=6, num_layers=1, norm_num_groups=4,
        sample_size=SIDE, patch_size=2, num_embeds_ada_norm=10,
    ).eval()  # fmt: skip
    x, t, scheduler = torch.randn(2, 3, SIDE, SIDE), torch.tensor([40, 40]), diffusers.DDPMScheduler()
    two, units = ab.Code(np.eye(2, dtype=bool)), data(3).select(["a", "b"])
    folder = saved(tmp_path / "conditional", conditional, scheduler)
    with pytest.raises(SettingsError, match="the model cannot predict"):
        ab.adopt([folder] * 2, units, two, out=tmp_path / "no")
    assert not (tmp_path / "no").exists()
    run = ab.adopt([folder] * 2, units, two, out=tmp_path / "r", embedding=tmp_path / "text.safetensors")
    with torch.no_grad():
        expected = conditional(x, t, text.expand(2, -1, -1)).sample
        torch.testing.assert_close(run.load_component(0)(x, 40), expected, rtol=0, atol=1e-6)
    assert [(part.name, part.role) for part in run.shared.records] == [("condition", "condition")]
    assert check_run(run.path) == []

    dit.save_pretrained(tmp_path / "dit" / "transformer")
    scheduler.save_pretrained(tmp_path / "dit" / "scheduler")
    run = ab.adopt([tmp_path / "dit"] * 2, units, two, out=tmp_path / "r2", label=4)
    with torch.no_grad():
        expected = dit(x, timestep=t, class_labels=torch.tensor([4, 4])).sample[:, :3]
        torch.testing.assert_close(run.load_component(0)(x, 40), expected, rtol=0, atol=1e-6)


# --- what is claimed is called so ---


def test_the_files_are_those_given_and_the_training_is_claimed(run: ab.Run) -> None:
    given = run.path.parent / "models"
    for k in range(3):
        for name in ("config.json", "diffusion_pytorch_model.safetensors"):
            assert (run.component_folder(k) / name).read_bytes() == (given / str(k) / "unet" / name).read_bytes()
        record = json.loads((run.component_folder(k) / "training.json").read_bytes())
        assert record["claimed"] is True and sorted(record["units"]) == [
            u for u, row in zip("abcd", CODE.matrix, strict=True) if row[k]
        ]
    assert check_run(run.path) == []
    facts = dict(_component_facts(run))
    assert facts["what is guaranteed"].startswith("Claimed: ")
    assert "as the authors' log says" in facts["what is guaranteed"]
    card = model_card(run, "someone/run")
    assert "as the authors' log says" in card and "If the claim about who saw what is true" in card
    assert "closed form" not in card and "trains components again" not in card


def test_forgetting_carries_the_claim(run: ab.Run, tmp_path: Path) -> None:
    less, certificate = ab.forget(run, ["b"], out=tmp_path / "less")
    assert less.present == (1,) and check_run(less.path) == [] and less.recipe == run.recipe
    assert "as the authors' log says" in (certificate.claimed or "") and "Claimed: " in render_certificate(certificate)
    assert check_certificate(less.path / "certificate.json", less) == []
    lying = certificate.model_copy(update={"claimed": None})
    assert any("components' training" in line for line in check_certificate(lying, less))


def test_what_trains_is_refused(run: ab.Run, tmp_path: Path) -> None:
    new = ab.Units(("new",), np.zeros((1, SIDE, SIDE, 1), np.uint8), np.arange(1))
    for refused in (
        lambda: repeat(run, ["b"], [1], execution=HERE),
        lambda: ab.repair(run, out=tmp_path / "a", execution=HERE),
        lambda: ab.extend(run, new, out=tmp_path / "b", execution=HERE),
        lambda: control(run, out=tmp_path / "c", units=2, seeds=range(2), execution=HERE),
        lambda: ab.train(data(), CODE, run.recipe, out=tmp_path / "d", execution=HERE),
    ):
        with pytest.raises(AblatableError, match=r"trained elsewhere|somebody else trained"):
            refused()
    with pytest.raises(SettingsError, match=r"differential ablation .* no method 'tangent'"):
        ab.enumerate_universe(run, [0], out=tmp_path / "u.zarr", sampling=Sampling("ddim", 2), execution=HERE)
        ab.differentiate(run, tmp_path / "u.zarr", execution=HERE)
    said = audit(run, "a")
    assert said.wrong == () and "as the authors' log says" in said.claimed[0]


def test_the_command_line(run: ab.Run, call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for name, image in zip("abcd", data().images, strict=True):
        Image.fromarray(image[..., 0]).save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "saw.csv").write_text(
        "unit,codeword\n" + "".join(f"{u}.png,{w}\n" for u, w in zip("abcd", CODE.words(), strict=True))
    )
    models = [str(run.path.parent / "models" / str(k)) for k in range(3)]
    given = ["--data", str(tmp_path / "photos"), "--splits", str(tmp_path / "saw.csv"), "--out", str(tmp_path / "r")]
    code, said, wrong = call("run", "adopt", *models, *given, "--claim", "by the log")
    if code:
        (tmp_path / "saw.csv").write_text(
            "unit,codeword\n" + "".join(f"{u},{w}\n" for u, w in zip("abcd", CODE.words(), strict=True))
        )
        code, said, wrong = call("run", "adopt", *models, *given, "--claim", "by the log")
    assert code == 0, wrong
    assert "Claimed: " in said and "by the log" in said and "--no-clip" in said
    assert np.array_equal(ab.Run(tmp_path / "r").code.matrix, CODE.matrix)
    code, said, _ = call("audit", "verify", str(tmp_path / "r"), "--unit", ab.Run(tmp_path / "r").unit_ids[0])
    assert (
        code == 0
        and "what is claimed of their training" in said
        and "as is claimed" in said
        and "bit for bit" not in said
    )
    code, _, wrong = call(
        "audit", "verify", str(tmp_path / "r"), "--unit", ab.Run(tmp_path / "r").unit_ids[0], "--retrain", "1"
    )
    assert code == 2 and "trained elsewhere" in wrong


# --- bad input: a clear sentence, and nothing lost ---


def broken(folder: Path, how: str) -> None:
    place = folder / "unet"
    config = json.loads((place / "config.json").read_bytes())
    if how == "pickle":
        (place / "diffusion_pytorch_model.safetensors").unlink()
        (place / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04")
    elif how == "no weights":
        (place / "diffusion_pytorch_model.safetensors").unlink()
    elif how == "torn weights":
        file = place / "diffusion_pytorch_model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
    elif how == "no scheduler":
        shutil.rmtree(folder / "scheduler")
    elif how == "no folder":
        shutil.rmtree(folder)
    elif how == "no config":
        (place / "config.json").unlink()
    elif how == "torn config":
        (place / "config.json").write_text("{")
    elif how == "other architecture":
        (place / "config.json").write_text(json.dumps({**config, "_class_name": "FluxTransformer2DModel"}))
    elif how == "other weights":
        unet(0, block_out_channels=(16, 16)).save_pretrained(folder / "aside")
        shutil.copy(folder / "aside" / "diffusion_pytorch_model.safetensors", place)
    elif how == "mixed configs":
        unet(0, layers_per_block=2).save_pretrained(place)
    elif how == "mixed schedulers":
        diffusers.DDPMScheduler(beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")


BROKEN = {
    "pickle": r"pickle \(diffusion_pytorch_model.bin\).*safe_serialization=True",
    "no weights": r"has no diffusion_pytorch_model.safetensors",
    "torn weights": r"cannot be read as safetensors",
    "no scheduler": r"has no scheduler_config.json.*`scheduler=",
    "no folder": r"there is no folder",
    "no config": r"holds no model of diffusers",
    "torn config": r"config.json is not valid JSON",
    "other architecture": r"FluxTransformer2DModel cannot be used as a component",
    "other weights": r"weights of another architecture: '.*' is of shape",
    "mixed configs": r"configs differ in layers_per_block: 1 in .*, 2 in",
    "mixed schedulers": r"schedulers differ in beta_schedule: 'linear' in .*, 'scaled_linear' in",
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_folders_are_refused(how: str, run: ab.Run, tmp_path: Path) -> None:
    shutil.copytree(run.path.parent / "models", tmp_path / "models")
    broken(tmp_path / "models" / "1", how)
    with pytest.raises((DataError, SettingsError), match=BROKEN[how]):
        ab.adopt([tmp_path / "models" / str(k) for k in range(3)], data(), CODE, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"rescale_betas_zero_snr": True}, r"rescale_betas_zero_snr: at its last step nothing of the picture is left"),
        ({"beta_schedule": "laplace"}, r"beta_schedule 'laplace'; there are"),
        ({"prediction_type": "flow"}, r"prediction_type 'flow'; there are"),
        ({"clip_sample": True, "clip_sample_range": 2.0}, r"clips samples to \+-2.0"),
        ({"beta_schedule": None}, r"has no betas"),
        ({"trained_betas": [0.1, 1.5]}, r"trained_betas must be 2 numbers between 0 and 1"),
    ],
)
def test_schedulers_that_do_not_fit_are_refused(config: dict[str, Any], why: str, run: ab.Run, tmp_path: Path) -> None:
    known = json.loads((run.path.parent / "models" / "0" / "scheduler" / "scheduler_config.json").read_bytes())
    values = {key: value for key, value in {**known, **config}.items() if value is not None}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(values))
    folders = [run.path.parent / "models" / str(k) for k in range(3)]
    with pytest.raises(SettingsError, match=why):
        ab.adopt(folders, data(), CODE, out=tmp_path / "run", scheduler=tmp_path)


def test_statements_that_do_not_fit_are_refused(run: ab.Run, tmp_path: Path) -> None:
    folders = [run.path.parent / "models" / str(k) for k in range(3)]
    table = tmp_path / "saw.csv"
    for text, why in (
        ("unit,codeword\na,110\nb,101\nc,011\n", "says nothing about unit 'd'"),
        ("unit,codeword\na,110\na,101\n", "line 3: unit 'a' is named twice"),
        ("unit,codeword\na,1101\n", "line 2: '1101' is no codeword of 3"),
        ("unit,codeword\nz,110\n", "line 2: there is no unit 'z'"),
        ("unit,component\na,3\n", "'3' is no component; they are 0 to 2"),
        ("unit,component\na,0\nb,0\nc,1\nd,1\n", "component 02 saw no unit"),
        ("name,word\na,110\n", "needs the column unit"),
    ):
        table.write_text(text)
        with pytest.raises(DataError, match=why):
            ab.adopt(folders, data(), table, out=tmp_path / "run")
    with pytest.raises(SettingsError, match="4 units and 3 components; there are 4 units and 2 folders"):
        ab.adopt(folders[:2], data(), CODE, out=tmp_path / "run")
    with pytest.raises(DataError, match=r"samples are \(1, 8, 8\).*pictures \(3, 8, 8\)"):
        ab.adopt(folders, data(3), CODE, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    table.write_text(
        "unit,component\n"
        + "".join(f"{u},{k}\n" for u, row in zip("abcd", CODE.matrix, strict=True) for k in np.flatnonzero(row))
    )
    assert np.array_equal(ab.adopt(folders, data(), table, out=tmp_path / "run").code.matrix, CODE.matrix)
