"""Plans of small codes against enumeration of every set of units, and of large ones against sampling's error."""

from __future__ import annotations

import json
import re
from collections import Counter
from fractions import Fraction
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ablatable.codes.survival as survival_module
from ablatable.codes.code import Code
from ablatable.codes.plan_table import SURVIVOR_HEADER, Plan
from ablatable.codes.planning import designed, plan, recommended_components
from ablatable.errors import CodeError, SettingsError


def survivors_by_enumeration(code: Code, removals: int) -> Counter[int]:
    """How many sets of `removals` units leave each number of components."""
    trained = [set(np.flatnonzero(row).tolist()) for row in code.matrix]
    return Counter(
        code.components - len(set().union(*(trained[unit] for unit in units)))
        for units in combinations(range(code.units), removals)
    )


@st.composite
def small_codes(draw, most_units=10):
    """(units, components, weight, seed) of a balanced code small enough to enumerate."""
    n = draw(st.integers(2, 7))
    w = draw(st.integers(1, n - 1))
    return draw(st.integers(1, min(most_units, comb(n, w)))), n, w, draw(st.integers(0, 10**6))


@pytest.fixture
def searched(monkeypatch):
    """Treats every code as too large for the exact way."""
    monkeypatch.setattr(survival_module, "EXACT_COMPONENTS", 0)


# --- survivors ---------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(small_codes())
def test_exact_survivors_equal_enumeration(arguments):
    units, n, w, seed = arguments
    made = plan(units, n, w, seed=seed, removals=units)
    code = designed(units, n, w, seed=seed)
    none = {}
    assert [row.removals for row in made.survival] == list(range(1, units + 1))
    for row in made.survival:
        counts = survivors_by_enumeration(code, row.removals)
        total = comb(units, row.removals)
        mean = Fraction(sum(k * times for k, times in counts.items()), total)
        none[row.removals] = Fraction(counts[0], total)
        assert row.mean == pytest.approx(float(mean), rel=1e-12)
        assert (row.worst, row.worst_is) == (min(counts), "exact")
        assert row.none == pytest.approx(float(none[row.removals]), rel=1e-12, abs=0)
        assert (row.none_is, row.draws) == ("exact", 0)
    assert made.budget == max(r for r in (0, *none) if r == 0 or none[r] == 0)
    assert made.risky_removals == next((r for r, p in none.items() if p > Fraction(1, 100)), None)
    assert (made.budget_is, made.risky_is) == ("exact", "exact")


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_moments_of_any_code_equal_enumeration(data):
    """Shared words, dummies and mixed weights included, which no balanced code has."""
    n = data.draw(st.integers(2, 5))
    word = st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda bits: not all(bits))
    code = Code(data.draw(st.lists(word, min_size=1, max_size=7)), allow_dummy=True)
    exact = survival_module.Exact(code)
    for removals in range(1, code.units + 1):
        counts = survivors_by_enumeration(code, removals)
        assert [exact.leaving(removals, k) for k in range(n + 1)] == [counts[k] for k in range(n + 1)]


def test_two_complements_by_hand():
    # all six words of 4 components: 3 of the 15 pairs are complements; each component misses 3 words
    made = plan(6, 4, removals=6)
    assert [row.worst for row in made.survival] == [2, 0, 0, 0, 0, 0]
    assert made.survival[1].none == pytest.approx(3 / 15)
    # of the 20 triples, those without a component (one of 4) are its three words: 4 triples leave one
    assert made.survival[2].none == pytest.approx(16 / 20)
    assert made.survival[2].mean == pytest.approx(4 / 20)
    assert [row.none for row in made.survival[3:]] == [1, 1, 1]
    assert (made.budget, made.risky_removals) == (1, 2)


def test_one_component_a_unit_by_hand():
    # weight 1, as many units as components: r removals leave exactly n - r
    made = plan(12, 12, 1, removals=12)
    assert [row.worst for row in made.survival] == list(range(11, -1, -1))
    assert [row.mean for row in made.survival] == pytest.approx(list(range(11, -1, -1)))
    assert [row.none for row in made.survival] == [0] * 11 + [1]
    assert (made.budget, made.risky_removals) == (11, 12)


def test_components_without_units_outlive_everything():
    for n in (8, 30):  # exact, and beyond the exact way
        made = plan(1, n)
        assert made.split_min == 0
        assert (made.budget, made.risky_removals, made.survival[0].none) == (1, None, 0)
        assert (made.budget_is, made.risky_is, made.survival[0].none_is) == ("exact", "exact", "exact")
        assert any(f"{n - n // 2} components would have nothing to train on" in s for s in made.recommendation)


def test_the_papers_size_is_exact_against_pairs_and_sampling():
    made = plan(3000, 22)
    code = designed(3000, 22)
    pairs = Counter()
    ints = np.array([int(word, 2) for word in code.words()])
    for row, word in enumerate(ints):
        joined = np.bitwise_or(ints[row + 1 :], word)
        pairs.update(22 - sum((joined >> bit) & 1 for bit in range(22)))
    total = comb(3000, 2)
    second = made.survival[1]
    assert second.worst == min(pairs)
    assert second.none == pytest.approx(pairs[0] / total, rel=1e-9, abs=0)
    assert second.mean == pytest.approx(sum(k * times for k, times in pairs.items()) / total, rel=1e-9)
    rng = np.random.default_rng(0)
    for row in made.survival[2:]:
        left = np.array([code.survivors(rng.choice(3000, row.removals, False)).sum() for _ in range(3000)])
        error = 4 * np.sqrt(row.none * (1 - row.none) / 3000) + 1e-3
        assert abs((left == 0).mean() - row.none) < error
        assert abs(left.mean() - row.mean) < 4 * left.std() / np.sqrt(3000)


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_searched_survivors_are_bounded_by_enumeration(data):
    """What is labelled exact is; a greedy worst case is never below the true one; draws are within their error."""
    units, n, w, seed = data.draw(small_codes(most_units=9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survival_module, "EXACT_COMPONENTS", 0)
        patch.setattr(survival_module, "DRAWS", 2000)
        patch.setattr(survival_module, "_STARTS", data.draw(st.sampled_from([1, 64])))
        patch.setattr(survival_module, "_PAIRS", data.draw(st.sampled_from([0, 2**28])))
        made = plan(units, n, w, seed=seed, removals=units)
    code = designed(units, n, w, seed=seed)
    none = {}
    for row in made.survival:
        counts = survivors_by_enumeration(code, row.removals)
        total = comb(units, row.removals)
        true = none[row.removals] = counts[0] / total
        assert row.mean == pytest.approx(sum(k * times for k, times in counts.items()) / total)
        assert row.worst == min(counts) if row.worst_is == "exact" else row.worst > min(counts) - 1
        if row.none_is == "exact":
            assert row.none == pytest.approx(true, abs=1e-12)
        else:
            assert row.draws == 2000
            assert abs(row.none - true) <= 6 * np.sqrt(true * (1 - true) / row.draws) + 1e-9
    budget = max(r for r in (0, *none) if r == 0 or none[r] == 0)
    assert made.budget == budget if made.budget_is == "exact" else made.budget >= budget
    if made.risky_removals is None:
        assert none[units] == 0
    else:  # the draws may miss a probability close to the threshold, not one far from it
        assert none[made.risky_removals] > 0.003
        assert made.risky_removals == 1 or none[made.risky_removals - 1] < 0.03


@pytest.mark.usefixtures("searched")
def test_the_worst_pair_is_exact_where_greedy_would_miss_it(monkeypatch):
    # started from row 0 alone, greedy cannot find the two complements in rows 2 and 4
    words = ["111000", "110100", "110010", "101100", "001101"]
    monkeypatch.setattr(survival_module, "_STARTS", 1)
    code = Code.from_words(words)
    assert survivors_by_enumeration(code, 2)[0] == 1
    paired = survival_module.Sampled(code, 0)
    assert paired.worst(2) == (0, "exact")
    assert paired.budget() == (1, "exact")
    monkeypatch.setattr(survival_module, "_PAIRS", 0)
    alone = survival_module.Sampled(code, 0)
    assert alone.worst(2) == (1, "greedy")
    assert alone.budget() == (2, "greedy")


def test_beyond_the_exact_way_draws_are_stated_and_agree_with_it(monkeypatch):
    exact = plan(200, 12)
    monkeypatch.setattr(survival_module, "EXACT_COMPONENTS", 11)
    drawn = plan(200, 12)
    drawn_rows = [row for row in drawn.survival if row.none_is == "monte carlo"]
    assert len(drawn_rows) >= 3 and {row.draws for row in drawn_rows} == {20_000}
    for one, other in zip(exact.survival, drawn.survival, strict=True):
        assert other.mean == one.mean
        assert other.worst >= one.worst
        assert abs(other.none - one.none) <= 4 * np.sqrt(one.none * (1 - one.none) / 20_000)
    assert drawn.risky_removals == exact.risky_removals
    assert drawn == plan(200, 12)  # a function of its arguments


def test_many_components_work():
    made = plan(2000, 64)
    pairs = designed(2000, 64).matrix.astype(int)
    shared = (1 - pairs) @ (1 - pairs).T
    assert (made.survival[1].worst, made.survival[1].worst_is) == (shared[np.triu_indices(2000, 1)].min(), "exact")
    assert made.capacity == comb(64, 32)
    assert made.spares == comb(64, 32) - 2000


@given(st.integers(1, 200), st.integers(1, 300))
def test_first_is_the_first(threshold, most):
    expected = threshold if threshold <= most else None
    assert survival_module._first(lambda r: r >= threshold, most) == expected


def test_the_risk_is_one_percent():
    seen = []
    for units, n in [(48, 8), (60, 8), (30, 8), (20, 9), (60, 10), (40, 11), (60, 12)]:
        made = plan(units, n)
        assert made.risky_removals is not None
        code = designed(units, n)
        at, before = (
            survivors_by_enumeration(code, r)[0] / comb(units, r)
            for r in (made.risky_removals, made.risky_removals - 1)
        )
        assert before <= 0.01 < at
        seen += [at, before]
    assert any(0.005 < p <= 0.01 for p in seen) and any(0.01 < p < 0.02 for p in seen)


# --- numbers ---------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(small_codes(), st.integers(1, 5000), st.integers(1, 256))
def test_numbers_of_the_code_and_costs(arguments, steps, batch):
    units, n, w, seed = arguments
    made = plan(units, n, w, seed=seed, steps=steps, batch=batch)
    code = designed(units, n, w, seed=seed)
    sizes = [len(code.split(i)) for i in range(n)]
    assert (made.units, made.components, made.weight, made.seed) == (units, n, w, seed)
    assert (made.split_min, made.split_max) == (min(sizes), max(sizes))
    assert made.split_mean == pytest.approx(np.mean(sizes))
    assert made.capacity == sum(1 for _ in combinations(range(n), w))
    assert made.spares == made.capacity - len({tuple(row) for row in code.matrix.tolist()})
    assert made.distinct_ablations == units
    # forward passes of a step, counted one by one
    assert made.training_cost == made.factual_cost == n
    survivors = [int(code.survivors(unit).sum()) for unit in range(units)]
    assert made.counterfactual_cost == pytest.approx(survivors[0] / n)
    assert made.universe_cost == pytest.approx((n + sum(survivors)) / n)
    # all images drawn in training, shared among the units
    assert made.exposures_per_unit == pytest.approx(n * steps * batch / units)
    assert made.passes_per_split == pytest.approx(steps * batch / np.mean(sizes))
    assert plan(units, n, w, seed=seed).exposures_per_unit is None


@given(st.integers(1, 40_000))
def test_recommended_components_leave_a_spare_for_every_unit(units):
    n = recommended_components(units)
    assert n >= 8 and comb(n, n // 2) >= 2 * units
    assert n == 8 or comb(n - 1, (n - 1) // 2) < 2 * units


def test_recommendation_is_used_when_components_are_not_given():
    made = plan(100)
    assert (made.components, made.weight) == (10, 5)  # C(9, 4) = 126 < 200 <= C(10, 5) = 252
    assert made.recommendation[0].startswith("10 components are the fewest, from 8 up,")
    assert "252 codewords of weight 5 for 100 units" in made.recommendation[0]
    heavy = plan(100, weight=2)
    assert (heavy.components, heavy.weight) == (21, 2)  # C(20, 2) = 190 < 200 <= C(21, 2) = 210
    assert plan(35).components == 8 and plan(36).components == 9  # C(8, 4) = 70


# --- sentences and tables ------------------------------------------------------------------------------------


def sentences_with(made: Plan, text: str) -> list[str]:
    return [sentence for sentence in made.recommendation if text in sentence]


def test_few_spares_are_called_weak_calibration():
    made = plan(48, 8)
    (sentence,) = sentences_with(made, "Calibration is weak")
    assert "48 units leave 22 spare codewords" in sentence  # 70 - 48
    assert "9 components at weight 4 would leave 78" in sentence  # 126 - 48
    assert not sentences_with(plan(35, 8), "Calibration")
    assert "69 units leave 1 spare codeword," in sentences_with(plan(69, 8), "Calibration")[0]
    full = sentences_with(plan(28, 8, 2), "Calibration")[0]
    assert "28 units leave 0 spare codewords" in full
    assert "12 components at weight 2 would leave 38" in full  # C(11, 2) = 55 < 56 <= C(12, 2) = 66


def test_what_marking_one_unit_takes():
    """With M spares a lone unit's q is units / (1 + M) at least: 32 of them need 319 for 0.1."""
    made = plan(32, 8)
    assert made.marking == 319 and 32 / 320 <= 0.1 < 32 / 319
    (sentence,) = sentences_with(made, "can be marked")
    assert "32 units" in sentence and "takes 319 spare codewords, and this code has 38;" in sentence  # 70 - 32
    assert "11 components at weight 5 have them, at 138% of the training cost" in sentence
    assert comb(11, 5) >= 32 + 319 > comb(10, 5) and made.rows()[4] == (
        "spares to mark a unit",
        "319, more than the code has",
    )
    enough = plan(32, 11)
    assert not sentences_with(enough, "can be marked") and enough.spares == comb(11, 5) - 32
    assert dict(enough.rows())["spares to mark a unit"] == "319, which the code has"
    (light,) = sentences_with(plan(32, 12, 3), "can be marked")  # C(12, 3) = 220, C(14, 3) = 364
    assert "14 components at weight 3 have them" in light and comb(14, 3) >= 351 > comb(13, 3)


def test_small_splits_are_called_small():
    (sentence,) = sentences_with(plan(10, 8), "Splits are small")
    smallest = min(len(designed(10, 8).split(i)) for i in range(8))
    assert f"the smallest holds {smallest} units" in sentence and "16 units would give each 8" in sentence
    assert sentences_with(plan(15, 8), "Splits are small")
    assert not sentences_with(plan(40, 8), "Splits are small")


def test_two_removals_that_leave_nothing_are_announced():
    (sentence,) = sentences_with(plan(6, 4), "two units can leave no component")
    assert "20.00%" in sentence
    assert sentences_with(plan(6, 4, removals=1), "two units can leave no component")
    odd = plan(20, 9)  # two words of weight 4 cannot cover 9 components
    assert odd.budget >= 2
    assert not sentences_with(odd, "two units can leave no component")


def test_a_lower_weight_is_compared_by_its_numbers():
    (sentence,) = sentences_with(plan(20, 8, 4), "Weight 2 ")
    splits = 20 * 2 // 8
    for weight in (2, 4):
        code = Code.balanced(20, 8, weight=weight)
        mean = np.mean([code.survivors(pair).sum() for pair in combinations(range(20), 2)])
        assert f"{mean:.1f}" in sentence
    assert f"splits of {splits} instead of 10 units" in sentence
    assert "8 instead of 50 spare codewords" in sentence  # 28 - 20, 70 - 20
    (sentence,) = sentences_with(plan(48, 8, 4), "Weight 2 has only 28 codewords for 48 units")
    code = Code.balanced(48, 11, weight=2)
    mean = np.mean([code.survivors(pair).sum() for pair in combinations(range(48), 2)])
    assert f"with 11 components it has 55 and would keep {mean:.1f} " in sentence
    assert not sentences_with(plan(20, 8, 2), "Weight")
    assert sentences_with(plan(100, 21), "Weight 5 ")
    assert sentences_with(plan(3, 3, 2), "Weight 1 ")


def test_more_components_than_needed_and_the_papers_choice():
    (sentence,) = sentences_with(plan(100, 20), "would already")
    assert "10 components at weight 5" in sentence and "252 codewords" in sentence and "50% of" in sentence
    (sentence,) = sentences_with(plan(8192), "The paper's")
    assert "22 components: 705,432 codewords, at 129% of the training cost of 17" in sentence
    assert not sentences_with(plan(8191), "The paper's")
    assert not sentences_with(plan(8192, 22), "The paper's")


@pytest.mark.parametrize(
    "arguments",
    [
        {"units": 1},
        {"units": 5, "components": 4},
        {"units": 48, "components": 8, "steps": 2000, "batch": 32},
        {"units": 300, "weight": 1},
        {"units": 50, "components": 30, "steps": 10**9, "batch": 10**6},
        {"units": 50, "components": 300},
        {"units": 400, "components": 40, "weight": 13},
        {"units": 8192, "removals": 7},
    ],
)
def test_tables_fit_and_plans_are_json(arguments):
    made = plan(**arguments)
    rows = made.rows()
    assert all(label and value for label, value in rows)
    label_width = max(len(label) for label, _ in rows)
    assert label_width <= 22
    assert all(label_width + 2 + len(value) <= 80 for _, value in rows)
    table = [SURVIVOR_HEADER, *made.survivor_rows()]
    assert len(table) == 1 + min(arguments.get("removals", 5), arguments["units"])
    assert sum(max(len(row[i]) for row in table) + 2 for i in range(4)) <= 80
    document = made.as_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["survival"][0]["worst"] == made.components - made.weight
    assert list(document["recommendation"]) == list(made.recommendation) != []
    assert not any(re.search(r"\b(nan|inf|None)\b|  ", text) for text in (*made.recommendation, *sum(rows, ())))


def test_rows_say_the_numbers():
    rows = dict(plan(48, 8, 4, steps=2000, batch=32).rows())
    assert rows["codewords"] == "70, of which 22 spare"
    sizes = [len(designed(48, 8, 4).split(i)) for i in range(8)]
    assert rows["split size"] == f"{min(sizes)} to {max(sizes)} units, mean 24"
    assert rows["a unit is seen"] == "10,667 times, 2,667 by each of 4 components"  # 64000 / 24 = 2666.7
    assert rows["one sample's universe"] == "25 x a factual sample"
    assert "a unit is seen" not in dict(plan(48, 8, 4).rows())
    assert plan(6, 4).survivor_rows()[:3] == [
        ("1", "2.00", "2 (exact)", "0"),
        ("2", "0.80", "0 (exact)", "20.00%"),
        ("3", "0.20", "0 (exact)", "80.00%"),
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"units": 0}, CodeError, "at least 1 unit, not 0"),
        ({"units": 71, "components": 8}, CodeError, "use at least 9 components"),
        ({"units": 5, "components": 1}, CodeError, "at least 2 components"),
        ({"units": 5, "components": 8, "weight": 8}, CodeError, "weight 8 is impossible"),
        ({"units": 5, "weight": 0}, CodeError, "weight"),
        ({"units": 5, "seed": -1}, CodeError, "seed"),
        ({"units": 5, "removals": 0}, SettingsError, "removals must be 1 or more, not 0"),
        ({"units": 5, "steps": 100}, SettingsError, "both steps and batch"),
        ({"units": 5, "batch": 100}, SettingsError, "both steps and batch"),
        ({"units": 5, "steps": 0, "batch": 10}, SettingsError, "must be 1 or more, not 0 and 10"),
        ({"units": 5, "steps": 10, "batch": -1}, SettingsError, "must be 1 or more"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        plan(**arguments)


def test_codes_are_random_and_older_ones_are_made_again():
    """Where a run on record has the even splits of older versions, its code is made, and only then."""
    random, balanced = Code.random(48, 8, 3), Code.balanced(48, 8, 3)
    assert random != balanced
    for recorded, wanted in ((None, random), (balanced.digest(), balanced), (random.digest(), random), ("?", random)):
        assert designed(48, 8, seed=3, recorded=recorded) == wanted
    assert designed(48, 8, seed=3).design == "random"
    assert designed(48, 8, seed=3, bear=2).design == "given"
    small = designed(2, 4, 1)  # two of four components, whichever words are drawn
    assert small == Code.balanced(2, 4, weight=1) and small.design == "given"
