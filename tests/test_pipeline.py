"""The pipeline: diffusers' manners, and the universe's pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel

from ablatable import AblatablePipeline, Sampling, Universe
from ablatable.errors import AblatableError, CodeError, DataError, SettingsError, StoreError


@pytest.fixture(scope="module")
def model(small) -> AblatablePipeline:
    return AblatablePipeline.from_pretrained(small.run.path)


def test_outputs(model: AblatablePipeline) -> None:
    assert isinstance(model, DiffusionPipeline)
    pil = model(seeds=range(3), num_inference_steps=4).images
    array = model(range(3), num_inference_steps=4, output_type="np").images
    (tensor,) = model(range(3), num_inference_steps=4, output_type="pt", return_dict=False)
    assert [(p.size, p.mode) for p in pil] == [((8, 8), "L")] * 3
    assert array.dtype == np.uint8 and array.shape == (3, 8, 8, 1)
    assert all(np.array_equal(np.asarray(p), a[..., 0]) for p, a in zip(pil, array, strict=True))
    assert tensor.dtype == torch.float32 and tensor.shape == (3, 1, 8, 8)
    levels = (tensor.clamp(-1, 1).double().numpy() + 1) * 127.5
    assert np.abs(levels[:, 0] - array[..., 0]).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmsolver++", "heun"])
def test_a_seed_is_a_picture_whatever_it_is_drawn_with(model: AblatablePipeline, sampler: str) -> None:
    together = model([4, 11, 2], sampler=sampler, num_inference_steps=5, output_type="pt").images
    alone = model([11], sampler=sampler, num_inference_steps=5, output_type="pt").images
    assert torch.allclose(together[1], alone[0], atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=0.1)


def test_the_universe_holds_the_same(model: AblatablePipeline, small_universe: Universe) -> None:
    seeds, steps = small_universe.seeds, small_universe.settings.steps
    drawn = model(seeds, num_inference_steps=steps, output_type="np").images
    assert np.abs(drawn.astype(int) - small_universe.factual).max() <= 1
    for unit in small_universe.unit_ids[:4]:
        drawn = model(seeds, num_inference_steps=steps, without=[unit], output_type="np").images
        assert np.abs(drawn.astype(int) - small_universe.counterfactual(unit)).max() <= 1


def test_one_seed_is_given_as_a_number(model: AblatablePipeline) -> None:
    one = model(seeds=3, num_inference_steps=2, output_type="np").images
    np.testing.assert_array_equal(one, model(seeds=[3], num_inference_steps=2, output_type="np").images)


def test_several_units_go_together(model: AblatablePipeline, small) -> None:
    a, b = next(
        (a, b)
        for a in range(12)
        for b in range(a)
        if 0 < small.code.survivors([a, b]).sum() < small.code.survivors(a).sum()
    )
    drawn = model([3], without=[small.units.ids[a], small.units.ids[b]], num_inference_steps=3, output_type="pt").images
    left = [c for c, word in zip(model.denoisers, small.code.matrix[[a, b]].any(0), strict=True) if not word]

    def by_hand(x: torch.Tensor, t: int) -> torch.Tensor:
        return torch.stack([component(x, t) for component in left]).mean(0)

    from ablatable import noise_trajectory, sample

    with torch.no_grad():
        expected = sample(by_hand, noise_trajectory([3], 3, (1, 8, 8)), sampling=Sampling(steps=3))
    assert torch.allclose(drawn, expected, atol=1e-4)


def test_nothing_is_removed_without_a_name(model: AblatablePipeline) -> None:
    drawn = [model([3], without=names, num_inference_steps=2, output_type="pt").images for names in (None, (), [])]
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])
    one, listed = (
        model([3], without=names, num_inference_steps=2, output_type="pt").images
        for names in ("digit-0003", ["digit-0003"])
    )
    assert torch.equal(one, listed) and not torch.equal(one, drawn[0])


def test_components_are_modules_by_name_as_in_diffusers(model: AblatablePipeline, small) -> None:
    assert list(model.components) == [f"component_{number:02d}" for number in range(small.code.components)]
    assert all(isinstance(part, torch.nn.Module) for part in model.components.values())
    assert list(model.components.values()) == model.denoisers


def test_mistakes(model: AblatablePipeline, small) -> None:
    with pytest.raises(DataError, match="did you mean digit-0003"):
        model([0], without=["digit-003"])
    with pytest.raises(CodeError, match=r"The first \d+ of them can be removed together") as error:
        model([0], without=small.units.ids)
    count = int(str(error.value).split("The first ")[1].split()[0])
    assert small.code.survivors(range(count)).any() and not small.code.survivors(range(count + 1)).any()
    with pytest.raises(SettingsError, match="output_type"):
        model([0], output_type="jpeg")
    with pytest.raises(SettingsError, match="sampler 'euler'"):
        model([0], sampler="euler")
    with pytest.raises(AblatableError, match="torch_dtype"):
        AblatablePipeline.from_pretrained(small.run.path, torch_dtype=torch.float16)
    with pytest.raises(StoreError, match="no run"):
        AblatablePipeline.from_pretrained(small.run.path / "nowhere")


def test_a_copy_draws_the_same(model: AblatablePipeline, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "copy")
    copy = AblatablePipeline.from_pretrained(tmp_path / "copy")
    first, second = (m([1, 2], num_inference_steps=3, output_type="pt").images for m in (model, copy))
    assert torch.equal(first, second) and copy.unit_ids == model.unit_ids
    with pytest.raises(SettingsError, match="not empty"):
        model.save_pretrained(tmp_path / "copy")
    unet = UNet2DModel.from_pretrained(tmp_path / "copy" / "components" / "01").eval()
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(unet(x, 300).sample, model.denoisers[1](x, 300), atol=1e-5)


def test_damaged_weights_are_not_served(small, tmp_path: Path) -> None:
    shutil.copytree(small.run.path, tmp_path / "run")
    weights = tmp_path / "run" / "components" / "03" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(StoreError, match="03"):
        AblatablePipeline.from_pretrained(tmp_path / "run")
