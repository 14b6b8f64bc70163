"""Studies: equal landscapes by enumeration, slopes of known curves, studies that go on and end in their files."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from ablatable.errors import SettingsError
from ablatable.intervals import bootstrap
from ablatable.studies import size as size_module
from ablatable.studies.cells import Sampling, largest_of, read_config
from ablatable.studies.size import Series, SizeStudy, slope, study_size
from ablatable.studies.weight import CodeStudy, study_code

SAMPLING = Sampling(samples=3, steps=5, spares=25)


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
        sampling=Sampling(samples=3, steps=5, spares=10),
        drawn=12,
        landscape=4,
    )
    table = study_size(config, tmp_path / "s", workers=0, quiet=True)
    assert table["units"].to_list() == [8, 24] and table["drawn"].to_list() == [8, 12]
    assert (table["radius_fixed"] <= table["radius"] + 1e-9).all()
    assert pl.read_csv(tmp_path / "s" / "table.csv")["radius"].to_list() == pytest.approx(table["radius"].to_list())
    published = pl.read_csv(tmp_path / "s" / "slopes.csv").filter(pl.col("series") == "published")
    assert published["slope"].item() == pytest.approx(-0.2, abs=0.01)  # as the paper states for MNIST
    assert Image.open(tmp_path / "s" / "figure.png").size[0] > 1000
    cell = tmp_path / "s" / "ideal" / "00008" / "result.json"
    when = cell.stat().st_mtime_ns
    assert study_size(config, tmp_path / "s", workers=0, quiet=True).equals(table) and cell.stat().st_mtime_ns == when
    with pytest.raises(SettingsError, match="landscape: 4 there, 5 asked for"):
        study_size(config.model_copy(update={"landscape": 5}), tmp_path / "s", workers=0, quiet=True)
    with pytest.raises(SettingsError, match="24 units, series 'ideal' needs 99"):
        study_size(SizeStudy(data="digits:24", series=(Series(name="ideal", sizes=(99,)),)), tmp_path / "t")


def test_radius_in_a_feature_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels as features have the pixels' distances, but for the scale."""
    monkeypatch.setattr(size_module, "load_features", lambda name: lambda images: images.reshape(len(images), -1) / 255)
    config = SizeStudy(
        data="digits:24",
        series=(Series(name="ideal", sizes=(8, 24), side=8, components=7),),
        sampling=Sampling(samples=3, steps=5, spares=10),
        landscape=4,
        features="pixels",
    )
    table = study_size(config, tmp_path / "s", workers=0, quiet=True)
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
    table = study_code(config, tmp_path / "s", workers=0, quiet=True)
    codes = list(zip(table["components"], table["weight"], strict=True))
    assert codes == [(8, 3), (8, 4), (8, 5)]  # others have fewer than 24 + 19 words
    assert table["survivors_1"].to_list() == [5, 4, 3]
    assert (tmp_path / "s" / "figure.png").exists()
    with pytest.raises(SettingsError, match="take more components"):
        study_code(config.model_copy(update={"components": (4,)}), tmp_path / "t")


def test_config_files(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"units": 30, "sampling": {"samples": 5}}')
    assert read_config(path, CodeStudy).sampling.samples == 5
    path.write_text('{"sampling": {"samples": 1}}')
    with pytest.raises(SettingsError, match=r"sampling.samples.*got 1"):
        read_config(path, CodeStudy)
