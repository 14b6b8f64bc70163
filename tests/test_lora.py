"""Adapters on a frozen base: peft computes the same from the files, the base never changes, and nothing leaks."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable._runtime.files import file_hash
from ablatable.diffusion import lora
from ablatable.diffusion.lora import LoRAConfig, LoRADenoiser
from ablatable.diffusion.schedule import Schedule
from ablatable.errors import SettingsError, StoreError
from ablatable.runs.run import check_run
from ablatable.runs.shared import folder_hash, relative_to
from ablatable.unlearning.verification import audit, repeat

peft = pytest.importorskip("peft", reason="needs peft: pip install 'ablatable[lora]'")

HERE = Execution(workers=0, quiet=True)
STATED = "noise"


def base_at(folder: Path, prediction: Any = "epsilon", **changes: Any) -> Path:
    """A small UNet of diffusers with random weights, as somebody would have it."""
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
    }
    UNet2DModel(**settings | changes).save_pretrained(folder)
    DDPMScheduler(prediction_type=prediction).save_pretrained(folder)
    return folder


def units(count: int = 6) -> ab.Units:
    return ab.Units.digits(count, size=8)


def trained(base: Path, out: Path, data: ab.Units, **settings: Any) -> ab.Run:
    recipe, shared = ab.adapters(base, **{"rank": 2, "statement": STATED, "steps": 4, "batch": 4} | settings)
    return ab.train(data, ab.Code.random(len(data), 4, 0), recipe, out=out, execution=HERE, shared=shared)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("lora")
    base = base_at(folder / "base")
    before = folder_hash(base)
    run = trained(base, folder / "run", units())
    return SimpleNamespace(base=base, before=before, run=run)


def test_peft_computes_the_same_from_the_files(made: SimpleNamespace) -> None:
    from diffusers.models.unets.unet_2d import UNet2DModel

    x, t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1)), 500
    plain = UNet2DModel.from_pretrained(made.base).eval()
    with torch.no_grad():
        without = plain(x, t).sample
        for index in range(4):
            theirs = peft.PeftModel.from_pretrained(
                UNet2DModel.from_pretrained(made.base), str(made.run.component_folder(index))
            )
            expected = theirs.eval()(x, torch.tensor([t] * 3)).sample
            found = made.run.load_component(index)(x, t)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
            assert (expected - without).abs().max() > 1e-4  # it has learned something


def test_the_base_is_there_once_and_keeps_every_bit(made: SimpleNamespace) -> None:
    components = made.run.ensemble(batch=2).components
    bases = {id(component._seat.base) for component in components}
    assert len(bases) == 1
    x = torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        first = [component(x, 10) for component in components]
        again = [component(x, 10) for component in reversed(components)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    held = {
        name.replace(".base_layer", ""): weight
        for name, weight in components[0]._seat.base.state_dict().items()
        if ".lora_" not in name
    }
    original = load_file(made.base / "diffusion_pytorch_model.safetensors")
    assert held.keys() == original.keys() and all(torch.equal(held[name], original[name]) for name in original)
    assert folder_hash(made.base) == made.before == made.run.shared.records[0].sha256


def test_a_component_keeps_its_adapter_alone(made: SimpleNamespace) -> None:
    whole = (made.base / "diffusion_pytorch_model.safetensors").stat().st_size
    folder = made.run.component_folder(0)
    assert {path.name for path in folder.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
    }
    assert (folder / "adapter_model.safetensors").stat().st_size < whole / 2
    parameters = sum(parameter.numel() for parameter in made.run.load_component(0).parameters())
    assert parameters == sum(tensor.numel() for tensor in load_file(folder / "adapter_model.safetensors").values())


def test_adapters_leave_with_their_components(made: SimpleNamespace) -> None:
    component = made.run.load_component(0)
    base, name = component._seat.base, component._name
    assert lora._adapted(base, name)
    with torch.no_grad():
        component(torch.zeros(1, 1, 8, 8), 0)
    other = made.run.load_component(1)
    del component
    gc.collect()
    assert not lora._adapted(base, name)
    with torch.no_grad():
        other(torch.zeros(1, 1, 8, 8), 0)


def test_precisions_do_not_disturb_each_other(made: SimpleNamespace) -> None:
    x = torch.randn(2, 1, 8, 8)
    exact, rough = made.run.load_component(0), made.run.load_component(0)
    with torch.inference_mode():
        before = exact(x, 300)
        rough = rough.to(torch.bfloat16)
        low = rough(x, 300)
        assert torch.equal(exact(x, 300), before)
        assert rough._seat.base is not exact._seat.base
        assert 0 < (low - before).abs().max() < 0.1


def test_one_resident_component_draws_what_all_draw(made: SimpleNamespace, tmp_path: Path) -> None:
    few = Execution(workers=0, quiet=True, max_resident=1)
    drawn = [
        ab.enumerate_universe(made.run, [0, 1], out=tmp_path / f"{k}.zarr", sampling=Sampling(steps=3), execution=how)
        for k, how in enumerate((HERE, few))
    ]
    for sample in range(2):
        assert np.array_equal(drawn[0].landscape(sample), drawn[1].landscape(sample))


def test_a_unit_reaches_only_the_components_that_saw_it(made: SimpleNamespace, tmp_path: Path) -> None:
    data = units()
    images = data.images.copy()
    images[2] = 255 - images[2]
    other = trained(made.base, tmp_path / "other", ab.Units(data.ids, images, data.owner))
    for index in range(4):
        same = file_hash(other.component_folder(index) / "adapter_model.safetensors") == file_hash(
            made.run.component_folder(index) / "adapter_model.safetensors"
        )
        assert same == (not made.run.code.matrix[2, index])


def test_removal_repair_and_verification(made: SimpleNamespace, tmp_path: Path) -> None:
    assert check_run(made.run.path) == []
    gone = made.run.unit_ids[0]
    blind = int(np.flatnonzero(~made.run.code.matrix[0])[0])
    assert all(each.exact for each in repeat(made.run, [gone], [blind], execution=HERE).repeated)
    less, _ = ab.forget(made.run, [gone], out=tmp_path / "less")
    assert less.shared.records == made.run.shared.records and check_run(less.path) == []
    whole = ab.repair(less, out=tmp_path / "whole", execution=HERE)
    assert len(whole.present) == 4 and check_run(whole.path) == []
    said = " ".join(relative_to(audit(made.run, gone).shared))
    assert "base model" in said and STATED in said


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_other_predictions_become_noise(prediction: str, tmp_path: Path) -> None:
    from diffusers.models.unets.unet_2d import UNet2DModel

    base = base_at(tmp_path / "base", prediction)
    run = trained(base, tmp_path / "run", units(), steps=1)
    x, t = torch.randn(2, 1, 8, 8, dtype=torch.float32), 400
    model = peft.PeftModel.from_pretrained(UNet2DModel.from_pretrained(base), str(run.component_folder(1))).eval()
    a = float(Schedule().alphas_cumprod()[t])
    with torch.no_grad():
        predicted = model(x, torch.tensor([t, t])).sample
        found = run.load_component(1)(x, t)
    expected = a**0.5 * predicted + (1 - a) ** 0.5 * x
    if prediction == "sample":
        expected = (x - a**0.5 * predicted) / (1 - a) ** 0.5
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_bad_input(made: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, shared = ab.adapters(made.base)
    code = ab.Code.random(6, 4, 0)
    with pytest.raises(SettingsError, match="need a base model"):
        ab.train(units(), code, recipe, out=tmp_path / "a", execution=HERE)
    colour = ab.Units(units().ids, units().images.repeat(3, axis=3), units().owner)
    with pytest.raises(SettingsError, match="takes 1 channels and the images have 3"):
        ab.train(colour, code, recipe, out=tmp_path / "b", execution=HERE, shared=shared)
    with pytest.raises(SettingsError, match="no layer whose name ends in one of nowhere"):
        LoRADenoiser(made.base, LoRAConfig(targets=("nowhere",)), Schedule(), None)
    folder = tmp_path / "copy"
    made.run.copy_to(folder)
    weights = folder / "components/00/adapter_model.safetensors"
    save_file({"other": torch.zeros(1)}, weights)
    with pytest.raises(StoreError, match=r"adapter of another base or other layers: .* is missing"):
        ab.Run(folder).load_component(0, verify=False)
    good = load_file(made.run.component_folder(0) / "adapter_model.safetensors")
    lower = {name: matrix[:1] if "lora_A" in name else matrix[:, :1].contiguous() for name, matrix in good.items()}
    save_file(lower, weights)
    with pytest.raises(StoreError, match=r"adapter of another base or rank: .* is \(1, .*rank 2 it is \(2, "):
        ab.Run(folder).load_component(0, verify=False)
    weights.unlink()
    with pytest.raises(StoreError, match=r"adapter_model\.safetensors"):
        ab.Run(folder).load_component(0)
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(SettingsError, match=r"ablatable\[lora\]"):
        LoRADenoiser(made.base, LoRAConfig(), Schedule(), None)
