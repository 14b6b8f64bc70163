"""Ablation, end to end, against an ensemble built by hand from the survivors' splits: NumPy, float64, own samplers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ablatable as ab
import oracles
from ablatable import Execution, Sampling
from ablatable.diffusion.recipe import IdealConfig, Recipe
from ablatable.diffusion.sampling_settings import SAMPLERS

UNITS, CODE = ab.Units.digits(8, size=8), ab.Code.balanced(units=8, components=5, seed=3)
SEEDS = [0, 6]
STEPS = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ab.AblatablePipeline:
    recipe = Recipe(component=IdealConfig(dtype="float64"))
    run = ab.train(
        UNITS, CODE, recipe, out=tmp_path_factory.mktemp("ideal") / "run", execution=Execution(workers=0, quiet=True)
    )
    return ab.AblatablePipeline.from_pretrained(run.path)


def by_hand(without: list[str], sampler: str) -> np.ndarray:
    """Which components trained on none of these units, what each of those did train on, and their mean."""
    table, predictors = oracles.abar(), []
    for component in range(CODE.components):
        split = [unit for row, unit in enumerate(UNITS.ids) if CODE.matrix[row, component]]
        if not set(split) & set(without):
            images = np.stack([UNITS.images[UNITS.ids.index(unit)] for unit in split])
            predictors.append(oracles.ideal(oracles.data_of(images), table))
    assert predictors
    noise = ab.noise_trajectory(SEEDS, STEPS, (1, 8, 8)).double().numpy()
    return oracles.SAMPLERS[sampler](oracles.mean_of(predictors), noise, table, STEPS)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_without_a_unit(model: ab.AblatablePipeline, sampler: str) -> None:
    factual = model(seeds=SEEDS, sampler=sampler, num_inference_steps=STEPS, output_type="pt").images.numpy()
    np.testing.assert_allclose(factual, by_hand([], sampler), rtol=0, atol=2e-3)
    moved = 0
    for unit in ("digit-0000", "digit-0005"):
        without = model(
            seeds=SEEDS, without=[unit], sampler=sampler, num_inference_steps=STEPS, output_type="pt"
        ).images.numpy()
        np.testing.assert_allclose(without, by_hand([unit], sampler), rtol=0, atol=2e-3)
        moved += np.abs(without - factual).max() > 0.1
    assert moved, "no ablation changed anything, so nothing was shown"


def test_without_two_units(model: ab.AblatablePipeline) -> None:
    pairs = [
        [a, b]
        for i, a in enumerate(UNITS.ids)
        for j, b in enumerate(UNITS.ids)
        if i < j and not (CODE.matrix[i] | CODE.matrix[j]).all()
    ]
    for pair in pairs[:2]:
        drawn = model(seeds=SEEDS, without=pair, num_inference_steps=STEPS, output_type="pt").images.numpy()
        np.testing.assert_allclose(drawn, by_hand(pair, "ddpm"), rtol=0, atol=2e-3)


def test_the_universe(model: ab.AblatablePipeline, tmp_path: Path) -> None:
    out = tmp_path / "u"
    universe = ab.enumerate_universe(
        model.run.path, SEEDS, out=out, sampling=Sampling(steps=STEPS), execution=Execution(workers=0, quiet=True)
    )
    for unit in UNITS.ids[:3]:
        expected = np.clip(by_hand([unit], "ddpm"), -1, 1) * 127.5 + 127.5
        drawn = universe.counterfactual(unit).transpose(0, 3, 1, 2)
        assert np.abs(drawn - expected).max() < 1
