"""Runs, universes and certificates that an earlier version wrote open, check clean, and are drawn and trained the same.

`data/before_the_move` was written by the last version whose modules lay in one folder: 5 digits of 8 x 8, 4 components
of 12 training steps, 3 samples of 4 steps, one spare; the run that forgot `digit-0001`, with its certificate; and a
screened universe of 2 samples.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable._runtime.provenance import environment
from ablatable.diffusion.recipe import UNetConfig
from ablatable.runs.records import Manifest, RunSettings, TrainingRecord
from ablatable.runs.run import Run, check_run
from ablatable.universes.checking import check_screen, check_universe
from ablatable.universes.reader import Universe

BEFORE = Path(__file__).parent / "data" / "before_the_move"


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BEFORE, tmp_path / "before"))


def same_machine(recorded: dict[str, str]) -> bool:
    """Bits are promised for the same versions and kind of machine only."""
    return {**recorded, "ablatable": ""} == {**environment(), "ablatable": ""}


def test_hashes_hold(before: Path) -> None:
    assert check_run(before / "run") == []
    assert check_run(before / "forgotten") == []
    assert check_universe(before / "universe") == []
    assert check_screen(before / "screen") == []


def test_a_changed_byte_is_noticed(before: Path) -> None:
    weights = before / "run" / "components" / "02" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert check_run(before / "run") != []


@pytest.mark.parametrize("run", ["run", "forgotten"])
def test_records_are_written_as_they_were_read(before: Path, run: str) -> None:
    files = [(RunSettings, "settings.json"), (Manifest, "ensemble.json")]
    folders = sorted((before / run / "components").iterdir())
    files += [(TrainingRecord, f"components/{folder.name}/training.json") for folder in folders]
    for record, name in files:
        content = (before / run / name).read_text()
        again = record.model_validate_json(content).model_dump(mode="json")
        assert json.dumps(again, sort_keys=True, indent=1, ensure_ascii=False) + "\n" == content, name


def test_the_certificate_still_fits(before: Path, call) -> None:
    result = call("audit", "certificate", "check", before / "forgotten" / "certificate.json", before / "forgotten")
    assert result[0] == 0, result


def test_drawn_the_same(before: Path, tmp_path: Path) -> None:
    old = Universe.open(before / "universe")
    new = ab.enumerate_universe(
        before / "run",
        seeds=range(3),
        out=tmp_path / "new.zarr",
        sampling=Sampling(steps=4, clip=False),
        spares=1,
        execution=Execution(workers=0),
    )
    assert new.settings == old.settings
    exact = same_machine(Run(before / "run").manifest.environment)
    for unit in old.unit_ids:
        difference = np.abs(new.counterfactual(unit).astype(int) - old.counterfactual(unit).astype(int)).max()
        assert difference == 0 if exact else difference <= 1


def test_trained_the_same(before: Path, tmp_path: Path) -> None:
    old = Run(before / "run")
    new = ab.train(
        old.units(),
        old.design,
        old.recipe,
        out=tmp_path / "run",
        seed=old.seed,
        execution=Execution(workers=0, quiet=True),
    )
    assert json.loads((new.path / "settings.json").read_text()) == json.loads((old.path / "settings.json").read_text())
    if same_machine(old.manifest.environment):
        assert new.manifest.weights_sha256 == old.manifest.weights_sha256
    for number in old.present:  # elsewhere sums are rounded in other ways, and nothing else differs
        was, now = (load_file(run.path / f"components/{number:02}" / UNetConfig.weights) for run in (old, new))
        apart = np.concatenate([np.abs(was[name] - now[name]).ravel() for name in was])
        assert apart.mean() < 1e-6, "another seed gives 0.09"
