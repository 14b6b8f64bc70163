"""Benchmark bundles: read by their own reader, without this package, they hold what the universe holds."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ablatable as ab
from ablatable.attribution.bundle import export_benchmark
from ablatable.errors import SettingsError
from ablatable.universes.reader import Universe
from conftest import Small

READ = """
import sys
for module in ("ablatable", "torch", "polars", "zarr", "huggingface_hub"):
    sys.modules[module] = None  # importing one fails
import numpy as np
from reader import read
tables = read(".")
flat = {f"{table}.{name}": values for table, columns in tables.items() for name, values in columns.items()}
np.savez("read.npz", **{name: v.astype(str) if v.dtype == object else v for name, v in flat.items()})
"""


@pytest.fixture(scope="module")
def bundle(small: Small, small_universe: Universe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bundle")
    scores = np.arange(small_universe.distances().size, dtype=float).reshape(len(small_universe.seeds), -1)
    ab.evaluate(small_universe, {"mine": scores}, out=place / "scores", execution=ab.Execution(workers=0, quiet=True))
    return export_benchmark(small_universe, place / "bundle", evaluation=place / "scores", title="Digits: a\nbenchmark")


def test_read_without_the_package(bundle: Path, small: Small, small_universe: Universe) -> None:
    subprocess.run([sys.executable, "-c", READ], cwd=bundle, check=True, env={"PATH": "", "PYTHONPATH": str(bundle)})
    read = dict(np.load(bundle / "read.npz"))
    (bundle / "read.npz").unlink()
    samples, units = len(small_universe.seeds), len(small_universe.unit_ids)
    np.testing.assert_array_equal(read["samples.image"], small_universe.factual)
    np.testing.assert_array_equal(read["samples.seed"], small_universe.seeds)
    np.testing.assert_array_equal(read["images.image"], small.units.images)
    words = ["".join("01"[bit] for bit in row.astype(int)) for row in small.code.matrix]
    assert dict(zip(read["units.unit"], read["units.codeword"], strict=True)) == dict(
        zip(small.units.ids, words, strict=True)
    )
    for row, unit in enumerate(small_universe.unit_ids):
        mine = read["removals.unit"] == unit
        np.testing.assert_array_equal(read["removals.image"][mine], small_universe.counterfactual(unit))
        np.testing.assert_allclose(read["removals.distance"][mine], small_universe.distances()[row])
    distance = read["spares.distance"].reshape(samples, -1)
    np.testing.assert_allclose(distance, small_universe.spare_distances().T)
    assert set(read["scores.method"]) == {"mine"}
    np.testing.assert_array_equal(read["scores.score"], np.arange(samples * units))


def test_hashes_and_card(bundle: Path, small_universe: Universe) -> None:
    about = json.loads((bundle / "benchmark.json").read_text())
    assert about["universe_sha256"] == small_universe.digest
    for name, digest in about["files_sha256"].items():
        assert hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest
    assert set(about["files_sha256"]) == {p.name for p in bundle.glob("[!._]*")} - {"benchmark.json"}
    card = (bundle / "README.md").read_text()
    assert card.startswith("---\n") and "# Digits: a benchmark\n" in card


def test_mistakes(bundle: Path, small_universe: Universe, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SettingsError, match="holds other files"):
        export_benchmark(small_universe, tmp_path)
    with pytest.raises(SettingsError, match="is no evaluation"):
        export_benchmark(small_universe, tmp_path / "b", evaluation=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]
