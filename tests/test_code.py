"""Codes against brute force: words as sets from itertools, survivors by reading the rows one by one."""

from __future__ import annotations

import copy
import hashlib
import pickle
import subprocess
import sys
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablatable.codes.code import Code, components_for
from ablatable.codes.words import below, rank, stream, unrank, without_replacement
from ablatable.errors import AblatableError, CodeError


@st.composite
def shapes(draw, most=10):
    """(units, components, weight) of a code that exists, often nearly or quite full."""
    n = draw(st.integers(2, most))
    w = draw(st.integers(1, n - 1))
    words = comb(n, w)
    return draw(st.integers(1, words) | st.integers(max(1, words - 2), words)), n, w


@st.composite
def matrices(draw):
    """Any wrappable matrix, as a list of rows: mixed weights and duplicates included."""
    n = draw(st.integers(2, 7))
    row = st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda bits: any(bits) and not all(bits))
    return draw(st.lists(row, min_size=1, max_size=12))


def as_sets(rows) -> list[frozenset[int]]:
    return [frozenset(i for i, bit in enumerate(row) if bit) for row in rows]


# --- balanced ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(shapes(), st.integers(0, 10**6))
def test_balanced_words_are_distinct_of_one_weight_in_even_splits(shape, seed):
    units, n, w = shape
    code = Code.balanced(units, n, seed, weight=w)
    words = as_sets(code.matrix)
    assert code.matrix.dtype == bool and code.matrix.shape == (units, n)
    assert len(set(words)) == units
    assert {len(word) for word in words} == {w}
    sizes = [sum(i in word for word in words) for i in range(n)]
    assert max(sizes) - min(sizes) <= 1
    assert (code.units, code.components, code.weight, len(code)) == (units, n, w, units)
    assert code.split_sizes().tolist() == sizes
    assert [code.split(i).tolist() for i in range(n)] == [
        [row for row, word in enumerate(words) if i in word] for i in range(n)
    ]


@pytest.mark.parametrize(
    ("units", "n", "w"),
    [(1000, 64, 32), (200, 70, 60), (300, 100, 50), (40, 200, 1), (40, 66, 65), (3000, 14, 7), (3432, 14, 7)],
)
def test_balanced_large_components_and_full_codes(units, n, w):
    code = Code.balanced(units, n, seed=3, weight=w)
    assert len(set(as_sets(code.matrix))) == units
    assert (code.matrix.sum(axis=1) == w).all()
    assert np.ptp(code.matrix.sum(axis=0)) <= 1
    spares = code.spares(min(50, comb(n, w) - units), seed=3)
    assert not set(as_sets(spares)) & set(as_sets(code.matrix))
    assert len(set(as_sets(spares))) == len(spares)
    assert (spares.sum(axis=1) == w).all()


def test_default_weight_is_half_rounded_down():
    assert Code.balanced(10, 8).weight == 4
    assert Code.balanced(10, 9).weight == 4
    assert Code.balanced(2, 2).words() in (["01", "10"], ["10", "01"])
    assert Code.balanced(10, 8) == Code.balanced(10, 8, 0, weight=4)


def test_one_chance_in_four_of_each_pair_of_bits():
    """Evening the splits must not tie components together: each pair of bits agrees about as often as at random."""
    matrix = Code.balanced(4000, 16, seed=1).matrix.astype(float)
    both = matrix.T @ matrix / len(matrix)
    off = both[~np.eye(16, dtype=bool)]
    expected = 0.5 * 7 / 15  # of two different components of a random balanced word
    assert np.abs(off - expected).max() < 5 * np.sqrt(expected * (1 - expected) / len(matrix))


@settings(deadline=None, max_examples=30)
@given(shapes(), st.integers(0, 100))
def test_same_arguments_same_code_and_another_seed_another(shape, seed):
    units, n, w = shape
    assert Code.balanced(units, n, seed, weight=w).words() == Code.balanced(units, n, seed, weight=w).words()
    assert len({tuple(Code.balanced(30, 12, s).words()) for s in range(seed, seed + 5)}) == 5


def test_the_code_is_the_same_in_another_process_whatever_the_hash_seed_and_global_random_state():
    script = (
        "import random, numpy; random.seed(9); numpy.random.seed(9)\n"
        "from ablatable.codes.code import Code; c = Code.balanced(500, 13, 7); print(c.digest(), "
        "Code.from_words([''.join('01'[b] for b in r) for r in c.spares(99, 7).tolist()]).digest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1] and len(runs[0].split()) == 2


def test_code_imports_without_torch():
    script = "import sys, ablatable.codes.code, ablatable.codes.planning; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": ":".join(sys.path)}, check=True)


# --- drawing -----------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(0, 1000))
def test_without_replacement_is_a_permutation(population, seed):
    assert sorted(without_replacement(stream("test", seed), population)) == list(range(population))


def test_without_replacement_reaches_every_order_equally():
    orders: dict[tuple[int, ...], int] = {}
    for seed in range(2400):
        order = tuple(without_replacement(stream("test", seed), 4))
        orders[order] = orders.get(order, 0) + 1
    assert len(orders) == 24
    chi_squared = sum((seen - 100) ** 2 / 100 for seen in orders.values())
    assert chi_squared < 50  # 23 degrees of freedom: exceeded once in 1000


@given(st.integers(1, 2**200), st.integers(0, 50))
def test_below_stays_below(bound, seed):
    rng = stream("test", seed)
    assert all(0 <= below(rng, bound) < bound for _ in range(5))


def test_below_uses_the_whole_range_of_a_huge_bound():
    rng, bound = stream("test", 0), 3 * 2**150
    thirds = [below(rng, bound) * 3 // bound for _ in range(3000)]
    assert all(abs(thirds.count(third) - 1000) < 150 for third in range(3))
    assert len({below(rng, bound) % 1024 for _ in range(20_000)}) == 1024


@pytest.mark.parametrize(("n", "w"), [(2, 1), (5, 2), (8, 4), (9, 7), (7, 6)])
def test_ranks_enumerate_every_word_once(n, w):
    words = unrank(range(comb(n, w)), n, w)
    assert set(as_sets(words)) == {frozenset(c) for c in combinations(range(n), w)}
    # colexicographic order: words compare as binary numbers with component i worth 2**i
    values = [sum(2**i for i in word) for word in as_sets(words)]
    assert values == sorted(values)
    assert rank(words, w).tolist() == list(range(comb(n, w)))


@given(st.integers(2, 120), st.data())
def test_rank_undoes_unrank_beyond_int64(n, data):
    w = data.draw(st.integers(1, n - 1))
    ranks = data.draw(st.lists(st.integers(0, comb(n, w) - 1), min_size=1, max_size=4))
    words = unrank(ranks, n, w)
    assert (words.sum(axis=1) == w).all()
    assert [int(rank) for rank in rank(words, w)] == ranks


# --- what survives, what is left -----------------------------------------------------------------------------


@given(matrices(), st.data())
def test_survivors_by_reading_the_rows(rows, data):
    code = Code(rows)
    removed = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=5))
    expected = [not any(rows[row][i] for row in removed) for i in range(len(rows[0]))]
    for argument in (removed, tuple(removed), np.array(removed, dtype=int)):
        survivors = code.survivors(argument)
        assert survivors.dtype == bool and survivors.tolist() == expected
    for row in removed:
        assert code.survivors(row).tolist() == code.survivors([row]).tolist() == [not bit for bit in rows[row]]


def test_no_removal_leaves_all_and_complements_leave_none():
    code = Code.from_words(["0011", "1100", "0101"])
    assert code.survivors([]).tolist() == [True] * 4
    assert code.survivors([0, 1]).tolist() == [False] * 4
    assert code.survivors(np.int64(2)).tolist() == [True, False, True, False]


@given(matrices())
def test_ablations_are_the_distinct_words_in_order_of_first_appearance(rows):
    ablations, of_unit = Code(rows).ablations()
    assert ablations.tolist() == list(map(list, dict.fromkeys(map(tuple, rows))))
    assert [ablations[i].tolist() for i in of_unit] == rows
    assert ablations.dtype == bool and of_unit.shape == (len(rows),)


@settings(deadline=None)
@given(shapes(most=8), st.integers(0, 1000), st.data())
def test_spares_are_words_that_no_unit_has(shape, seed, data):
    units, n, w = shape
    code = Code.balanced(units, n, seed, weight=w)
    free = {frozenset(c) for c in combinations(range(n), w)} - set(as_sets(code.matrix))
    assert code.capacity == len(free) + units
    assert code.spare_capacity == len(free)
    everything = code.spares(len(free), seed)
    assert everything.shape == (len(free), n) and everything.dtype == bool
    assert set(as_sets(everything)) == free
    some = code.spares(data.draw(st.integers(0, len(free))), seed)
    assert some.tolist() == everything[: len(some)].tolist()  # fewer are a prefix of more
    with pytest.raises(CodeError, match=f"only {len(free)} exist"):
        code.spares(len(free) + 1)


def test_spares_of_a_code_with_shared_words_count_distinct_words():
    code = Code.from_words(["0011", "0011", "0110"])
    assert (code.capacity, code.spare_capacity) == (6, 4)
    assert set(as_sets(code.spares(4))) == {frozenset(s) for s in [(0, 1), (0, 2), (0, 3), (1, 3)]}


def test_spares_are_uniform_and_independent_of_the_codes_own_draws():
    code = Code.balanced(40, 10, seed=5)
    counts: dict[frozenset[int], int] = {}
    shared = []
    for seed in range(1500):
        word = as_sets(code.spares(1, seed))[0]
        counts[word] = counts.get(word, 0) + 1
    assert len(counts) >= 211  # of 212: all but one at least
    expected = 1500 / 212
    assert sum((seen - expected) ** 2 / expected for seen in counts.values()) < 285  # 211 d. o. f., p = 0.0005
    # with equal seeds, the i-th spare must not resemble the i-th unit: 5 of 10 bits agree on average
    for seed in range(40):
        code = Code.balanced(40, 20, seed)
        shared.append((code.matrix == code.spares(40, seed)).mean())
    assert abs(np.mean(shared) - 0.5) < 0.02


@given(matrices(), st.data())
def test_select_takes_rows_in_order(rows, data):
    picked = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=6))
    chosen = Code(rows).select(picked)
    assert chosen.matrix.tolist() == [rows[row] for row in picked]
    assert Code(rows).select(np.array(picked)) == chosen


# --- wrapping, identity, files ---------------------------------------------------------------------------------


@given(matrices(), matrices())
def test_digest_and_equality_tell_codes_apart(rows, others):
    same = rows == others
    assert (Code(rows) == Code(others)) is same
    assert (Code(rows).digest() == Code(others).digest()) is same
    if same:
        assert hash(Code(rows)) == hash(Code(others))


def test_digest_depends_on_the_shape_too():
    # the same bits in the same order, as 2 x 4 and as 4 x 2
    assert Code.from_words(["0110", "0110"]).digest() != Code.from_words(["01", "10", "01", "10"]).digest()
    assert Code.from_words(["01"]).digest() != Code.from_words(["010"]).digest()


def test_digest_by_hand():
    payload = b"ablatable code v1\0" + (2).to_bytes(8, "little") + (9).to_bytes(8, "little")
    payload += bytes([0b01100000, 0b10000000, 0b10000001, 0b00000000])
    assert Code.from_words(["011000001", "100000010"]).digest() == hashlib.sha256(payload).hexdigest()


@given(matrices())
def test_words_round_trip(rows):
    words = Code(rows).words()
    assert words == ["".join("1" if bit else "0" for bit in row) for row in rows]
    assert Code.from_words(words) == Code(rows)


@given(matrices())
def test_wrapping_zeros_and_ones(rows):
    for kind in (int, np.uint8, float):
        assert Code(np.array(rows).astype(kind)) == Code(rows)
    weights = {sum(row) for row in rows}
    assert Code(rows).weight == (weights.pop() if len(weights) == 1 else None)


def test_a_code_cannot_be_changed():
    source = np.array([[True, False], [False, True]])
    for code in (Code(source), pickle.loads(pickle.dumps(Code(source))), copy.deepcopy(Code(source))):
        with pytest.raises(ValueError):
            code.matrix[0, 0] = False
        with pytest.raises(ValueError):
            code.matrix.setflags(write=True)
        with pytest.raises(AttributeError):
            code.matrix = source
        with pytest.raises(AttributeError):
            del code.matrix
        assert code == Code(source)
    code = Code(source)
    source[0] = [False, True]
    assert code.matrix[0].tolist() == [True, False]


def test_dummies_are_allowed_on_request_and_survive_copies():
    with pytest.raises(CodeError, match=r"row 1 is all zeros.*allow_dummy=True"):
        Code([[1, 0], [0, 0]])
    code = Code([[1, 0], [0, 0]], allow_dummy=True)
    assert code.weight is None
    assert code.survivors(1).tolist() == [True, True]
    assert pickle.loads(pickle.dumps(code)) == code == Code.from_words(code.words(), allow_dummy=True)
    assert code.select([1]).matrix.tolist() == [[False, False]]
    with pytest.raises(CodeError, match="all zeros"):
        Code.from_words(code.words())


def test_repr_says_the_shape():
    assert repr(Code.balanced(3, 4)) == "Code(units=3, components=4, weight=2)"
    assert repr(Code.from_words(["001", "011"])) == "Code(units=2, components=3, weight=mixed)"


# --- errors ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(2, 9), st.data())
def test_too_few_words_names_the_smallest_workable_numbers_of_components(n, data):
    w = data.draw(st.integers(1, n - 1))
    units = comb(n, w) + data.draw(st.integers(1, 200))
    half = next(m for m in range(2, 100) if comb(m, m // 2) >= units)
    kept = next(m for m in range(w + 1, 1000) if comb(m, w) >= units)
    with pytest.raises(CodeError) as error:
        Code.balanced(units, n, weight=w)
    assert f"have {comb(n, w)} distinct codewords" in str(error.value)
    assert f"at least {half} components" in str(error.value)
    assert f"{kept} to keep weight {w}" in str(error.value)
    Code.balanced(units, half)  # as promised
    Code.balanced(units, kept, weight=w)


def test_too_few_words_at_the_default_weight_names_one_number():
    with pytest.raises(CodeError, match=r"8 components at weight 4 have 70 .* 71 units: use at least 9 ") as error:
        Code.balanced(71, 8)
    assert "to keep" not in str(error.value)


@given(st.integers(1, 5000), st.none() | st.integers(1, 12), st.integers(2, 12))
def test_components_for_is_the_smallest(words, weight, at_least):
    n = components_for(words, weight, at_least=at_least)

    def holds(m: int) -> bool:
        return comb(m, m // 2 if weight is None else weight) >= words

    assert n >= at_least and holds(n)
    assert n == max(2, at_least, (weight or 0) + 1) or not holds(n - 1)


def test_components_for_weight_one_needs_one_component_a_word():
    assert components_for(10**6, 1) == 10**6
    for words, weight in [(0, None), (5, 0)]:
        with pytest.raises(CodeError):
            components_for(words, weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Code.balanced(0, 8), "at least 1 unit, not 0"),
        (lambda: Code.balanced(1, 1), "at least 2 components, not 1"),
        (lambda: Code.balanced(1, 8, weight=0), "weight 0 is impossible with 8 components: give 1 to 7"),
        (lambda: Code.balanced(1, 8, weight=8), "weight 8 is impossible"),
        (lambda: Code.balanced(1, 8, seed=-1), "seed must be 0 or more, not -1"),
        (lambda: Code([[1, 1], [0, 1]]), "row 0 is all ones"),
        (lambda: Code([1, 0]), r"shape \(2,\)"),
        (lambda: Code([[1], [0]]), r"at least 1 row and 2 columns.*shape \(2, 1\)"),
        (lambda: Code(np.zeros((0, 4), bool)), r"shape \(0, 4\)"),
        (lambda: Code([[1, 0], [1]]), "matrix"),
        (lambda: Code([[1, 2], [0, 1]]), "zeros and ones"),
        (lambda: Code([[1.0, np.nan], [0, 1]]), "zeros and ones"),
        (lambda: Code([["1", "0"]]), "zeros and ones"),
        (lambda: Code.from_words([]), "at least 1 unit"),
        (lambda: Code.from_words(["01", "011"]), "codeword 1 has 3 bits, codeword 0 has 2"),
        (lambda: Code.from_words(["01", "0x"]), "codeword 1 is '0x'"),
        (lambda: Code.from_words([""]), "codeword 0 is ''"),
        (lambda: Code.from_words(["11"]), "all ones"),
        (lambda: Code.balanced(3, 4).survivors(3), "no row 3: this code has rows 0 to 2"),
        (lambda: Code.balanced(3, 4).survivors([0, -1]), "no row -1"),
        (lambda: Code.balanced(3, 4).survivors(np.array([True, False, False])), "flatnonzero"),
        (lambda: Code.balanced(3, 4).survivors(1.0), "must be integers"),  # pyright: ignore[reportArgumentType]
        (lambda: Code.balanced(3, 4).split(4), "no component 4, only 0 to 3"),
        (lambda: Code.balanced(3, 4).split(-1), "no component -1"),
        (lambda: Code.balanced(3, 4).select([]), "at least 1 row"),
        (lambda: Code.balanced(3, 4).select([3]), "no row 3"),
        (lambda: Code.balanced(3, 4).spares(-1), "0 or more"),
        (lambda: Code.balanced(3, 4).spares(4), "4 spare codewords asked for, but only 3 exist"),
        (lambda: Code.from_words(["001", "011"]).capacity, "weights differ"),
        (lambda: Code.from_words(["001", "011"]).spares(1), r"weights differ \(1 to 2\)"),
    ],
)
def test_errors_say_what_is_wrong(make, message):
    with pytest.raises(CodeError, match=message) as error:
        make()
    assert isinstance(error.value, AblatableError)
    assert "\n" not in str(error.value)
