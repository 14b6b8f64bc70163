"""The demo, small: it starts from the bundled ensemble and says so, trains when asked, and repeats nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ablatable as ab
from ablatable import demo
from ablatable._runtime.execution import HERE
from ablatable.errors import SettingsError


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SAMPLES", 2)
    monkeypatch.setattr(demo, "SPARES", 3)
    monkeypatch.setattr(demo, "SAMPLING", ab.Sampling(steps=2))
    monkeypatch.setattr(demo, "DIGITS", 12)
    monkeypatch.setattr(demo, "RECIPE", ab.preset("ideal"))


def test_the_artists_demo(call, tmp_path: Path, fingerprints) -> None:
    from ablatable.runs.bundled import FOLDER

    before, out = fingerprints(FOLDER), tmp_path / "demo"
    code, said, told = call("demo", "--out", out, "--workers", "0")
    assert code == 0, told
    said = " ".join(said.split())
    assert "starting from the ensemble that comes with the package" in said and "--train trains it" in said
    assert fingerprints(FOLDER) == before and not (out / "run").exists()
    universe = ab.Universe.open(out / "universe.zarr")
    assert universe.settings.run_sha256 == ab.bundled().digest
    assert len(universe.unit_ids) == 12 and len(universe.settings.spares) == 3 and universe.drawn().all()
    page = (out / "report" / "report.html").read_text()
    assert all(artist in page for artist in universe.unit_ids)
    # every number that is printed is one of the universe's or of the witness test's
    p = ab.witness(ab.bundled(), range(2), sampling=ab.Sampling(steps=2)).nearest_p
    moved = universe.distances().max(axis=0)
    still = int(np.argmin(moved))
    assert f"Sample {still} changes least: by {moved[still]:.1f} at most" in said
    assert all(f"{value:.2f}" in said for value in p)
    again = demo.run_demo(out, execution=HERE)
    assert again.bundled and np.allclose(again.figures()["nearest_recognised"], (p <= 0.05).mean())


def test_it_trains_what_is_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablatable.runs.bundled.STEPS", 2)
    outcome = demo.run_demo(tmp_path / "demo", train=True, execution=HERE)
    assert not outcome.bundled and outcome.run.path == tmp_path / "demo" / "run"
    ready = ab.bundled()
    assert outcome.run.unit_ids == ready.unit_ids and outcome.run.code == ready.code
    assert outcome.run.recipe == ready.recipe.replace(steps=2)


def test_the_digits_demo(tmp_path: Path) -> None:
    outcome = demo.run_demo(tmp_path / "demo", data="digits", execution=HERE)
    assert outcome.run.unit_ids == ab.Units.digits(12).ids and outcome.page.exists()
    with pytest.raises(SettingsError, match="run"):  # another universe is in that folder
        demo.run_demo(tmp_path / "demo", execution=HERE)


def test_other_data(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there are artists, digits"):
        demo.run_demo(tmp_path / "demo", data="flowers", execution=HERE)  # pyright: ignore[reportArgumentType]
    assert not (tmp_path / "demo").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SettingsError, match="holds other files"):
        demo.run_demo(tmp_path, execution=HERE)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
