"""Randomisation p-values for codewords: counted as by hand, whichever way it is done, and uniform under the null."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, kstest

from ablatable.analysis import exchangeable
from ablatable.analysis.counting import all_words, count_by_halves, count_listed, count_one_by_halves
from ablatable.analysis.exchangeable import Reference, standardised
from ablatable.codes.code import Code


def by_hand(code: Code, row: int, evidence: np.ndarray) -> tuple[int, int, int]:
    """Above, equal (its own among them) and all words of the unit's reference set, listed as sets of components."""
    others = {frozenset(np.flatnonzero(word)) for k, word in enumerate(code.matrix) if k != row}
    mine = frozenset(np.flatnonzero(code.matrix[row]))
    words = [set_ for c in combinations(range(code.components), len(mine)) if (set_ := frozenset(c)) not in others]
    score = sum(evidence[i] for i in mine)
    scores = [sum(evidence[i] for i in word) for word in words]
    return sum(s > score + 1e-9 for s in scores), sum(abs(s - score) <= 1e-9 for s in scores), len(words)


@pytest.mark.parametrize("few", [10**6, 0], ids=["listed", "by halves"])
@pytest.mark.parametrize("components, weight, units", [(6, 3, 11), (7, 2, 5), (9, 6, 30)])
def test_p_values_by_listing_all_words(
    few: int, components: int, weight: int, units: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchangeable, "FEW_WORDS", few)
    code, random = Code.random(units, components, 5, weight=weight), np.random.default_rng(0)
    evidence = np.hstack([random.normal(size=(components, units)), random.integers(0, 3, (components, units))])
    rows = np.tile(np.arange(units), 2)
    p = Reference(code).p_values(evidence, rows, ("test",))
    for test, row in enumerate(rows):
        if (code.matrix[row] & (code.matrix.sum(axis=0) == 1)).any():
            assert p[test] == 1  # it is the only one of a component
            continue
        above, equal, size = by_hand(code, row, evidence[:, test])
        rank = round(p[test] * size)
        assert abs(p[test] * size - rank) < 1e-9 and above < rank <= above + equal
        assert test >= units or rank == above + 1  # no ties among normal numbers


@given(st.lists(st.integers(-4, 4), min_size=2, max_size=12), st.integers(0, 12), st.integers(-20, 20))
def test_counting_by_halves(values: list[int], weight: int, threshold: int) -> None:
    weight = min(weight, len(values))
    sums = [sum(chosen) for chosen in combinations(values, weight)]
    found = count_one_by_halves(np.array(values, float), weight, threshold, 0.5)
    assert found == (sum(s > threshold for s in sums), sum(s == threshold for s in sums))


KINDS = {  # whole numbers, whose sums are exact in Python; many sums differ by less than float32 can tell
    "apart": lambda random, shape: random.integers(-(2**40), 2**40, shape),
    "ties": lambda random, shape: random.integers(-2, 3, shape),
    "near": lambda random, shape: random.integers(-2, 3, shape) * 2**26 + random.integers(-4, 5, shape),
    "far from zero": lambda random, shape: 2**28 + random.integers(-40, 40, shape),
    "one says it all": lambda random, shape: (
        random.integers(-3, 4, shape) + 2**27 * (np.arange(shape[0]) == 1)[:, None]
    ),
    "silent": lambda random, shape: np.full(shape, 7),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("design", [Code.random, Code.balanced])
@pytest.mark.parametrize("components, weight, units", [(5, 2, 9), (10, 5, 230), (11, 3, 160), (9, 8, 9)])
def test_counts_are_those_of_whole_numbers(design, components: int, weight: int, units: int, kind: str) -> None:
    code, random = design(units, components, 3, weight=weight), np.random.default_rng(weight)
    evidence = KINDS[kind](random, (components, units))
    values, rows = evidence.T.tolist(), [np.flatnonzero(word).tolist() for word in code.matrix]
    everything = list(combinations(range(components), weight))

    def expected(words) -> np.ndarray:
        """Above and equal, (tests, 2)."""
        counts = []
        for said, mine in zip(values, rows, strict=True):
            own, scores = sum(said[i] for i in mine), [sum(said[i] for i in word) for word in words]
            counts.append((sum(score > own for score in scores), scores.count(own)))
        return np.array(counts)

    given = evidence.astype(float)
    own = np.array([sum(said[i] for i in mine) for said, mine in zip(values, rows, strict=True)], float)
    slack = np.full(units, 0.5)
    np.testing.assert_array_equal(np.array(count_listed(code.matrix, given, own, slack)).T, expected(rows))
    found = np.array(count_by_halves(code.matrix, given, own, slack)).T
    np.testing.assert_array_equal(found, expected(everything))
    np.testing.assert_array_equal(np.array(count_listed(all_words(components, weight), given, own, slack)).T, found)


def test_counts_of_many_tests_are_those_of_each() -> None:
    """More tests and words than are looked at together."""
    code, random = Code.random(3000, 15, 0), np.random.default_rng(0)
    evidence = np.where(np.arange(3000) % 3 == 0, random.integers(-2, 3, (15, 3000)), random.normal(size=(15, 3000)))
    own, slack = np.einsum("tn,nt->t", code.matrix * 1.0, evidence), np.full(3000, 1e-9)
    scores = code.matrix[:, None] * 1.0 @ evidence.T[::97].T  # (words, 1, tests)
    gap = scores[:, 0] - own[::97]
    above, equal = count_listed(code.matrix, evidence, own, slack)
    np.testing.assert_array_equal(above[::97], (gap > 1e-9).sum(axis=0))
    np.testing.assert_array_equal(equal[::97], (abs(gap) <= 1e-9).sum(axis=0))
    single = [count_one_by_halves(evidence[:, k], 7, own[k], 1e-9) for k in range(0, 3000, 97)]
    np.testing.assert_array_equal(np.array(count_by_halves(code.matrix, evidence, own, slack)).T[::97], single)


def test_drawn_p_values_agree_with_counted_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    code, random = Code.random(200, 12, 1, weight=5), np.random.default_rng(1)
    evidence = random.normal(size=(12, 200))
    evidence[:, :40] += 1.2 * code.matrix[:40].T
    exact = Reference(code).p_values(evidence, np.arange(200), ("a",))
    monkeypatch.setattr(exchangeable, "FEW_WORDS", 0)
    monkeypatch.setattr(exchangeable, "MIDDLE_COMPONENTS", 0)
    drawn = Reference(code).p_values(evidence, np.arange(200), ("a",))
    error = np.sqrt(exact * (1 - exact) / np.minimum(100_000, 20 / exact))
    assert (exact < 0.01).sum() >= 10 and (np.abs(drawn - exact) < 5 * error + 0.002).all()


def test_ties_are_broken_at_random_and_by_the_key_alone() -> None:
    """Components that say nothing: the p-value is uniform, and the same every time it is asked for."""
    code = Code.random(30, 8, 0)
    silent = np.zeros((8, 30))
    p = np.concatenate([Reference(code).p_values(silent, np.arange(30), ("ties", k)) for k in range(60)])
    assert kstest(p - np.random.default_rng(0).random(len(p)) / 41, "uniform").pvalue > 1e-3  # C(8, 4) - 30 + 1 = 41
    again = Reference(code).p_values(silent, np.arange(30)[::-1], ("ties", 59))
    np.testing.assert_array_equal(again[::-1], p[-30:])


def test_a_unit_without_an_alternative_has_p_one() -> None:
    full = Code.random(20, 6, 0)
    p = Reference(full).p_values(np.random.default_rng(0).normal(size=(6, 20)), np.arange(20), ())
    assert (p == 1).all()


def test_standardised_over_all_words() -> None:
    evidence = np.random.default_rng(0).normal(size=(7, 1)) + 5
    words = all_words(7, 3)
    assert len(words) == 35 and (words.sum(axis=1) == 3).all() and len(np.unique(words, axis=0)) == 35
    z = standardised(words, np.repeat(evidence, 35, axis=1))
    np.testing.assert_allclose([z.mean(), z.std()], [0, 1], atol=1e-12)
    assert (standardised(words[:2], np.full((7, 2), 0.1)) == 0).all()


# --- the design: is a unit's word one of its reference set like any other? --------------------------------------------

SIZE_CODES = 400


def sizes(design, codes: int, level: float = 0.05) -> int:
    """How often a unit without influence reaches p <= level, over so many codes.

    Its near-duplicate has influence, and so have components: those with larger splits say more of everything. Twelve
    components of weight 3; the scores depend on the code through all rows but the tested unit's.
    """
    hits = 0
    for number in range(codes):
        code = design(number)
        random = np.random.default_rng(number)
        effect = random.exponential(size=code.units)
        effect[0] = 0  # the tested unit does nothing, and unit 1 is nearly the same image
        likeness = random.normal(size=code.units) / 4
        likeness[1] = 1
        others = code.matrix[1:].T.astype(float)
        evidence = others @ (effect * likeness)[1:] + 0.1 * others.sum(axis=1) + 0.05 * random.normal(size=12)
        hits += int(Reference(code).p_values(evidence[:, None], np.array([0]), (number,))[0] <= level)
    return hits


def test_size_under_random_codes() -> None:
    """Conditional on all other rows the p-value is uniform, so its size is exact whatever the others do."""
    hits = sizes(lambda seed: Code.random(60, 12, seed, weight=3), SIZE_CODES)
    assert binomtest(hits, SIZE_CODES, 0.05, alternative="greater").pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.05, 0.01])
@pytest.mark.parametrize("units, weight", [(60, 3), (200, 3), (60, 2), (300, 6)])
def test_size_under_random_codes_in_full(units: int, weight: int, level: float) -> None:
    hits = sizes(lambda seed: Code.random(units, 12, seed, weight=weight), 4000, level)
    assert binomtest(hits, 4000, level, alternative="greater").pvalue > 1e-3


def test_a_unit_that_a_component_has_alone_was_not_free() -> None:
    code = Code.from_words(["1100", "0110", "0101"])
    p = Reference(code).p_values(np.random.default_rng(0).normal(size=(4, 3)), np.arange(3), ())
    assert p[0] == p[1] == p[2] == 1  # components 0, 2 and 3
