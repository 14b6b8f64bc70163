"""Which codewords could a unit have had, and how does its own rank among them? Randomisation p-values for codewords.

A code that `Code.random` drew deals distinct words of one weight to the units at random. Given the words of all other
units, a unit's own word is then equally likely to be any word that no other unit has: its *reference set*. A unit that
influences no component leaves everything the components say independent of its word, so whatever real score s a word
gets from what they say, the unit's rank among its reference set is uniform (Fisher's randomisation test):

    p = #{words w of the reference set: s(w) >= s(own word)} / #{words of the reference set},    P(p <= a) <= a.

A code that leaves a component without units is never trained. So where a component trains on one unit alone, that
unit's word was not free, and its p is 1.

Ties are broken at random, by a number that depends on a key alone, which makes p exactly uniform on its steps.

Scores here are linear, s(w) = sum_i w_i v_i, where v_i is what component i says about the unit. So the words that reach
a score are counted exactly: all one by one where they are few, else by meeting in the middle. Where there are too many
components for both, words are drawn until enough reach the score (Besag & Clifford 1991).
"""

from __future__ import annotations

from math import comb

import numpy as np

from .._runtime.rng import generator
from ..codes.code import RANDOM, Code
from .counting import all_words, count_by_halves, count_listed

FEW_WORDS = 20_000  # up to so many, all words are scored one by one
MIDDLE_COMPONENTS = 40  # up to so many components, words are counted by meeting in the middle (two halves of 2^20)
HITS, DRAWS = 20, 100_000  # Besag and Clifford: stop at so many words that reach the score, or so many drawn
BLOCK = 1000  # words drawn at once
ROUNDING = 1e-9  # scores that differ by less, relative to the largest evidence, are equal


class Reference:
    """The words that each unit of a design could have had, given the others'.

    Attributes:
        exact: whether the design deals the words at random, so that p-values are exact; with other designs the words
            that no unit has may differ from the units' systematically, and p-values are approximate.
    """

    def __init__(self, design: Code) -> None:
        """`design`: one row a unit."""
        self.design, self.exact = design, design.design == RANDOM
        self._alone = (design.matrix & (design.matrix.sum(axis=0) == 1)).any(axis=1)
        used = design.ablations()[0]
        self._used = {int(k): used[used.sum(axis=1) == k] for k in np.unique(used.sum(axis=1))}

    def size(self, weight: int) -> int:
        """How many words a unit of this weight could have: all unused ones, and its own."""
        return comb(self.design.components, weight) - len(self._used[weight]) + 1

    def p_values(self, evidence: np.ndarray, rows: np.ndarray, key: tuple[str | int, ...]) -> np.ndarray:
        """The p-value of each unit's word.

        Args:
            evidence: what each component says about each unit, float (n, tests); larger speaks for having seen it.
            rows: which unit each test is about, int (tests,).
            key: of the random tie-breaking; the same key gives the same p-values.

        Returns:
            float64 (tests,), multiples of 1 / `size`; where words are drawn, see `drawn_p_values`.
        """
        p = np.ones(len(rows))
        weights = self.design.matrix[rows].sum(axis=1)
        for weight in np.unique(weights):
            chosen = np.flatnonzero((weights == weight) & ~self._alone[rows])
            if not len(chosen) or self.size(int(weight)) == 1:
                continue  # it could have had no other word
            p[chosen] = self._of_one_weight(rows[chosen], evidence[:, chosen].astype(np.float64), int(weight), key)
        return p

    def _of_one_weight(
        self, rows: np.ndarray, evidence: np.ndarray, weight: int, key: tuple[str | int, ...]
    ) -> np.ndarray:
        n, words, used = self.design.components, self.design.matrix[rows], self._used[weight]
        own = np.einsum("tn,nt->t", words.astype(np.float64), evidence)
        slack = ROUNDING * np.abs(evidence).sum(axis=0)
        if comb(n, weight) > FEW_WORDS and n > MIDDLE_COMPONENTS:
            return drawn_p_values(evidence, own, slack, weight, used, words, _chance(rows, key), key)
        if comb(n, weight) <= FEW_WORDS:
            above, equal = count_listed(all_words(n, weight), evidence, own, slack)
        else:
            above, equal = count_by_halves(words, evidence, own, slack)
        used_above, used_equal = count_listed(used, evidence, own, slack)
        equal = equal - used_equal + 1  # the unit's own word is among those in use
        rank, tied = np.zeros(len(rows)), np.flatnonzero(equal > 1)
        rank[tied] = np.floor(_chance(rows[tied], key) * equal[tied])
        return (above - used_above + 1 + rank) / self.size(weight)


def _chance(rows: np.ndarray, key: tuple[str | int, ...]) -> np.ndarray:
    """The number in [0, 1) that breaks each unit's ties, float64 (tests,)."""
    return np.array([generator("tie", *key, int(row)).random() for row in rows])


def standardised(words: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Scores of words, bool (tests, n), on evidence, (n, tests), in standard deviations over all words of the weight.

    The sum of w of n values, drawn without replacement, has variance w (n - w) / (n - 1) times the values' variance.
    Returns float64 (tests,); 0 where all words score alike.
    """
    n, weights = words.shape[1], words.sum(axis=1)
    centred = evidence - evidence.mean(axis=0)
    spread = np.sqrt(weights * (n - weights) / (n - 1) * np.square(centred).mean(axis=0))
    score = np.einsum("tn,nt->t", words.astype(np.float64), centred)
    return np.divide(score, spread, out=np.zeros(len(score)), where=spread > 1e-12 * np.abs(evidence).max(axis=0))


def drawn_p_values(
    evidence: np.ndarray,
    own: np.ndarray,
    slack: np.ndarray,
    weight: int,
    used: np.ndarray,
    words: np.ndarray,
    chance: np.ndarray,
    key: tuple[str | int, ...],
) -> np.ndarray:
    """Besag and Clifford's sequential p-values (1991): draw words of the reference set until HITS reach the own score.

    p = HITS / draws if it stopped, else (1 + hits) / (1 + DRAWS); valid either way, and cheap where p is large. All
    tests see the same draws, which leaves each one's p-value valid.
    """
    n, tests = len(evidence), len(own)
    taken = {word.tobytes() for word in used}
    hits, draws, p = np.zeros(tests, np.int64), np.zeros(tests, np.int64), np.full(tests, np.nan)
    random = generator("reference", *key, weight)
    for _ in range(0, DRAWS, BLOCK):
        active = np.flatnonzero(np.isnan(p))
        if not len(active):
            break
        drawn = random.random((BLOCK, n)).argsort(axis=1) < weight  # each row a uniform word
        label = random.random((BLOCK, 1))
        gap = drawn.astype(np.float64) @ evidence[:, active] - own[active]
        reach = (gap > slack[active]) | ((np.abs(gap) <= slack[active]) & (label > chance[active]))
        # words in use are left out, but for the test's own, which is in its reference set
        free = np.array([[word.tobytes() not in taken] for word in drawn])
        counted = free | (drawn.astype(np.int64) @ words[active].T.astype(np.int64) == weight)
        total_hits = hits[active] + (reach & counted).cumsum(axis=0)
        total_draws = draws[active] + counted.cumsum(axis=0)
        stop, at = (total_hits >= HITS).any(axis=0), (total_hits >= HITS).argmax(axis=0)
        p[active[stop]] = HITS / total_draws[at[stop], np.flatnonzero(stop)]
        hits[active], draws[active] = total_hits[-1], total_draws[-1]
    return np.where(np.isnan(p), (1 + hits) / (1 + draws), p)
