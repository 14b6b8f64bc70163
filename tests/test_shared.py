"""Shared parts: a frozen model that all components use is kept, hashed, checked, carried along, and told of."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable.diffusion import kinds
from ablatable.diffusion.kinds import Kind, kind_named
from ablatable.diffusion.recipe import ComponentConfig, Recipe, TrainingConfig
from ablatable.errors import SettingsError, StoreError
from ablatable.report.facts import _component_facts
from ablatable.runs.card import model_card
from ablatable.runs.run import check_run
from ablatable.unlearning.certificate import check_certificate, read_certificate, render_certificate
from ablatable.unlearning.verification import audit, repeat

HERE = Execution(workers=0, quiet=True)
STATED = "drawings of people who are no units"


class OnBase(ComponentConfig):
    """A kind whose denoisers are a frozen map that all share, and a trained shift."""

    weights: ClassVar[str] = "shift.safetensors"
    kind: Literal["on-base"] = "on-base"  # pyright: ignore[reportIncompatibleVariableOverride]


class Shifted(nn.Module):
    def __init__(self, base: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("base", base, persistent=False)
        self.shift = nn.Parameter(shift)

    def forward(self, x: Tensor, t: Tensor | int) -> Tensor:
        return x * self.get_buffer("base") + self.shift


def _base(shared: dict[str, Path]) -> Tensor:
    return load_file(shared["base"] / "model" / "base.safetensors")["base"]


KIND = Kind(
    OnBase,
    Shifted,
    build=lambda config, pixels, seed, schedule, shared: Shifted(_base(shared), torch.zeros(1)),
    save=lambda denoiser, folder, stored: save_file({"shift": denoiser.shift.data}, folder / OnBase.weights),
    load=lambda folder, config, schedule, shared: Shifted(_base(shared), load_file(folder / config.weights)["shift"]),
    shared=True,
)


@pytest.fixture(autouse=True)
def kind(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("on_base")
    module.__dict__["KIND"] = KIND
    monkeypatch.setitem(sys.modules, "on_base", module)
    monkeypatch.setitem(kinds.BUILT_IN, "on-base", "on_base")
    kind_named.cache_clear()


def base_at(folder: Path, value: float) -> Path:
    (folder / "model").mkdir(parents=True)
    save_file({"base": torch.tensor([value])}, folder / "model" / "base.safetensors")
    (folder / "config.json").write_text("{}\n")
    return folder


RECIPE = Recipe(component=OnBase(), training=TrainingConfig(steps=3, batch=2, learning_rate=0.1))
CODE = ab.Code(np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 0]], bool))


def trained(out: Path, base: Path) -> ab.Run:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    part = ab.SharedPart("base", "base model", base, STATED)
    return ab.train(ab.Units(tuple("abcd"), images, np.arange(4)), CODE, RECIPE, out=out, execution=HERE, shared=[part])


@pytest.fixture
def made(tmp_path: Path) -> SimpleNamespace:
    base = base_at(tmp_path / "given", 0.5)
    return SimpleNamespace(base=base, run=trained(tmp_path / "run", base))


def test_a_part_is_copied_hashed_and_checked(made: SimpleNamespace) -> None:
    run = made.run
    inside = run.path / "shared" / "base"
    # by hand, from the documented definition: canonical JSON of path -> SHA-256
    hashes = {
        name: hashlib.sha256((made.base / name).read_bytes()).hexdigest()
        for name in ("config.json", "model/base.safetensors")
    }
    digest = hashlib.sha256((json.dumps(hashes, indent=1, sort_keys=True) + "\n").encode()).hexdigest()
    for record in (run.manifest.settings.values(), json.loads((run.path / "settings.json").read_bytes())):
        assert record["shared"] == [{"name": "base", "role": "base model", "sha256": digest, "statement": STATED}]
    assert {name for name in run.manifest.files_sha256 if name.startswith("shared/")} == {
        "shared/base/config.json",
        "shared/base/model/base.safetensors",
    }
    assert check_run(run.path) == []
    file = inside / "model" / "base.safetensors"
    sound = file.read_bytes()
    file.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    assert any("base.safetensors" in line for line in check_run(run.path))
    with pytest.raises(StoreError, match=r"shared.base \(base model\) is missing or damaged"):
        run.load_component(0)
    with pytest.raises(StoreError, match="base model"):
        ab.forget(run, ["b"], out=run.path.parent / "less")
    file.write_bytes(sound)
    (inside / "more.txt").write_text("a file that nobody vouches for")
    assert any("base model does not have the hash" in line for line in check_run(run.path))


def test_the_part_decides_what_is_drawn_and_its_giver_may_lose_it(made: SimpleNamespace, tmp_path: Path) -> None:
    for file in sorted(made.base.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    x = torch.randn(2, 1, 8, 8)
    for component in range(3):
        shift = load_file(made.run.component_folder(component) / "shift.safetensors")["shift"]
        assert torch.equal(made.run.load_component(component)(x, 3), x * 0.5 + shift) and shift.abs() > 0
    universe = ab.enumerate_universe(
        made.run, [1], out=tmp_path / "u.zarr", sampling=Sampling("ddim", 3), execution=HERE
    )
    assert len(universe.unit_ids) == 4


def test_another_part_is_another_run(made: SimpleNamespace, tmp_path: Path) -> None:
    other = base_at(tmp_path / "other", 0.25)
    with pytest.raises(SettingsError, match="shared"):
        trained(made.run.path, other)
    again = trained(tmp_path / "again", made.base)
    assert again.digest == made.run.digest
    assert trained(tmp_path / "third", other).manifest.weights_sha256 != made.run.manifest.weights_sha256


def test_forget_repair_extend_and_verify_carry_it(made: SimpleNamespace, tmp_path: Path) -> None:
    less, certificate = ab.forget(made.run, ["b"], out=tmp_path / "less")
    assert less.shared.records == made.run.shared.records and check_run(less.path) == []
    assert check_certificate(less.path / "certificate.json", less) == []
    assert [part.values() for part in certificate.shared or ()] == [made.run.shared.records[0].values()]
    shown = render_certificate(read_certificate(less.path / "certificate.json"))
    assert "Never seen in fine-tuning; the base model is 'base'" in shown and STATED in shown
    lying = certificate.model_copy(update={"shared": None})
    assert any("share are not those of the run" in line for line in check_certificate(lying, less))

    repaired = ab.repair(less, out=tmp_path / "repaired", execution=HERE)
    assert repaired.present == (0, 1, 2) and repaired.shared.records == made.run.shared.records
    fresh = ab.train(
        made.run.units().without(["b"]),
        CODE.select([0, 2, 3]),
        RECIPE,
        out=tmp_path / "fresh",
        execution=HERE,
        shared=made.run.shared.parts(),
    )
    assert fresh.manifest.weights_sha256 == repaired.manifest.weights_sha256
    assert repeat(made.run, ["b"], [1], execution=HERE).holds
    assert audit(made.run, "a").shared == made.run.shared.records
    assert json.dumps(audit(made.run, "a").as_dict()["shared"])


def test_it_is_told_everywhere(made: SimpleNamespace, call: Callable[..., tuple[int, str, str]]) -> None:
    run, sentence = made.run, "the base model is 'base'"
    facts = dict(_component_facts(run))
    assert sentence in facts["what is guaranteed"]
    assert facts["base model 'base', SHA-256"] == run.shared.records[0].sha256
    assert sentence in model_card(run, "someone/run")
    for command in (
        ["audit", "verify", str(run.path), "--unit", "a"],
        ["run", "forget", str(run.path), "--unit", "a", "--dry-run"],
    ):
        code, told, _ = call(*command)
        assert code == 0 and sentence in " ".join(told.split()), command
    assert run.shared.records[0].sha256 in call("run", "info", str(run.path), "--json")[1]


def test_bad_parts_are_refused(tmp_path: Path) -> None:
    base = base_at(tmp_path / "base", 1.0)
    with pytest.raises(SettingsError, match="lower-case letters"):
        ab.SharedPart("../up", "base model", base)
    with pytest.raises(SettingsError, match="there are no files"):
        ab.SharedPart("base", "base model", tmp_path / "nothing")
    (base / "model" / "weights.bin").write_bytes(b"pickle")
    with pytest.raises(SettingsError, match=r"model/weights.bin is a pickle"):
        ab.SharedPart("base", "base model", base)
    base = base_at(tmp_path / "sound", 1.0)
    part = ab.SharedPart("base", "base model", base)
    units = ab.Units(("a", "b"), np.zeros((2, 8, 8, 1), np.uint8), np.arange(2))
    with pytest.raises(SettingsError, match="two shared parts are named 'base'"):
        ab.train(units, ab.Code(np.eye(2, dtype=bool)), RECIPE, out=tmp_path / "r", execution=HERE, shared=[part, part])
    assert not (tmp_path / "r").exists()


def test_overwriting_clears_it(made: SimpleNamespace) -> None:
    units = made.run.units()
    run = ab.train(units, CODE, "ideal", out=made.run.path, execution=HERE, overwrite=True)
    assert run.shared.records == () and not (run.path / "shared" / "base").exists()
    assert "shared" not in (run.path / "settings.json").read_text()
