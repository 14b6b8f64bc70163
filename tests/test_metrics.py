"""Metrics on cases whose answer is known by hand, and against SciPy and brute force over all orders of ties."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from ablatable.attribution import metrics
from ablatable.attribution.metrics import FalseAttribution


def arr(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=float)


def test_false_attribution_as_published() -> None:
    """MNIST 256: 0 of 100 and 52 of 100. MNIST 8192: 69 and 71."""
    first, last = np.arange(100) < 0, np.arange(100) < 52
    memorised = FalseAttribution(first, last)
    assert memorised.counts == (0, 52, 100) and memorised.rate().value == 0
    assert 0.03 < memorised.rate().high < 0.06  # p below 0.03 (rule of three) over q about 0.52
    few = FalseAttribution(np.zeros(12, bool), np.arange(12) < 5).rate()
    assert few.value == 0 == few.low and 0.3 < few.high < 0.7
    many = FalseAttribution(np.arange(100) < 69, np.arange(100) < 71)
    assert many.rate().value == pytest.approx(69 / 71) and many.rate().chance == 1
    assert many.rate().low < 69 / 71 <= many.rate().high <= 1
    more = FalseAttribution(np.array([True, True, False]), np.array([True, False, False]))
    assert more.rate().value == 1  # never above
    assert np.isnan(FalseAttribution(np.zeros(3, bool), np.zeros(3, bool)).rate().value)


def test_rank_correlation() -> None:
    truth = arr([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4], [5, 5, 5, 5], [1, 2, 3, 4])
    scores = arr([10, 20, 30, 99], [4, 3, 2, 1], [7, 7, 7, 7], [1, 2, 3, 4], [2, 1, 4, 3])
    found = metrics.informed_correlation(scores, truth)
    np.testing.assert_allclose(found[[0, 1, 2, 4]], [1, -1, 0, 0.6])  # 1 - 6 * 4 / (4 * 15)
    assert np.isnan(found[3])


def test_rank_correlation_as_scipy_with_ties() -> None:
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 6, (20, 15)).astype(float), rng.normal(size=(20, 15)).round(1)
    expected = [stats.spearmanr(a, b).statistic for a, b in zip(scores, truth, strict=True)]
    np.testing.assert_allclose(metrics.informed_correlation(scores, truth), expected)


def test_precision() -> None:
    relevant = np.array([[True, False, True, False, False]])
    assert metrics.precision(arr([9, 1, 8, 2, 3]), relevant, 1) == 1
    assert metrics.precision(arr([9, 1, 8, 2, 3]), relevant, 2) == 1
    assert metrics.precision(arr([9, 1, 8, 2, 3]), relevant, 4) == 0.5
    assert metrics.precision(arr([1, 9, 2, 3, 4]), relevant, 1) == 0
    assert metrics.precision(arr([0, 0, 0, 0, 0]), relevant, 3) == pytest.approx(0.4)  # says nothing: chance
    assert np.isnan(metrics.precision(arr([1, 2, 3]), np.zeros((1, 3), bool), 1))


def test_discounted_gain() -> None:
    gains = arr([3, 0, 1])
    best = 3 + 1 / np.log2(3)
    for scores, gained in (([3, 1, 2], best), ([1, 3, 2], 1 / np.log2(3) + 3 / 2), ([1, 2, 3], 1 + 3 / 2)):
        assert metrics.discounted_gain(arr(scores), gains)[0] == pytest.approx(gained / best)
    assert metrics.discounted_gain(arr([1, 3, 2]), gains, k=1)[0] == 0
    by_chance = np.mean([metrics.discounted_gain(arr(list(p)), gains)[0] for p in permutations([1, 2, 3])])
    assert metrics.discounted_gain(arr([1, 2, 3]), gains)[1] == pytest.approx(by_chance)
    assert np.isnan(metrics.discounted_gain(arr([1, 2, 3]), arr([0, 0, 0]))[0])


def test_removal_area() -> None:
    effect = arr([6, 0, 3])
    # best 6, 3, 0: curve 6, 4.5, 3, mean 4.5; worst 0, 3, 6: 0, 1.5, 3, mean 1.5; this one 3, 6, 0: 3, 4.5, 3, mean 3.5
    assert metrics.removal_area(arr([2, 1, 3]), effect)[0] == pytest.approx((3.5 - 1.5) / 3)
    assert metrics.removal_area(arr([9, 0, 5]), effect)[0] == 1
    assert metrics.removal_area(arr([0, 9, 5]), effect)[0] == 0
    value, chance = metrics.removal_area(arr([1, 1, 1]), effect)
    assert value == chance == pytest.approx(0.5)
    assert np.isnan(metrics.removal_area(arr([1, 2, 3]), arr([4, 4, 4]))[0])


def test_ties_are_the_mean_over_all_orders() -> None:
    scores, gains = arr([2, 1, 2, 1, 3, 2]), arr([0.5, 4, 1, 0, 2, 3])
    relevant = gains > 0.9
    broken = [scores + 1e-3 * np.array(p) for p in permutations(range(6))]
    for metric in (
        lambda s: metrics.precision(s, relevant, 3)[0],
        lambda s: metrics.discounted_gain(s, gains)[0][0],
        lambda s: metrics.removal_area(s, gains)[0][0],
    ):
        assert metric(scores) == pytest.approx(np.mean([metric(s) for s in broken]))


def test_linear_datamodelling() -> None:
    """Three components; units a, b, c are in components 0, 1, 2 alone; sets of two of them."""
    presence = arr([0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5])
    outcome = arr([3, 2, 1])  # like the sample with a and b, unlike with b and c: a matters most, then b
    assert metrics.linear_datamodelling(arr([5, 3, 1]), presence, outcome) == 1
    assert metrics.linear_datamodelling(arr([1, 3, 5]), presence, outcome) == -1
    assert metrics.linear_datamodelling(arr([5, 1, 3]), presence, outcome) == pytest.approx(0.5)
    assert metrics.linear_datamodelling(arr([2, 2, 2]), presence, outcome) == 0
    shifted = metrics.linear_datamodelling(arr([-95, -97, -99]), presence, outcome)
    assert shifted == 1  # every set has as much, so a constant changes nothing


def test_estimate() -> None:
    found = metrics.estimate(np.array([1.0, 3.0, np.nan]), np.array([0.0, 1.0, 99.0]))
    assert (found.value, found.chance, found.samples) == (2, 0.5, 2) and (found.low, found.high) == (1, 3)
    nothing = metrics.estimate(np.array([np.nan]), 0)
    assert nothing.samples == 0 and nothing.as_dict()["value"] is None


def test_the_interval_covers_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(1), 0
    for k in range(400):
        found = metrics.estimate(rng.normal(5, 2, 60), 0, name=str(k))
        covered += found.low <= 5 <= found.high
    assert 367 <= covered <= 390  # binomial: 380 +- 4.4 at 95 %, 360 +- 6 at 90 %, which would be another interval


def test_intervals_are_the_same_every_time() -> None:
    values = np.random.default_rng(2).normal(size=30)
    assert metrics.estimate(values, 0) == metrics.estimate(values, 0)


def test_scores_that_know_nothing_get_the_chance_level() -> None:
    rng = np.random.default_rng(3)
    effect, scores = rng.exponential(size=(2000, 12)), rng.random((2000, 12))
    relevant = effect > 1.5
    checks = [
        (metrics.informed_correlation(scores, effect), 0.0),
        (metrics.precision(scores, relevant, 4), relevant.mean(axis=1)),
        metrics.discounted_gain(scores, effect),
        metrics.removal_area(scores, effect),
    ]
    for values, chance in checks:
        found = metrics.estimate(values, chance)
        spread = np.nanstd(values) / np.sqrt(found.samples)
        assert abs(found.value - found.chance) < 5 * spread
