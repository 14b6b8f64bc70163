"""Studies: equal landscapes by enumeration, slopes of known curves, studies that go on and end in their files."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from ablatable import Execution, Sampling
from ablatable._runtime.files import read_json
from ablatable._runtime.stats import bootstrap, wilson
from ablatable.analysis.unattributable import unattributable
from ablatable.analysis.witness import witness
from ablatable.data.units import Units
from ablatable.errors import SettingsError
from ablatable.runs.run import Run
from ablatable.studies import size as size_module
from ablatable.studies.cells import StudySampling, largest_of, read_config
from ablatable.studies.differential import DifferentialStudy, draw_at, study_differential
from ablatable.studies.size import Series, SizeStudy, slope, study_size
from ablatable.studies.unattributable import BinarySeries, UnattributableStudy, study_unattributable
from ablatable.studies.weight import CodeStudy, study_code
from ablatable.universes.enumeration import enumerate_universe
from ablatable.universes.reader import Universe

SAMPLING = StudySampling(samples=3, steps=5, spares=25)


@pytest.mark.parametrize("count", range(1, 7))
def test_largest_of_all_draws(count: int) -> None:
    distances = np.random.default_rng(0).random((6, 2))
    distances[:2, 1] = 0
    wanted = np.mean([distances[list(rows)].max(axis=0) for rows in combinations(range(6), count)], axis=0)
    np.testing.assert_allclose(largest_of(distances, count), wanted)


def test_slope_of_a_power_law() -> None:
    sizes = np.array([16, 64, 1024])
    assert slope(sizes, np.stack([3 * sizes**-0.25, 5 * sizes**-0.25], axis=1)) == pytest.approx(-0.25)


def test_bootstrap_covers_a_mean() -> None:
    """95 % intervals of the mean of 40 normal values hold the true mean about as often as they say."""
    random, held = np.random.default_rng(0), 0
    for _ in range(60):
        values = random.normal(size=40)
        low, high = bootstrap(lambda rows, values=values: values[rows].mean(), 40)
        held += low <= 0 <= high
    assert held >= 50


def test_radius_against_size(tmp_path: Path) -> None:
    config = SizeStudy(
        data="digits:24",
        series=(Series(name="ideal", sizes=(8, 24), side=8, components=7),),
        sampling=StudySampling(samples=3, steps=5, spares=10),
        drawn=12,
        landscape=4,
        witness=6,
    )
    table = study_size(config, tmp_path / "s", execution=Execution(workers=0, quiet=True))
    assert table["units"].to_list() == [8, 24] and table["drawn"].to_list() == [8, 12]
    assert (table["radius_fixed"] <= table["radius"] + 1e-9).all()
    assert pl.read_csv(tmp_path / "s" / "table.csv")["radius"].to_list() == pytest.approx(table["radius"].to_list())
    published = pl.read_csv(tmp_path / "s" / "slopes.csv").filter(pl.col("series") == "published")
    assert published["slope"].item() == pytest.approx(-0.2, abs=0.01)  # as the paper states for MNIST
    assert Image.open(tmp_path / "s" / "figure.png").size[0] > 1000
    found = witness(tmp_path / "s" / "ideal" / "00024" / "run", "0-5", sampling=config.sampling.drawing)
    assert found.exact and table["nearest_witness"][1] == pytest.approx((found.nearest_p <= 0.05).mean())
    assert table["some_unit_witness"][1] == pytest.approx((found.q.min(axis=0) <= 0.1).mean())
    cell = tmp_path / "s" / "ideal" / "00008" / "result.json"
    when = cell.stat().st_mtime_ns
    assert (
        study_size(config, tmp_path / "s", execution=Execution(workers=0, quiet=True)).equals(table)
        and cell.stat().st_mtime_ns == when
    )
    with pytest.raises(SettingsError, match="landscape: 4 there, 5 asked for"):
        study_size(
            config.model_copy(update={"landscape": 5}), tmp_path / "s", execution=Execution(workers=0, quiet=True)
        )
    with pytest.raises(SettingsError, match="24 units, series 'ideal' needs 99"):
        study_size(SizeStudy(data="digits:24", series=(Series(name="ideal", sizes=(99,)),)), tmp_path / "t")


def test_what_counts_as_unattributable() -> None:
    """Of four samples one has a significant nearest unit, one a marked unit, one a removal beyond the spares."""
    cell = {
        "radius": [1.0, 1.0, 9.0, 1.0],
        "radius_fixed": [1.0, 1.0, 9.0, 1.0],
        "spare_radius_fixed": [2.0, 2.0, 2.0, 2.0],
        "witness_p": [0.01, 0.5, 0.5, 0.5, 0.01],  # more samples than the universe has
        "marked": [0, 3, 0, 0, 1],
    }
    assert size_module._unattributable(cell) == 0.25


def test_radius_in_a_feature_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels as features have the pixels' distances, but for the scale."""
    monkeypatch.setattr(size_module, "load_features", lambda name: lambda images: images.reshape(len(images), -1) / 255)
    config = SizeStudy(
        data="digits:24",
        series=(Series(name="ideal", sizes=(8, 24), side=8, components=7),),
        sampling=StudySampling(samples=3, steps=5, spares=10),
        landscape=4,
        features="pixels",
    )
    table = study_size(config, tmp_path / "s", execution=Execution(workers=0, quiet=True))
    scale = np.sqrt(256 * 256 * 3 / 64)
    for key in ("radius", "spare_radius", "radius_fixed", "spare_radius_fixed"):
        assert (table[f"{key}_features"] * scale).to_list() == pytest.approx(table[key].to_list(), rel=1e-5)
    assert table["excess_fixed_features"].to_list() == pytest.approx(table["excess_fixed"].to_list(), rel=1e-5)
    slopes = pl.read_csv(tmp_path / "s" / "slopes.csv")
    of = {row["radius"]: row["slope"] for row in slopes.filter(pl.col("series") == "ideal").to_dicts()}
    assert of["radius_features"] == pytest.approx(of["radius"], abs=1e-5)
    assert of["spare_radius_fixed_features"] == pytest.approx(of["spare_radius_fixed"], abs=1e-5)


def test_code(tmp_path: Path) -> None:
    config = CodeStudy(data="digits:40", units=24, components=(6, 8), sampling=SAMPLING, landscape=4)
    table = study_code(config, tmp_path / "s", execution=Execution(workers=0, quiet=True))
    codes = list(zip(table["components"], table["weight"], strict=True))
    assert codes == [(8, 3), (8, 4), (8, 5)]  # others have fewer than 24 + 19 words
    assert table["survivors_1"].to_list() == [5, 4, 3]
    assert (tmp_path / "s" / "figure.png").exists()
    with pytest.raises(SettingsError, match="take more components"):
        study_code(config.model_copy(update={"components": (4,)}), tmp_path / "t")


def test_unattributable_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples that are left when units go a few at a time are those that a whole universe says no unit moves."""
    monkeypatch.setattr("ablatable.studies.unattributable.ROWS", 60)
    digits = Units.digits(8, size=8).images  # two of them often, so that no one unit is needed for these
    np.save(tmp_path / "digits.npy", np.concatenate([np.repeat(digits[:2], 13, axis=0), digits[2:]]))
    config = UnattributableStudy(
        data=str(tmp_path / "digits.npy"),
        series=(BinarySeries(name="a", sizes=(32,), components=8, ensembles=2, binary=64),),
        samples=12,
        steps=8,
    )
    table = study_unattributable(config, tmp_path / "s", execution=Execution(workers=0, quiet=True))
    found = 0
    for number in range(2):
        cell = tmp_path / "s" / "a" / f"00032-{number}"
        seeds = range(12 * number, 12 * (number + 1))
        universe = enumerate_universe(
            cell / "run",
            seeds,
            out=tmp_path / f"u{number}",
            sampling=Sampling(steps=8, threshold=128),
            execution=Execution(workers=0, quiet=True),
        )
        assert set(np.unique(universe.training.images)) == {0, 255}
        whole = unattributable(universe)
        told = read_json(cell / "result.json")
        assert told["unattributable"] == [whole.seeds[k] for k in whole.samples]
        assert told["left"][-1] == [32, len(whole.samples)] and len(told["left"]) > 2
        equal = (universe.training.images[None] == universe.factual[whole.samples][:, None]).all(axis=(2, 3, 4))
        assert told["copies"] == equal.sum(axis=1).tolist() and max(told["copies"]) > 1
        found += len(whole.samples)
    assert 0 < found < 24 and table["unattributable"].to_list() == [found]
    row = table.row(0, named=True)
    assert row["share"] == pytest.approx(found / 24) and (row["low"], row["high"]) == wilson(found, 24)
    for name in ("figure.png", "pictures.png"):
        assert Image.open(tmp_path / "s" / name).size[0] > 1000
    assert study_unattributable(config, tmp_path / "s", execution=Execution(workers=0, quiet=True)).equals(table)
    progress = tmp_path / "s" / "a" / "00032-1"
    (progress / "result.json").unlink()  # as if it had been interrupted: before the last units, then at once
    left = read_json(progress / "progress.json")["left"]
    assert study_unattributable(config, tmp_path / "s", execution=Execution(workers=0, quiet=True))["share"].equals(
        table["share"]
    )
    (progress / "result.json").unlink()
    (progress / "progress.json").unlink()
    assert study_unattributable(config, tmp_path / "s", execution=Execution(workers=0, quiet=True))["share"].equals(
        table["share"]
    )
    assert read_json(progress / "progress.json")["left"] == left
    with pytest.raises(SettingsError, match="32 units, series 'a' needs 99"):
        bad = config.series[0].model_copy(update={"sizes": (99,)})
        study_unattributable(config.model_copy(update={"series": (bad,)}), tmp_path / "t")


def test_differential_by_step(tmp_path: Path) -> None:
    """A part of an ablation is between the factual sample and the ablation; small parts are predicted exactly."""
    config = DifferentialStudy(
        data="digits:24",
        series=(Series(name="ideal", sizes=(8, 24), side=8, components=7),),
        sampling=StudySampling(samples=3, steps=5, spares=1),
        drawn=12,
        fractions=(2**-10, 1),
        step_units=6,
    )
    table = study_differential(config, tmp_path / "s", execution=Execution(workers=0, quiet=True))
    assert table["drawn"].to_list() == [8, 12] and (tmp_path / "s" / "figure.png").exists()
    steps = pl.read_csv(tmp_path / "s" / "steps.csv")
    small, whole = (steps.filter(pl.col("step") == step) for step in config.fractions)
    assert small["error"].max() < 0.01 and small["rank_correlation"].min() > 0.9
    assert (small["linear"] == 1).all() and (whole["error"] > small["error"]).all()
    run = Run(tmp_path / "s" / "ideal" / "00024" / "run")
    universe = Universe.open(tmp_path / "s" / "ideal" / "00024" / "universe.zarr")
    words = run.code.matrix[run.rows(universe.unit_ids)]
    for step, exact in (
        (0.0, np.broadcast_to(universe.factual, (12, 3, 8, 8, 1))),
        (1.0, universe.ablations(range(12))),
    ):
        drawn = draw_at(run, words, universe.seeds, step, config.sampling)
        levels = np.rint((np.clip(drawn, -1, 1) + 1) * 127.5)
        assert np.abs(np.moveaxis(levels, 2, -1) - exact).max() <= 1
    assert study_differential(config, tmp_path / "s", execution=Execution(workers=0, quiet=True)).equals(table)


def test_config_files(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"units": 30, "sampling": {"samples": 5}}')
    assert read_config(path, CodeStudy).sampling.samples == 5
    path.write_text('{"sampling": {"samples": 1}}')
    with pytest.raises(SettingsError, match=r"sampling.samples.*got 1"):
        read_config(path, CodeStudy)
