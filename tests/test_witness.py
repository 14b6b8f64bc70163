"""The witness test: evidence against one written out by hand, size on units without data, power on planted copies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, kstest

import ablatable as ab
import oracles
from ablatable import Execution, Sampling
from ablatable.analysis import denoised as module
from ablatable.analysis.denoised import denoised
from ablatable.analysis.exchangeable import Reference
from ablatable.analysis.statistics import Images, Landscape, regressed
from ablatable.analysis.witness import unit_evidence, witness, witness_pictures
from ablatable.attribution.evaluation import evaluate
from ablatable.diffusion.ensemble import Ensemble
from ablatable.diffusion.ideal import IdealDenoiser
from ablatable.diffusion.schedule import Schedule
from ablatable.errors import DataError, SettingsError
from ablatable.universes.drawing import draw
from ablatable.universes.reader import Universe
from conftest import Small

HERE = Execution(workers=0, quiet=True)


def ideal_run(tmp_path: Path, units: ab.Units, code: ab.Code) -> ab.Run:
    return ab.train(units, code, ab.preset("ideal"), out=tmp_path / "run", execution=HERE)


# --- by definition --------------------------------------------------------------------------------------------------


def test_evidence_by_hand() -> None:
    """From the definition, in NumPy, with the posterior means of ideal components: two images per unit, in colour."""
    units = ab.Units.digits(8, size=8, channels=3)
    images = units.images.copy()
    images[..., 1] //= 2  # the channels differ, so that their order matters
    units = ab.Units(tuple("abcd"), images, np.repeat(np.arange(4), 2))
    splits = [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]
    pictures = np.stack([images[0] // 2 + images[3] // 2, images[7]])
    schedule = Schedule()
    components = [IdealDenoiser(torch.tensor(np.moveaxis(images[s], -1, 1)), schedule, torch.float64) for s in splits]
    evidence, distance = unit_evidence(denoised(components, schedule, pictures), units, pictures)

    table = oracles.abar()
    t = min(range(1000), key=lambda k: abs(table[k] - 0.97))
    a = table[t]
    for sample, picture in enumerate(pictures):
        clean = oracles.data_of(picture[None])
        noises = next(iter(module._noises(pictures[sample : sample + 1], clean.shape[1:])))
        said = []
        for split in splits:
            predict = oracles.ideal(oracles.data_of(images[split]), table)
            noisy = [a**0.5 * clean + (1 - a) ** 0.5 * noise for noise in noises]
            said.append(np.mean([(x - (1 - a) ** 0.5 * predict(x, t)) / a**0.5 for x in noisy], axis=0)[0])
        mean_image = oracles.data_of(images).mean(axis=0)
        for unit in range(4):
            own = oracles.data_of(images[2 * unit : 2 * unit + 2])
            away = np.sqrt(np.square(own - clean).sum(axis=(1, 2, 3)))
            towards = own[away.argmin()] - mean_image
            wanted = [((x - np.mean(said, axis=0)) * towards).sum() for x in said]
            np.testing.assert_allclose(evidence[:, unit, sample], wanted, atol=2e-3)
            scale = np.sqrt(256 * 256 * 3 / (8 * 8 * 3)) / 2
            np.testing.assert_allclose(distance[unit, sample], away.min() * scale, rtol=1e-5)


def test_the_noise_is_the_pictures_own() -> None:
    pictures = ab.Units.digits(3, size=8).images
    alone = next(iter(module._noises(pictures[2:], (1, 8, 8))))
    np.testing.assert_array_equal(list(module._noises(pictures, (1, 8, 8)))[2], alone)
    assert len(alone) == module.DRAWS and np.std(alone) == pytest.approx(1, abs=0.15)


def test_a_table_and_sentences(small: Small) -> None:
    found = witness(small.run, [3, 1], sampling=Sampling(steps=5))
    table = found.to_polars()
    assert table.columns == ["sample", "seed", "unit", "score", "p", "q", "marked", "nearest"]
    assert len(table) == 24 and table["nearest"].sum() == 2 and set(table["seed"]) == {1, 3}
    for row in table.to_dicts():
        unit, sample = found.unit_ids.index(row["unit"]), row["sample"]
        assert (row["p"], row["q"], row["score"]) == (
            found.p[unit, sample],
            found.q[unit, sample],
            found.score[unit, sample],
        )
    assert (found.words == 9).all()  # C(6, 3) less the other 11 units'
    assert found.least_q() == 1  # 12 tests, and p is at least 1 / 9
    harmonic = sum(1 / k for k in range(1, 13))
    for sample in range(2):  # both procedures by their definitions, without their running minimum
        p = np.sort(found.p[:, sample])
        plain = [min(min(1, 12 * p[k] / (k + 1)) for k in range(j, 12)) for j in range(12)]
        safe = [min(min(1, 12 * harmonic * p[k] / (k + 1)) for k in range(j, 12)) for j in range(12)]
        np.testing.assert_allclose(np.sort(found.q[:, sample]), plain)
        np.testing.assert_allclose(np.sort(found.q_any[:, sample]), safe)
    assert "cannot reach q <= 0.1 with 8 unused codewords" in found.verdict(0)
    assert "nearest training unit in" in found.headline()
    again = witness(small.run.path, "1", sampling=Sampling(steps=5))
    np.testing.assert_array_equal(again.p[:, 0], found.p[:, 1])
    np.testing.assert_array_equal(again.factual[0], found.factual[1])


def test_the_pictures_are_the_universes(small: Small, small_universe: Universe) -> None:
    found = witness(small.run, small_universe.seeds, sampling=small_universe.settings.sampling)
    np.testing.assert_array_equal(found.factual, small_universe.factual)
    same = witness_pictures(small.run, small_universe.factual, small_universe.seeds)
    np.testing.assert_array_equal(same.p, found.p)


def test_units_named_beforehand(small: Small) -> None:
    every = witness(small.run, "3", sampling=Sampling(steps=5))
    some = witness(small.run, "3", units=[small.units.ids[4], small.units.ids[2]], sampling=Sampling(steps=5))
    np.testing.assert_array_equal(some.p, every.p[[4, 2]])
    assert (some.q <= every.q[[4, 2]]).all()


def test_units_that_may_stand_in_for_the_nearest(tmp_path: Path) -> None:
    """Planted: a twin one grey level away, and an image farther from both than the picture is."""
    digits = ab.Units.digits(8, size=8).images
    twin = digits[2].copy()
    twin[0, 0] += 1
    units = ab.Units.from_arrays(np.concatenate([digits, twin[None]]), duplicates="keep")
    run = ideal_run(tmp_path, units, ab.Code.random(9, 6, 1))
    picture = digits[2].copy()
    picture[7, 7] += 3
    found = witness_pictures(run, np.stack([picture, digits[5]]), [0, 1])
    assert found.alike == ((run.unit_ids[8],), ()) and found.unit_ids[found.nearest[0]] == run.unit_ids[2]
    remark = found.remark(0)
    assert remark and "another unit is at least as near" in remark and run.unit_ids[8] in remark
    assert found.remark(1) is None


def test_the_matched_filter_by_its_definition() -> None:
    """(C + l I)^-1 with the covariance C written out, up to one common factor, which no p-value depends on."""
    said = np.random.default_rng(0).normal(size=(5, 4, 12)) * np.linspace(0.1, 3, 12)
    said -= said.mean(axis=0)
    rows = said.reshape(20, 12)
    covariance = sum(np.outer(row, row) for row in rows) / 20
    wanted = rows @ np.linalg.inv(covariance + np.trace(covariance) / 12 * np.eye(12))
    found = module.matched(said).reshape(20, 12)
    np.testing.assert_allclose(found / np.abs(found).max(), wanted / np.abs(wanted).max(), atol=1e-9)
    assert (module.matched(np.zeros((3, 2, 4))) == 0).all()


def test_the_matched_filter_is_an_option(small: Small, call) -> None:
    plain = witness(small.run, "0-2", sampling=Sampling(steps=2))
    matched = witness(small.run, "0-2", sampling=Sampling(steps=2), matched=True)
    assert (plain.score != matched.score).any()
    code, out, _ = call("witness", small.run.path, "--seeds", "0-2", "--steps", "2", "--matched", "--json")
    assert code == 0 and [row["p"] for row in json.loads(out)["table"]] == matched.to_polars()["p"].to_list()


def test_mistakes(small: Small) -> None:
    with pytest.raises(DataError, match="no unit 'digit-9'"):
        witness(small.run, "0", units=["digit-9"])
    with pytest.raises(SettingsError, match="no units are named"):
        witness(small.run, "0", units=[])
    with pytest.raises(SettingsError, match="seeds"):
        witness(small.run, "x")


def test_only_random_codes_are_called_exact(small: Small, tmp_path: Path) -> None:
    """It is on record in the run, and survives what removes units or opens the run anew."""
    assert not witness(small.run, "0", sampling=Sampling(steps=2)).exact
    units = ab.Units.digits(12, size=8)
    run = ideal_run(tmp_path, units, ab.Code.random(12, 6, 1))
    assert witness(ab.Run(run.path), "0", sampling=Sampling(steps=2)).exact
    assert ab.Run(run.path).design == ab.Code.random(12, 6, 1)
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    assert ab.Run(copy).design.design == "random"


def test_as_an_attribution_method(small: Small, small_universe: Universe, tmp_path: Path) -> None:
    """The same scores, so it can be compared with others."""
    found = evaluate(small_universe, ["witness", "random"], run=small.run, out=tmp_path / "e", execution=HERE)
    scores = witness_pictures(small.run, small_universe.factual, small_universe.seeds).score
    rows = [small.units.ids.index(unit) for unit in small_universe.unit_ids]
    np.testing.assert_allclose(found.scored["witness"].scores, scores[rows].T, atol=1e-9)


def test_on_the_command_line(small: Small, call) -> None:
    code, out, err = call("witness", small.run.path, "--seed", "5", "--steps", "5", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["exact"] is False and len(told["table"]) == 12
    assert {row["unit"]: row["p"] for row in told["table"]} == dict(
        zip(small.units.ids, witness(small.run, "5", sampling=Sampling(steps=5)).p[:, 0], strict=True)
    )
    code, out, _ = call("witness", small.run.path, "--seed", "5", "--steps", "5", "--top", "3")
    assert code == 0 and "denoise the sample towards it" in " ".join(out.split())
    assert "approximate" in out and "next: ablatable run sample" in out
    code, out, _ = call("witness", small.run.path, "--seeds", "0-2", "--steps", "5", "--unit", "digit-0003")
    assert code == 0 and "3 samples" in out and "digit-0003" in out and "digit-0004" not in out
    code, _, err = call("witness", small.run.path, "--seed", "x")
    assert code == 2 and err.startswith("error: seeds 'x'")


# --- power: planted copies ------------------------------------------------------------------------------------------


def test_copies_are_found(tmp_path: Path) -> None:
    """12 components of weight 6: p <= 0.01 in nine of ten samples that are copies of their nearest unit."""
    units = ab.Units.digits(48, size=8)
    run = ideal_run(tmp_path, units, ab.Code.random(48, 12, 3))
    found = witness(run, range(24), sampling=Sampling(steps=20))
    copies = found.nearest_distance <= 60  # of at most 443
    assert copies.sum() >= 15
    assert (found.nearest_p[copies] <= 0.01).mean() >= 0.9
    assert found.exact and (found.words == 924 - 47).all()


# --- size: units whose codewords are dealt like any other, and that no component has seen -----------------------------

REAL, DUMMIES, STEPS = 40, 4, 5


def null_tests(number: int, components: int, weight: int, design=ab.Code.random) -> tuple[float, float]:
    """p-values of one dummy at one sample, by the witness test and by regressed likeness, under a code of its own.

    The dummy is nearly the same image as a unit that components did train on, the one that the sample is nearest to
    among the first few, so that every component that saw that one predicts towards the dummy.
    """
    digits = ab.Units.digits(REAL, size=8)
    random = np.random.default_rng(number)
    code = design(REAL + DUMMIES, components, number, weight=weight)
    twin = int(random.integers(REAL))
    blurred = np.clip(digits.images[twin] + random.normal(0, 8, digits.images[twin].shape), 0, 255).astype(np.uint8)
    images = np.concatenate([digits.images, np.repeat(blurred[None], DUMMIES, axis=0)])
    units = ab.Units((*digits.ids, *(f"dummy-{k}" for k in range(DUMMIES))), images, np.arange(len(images)))
    splits = [[row for row in code.split(i) if row < REAL] for i in range(components)]
    if not all(splits):
        return float("nan"), float("nan")
    schedule = Schedule()
    denoisers = [IdealDenoiser(torch.tensor(np.moveaxis(images[split], -1, 1)), schedule) for split in splits]
    rows = np.vstack([np.zeros((1, components), bool), code.matrix])
    sampling = Sampling(steps=STEPS)
    drawn = draw(Ensemble(denoisers), rows, [number], shape=(1, 8, 8), schedule=schedule, sampling=sampling)
    pictures = np.moveaxis(drawn[:, 0], 1, -1)  # (1 + units, H, W, C)

    reference, dummy = Reference(code), np.array([REAL])
    evidence, _ = unit_evidence(denoised(denoisers, schedule, pictures[:1]), units, pictures[:1])
    seen = reference.p_values(evidence[:, dummy, 0], dummy, (number,))[0]
    vectors = pictures.reshape(len(pictures), -1).astype(float)
    flat = images.reshape(len(images), -1).astype(float)
    landscape = Landscape(
        vectors[0], vectors[1:], vectors[:0], code.matrix, rows[:0], Images(flat, np.arange(len(images)))
    )
    removed = regressed(landscape, np.arange(code.units))
    return float(seen), float(reference.p_values(removed[:, dummy], dummy, (number, "removed"))[0])


def check_size(p: np.ndarray, level: float) -> None:
    assert binomtest(int((p <= level).sum()), len(p), level, alternative="greater").pvalue > 1e-3, (p <= level).mean()


@pytest.mark.parametrize("components, weight", [(9, 4), (16, 2)])
def test_units_without_data_have_uniform_p_values(components: int, weight: int) -> None:
    p = np.array([null_tests(number, components, weight) for number in range(150)])
    p = p[~np.isnan(p[:, 0])]
    for values in p.T:
        check_size(values, 0.05)
        assert kstest(values, "uniform").pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("components, weight", [(9, 4), (16, 2), (12, 3), (12, 6)])
def test_units_without_data_have_uniform_p_values_in_full(components: int, weight: int) -> None:
    p = np.array([null_tests(number, components, weight) for number in range(2200)])
    p = p[~np.isnan(p[:, 0])]
    assert len(p) >= 2000
    for values in p.T:
        for level in (0.05, 0.01):
            check_size(values, level)
        assert kstest(values, "uniform").pvalue > 1e-3
