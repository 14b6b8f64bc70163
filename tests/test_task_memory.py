"""Where the training data are while an ensemble trains: each component's split is a file of its own, and no copy."""

from __future__ import annotations

import mmap
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save

import ablatable as ab
from ablatable._runtime.files import file_hash
from ablatable.data import pictures_file
from ablatable.data.pictures_file import map_pictures, write_pictures
from ablatable.errors import DataError, StoreError
from ablatable.runs import component_training
from ablatable.runs.run import check_run
from ablatable.unlearning.forgetting import forget
from ablatable.unlearning.repairing import repair

HERE = ab.Execution(0, "cpu", quiet=True)


def is_mapped(array: np.ndarray | None) -> bool:
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)


def test_a_task_names_a_file_of_its_split_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units, code = ab.Units.digits(12, size=8), ab.Code.balanced(units=12, components=8, seed=0)
    train, seen = component_training.train_component, []

    def trained(task: Any, report: Any) -> str:
        files = list(tmp_path.rglob(component_training.SPLIT))
        assert len(files) == 1, "one split at a time, however many components there are"
        stored = load_file(files[0])  # another reader
        ids = sorted(units.ids[row] for row in code.split(task.component))
        assert np.array_equal(stored["images"], np.concatenate([units.of(name) for name in ids]))
        assert files[0].stat().st_size < sum(value.nbytes for value in stored.values()) + 300, "and nothing more"
        assert is_mapped(task.split.images) and list(task.split.ids) == ids
        sent = pickle.dumps(task)
        assert all(units.of(name).tobytes()[:40] not in sent for name in units.ids), "pixels do not travel with a task"
        assert np.array_equal(pickle.loads(sent).split.images, task.split.images)
        seen.append(task.component)
        return train(task, report)

    monkeypatch.setattr(component_training, "train_component", trained)
    run = ab.train(units, code, "ideal", out=tmp_path / "run", execution=HERE)
    assert seen == list(range(8)) and not list(tmp_path.rglob(component_training.SPLIT))
    assert is_mapped(run.units().images), "a run is read where it is"


@pytest.mark.parametrize("piece", [1, 2**20])
def test_pictures_are_written_as_safetensors_writes_them(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures_file, "PIECE", piece)
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 5, 3), dtype=np.uint8)
    owner = np.array([0, 0, 1, 2, 2, 2, 3])
    write_pictures(tmp_path / "a", images, owner)
    assert (tmp_path / "a").read_bytes() == save({"images": images, "owner": owner})
    rows = np.array([6, 0, 3])
    write_pictures(tmp_path / "b", images, np.arange(3), rows)
    assert (tmp_path / "b").read_bytes() == save({"images": images[rows], "owner": np.arange(3)})
    found = map_pictures(tmp_path / "a")
    assert np.array_equal(found[0], images) and np.array_equal(found[1], owner)
    with pytest.raises(ValueError, match="read-only"):
        found[0][0] = 0


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, None])
def test_a_damaged_file_is_told(damage: bytes | None, tmp_path: Path) -> None:
    units, file = ab.Units.digits(3, size=8), tmp_path / "units.safetensors"
    units.write_to(file)
    assert ab.Units.mapped(file, units.ids).digests == units.digests
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    with pytest.raises(DataError, match="missing or damaged"):
        ab.Units.mapped(file, units.ids)


def test_runs_of_the_same_units_share_their_files(tmp_path: Path) -> None:
    """A repaired run has the pictures of the run that it repairs, and its surviving components, without a copy."""
    units, code = ab.Units.digits(8, size=8), ab.Code.balanced(units=8, components=6, seed=0)
    run = ab.train(units, code, "ideal", out=tmp_path / "run", execution=HERE)
    left, _ = forget(run, [units.ids[2]], out=tmp_path / "left")
    whole = repair(left, out=tmp_path / "whole", execution=HERE)

    def same(a: Path, b: Path, name: str) -> bool:
        return (a / name).samefile(b / name)

    assert same(left.path, whole.path, "images.safetensors") and not same(run.path, left.path, "images.safetensors")
    survivor = f"components/{left.present[0]:02d}/images.safetensors"
    assert same(run.path, left.path, survivor) and same(left.path, whole.path, survivor)
    fresh = ab.train(
        units.without([units.ids[2]]), whole.design, "ideal", out=tmp_path / "fresh", seed=run.seed, execution=HERE
    )
    for name, digest in fresh.manifest.files_sha256.items():
        assert file_hash(whole.path / name) == digest
    assert check_run(whole.path) == []


def test_a_damaged_file_is_not_shared(tmp_path: Path) -> None:
    units, code = ab.Units.digits(8, size=8), ab.Code.balanced(units=8, components=6, seed=0)
    run = ab.train(units, code, "ideal", out=tmp_path / "run", execution=HERE)
    left, _ = forget(run, [units.ids[2]], out=tmp_path / "left")
    images = left.path / "images.safetensors"
    pixels = left.units().images.copy()
    images.chmod(0o644)
    images.write_bytes(images.read_bytes()[:-1] + b"\x01")
    with pytest.raises(StoreError, match="damaged"):
        repair(left, out=tmp_path / "whole", execution=HERE)
    assert pixels.any()


def test_floats_are_made_of_a_batch_and_not_of_the_split() -> None:
    units = ab.Units.digits(12, size=8)
    pictures = component_training.Pictures(units.images)
    assert pictures.images is units.images and tuple(pictures.shape) == (12, 1, 8, 8)
