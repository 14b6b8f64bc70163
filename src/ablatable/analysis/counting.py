"""How many words of components reach a score? Counted exactly, for many scores at once.

A word, bool (n,), scores s(w) = sum_i w_i v_i on what the components say, v. Every test has evidence v and a threshold
of its own, the score of its unit's word. So listed words have to be compared with every test, tests times words, which
no known method avoids in more than a few dimensions; `count_listed` makes a comparison cheap. To count *all* words of a
weight, `count_by_halves` sorts the scores of halves of words instead.

Both count with integers first. Evidence is centred, which moves all scores of one weight alike, and rounded to whole
numbers whose sums are exact. Where rounding might decide, a count is taken again in float64, so it is that of the
definition.
"""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np

from .._runtime.workers import chunks

TESTS, WORDS = 1024, 255  # whose scores are held at once: 1 MiB, which stays in a cache; a count of 255 fits a byte
SINGLE, DOUBLE = 2.0**23, 2.0**50  # sums of rounded evidence stay below, and so are exact in float32, int64
HALVES = 2**19  # sums of halves that are sorted at once, for bounded memory


def all_words(n: int, weight: int) -> np.ndarray:
    """Every word of a weight, bool (C(n, weight), n)."""
    ones = np.array(list(combinations(range(n), weight)), dtype=np.int64).reshape(-1, weight)
    words = np.zeros((len(ones), n), dtype=bool)
    words[np.arange(len(ones))[:, None], ones] = True
    return words


def count_listed(
    words: np.ndarray, evidence: np.ndarray, own: np.ndarray, slack: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many of these words score above a threshold, and equal to it.

    Args:
        words: bool (words, n), all of one weight.
        evidence: float64 (n, tests).
        own: each test's threshold, the score of its own word of the same weight, float64 (tests,).
        slack: scores that differ by no more are equal, float64 (tests,).

    Returns:
        int (tests,) twice.
    """
    above, equal = np.zeros(len(own), np.int64), np.zeros(len(own), np.int64)
    weight = int(words[0].sum()) if len(words) else 0
    bits = words.astype(np.float32)
    whole, scale = _whole(evidence, SINGLE)
    with np.errstate(invalid="ignore"):  # evidence that is not finite reaches nothing
        level = np.rint((own - weight * evidence.mean(axis=0)) * scale).astype(np.float32)
        # a score has w terms, each rounded by 1/2 at most, and the threshold is rounded once
        doubt = np.ceil(weight / 2 + 2 + 2 * slack * scale).astype(np.float32)
    for some in (slice(*part) for part in chunks(len(own), TESTS)):
        rounded, over, under = whole[:, some].astype(np.float32), (level + doubt)[some], (level - doubt)[some]
        for rows in (slice(*part) for part in chunks(len(words), WORDS)):
            scores = bits[rows] @ rounded
            surely, perhaps = _trues(scores > over), _trues(scores >= under)
            above[some] += surely
            unsure = some.start + np.flatnonzero(surely != perhaps)
            if len(unsure):
                gap = words[rows].astype(np.float64) @ evidence[:, unsure] - own[unsure]
                above[unsure] += (gap > slack[unsure]).sum(axis=0) - surely[unsure - some.start]
                equal[unsure] += (np.abs(gap) <= slack[unsure]).sum(axis=0)
    return above, equal


def _trues(mask: np.ndarray) -> np.ndarray:
    """How many of each column are true, of at most 255 rows: int64 (columns,)."""
    return np.add.reduce(mask.view(np.uint8), axis=0, dtype=np.uint8).astype(np.int64)


def _whole(evidence: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
    """Each test's evidence, centred, as whole numbers whose sizes sum to about `most`; and by what it was multiplied.

    Returns float64 (n, tests), (tests,); zeros where all components say the same.
    """
    centred = evidence - evidence.mean(axis=0)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        scale = most / np.abs(centred).sum(axis=0)
    scale = np.where(np.isfinite(scale), scale, 0.0)
    return np.rint(centred * scale), scale


def count_by_halves(
    words: np.ndarray, evidence: np.ndarray, own: np.ndarray, slack: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many of *all* words of the weight score above each test's own word, and equal to it.

    Every word is a word of the first half of the components and one of the second, so it scores more than t if the
    second half's sum is above t less the first half's. That compares 2^(n/2) numbers with as many: all are sorted
    together, and their places tell how many pairs there are. To keep to one weight, a number larger than all scores is
    added to each component's evidence: words of more components are then above, and there are sum_k>w C(n, k) of them.

    Args:
        words: each test's own word, bool (tests, n), all of one weight.
        evidence, own, slack: as in `count_listed`.

    Returns:
        int (tests,) twice.
    """
    n, weight = evidence.shape[0], int(words[0].sum())
    half = n // 2
    above, equal = np.empty(len(own), np.int64), np.ones(len(own), np.int64)
    whole, scale = _whole(evidence, DOUBLE)
    sure = np.isfinite(evidence).all(axis=0) & (scale > 0)
    lifted = np.where(sure, whole, 0).astype(np.int64) + int(8 * DOUBLE)
    # two sums are of n terms together, rounded by 1/2 at most; a pair is nearer than this if it might be equal
    near = np.where(sure, np.ceil(2 * (slack * scale + n)), 0).astype(np.int64) * 2
    heavier = _heavier(n, weight)
    lower, upper = 2**half, 2 ** (n - half)
    places = np.arange(lower + upper)
    for first, last in chunks(len(own), max(1, HALVES // (lower + upper))):
        some = slice(first, last)
        level = np.einsum("tn,nt->t", words[some].astype(np.int64), lifted[:, some])
        needles = level[:, None] - _all_sums(lifted[:half, some])  # (tests, lower)
        both = np.concatenate([2 * needles + 1, 2 * _all_sums(lifted[half:, some])], axis=1)
        both.sort(axis=1)
        before = (both & 1) @ places - lower * (lower - 1) // 2  # pairs whose sum is at most the threshold
        above[some] = lower * upper - before - heavier
        sure[some] &= (np.diff(both, axis=1) <= near[some, None]).sum(axis=1) == 1  # its own word, and no other
    for test in np.flatnonzero(~sure):
        above[test], equal[test] = count_one_by_halves(evidence[:, test], weight, own[test], slack[test])
    return above, equal


def _heavier(n: int, weight: int) -> int:
    """How many words of n components have more ones than `weight`."""
    return sum(comb(n, k) for k in range(weight + 1, n + 1))


def _all_sums(values: np.ndarray) -> np.ndarray:
    """Of each test, the sums of all subsets of its values, int64 (k, tests): int64 (tests, 2^k)."""
    sums = np.zeros((values.shape[1], 1), np.int64)
    for row in values:
        sums = np.concatenate([sums, sums + row[:, None]], axis=1)
    return sums


def count_one_by_halves(values: np.ndarray, weight: int, threshold: float, slack: float) -> tuple[int, int]:
    """The same for one test in float64, ties and all: a binary search in sorted sums, one weight of a half at a time.

    Args:
        values: float64 (n,).
        weight: of the words.
        threshold: any number; `slack`: scores that differ from it by no more are equal to it.
    """
    half = len(values) // 2
    left, right = _sums(values[:half]), _sums(values[half:])
    above = equal = 0
    for k in range(max(0, weight - len(right) + 1), min(half, weight) + 1):
        others = np.sort(right[weight - k])
        over = np.searchsorted(others, threshold + slack - left[k], side="right")
        under = np.searchsorted(others, threshold - slack - left[k], side="left")
        above += int((len(others) - over).sum())
        equal += int((over - under).sum())
    return above, equal


def _sums(values: np.ndarray) -> list[np.ndarray]:
    """The sums of all subsets, by how many values they have: [0] is one sum of none."""
    sums = [np.zeros(1), *(np.empty(0) for _ in values)]
    for value in values:
        sums = [sums[0], *(np.concatenate([sums[k], sums[k - 1] + value]) for k in range(1, len(sums)))]
    return sums
