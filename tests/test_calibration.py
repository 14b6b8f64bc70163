"""Calibration: p-values by their definition, leave-one-out fits one by one, honesty on units that have no data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, kstest

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable.analysis.calibration import calibrate, influence, p_values, q_values, radius_p_values, spares_to_mark_one
from ablatable.analysis.statistics import RIDGE, SPARED, Images, Landscape, left_out_distances, regressed, scores
from ablatable.codes.code import Code
from ablatable.data.units import Units
from ablatable.diffusion.ensemble import Ensemble
from ablatable.diffusion.ideal import IdealDenoiser
from ablatable.diffusion.recipe import UNetConfig
from ablatable.diffusion.schedule import Schedule
from ablatable.diffusion.unet import build
from ablatable.errors import SettingsError
from ablatable.universes.drawing import draw
from ablatable.universes.reader import Universe

UNTIL = 1e-3  # a KS test that fails this is no accident


def landscape_of(seed: int = 0, units: int = 3, spares: int = 9, images: int = 1) -> Landscape:
    random = np.random.default_rng(seed)
    return Landscape(
        factual=random.normal(size=5),
        units=random.normal(size=(units, 5)),
        spares=random.normal(size=(spares, 5)),
        unit_words=random.random((units, 4)) < 0.5,
        spare_words=random.random((spares, 4)) < 0.5,
        images=Images(random.normal(size=(units * images, 5)), np.arange(units) * images),
    )


# --- by definition --------------------------------------------------------------------------------------------------


def test_p_values_by_counting() -> None:
    spares = np.array([[1.0, 5.0, 2.0], [2.0, 5.0, 2.0], [3.0, 5.0, 2.0]])
    assert p_values(np.array([2.0, 6.0, 2.0]), spares).tolist() == [3 / 4, 1 / 4, 4 / 4]


@given(st.lists(st.integers(1, 50).map(lambda k: k / 50), min_size=1, max_size=30))
def test_q_values_are_benjamini_and_hochbergs(p: list[float]) -> None:
    np.testing.assert_allclose(q_values(np.array(p)), false_discovery_control(p), atol=1e-12)
    both = np.stack([p, p[::-1]], axis=1)
    np.testing.assert_allclose(q_values(both)[:, 1], false_discovery_control(p[::-1]), atol=1e-12)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 10_000))
def test_radius_p_by_all_draws(units: int, spares: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 6, units + spares).astype(np.float32)
    largest = [max(values[list(rows)]) for rows in combinations(range(units + spares), units)]
    wanted = np.mean(np.array(largest) >= values[:units].max())
    found = radius_p_values(values[:units, None], values[units:, None])
    np.testing.assert_allclose(found, [wanted], atol=1e-12)
    assert found[0] >= units / (units + spares) - 1e-12


def test_how_many_spares_one_unit_needs() -> None:
    for units, level in ((48, 0.1), (1, 0.05), (7, 0.5), (20, 0.2)):
        most = spares_to_mark_one(units, level)
        alone = np.ones(units)
        alone[0] = 1 / (1 + most)
        assert q_values(alone)[0] <= level + 1e-12
        alone[0] = 1 / most
        assert most == 1 or q_values(alone)[0] > level


def residuals_one_by_one(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Each row's residual from the ridge regression of all others."""
    out = []
    for k in range(len(rows)):
        x, y = np.delete(rows, k, 0).astype(float), np.delete(targets, k, 0)
        weights = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)
        out.append(targets[k] - rows[k] @ weights)
    return np.array(out)


def test_regressed_likeness_one_by_one() -> None:
    """Every unit's regression on the other units' ablations alone, solved afresh; two units share an ablation."""
    random = np.random.default_rng(4)
    pictures, words = random.normal(size=(5, 6)), random.random((5, 4)) < 0.5
    images, starts, ablation = random.normal(size=(12, 6)), np.arange(6) * 2, np.array([0, 1, 2, 3, 4, 1])
    made = Landscape(random.normal(size=6), pictures, pictures[:0], words, words[:0], Images(images, starts))
    drawn = np.array([True, True, False, True, True])
    for used in (None, drawn):
        found = regressed(made, ablation, used)
        for unit in range(6):
            own = images[2 * unit : 2 * unit + 2]
            speaker = own[np.linalg.norm(own - made.factual, axis=1).argmin()] - images.mean(axis=0)
            speaker /= np.linalg.norm(speaker)
            rows = [k for k in range(5) if k != ablation[unit] and (used is None or used[k])]
            x, y = words[rows].astype(float), [(made.factual - pictures[k]) @ speaker for k in rows]
            wanted = np.linalg.solve(x.T @ x + RIDGE * np.eye(4), x.T @ y)
            np.testing.assert_allclose(found[:, unit], wanted, atol=1e-9)


def test_regressed_likeness_needs_no_spares(small_universe: Universe, tmp_path: Path) -> None:
    bare = make(tmp_path, Units.digits(12, size=8), Code.random(12, 6, 1), samples=4, spares=0)
    found = calibrate(bare, statistic="regressed")
    assert found.spares == 20 - 12 and (found.p * 9 % 1 < 1e-9).all() and len(np.unique(found.p)) > 2
    np.testing.assert_array_equal(found.p[:, [2]], calibrate(bare, statistic="regressed", samples=[2]).p)
    assert "unused codewords" in found.verdict(0, bare.unit_ids)
    assert calibrate(small_universe, statistic="regressed").p.shape == (12, 3)
    for universe in (bare, small_universe):  # it is what is used unless another is asked for
        assert calibrate(universe).statistic == "regressed"


@pytest.mark.parametrize("spares", [2, 9])
def test_left_out_fits_each_row_from_the_others(spares: int) -> None:
    made = landscape_of(spares=spares)
    found, spare_found = left_out_distances(made.units, made.spares, made.unit_words, made.spare_words)
    for u in range(3):
        rows = np.vstack([made.spare_words, made.unit_words[u]])
        wanted = residuals_one_by_one(rows, np.vstack([made.spares, made.units[u]]))
        np.testing.assert_allclose(np.append(spare_found[:, u], found[u]), np.linalg.norm(wanted, axis=1))


@pytest.mark.parametrize("statistic", SPARED)
def test_a_unit_and_a_spare_can_change_places(statistic: str) -> None:
    """Exchangeability, to the letter: scores go with the ablations, whichever of them is called the unit's."""
    made = landscape_of(units=1, images=2)
    unit, spare = scores(made, statistic)
    swapped = Landscape(
        made.factual,
        made.spares[3:4],
        np.vstack([made.spares[:3], made.units, made.spares[4:]]),
        made.spare_words[3:4],
        np.vstack([made.spare_words[:3], made.unit_words, made.spare_words[4:]]),
        made.images,
    )
    other_unit, other_spare = scores(swapped, statistic)
    np.testing.assert_allclose(other_unit, spare[3])
    np.testing.assert_allclose(other_spare[3], unit)
    np.testing.assert_allclose(np.delete(other_spare, 3, 0), np.delete(spare, 3, 0))


def test_scores_by_hand() -> None:
    made = Landscape(
        factual=np.array([0.0, 0.0]),
        units=np.array([[3.0, 4.0], [0.0, 1.0]]),
        spares=np.array([[6.0, 8.0]]),
        unit_words=np.eye(2, dtype=bool),
        spare_words=np.ones((1, 2), bool),
        images=Images(
            np.array([[0.0, 4.0], [3.0, 0.0], [0.0, -1.0]]),  # two of the first unit, one of the second
            starts=np.array([0, 2]),
        ),
    )
    unit, spare = scores(made, "plain")
    assert unit.tolist() == [5, 1] and spare.tolist() == [[10, 10]]
    unit, spare = scores(made, "directional")
    np.testing.assert_allclose(unit, [3 - 3, 2 - 1])
    np.testing.assert_allclose(spare, [[np.hypot(6, 4) - 3, np.hypot(6, 9) - 1]])
    unit, _ = scores(made, "likeness")  # the mean image is (1, 1): centred (-1, 3), (2, -1), (-1, -2)
    first, second = np.array([[-1, 3], [2, -1]]), np.array([-1, -2])
    lengths = first @ [3, 4] / np.linalg.norm(first, axis=1)
    np.testing.assert_allclose(unit, [-lengths.max(), -(second @ [0, 1]) / np.linalg.norm(second)])


# --- on universes ---------------------------------------------------------------------------------------------------


def make(tmp_path: Path, units: Units, code: Code, samples: int, spares: int) -> Universe:
    run = ab.train(units, code, ab.preset("ideal"), out=tmp_path / "run", execution=Execution(workers=0, quiet=True))
    out = tmp_path / "u.zarr"
    return ab.enumerate_universe(
        run.path,
        range(samples),
        out=out,
        sampling=Sampling(steps=12),
        spares=spares,
        execution=Execution(workers=0, quiet=True),
    )


def test_calibrate_reads_a_universe(small_universe: Universe) -> None:
    """From pictures and codewords in the store, with other means than the code's own."""
    found = calibrate(small_universe, statistic="plain")
    units, spares = small_universe.distances(), small_universe.spare_distances()
    for u in range(len(small_universe.unit_ids)):
        for s in range(3):
            assert found.p[u, s] == (1 + sum(spare >= units[u, s] for spare in spares[:, s])) / (1 + len(spares))
    np.testing.assert_allclose(found.score, units, rtol=1e-6)
    np.testing.assert_allclose(found.q[:, 1], false_discovery_control(found.p[:, 1]))
    some = calibrate(small_universe, statistic="plain", samples=[2])
    np.testing.assert_array_equal(some.p[:, 0], found.p[:, 2])
    away = calibrate(small_universe, statistic="directional")
    unit = small_universe.unit_ids[4]
    image = small_universe.training_images(unit)[0].astype(float)
    for s in range(3):
        before, after = small_universe.factual[s], small_universe.counterfactual(unit)[s]
        moved = np.linalg.norm(after - image) - np.linalg.norm(before - image)
        np.testing.assert_allclose(away.score[4, s], moved / 255 * np.sqrt(256 * 256 * 3 / 64), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("balanced", [True, False])
def test_p_values_of_balanced_codes_are_called_approximate(balanced: bool, tmp_path: Path) -> None:
    units, quiet = Units.digits(30, size=8), Execution(workers=0, quiet=True)
    code = Code.balanced(30, 9, seed=0, weight=3) if balanced else Code.random(30, 9, 0, weight=3)
    assert (np.ptp(code.matrix.sum(axis=0)) <= 1) == balanced
    run = ab.train(units, code, ab.preset("ideal"), out=tmp_path / "run", execution=quiet)
    universe = ab.enumerate_universe(run, [0], out=tmp_path / "u.zarr", sampling=Sampling(steps=2), execution=quiet)
    doubt = calibrate(universe).approximate()
    assert doubt is not None and "balanced" in doubt if balanced else doubt is None


def test_influence_lists_the_surest_first(small_universe: Universe) -> None:
    table = influence(small_universe, 1, calibrate(small_universe, samples=[1]))
    assert table["p"].to_list() == sorted(table["p"]) and table["rank"].to_list() == list(range(1, 13))
    distances = dict(zip(small_universe.unit_ids, small_universe.distances()[:, 1], strict=True))
    assert {row["unit"]: row["distance"] for row in table.to_dicts()} == distances
    untested = influence(small_universe, 1, None)
    assert untested["distance"].to_list() == sorted(distances.values(), reverse=True)
    assert untested["p"].null_count() == 12


def test_feature_space(small_universe: Universe) -> None:
    """Any function of pictures will do; one that sees nothing finds nothing."""
    shifted = calibrate(small_universe, features=lambda images: images.reshape(len(images), -1) / 7 + 3)
    np.testing.assert_allclose(shifted.p, calibrate(small_universe).p)
    blind = calibrate(small_universe, statistic="likeness", features=lambda images: np.ones((len(images), 4)))
    assert (blind.p == 1).all()


def test_mistakes(small_universe: Universe, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no statistic 'best'.*likeness"):
        calibrate(small_universe, statistic="best")
    bare = make(tmp_path, Units.digits(4, size=8), Code.balanced(units=4, components=4), samples=1, spares=0)
    with pytest.raises(SettingsError, match=r"no spare ablations.*spares=2"):
        calibrate(bare, statistic="likeness")
    full = make(tmp_path / "full", Units.digits(6, size=8), Code.balanced(units=6, components=4), samples=1, spares=0)
    with pytest.raises(SettingsError, match="no spare codewords"):  # nor are there codewords to compare with
        calibrate(full)


def test_a_unit_that_decides_the_picture_is_found(tmp_path: Path) -> None:
    """One unit is there 24 times, in 10 of 12 components: where a sample resembles it, power is 0.9 or more."""
    base = Units.digits(24, size=8)
    images = np.concatenate([np.repeat(base.images[:1], 24, axis=0), base.images[1:]])
    units = Units(base.ids, images, np.concatenate([np.zeros(24, int), np.arange(1, 24)]))
    universe = make(tmp_path, units, Code.balanced(24, 12, weight=10), samples=48, spares=42)
    pixels = universe.factual.reshape(48, -1).astype(float)
    nearest = np.array([np.square(pixel - images.reshape(len(images), -1)).sum(1).argmin() for pixel in pixels])
    resembling = nearest < 24
    assert resembling.sum() >= 15
    p = calibrate(universe, statistic="both").p
    assert (p[0, resembling] <= 0.05).mean() >= 0.9
    others = p[12:][:, resembling]  # and the rest of the units are not drawn along with it
    assert (others <= 0.05).mean() <= 0.2


# --- honesty: units whose codewords ablate, and that no component has seen ------------------------------------------

SPARES, SHAPE = 19, (1, 8, 8)


def null_p_values(
    denoisers: list, words: np.ndarray, images: np.ndarray, seeds: Sequence[int], steps: int
) -> dict[str, list[float]]:
    """One p-value a seed: its own dummy (the first word of the seed's group, with its own image) and its own spares."""
    found: dict[str, list[float]] = {statistic: [] for statistic in SPARED}
    for group, image, seed in zip(words, images, seeds, strict=True):
        every = np.vstack([np.zeros((1, group.shape[1]), bool), group])
        pictures = draw(
            Ensemble(denoisers),
            every,
            [seed],
            shape=SHAPE,
            schedule=Schedule(),
            sampling=Sampling(sampler="ddpm", steps=steps),
        )
        vectors = pictures.reshape(len(every), -1).astype(float)
        made = Landscape(
            factual=vectors[0],
            units=vectors[[1, 1]],  # once with the dummy's own image, and once with a black one, for a mean image
            spares=vectors[2:],
            unit_words=group[[0, 0]],
            spare_words=group[1:],
            images=Images(np.stack([image.ravel(), np.zeros(image.size)]).astype(float), np.arange(2)),
        )
        for statistic in SPARED:
            found[statistic].append(float(p_values(*scores(made, statistic))[0]))
    return found


def check_uniform(p: list[float], alternative: str = "two-sided") -> None:
    """p is uniform on 1/(M+1) .. 1, so with its steps spread out it is uniform on 0 .. 1."""
    assert len(p) >= 1000
    spread = np.array(p) - np.random.default_rng(0).random(len(p)) / (1 + SPARES)
    assert kstest(spread, "uniform", alternative=alternative).pvalue > UNTIL, np.quantile(
        p, [0.05, 0.25, 0.5, 0.75, 0.95]
    )


def test_units_without_data_have_uniform_p_values() -> None:
    """Other codes, dummies, spares and samples each time: p-values that share none of them are independent."""
    units, real, dummies = Units.digits(16, size=8), 12, 4
    pixels = np.moveaxis(units.images, -1, 1)
    pooled: dict[str, list[float]] = {statistic: [] for statistic in SPARED}
    for number in range(252):
        code = Code.balanced(units=real + dummies, components=9, seed=number, weight=4)
        splits = [[row for row in code.split(i) if row < real] for i in range(code.components)]
        assert all(splits)
        spares = code.spares(dummies * SPARES, seed=number).reshape(dummies, SPARES, -1)
        words = np.concatenate([code.matrix[real:, None], spares], axis=1)
        denoisers = [IdealDenoiser(torch.tensor(pixels[split]), Schedule()) for split in splits]
        found = null_p_values(denoisers, words, pixels[real:], range(dummies * number, dummies * (number + 1)), steps=5)
        for statistic, values in found.items():
            pooled[statistic] += values
    for values in pooled.values():
        check_uniform(values)


@pytest.mark.slow
def test_units_without_data_have_uniform_p_values_in_a_trained_ensemble() -> None:
    """The components are trained once; as dummies are in no split, any unused word may be one's, another each time."""
    units, real, count = Units.digits(128, size=8), 16, 1000
    pixels, random = np.moveaxis(units.images, -1, 1), np.random.default_rng(0)
    code = Code.balanced(units=real, components=9, seed=0, weight=4)
    denoisers = [fitted(pixels[code.split(i)], i) for i in range(code.components)]
    unused = code.spares(code.spare_capacity)
    words = np.stack([unused[random.permutation(len(unused))[: 1 + SPARES]] for _ in range(count)])
    for values in null_p_values(denoisers, words, pixels[random.integers(real, 128, count)], range(count), 6).values():
        check_uniform(values, "greater")  # p is never too small; ties may make it larger


def fitted(pixels: np.ndarray, component: int) -> torch.nn.Module:
    """A little UNet, some steps into its training on these pictures."""
    net = build(UNetConfig(channels=(8, 8), norm_groups=4), SHAPE, component)
    x0, abar = torch.tensor(pixels).float() / 127.5 - 1, Schedule().alphas_cumprod()
    optimiser, random = torch.optim.Adam(net.parameters(), lr=4e-3), torch.Generator().manual_seed(component)
    for _ in range(60):
        t = torch.randint(0, 1000, (len(x0),), generator=random)
        noise = torch.randn(x0.shape, generator=random)
        a = abar[t].float().view(-1, 1, 1, 1)
        loss = (net(a.sqrt() * x0 + (1 - a).sqrt() * noise, t) - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()
