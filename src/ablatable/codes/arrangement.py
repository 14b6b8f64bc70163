"""Codes that survive removals: the weight that a number of removals allows, and rows that cover each other's gaps.

With even splits the *mean* number of survivors of r random removals depends on the weight alone, so a lower weight is
what keeps survivors. At one weight the arrangement of the rows still decides how the survivors are spread: two
complementary codewords together leave nothing. A local search moves ones between rows, which changes neither the rows'
weights nor the splits' sizes, until small overlaps are rare (what cover-free families in group testing ask for).
"""

from __future__ import annotations

import random
from fractions import Fraction
from math import comb

import numpy as np

from ..errors import CodeError
from .code import Code
from .survival import RISK

MOVES = 20_000  # swaps tried; most codes settle within a few hundred accepted ones
MOST_UNITS = 4096  # beyond, all pairs are too many to weigh, and rows stay as they are


def removal_code(units: int, components: int, seed: int = 0, *, weight: int) -> Code:
    """As `Code.balanced`, its rows then arranged so that few pairs of them overlap little.

    Minimises the sum over pairs of rows of 4^-(overlap), in integers. A function of the four arguments alone.

    Raises CodeError as `Code.balanced` does.
    """
    code = Code.balanced(units, components, seed, weight=weight)
    return code if units > MOST_UNITS else Code(_arranged(code.matrix, random.Random(f"ablatable removal {seed}")))


def choose(units: int, removals: int, components: int | None = None, weight: int | None = None) -> tuple[int, int]:
    """(components, weight): the fewest components, and the heaviest weight, that survive so many random removals.

    To survive means that some component survives with a probability of at least 1 - RISK. Components not given are
    from 8 up and have a spare codeword for every unit. CodeError if what is given cannot survive them.
    """
    if units < 1 or removals < 1:
        raise CodeError(f"units and removals must be 1 or more, not {units} and {removals}")
    if removals >= units:
        raise CodeError(f"{removals} removals of {units} units leave nothing to train on; give fewer")
    for n in range(8, 8 + 2 * units + 8 * removals) if components is None else (components,):
        needed = 2 * units if components is None else units
        for w in range(n // 2, 0, -1) if weight is None else (weight,):
            if 1 <= w < n and comb(n, w) >= needed and risk(n, w, removals) <= RISK:
                return n, w
    given = [f"{components} components"] * (components is not None) + [f"weight {weight}"] * (weight is not None)
    remedy = ""
    if components is not None:
        n, w = choose(units, removals, None, weight)
        remedy = f"; {n} components at weight {w} would"
    raise CodeError(
        f"{' at '.join(given)} cannot give {units} units distinct codewords and survive {removals} removals{remedy}"
    )


def risk(components: int, weight: int, removals: int) -> float:
    """Probability that random codewords, so many of them, leave no component: sum_j (-1)^j C(n, j) p_j^r.

    p_j = C(n - j, w) / C(n, w) is the probability that a codeword spares j given components.
    """
    n, words = components, comb(components, weight)
    terms = ((-1) ** j * comb(n, j) * comb(n - j, weight) ** removals for j in range(n - weight + 1))
    return float(Fraction(sum(terms), words**removals))


def _arranged(words: np.ndarray, rng: random.Random) -> np.ndarray:
    """Distinct words -> distinct words of the same row and column sums, with fewer small overlaps.

    A move takes rows i, j and components a, b with ones at (i, a), (j, b) only, and puts them at (i, b), (j, a). The
    overlap of i and j themselves stays as it was.
    """
    words = words.copy()
    units, n = words.shape
    counts = words.astype(np.int64)
    overlap = counts @ counts.T
    least = max(0, 2 * int(counts[0].sum()) - n)
    penalty = 4 ** np.maximum(0, 12 - np.maximum(0, np.arange(n + 1) - least))  # int64; the smallest overlap dominates
    used = {word.tobytes() for word in words}
    for _ in range(MOVES if units > 1 else 0):
        i, j = int(rng.random() * units), int(rng.random() * units)
        mine, its = np.flatnonzero(words[i] & ~words[j]), np.flatnonzero(words[j] & ~words[i])
        if not len(mine) or not len(its):
            continue
        a, b = mine[int(rng.random() * len(mine))], its[int(rng.random() * len(its))]
        shift = counts[:, b] - counts[:, a]  # what row i gains in overlap with each row, and row j loses
        shift[[i, j]] = 0
        gain = penalty[overlap[i] + shift] - penalty[overlap[i]] + penalty[overlap[j] - shift] - penalty[overlap[j]]
        if gain.sum() >= 0:
            continue
        new = words[[i, j]]
        new[0, [a, b]], new[1, [a, b]] = (False, True), (True, False)
        others = used - {words[i].tobytes(), words[j].tobytes()}
        if new[0].tobytes() in others or new[1].tobytes() in others or (new[0] == new[1]).all():
            continue
        used = others | {new[0].tobytes(), new[1].tobytes()}
        words[[i, j]], counts[[i, j]] = new, new
        overlap[i] += shift
        overlap[j] -= shift
        overlap[:, i], overlap[:, j] = overlap[i], overlap[j]
    return words
