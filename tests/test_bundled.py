"""The bundled run: whole, small, what its script says, and usable by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ablatable as ab
from ablatable.analysis.sample_quality import judge
from ablatable.runs.bundled import FOLDER, bundled_code, bundled_recipe, bundled_units, located
from ablatable.runs.run import check_run


def test_it_is_whole_and_small() -> None:
    assert check_run(FOLDER) == []
    assert sum(file.stat().st_size for file in FOLDER.rglob("*")) < 8_000_000
    assert {path.name for path in FOLDER.iterdir()} == {
        "components",
        "ensemble.json",
        "images.safetensors",
        "settings.json",
        "units.parquet",
    }


def test_it_is_what_training_it_would_make() -> None:
    run, units = ab.bundled(), bundled_units()
    assert (run.unit_ids, run.digests) == (units.ids, units.digests)
    assert run.units().fingerprint() == units.fingerprint()
    assert run.recipe == bundled_recipe() and run.recipe.training.stored == "float16"
    assert np.array_equal(run.code.matrix, bundled_code().matrix)
    assert run.design.design == "random"  # so that tests on its codewords are exact
    assert run.code.spare_capacity >= 50  # enough to test at 0.02


def test_its_drawings_are_the_artists() -> None:
    everything = ab.Units.openmoji(size=16)
    units = ab.bundled().units()
    for artist in units.ids:
        theirs = {picture.tobytes() for picture in everything.of(artist)}
        mine = [picture.tobytes() for picture in units.of(artist)]
        assert len(set(mine)) == 4 and set(mine) <= theirs


def test_it_draws_pictures() -> None:
    run = ab.bundled()
    model = ab.AblatablePipeline.from_pretrained("bundled")
    drawn = model(range(8), num_inference_steps=25, output_type="np").images
    found = judge(drawn, run.units().images)
    assert found.sound and len(set(found.nearest.tolist())) >= 4
    without = model(range(8), num_inference_steps=25, without=[run.unit_ids[2]], output_type="np").images
    assert (without != drawn).any(axis=(1, 2, 3)).all()


def test_by_its_name(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fingerprints) -> None:
    before = fingerprints(FOLDER)
    monkeypatch.chdir(tmp_path)
    assert call("run", "info", "bundled")[0] == 0
    assert call("audit", "check", "bundled")[0] == 0
    code, _, told = call("run", "sample", "bundled", "--seeds", "0", "--steps", "3", "--out", tmp_path / "out")
    assert code == 0, told
    one = ("--unit", ab.bundled().unit_ids[0], "--seeds", "0", "--steps", "3", "--workers", "0")
    code, _, told = call("universe", "create", "bundled", *one, "--out", tmp_path / "u.zarr")
    assert code == 0, told
    assert fingerprints(FOLDER) == before  # reading it writes nothing into the package
    (tmp_path / "bundled").mkdir()
    assert located(Path("bundled")) == Path("bundled")  # a folder of that name comes first


def test_commands_that_are_printed_name_it_by_its_word() -> None:
    from ablatable.cli.output import quoted

    assert quoted(ab.bundled().path) == "bundled"
    assert quoted("my runs/bundled") == "'my runs/bundled'"
