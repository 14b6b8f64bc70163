"""A kind of component that another package registers: trained, drawn and ablated like the package's own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from torch import nn

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable.diffusion.kinds import kind_named
from ablatable.diffusion.recipe import Recipe, TrainingConfig, recipe_from
from ablatable.errors import SettingsError
from ablatable.runs.run import check_run

SOURCE = '''
from typing import ClassVar, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ablatable.diffusion.kinds import Kind
from ablatable.diffusion.recipe import ComponentConfig


class Config(ComponentConfig):
    weights: ClassVar[str] = "convolution.safetensors"
    kind: Literal["convolution"] = "convolution"
    width: int = 4


class Denoiser(nn.Module):
    """Two convolutions; the second also reads t."""

    def __init__(self, channels, width):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.last = nn.Conv2d(width + 1, channels, 3, padding=1)

    def forward(self, x, t):
        h = torch.tanh(self.first(x))
        time = torch.as_tensor(t, device=x.device).to(x.dtype).reshape(-1, 1, 1, 1) / 1000
        return self.last(torch.cat([h, time.expand(len(x), 1, *x.shape[2:])], dim=1))


def build(config, pixels, seed, schedule):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Denoiser(pixels.shape[3], config.width)


def save(denoiser, folder, stored):
    save_file({name: value.to(getattr(torch, stored)) for name, value in denoiser.state_dict().items()},
              folder / Config.weights)


def load(folder, config, schedule):
    state = load_file(folder / config.weights)
    denoiser = Denoiser(state["last.bias"].shape[0], config.width)
    denoiser.load_state_dict(state)
    return denoiser


KIND = Kind(Config, Denoiser, build=build, save=save, load=load)
'''


@pytest.fixture
def convolution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An installed package with one entry point."""
    place = tmp_path / "site-packages"
    about = place / "convolution_kind-1.0.dist-info"
    about.mkdir(parents=True)
    (place / "convolution_kind.py").write_text(SOURCE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: convolution-kind\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[ablatable.kinds]\nconvolution = convolution_kind:KIND\n")
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "convolution_kind", raising=False)
    kind_named.cache_clear()
    import convolution_kind  # pyright: ignore[reportMissingImports]

    return convolution_kind


def test_a_kind_from_another_package(convolution: ModuleType, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
    units = ab.Units([f"u{k}" for k in range(6)], images, range(6))
    code = ab.Code(np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], bool))
    recipe = recipe_from({"component": {"kind": "convolution", "width": 3}, "training": {"steps": 30, "batch": 2}})
    run = ab.train(units, code, recipe, out=tmp_path / "run", execution=Execution(workers=0))
    assert check_run(run.path) == [] and ab.Run(run.path).recipe == recipe
    universe = ab.enumerate_universe(
        run, [4], out=tmp_path / "u.zarr", sampling=Sampling("ddim", 6, clip=False), execution=Execution(workers=0)
    )

    # by hand: the weights as they are in the files, the mean of the survivors, diffusers' DDIM, the same start
    class Plain(nn.Module):
        def __init__(self, folder: Path) -> None:
            super().__init__()
            self.state = load_file(folder / "convolution.safetensors")

        def forward(self, x: torch.Tensor, t: int) -> torch.Tensor:
            w = self.state
            h = torch.tanh(nn.functional.conv2d(x, w["first.weight"], w["first.bias"], padding=1))
            h = torch.cat([h, torch.full((len(x), 1, 8, 8), t / 1000)], dim=1)
            return nn.functional.conv2d(h, w["last.weight"], w["last.bias"], padding=1)

    for row in range(6):
        survivors = [Plain(run.component_folder(i)) for i in range(3) if not code.matrix[row, i]]
        scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=True)
        scheduler.set_timesteps(6)
        x = ab.noise_trajectory([4], 0, run.shape)[0]
        for t in scheduler.timesteps.tolist():
            x = scheduler.step(sum(model(x, t) for model in survivors) / len(survivors), t, x)[0]  # pyright: ignore
        expected = ((x[0, 0].clamp(-1, 1) + 1) * 127.5).numpy()
        drawn = universe.landscape(0)[universe.settings.ablation[row], ..., 0]
        assert np.abs(drawn - expected).max() <= 0.51
    assert len({model.tobytes() for model in universe.landscape(0)}) > 1


def test_what_a_kind_cannot_do_is_refused(convolution: ModuleType, tmp_path: Path) -> None:
    units = ab.Units(["a", "b", "c"], np.zeros((3, 8, 8, 1), np.uint8), range(3))
    recipe = Recipe(component=convolution.Config(), training=TrainingConfig(steps=1, batch=1))
    run = ab.train(units, ab.Code(np.eye(3, dtype=bool)), recipe, out=tmp_path / "run", execution=Execution(workers=0))
    at = tmp_path / "u.zarr"
    ab.enumerate_universe(run, [0], out=at, sampling=Sampling("ddim", 2), execution=Execution(workers=0))
    with pytest.raises(SettingsError, match=r"differential ablation .* kind 'convolution': .* no method 'tangent'"):
        ab.differentiate(run, at, execution=Execution(workers=0))
    with pytest.raises(SettingsError, match=r"kind 'convolution'.* no method 'fast'"):
        ab.enumerate_universe(run, [0], out=tmp_path / "v.zarr", sampling=Sampling("ddim", 2, backend="compiled"))


def test_an_unknown_kind_and_a_bad_setting_are_named(convolution: ModuleType) -> None:
    with pytest.raises(
        SettingsError, match=r"no kind of component 'wavelet'; there are unet, ideal, adopted, lora, conv"
    ):
        recipe_from({"component": {"kind": "wavelet"}})
    with pytest.raises(SettingsError, match=r"setting 'component.width'.*got 'many'"):
        recipe_from({"component": {"kind": "convolution", "width": "many"}})
    with pytest.raises(SettingsError, match=r"setting 'component.layers'.*got 0"):
        recipe_from({"component": {"kind": "unet", "layers": 0}})
