"""What is left of a code when units are removed: expected, in the worst case, and how likely nothing.

Up to `EXACT_COMPONENTS` components everything is exact, in integers; beyond, what is not exact says so.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np

from .code import Code

EXACT_COMPONENTS = 22
"""Up to this many components (the paper's number) everything about survivors is exact."""

DRAWS = 20_000
"""Random orders of removal drawn where exact probabilities are out of reach."""

RISK = 0.01
"""The probability that nothing survives which counts as a risk."""

_PAIRS = 2**28  # pairs of units looked at, one by one, for the worst case of two removals
_MOVES = 2_000_000  # removals simulated, over all draws, before fewer than DRAWS (but 200) have to do
_STARTS = 64  # rows from which the greedy search for the worst case starts


@dataclass(frozen=True)
class Survival:
    """Survivors after `removals` units, when all sets of that many units are equally likely."""

    removals: int
    mean: float
    """Expected number of survivors, exact: component i survives with C(units - split_i, r) / C(units, r)."""
    worst: int
    """Fewest survivors of any set; when `worst_is` is "greedy", an unseen set may leave fewer."""
    worst_is: Literal["exact", "greedy"]
    none: float
    """Probability that no component survives."""
    none_is: Literal["exact", "monte carlo"]
    draws: int
    """Random draws behind `none`; 0 when it is exact."""


def survivors_of(code: Code, seed: int = 0) -> Exact | Sampled:
    """Survivors of a code's removals, exact where that is possible; `seed` is for the draws where it is not."""
    return Exact(code) if code.components <= EXACT_COMPONENTS else Sampled(code, seed)


class Exact:
    """Survivors by inclusion-exclusion over sets of components, in integers.

    Let z(T) be the number of units that no component of the set T trains on. All of T survive C(z(T), r) of
    the C(units, r) removals of r units. Summed over the sets T of j components these are the binomial moments
    m_j of the number of survivors, and exactly k survive in sum_j (-1)^(j - k) C(j, k) m_j removals.
    """

    def __init__(self, code: Code) -> None:
        self.code = code
        n = code.components
        # inside[S]: units whose codeword lies within the set S (bit i = component i), a subset-sum transform
        words = code.matrix @ (1 << np.arange(n, dtype=np.int64))
        inside = np.bincount(words, minlength=1 << n).astype(np.int32)
        size = np.zeros(1, np.int8)
        for i in range(n):
            halves = inside.reshape(-1, 2, 1 << i)
            halves[:, 1] += halves[:, 0]
            size = np.concatenate([size, size + 1])
        # z(T) = inside[complement of T]: for each j = |T|, the values z >= 1 and how many T have each
        self.moments: list[list[tuple[int, int]]] = []
        for j in range(n + 1):
            tally = np.bincount(inside[size == n - j])
            self.moments.append([(int(z), int(tally[z])) for z in np.flatnonzero(tally) if z])

    def leaving(self, removals: int, least: int = 0) -> int:
        """How many sets of `removals` units leave exactly `least` components."""
        signed = 0
        for j in range(least, self.code.components + 1):
            moment = sum(times * comb(z, removals) for z, times in self.moments[j])
            signed += (-1) ** (j - least) * comb(j, least) * moment
        return signed

    def none(self, removals: int) -> float:
        """Probability that no component survives so many random removals."""
        return self.leaving(removals) / comb(self.code.units, removals)

    def survival(self, removals: int) -> Survival:
        """Everything about so many removals."""
        worst = next(k for k in range(self.code.components + 1) if self.leaving(removals, k))
        mean = expected(self.code.split_sizes(), self.code.units, removals)
        return Survival(removals, mean, worst, "exact", self.none(removals), "exact", 0)

    def budget(self) -> tuple[int, Literal["exact"]]:
        """The largest r such that any r units can go and some component survives."""
        first = _first(lambda r: self.leaving(r) > 0, self.code.units)
        return self.code.units if first is None else first - 1, "exact"

    def risky(self) -> tuple[int | None, Literal["exact"]]:
        """The smallest r at which r random removals leave nothing with a probability above RISK, if there is one."""
        return _first(lambda r: self.none(r) > RISK, self.code.units), "exact"


class Sampled:
    """Survivors when there are too many sets of components: bounds, greedy search and random draws."""

    def __init__(self, code: Code, seed: int) -> None:
        self.code = code
        self.weights = np.sort(code.matrix.sum(axis=1))[::-1]
        self.fewest = _greedy(code.matrix)
        self.paired = len(self.fewest) > 1 and self.fewest[1] > self._bound(2) and code.units**2 <= _PAIRS
        if self.paired:  # the exact worst pair limits what three and more leave, too
            pair = _worst_pair(code.matrix)
            self.fewest = [self.fewest[0], *(min(found, pair) for found in self.fewest[1:])]
        self.immortal = self.fewest[-1] > 0  # some components train on nothing, and outlive every unit
        self.lifetimes = [] if self.immortal else sorted(_lifetimes(code, seed))

    def _bound(self, removals: int) -> int:
        """At least so many survive any `removals` units, as each ablates no more than its weight."""
        return max(0, self.code.components - int(self.weights[:removals].sum()))

    def worst(self, removals: int) -> tuple[int, Literal["exact", "greedy"]]:
        """Fewest survivors found of any so many removals, and whether that is proven."""
        found = self.fewest[min(removals, len(self.fewest)) - 1]
        proven = found == self._bound(removals) or (removals == 2 and self.paired)
        return found, "exact" if proven else "greedy"

    def survival(self, removals: int) -> Survival:
        """Everything about so many removals."""
        worst, worst_is = self.worst(removals)
        mean = expected(self.code.split_sizes(), self.code.units, removals)
        if self.immortal or (worst > 0 and worst_is == "exact"):
            return Survival(removals, mean, worst, worst_is, 0.0, "exact", 0)
        draws = len(self.lifetimes)
        none = bisect_right(self.lifetimes, removals) / draws
        return Survival(removals, mean, worst, worst_is, none, "monte carlo", draws)

    def budget(self) -> tuple[int, Literal["exact", "greedy"]]:
        """The largest r such that any r units can go and some component survives."""
        if self.immortal:
            return self.code.units, "exact"
        budget = self.fewest.index(0)  # one more removal, number budget + 1, can leave nothing
        return budget, self.worst(budget)[1]

    def risky(self) -> tuple[int | None, Literal["exact", "monte carlo"]]:
        """The smallest r at which r random removals leave nothing with a probability above RISK, if there is one."""
        if self.immortal:
            return None, "exact"
        enough = RISK * len(self.lifetimes)
        return next(r for r in self.lifetimes if bisect_right(self.lifetimes, r) > enough), "monte carlo"


def expected(sizes: np.ndarray, units: int, removals: int) -> float:
    """Expected survivors of r random units: the sum over components of C(units - size, r) / C(units, r)."""
    return sum(comb(units - int(size), removals) for size in sizes) / comb(units, removals)


def _first(test: Callable[[int], bool], most: int) -> int | None:
    """The smallest r in 1..most for which `test` (false, then true) holds: doubling, then halving."""
    low, high = 0, 1
    while not test(high):
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if test(middle) else (middle, high)
    return high


def _greedy(matrix: np.ndarray) -> list[int]:
    """Survivors of the worst r = 1, 2, .. removals found, until none is left or no unit ablates any more.

    From each of the heaviest rows, repeatedly removes the unit that ablates most of what is left.
    """
    units = matrix.T.astype(np.float32)  # (components, units)
    starts = np.argsort(-matrix.sum(axis=1), kind="stable")[:_STARTS]
    alive = np.logical_not(matrix[starts])  # (starts, components)
    fewest = [int(alive.sum(axis=1).min())]
    while fewest[-1] > 0:
        gains = alive.astype(np.float32) @ units
        if not gains.any():
            break
        alive &= ~matrix[gains.argmax(axis=1)]
        fewest.append(int(alive.sum(axis=1).min()))
    return fewest


def _worst_pair(matrix: np.ndarray) -> int:
    """The fewest survivors of any two rows, over all pairs, in blocks; a row with itself never is the worst."""
    left = 1 - matrix.astype(np.float32)
    block = max(1, 2**22 // len(left))  # 16 MB
    return min(int((left[i : i + block] @ left.T).min()) for i in range(0, len(left), block))


def _lifetimes(code: Code, seed: int) -> list[int]:
    """In random orders of removal, how many units are gone when no component is left.

    Every component must train on some unit. Units are drawn with replacement and counted once, which is a
    random order without it.
    """
    words = [int(word, 2) for word in code.words()]
    everything, rng = (1 << code.components) - 1, random.Random(seed)
    lifetimes: list[int] = []
    moves = 0
    while len(lifetimes) < DRAWS and (moves < _MOVES or len(lifetimes) < 200):
        gone, dead = set(), 0
        while dead != everything:
            unit = int(rng.random() * len(words))
            gone.add(unit)
            dead |= words[unit]
            moves += 1
        lifetimes.append(len(gone))
    return lifetimes
