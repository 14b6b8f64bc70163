"""Codes for removal: the chance of no survivor against enumeration of all words, the search by its invariants."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablatable.codes.arrangement import choose, removal_code, risk
from ablatable.codes.code import Code
from ablatable.codes.planning import plan
from ablatable.errors import CodeError


@pytest.mark.parametrize(("n", "w", "r"), [(2, 1, 2), (4, 2, 1), (4, 2, 2), (4, 2, 3), (5, 2, 3), (5, 1, 5), (4, 3, 2)])
def test_risk_is_the_share_of_all_draws(n: int, w: int, r: int) -> None:
    words = [set(ones) for ones in combinations(range(n), w)]
    draws = [set().union(*drawn) == set(range(n)) for drawn in product(words, repeat=r)]
    assert risk(n, w, r) == pytest.approx(sum(draws) / len(draws), abs=1e-15)


def small_overlaps(code: Code) -> list[int]:
    """How many pairs of rows share 0, 1, .. components."""
    rows = [set(np.flatnonzero(row).tolist()) for row in code.matrix]
    shared = [len(a & b) for a, b in combinations(rows, 2)]
    return [shared.count(k) for k in range(code.components)]


@settings(deadline=None, max_examples=8)
@given(st.data())
def test_the_search_keeps_weights_splits_and_distinct_words(data) -> None:
    n = data.draw(st.integers(4, 12))
    w = data.draw(st.integers(1, n // 2))
    words = Code.balanced(1, n, weight=w).capacity
    units, seed = data.draw(st.integers(1, min(words, 40))), data.draw(st.integers(0, 99))
    code, before = removal_code(units, n, seed, weight=w), Code.balanced(units, n, seed, weight=w)
    assert code == removal_code(units, n, seed, weight=w)
    assert code.weight == w and len(set(code.words())) == units
    assert sorted(code.split_sizes()) == sorted(before.split_sizes())
    assert sum(k * 4 ** (n - i) for i, k in enumerate(small_overlaps(code))) <= sum(
        k * 4 ** (n - i) for i, k in enumerate(small_overlaps(before))
    )


def test_complements_go() -> None:
    """The 70 words of 8 components at weight 4 are 35 pairs of complements: 30 by chance hold some, and need not."""
    assert small_overlaps(Code.balanced(30, 8))[0] > 0
    assert small_overlaps(removal_code(30, 8, weight=4))[0] == 0


def test_fewer_sets_of_removals_leave_nothing() -> None:
    def empty(code: Code, r: int) -> int:
        return sum(not code.survivors(list(rows)).any() for rows in combinations(range(code.units), r))

    for w, r in ((5, 2), (5, 3), (3, 4)):
        assert empty(removal_code(24, 10, weight=w), r) < empty(Code.balanced(24, 10, weight=w), r)


@pytest.mark.parametrize(("units", "removals"), [(48, 1), (48, 5), (100, 10), (100, 20), (1000, 3)])
def test_the_choice_is_the_heaviest_that_bears_it(units: int, removals: int) -> None:
    n, w = choose(units, removals)
    assert risk(n, w, removals) <= 0.01
    assert w == n // 2 or risk(n, w + 1, removals) > 0.01
    code = removal_code(units, n, weight=w)
    rng, none = np.random.default_rng(0), 0
    for _ in range(2000):
        none += not code.survivors(rng.choice(units, removals, replace=False)).any()
    assert none / 2000 <= 0.01 + 3 * (0.01 * 0.99 / 2000) ** 0.5


def test_what_cannot_be_borne_is_said() -> None:
    with pytest.raises(CodeError, match=r"8 components .* survive 10 removals; \d+ components at weight \d+"):
        choose(48, 10, 8)
    with pytest.raises(CodeError, match="leave nothing to train on"):
        choose(5, 5)


def test_the_plan_says_what_was_chosen() -> None:
    made = plan(48, bear=10)
    assert (made.components, made.weight) == choose(48, 10)
    assert made.risky_removals is not None and made.risky_removals > 10
    assert any("10 random removals" in sentence for sentence in made.recommendation)
    assert [row.removals for row in made.survival] == list(range(1, 11))
