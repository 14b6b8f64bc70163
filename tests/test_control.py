"""Control by retraining: who is retrained on what, distances against ensembles put together by hand, statistics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

import ablatable as ab
import oracles
from ablatable import Execution, Sampling
from ablatable._runtime.stats import rank_correlation
from ablatable.analysis.retraining import control
from ablatable.errors import SettingsError

STEPS, SEEDS = 8, [0, 3, 5]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ab.Run:
    units, code = ab.Units.digits(10, size=8), ab.Code.balanced(units=10, components=5, seed=2)
    return ab.train(
        units,
        code,
        ab.preset("ideal"),
        out=tmp_path_factory.mktemp("c") / "run",
        execution=Execution(workers=0, quiet=True),
    )


def drawn(splits: list[list[int]], images: np.ndarray) -> np.ndarray:
    """Pictures by the closed-form ensemble of these splits, float 0..255, (samples, pixels)."""
    table = oracles.abar()
    predictors = [oracles.ideal(oracles.data_of(images[split]), table) for split in splits]
    noise = ab.noise_trajectory(SEEDS, STEPS, (1, 8, 8)).double().numpy()
    x = oracles.SAMPLERS["ddpm"](oracles.mean_of(predictors), noise, table, STEPS)
    return np.rint(np.clip(x, -1, 1) * 127.5 + 127.5).reshape(len(SEEDS), -1)


def test_against_ensembles_by_hand(run: ab.Run, tmp_path: Path) -> None:
    found = control(
        run.path,
        3,
        SEEDS,
        out=tmp_path / "c",
        sampling=Sampling(steps=STEPS),
        execution=Execution(workers=0, quiet=True),
    )
    images, n = run.units().images, run.code.components
    splits = [run.code.split(i).tolist() for i in range(n)]
    everything = list(range(10))
    scale = np.sqrt(256 * 256 * 3 / 64) / 255
    for k, unit in enumerate(found.units):
        row = run.unit_ids.index(unit)
        without = [[other for other in split if other != row] for split in splits]
        left = [split for i, split in enumerate(splits) if not run.code.matrix[row, i]]
        for kind, before, after in (
            ("ablation", splits, left),
            ("ensemble", splits, without),
            ("single", [everything], [[other for other in everything if other != row]]),
        ):
            wanted = np.linalg.norm(drawn(before, images) - drawn(after, images), axis=1) * scale
            np.testing.assert_allclose(found.distances[kind][k], wanted, atol=4 * scale)
    assert found.distances["half"].shape == (3, 3)
    assert not found.distances["reseeded"].any(), "nothing in an ideal model depends on a seed"
    table = {row["kind"]: row for row in found.table().to_dicts()}
    most = {kind: values.max(axis=0).mean() for kind, values in found.distances.items()}
    assert table["ensemble"]["ratio"] == pytest.approx(most["ablation"] / most["ensemble"], rel=1e-5)
    assert table["ensemble"]["ratio_low"] <= table["ensemble"]["ratio"] <= table["ensemble"]["ratio_high"]
    assert table["reseeded"]["ratio"] is None and table["half"]["correlation"] is None
    stored = json.loads((tmp_path / "c" / "control.json").read_text())["distances"]
    np.testing.assert_allclose(stored["single"], found.distances["single"], rtol=1e-6)


def test_goes_on_and_minds_its_settings(run: ab.Run, tmp_path: Path) -> None:
    out = tmp_path / "c"
    first = control(
        run.path, 2, SEEDS, out=out, sampling=Sampling(steps=STEPS), execution=Execution(workers=0, quiet=True)
    )
    kept = out / "single" / "all" / "images.safetensors"
    when = kept.stat().st_mtime_ns
    again = control(
        run.path, 2, SEEDS, out=out, sampling=Sampling(steps=STEPS), execution=Execution(workers=0, quiet=True)
    )
    assert kept.stat().st_mtime_ns == when
    for kind, values in first.distances.items():
        np.testing.assert_array_equal(values, again.distances[kind])
    with pytest.raises(SettingsError, match="steps: 8 there, 9 asked for"):
        control(run.path, 2, SEEDS, out=out, sampling=Sampling(steps=9), execution=Execution(workers=0, quiet=True))
    with pytest.raises(SettingsError, match="2 to 10 can be left out"):
        control(
            run.path,
            11,
            SEEDS,
            out=tmp_path / "d",
            sampling=Sampling(steps=STEPS),
            execution=Execution(workers=0, quiet=True),
        )


def test_rank_correlations() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(0, 5, (7, 4)), random.integers(0, 5, (7, 4))
    wanted = [spearmanr(a[:, k], b[:, k]).statistic for k in range(4)]
    np.testing.assert_allclose(rank_correlation(a, b, axis=0), wanted)
