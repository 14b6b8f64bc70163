"""Codewords: which components train on which unit, and what survives when units are removed.

A code is a boolean matrix (units, components); a one says that the component trains on the unit. Removing a
unit ablates every component with a one in its codeword, so the survivors have never seen the unit (Dai &
Gifford, arXiv 2406.07908 and 2306.02174). The paper's choice is *balanced*: distinct words of weight n/2.
"""

from __future__ import annotations

import hashlib
import random
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice
from math import comb
from operator import index
from typing import Any

import numpy as np

from ..errors import CodeError

RANDOM, GIVEN = "random", "given"  # designs: see `Code.design`
_INT64_WORDS = 2**63  # ranks below this are computed in int64, beyond it in Python integers


class Code:
    """An immutable code, rows = units, columns = components.

    `Code(matrix)` wraps any matrix of booleans (or zeros and ones) with at least one row and two columns.
    Refused are

    - a row of ones: that unit could never be removed, as no component would survive;
    - a row of zeros, unless `allow_dummy=True`: no component trains on that unit, so its counterfactual is
      the factual sample and its influence exactly zero. As a negative control that is useful; as an oversight
      it would look like a finding, hence it has to be asked for.

    Units may share a codeword; they then share an ablation (see `ablations`). `Code.balanced` never makes
    duplicates.

    Raises CodeError for any other shape or content.
    """

    matrix: np.ndarray
    """Bool (units, components), read-only."""
    design: str
    """How the words were chosen: `random` (see `Code.random`), or `given`, which says nothing. Equality and digest
    ignore it."""

    __slots__ = ("design", "matrix")

    def __init__(self, matrix: Any, *, allow_dummy: bool = False) -> None:
        object.__setattr__(self, "matrix", _validated(matrix, allow_dummy=allow_dummy))
        object.__setattr__(self, "design", GIVEN)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Code is immutable: cannot set {name!r}; make a new one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Code is immutable: cannot delete {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (np.array(self.matrix), self.design)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Code) and np.array_equal(self.matrix, other.matrix)

    def __hash__(self) -> int:
        return hash((self.matrix.shape, self.matrix.tobytes()))

    def __len__(self) -> int:
        return self.units

    def __repr__(self) -> str:
        weight = "mixed" if self.weight is None else self.weight
        return f"Code(units={self.units}, components={self.components}, weight={weight})"

    @classmethod
    def balanced(cls, units: int, components: int, seed: int = 0, *, weight: int | None = None) -> Code:
        """Distinct random codewords of one weight, whose split sizes differ by at most one.

        `weight` None means components // 2. Words are drawn uniformly without replacement, then bits are
        moved from the fullest to the emptiest component until the splits are even (`_even_splits` shows that
        this always succeeds). Chance alone would leave split sizes about sqrt(units) / 2 apart from their
        mean.

        The result is a function of the four arguments alone: it rests on `random.Random.random`, whose
        sequence Python guarantees, and on exact integers.

        Raises CodeError when units < 1, components < 2, seed < 0, weight is outside 1..components - 1, or
        there are fewer words than units (the message gives the smallest workable number of components).
        """
        words, rng = _drawn(units, components, seed, weight)
        return cls(_even_splits(words, rng))

    @classmethod
    def random(cls, units: int, components: int, seed: int = 0, *, weight: int | None = None) -> Code:
        """Distinct codewords of one weight, drawn uniformly and left as they fell: the design for tests.

        Given all other rows, a row is equally likely to be any word that no other row has. So a unit's word and the
        unused words are exchangeable, which makes the witness test and the comparison with `spares` exact. In
        `balanced` they are not: there a row follows from the others. The price is that the splits' sizes vary, with a
        standard deviation below sqrt(units) / 2.

        `weight` None means components // 2. A function of the four arguments alone, as `balanced` is.

        Raises CodeError as `balanced` does.
        """
        return _restore(_drawn(units, components, seed, weight)[0], RANDOM)

    def as_random(self) -> Code:
        """The same code, on record as one that `Code.random` drew; for readers of files that say so."""
        return _restore(self.matrix, RANDOM)

    @classmethod
    def from_words(cls, words: Sequence[str], *, allow_dummy: bool = False) -> Code:
        """The inverse of `words`: a string of 0s and 1s per unit, component 0 first. CodeError otherwise."""
        words = list(words)
        if not words:
            raise CodeError("a code needs at least 1 unit; there are no codewords")
        for row, word in enumerate(words):
            if not isinstance(word, str) or not word or set(word) - {"0", "1"}:
                raise CodeError(f"codeword {row} is {word!r}, not a string of 0s and 1s such as '0110'")
            if len(word) != len(words[0]):
                raise CodeError(f"codeword {row} has {len(word)} bits, codeword 0 has {len(words[0])}")
        bits = np.frombuffer("".join(words).encode("ascii"), np.uint8).reshape(len(words), -1) == ord("1")
        return cls(bits, allow_dummy=allow_dummy)

    @property
    def units(self) -> int:
        """Number of rows."""
        return self.matrix.shape[0]

    @property
    def components(self) -> int:
        """Number of columns, n."""
        return self.matrix.shape[1]

    @property
    def weight(self) -> int | None:
        """Number of ones in a row, if all rows share it, else None."""
        weights = self.matrix.sum(axis=1)
        return int(weights[0]) if (weights == weights[0]).all() else None

    @property
    def capacity(self) -> int:
        """How many words of this code's weight there are, C(n, weight). CodeError for mixed weights."""
        return comb(self.components, self._one_weight())

    @property
    def spare_capacity(self) -> int:
        """How many words of this code's weight no unit has. CodeError for mixed weights."""
        return self.capacity - len(self.ablations()[0])

    def split(self, component: int) -> np.ndarray:
        """The rows that `component` trains on, ascending, int (k,). CodeError outside 0..components - 1."""
        component = index(component)
        if not 0 <= component < self.components:
            raise CodeError(f"there is no component {component}, only 0 to {self.components - 1}")
        return np.flatnonzero(self.matrix[:, component])

    def split_sizes(self) -> np.ndarray:
        """How many units each component trains on, int (components,); 0 is possible in a very small code."""
        return self.matrix.sum(axis=0)

    def survivors(self, rows: int | Sequence[int] | np.ndarray) -> np.ndarray:
        """Which components trained on none of these rows, bool (components,).

        An empty sequence leaves all components. All False means that nothing survives; whether that is an
        error is the caller's to say. Raises CodeError for a row outside 0..units - 1.
        """
        return np.logical_not(self.matrix[self._rows(rows)].any(axis=0))

    def ablations(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct codewords and who has them.

        Returns bool (distinct, components), in order of first appearance, and int (units,), each unit's index
        into them.
        """
        first: dict[bytes, int] = {}
        ablation = np.array([first.setdefault(word, len(first)) for word in _packed(self.matrix)], np.int64)
        _, rows = np.unique(ablation, return_index=True)
        return self.matrix[rows], ablation

    def spares(self, count: int, seed: int = 0) -> np.ndarray:
        """Distinct words of this code's weight that no unit has, drawn uniformly, bool (count, components).

        Their ablations remove as many components as a unit's and no unit in particular: the null distribution
        of influence. Fewer spares of the same seed are a prefix of more.

        Raises CodeError when count or seed is negative, the weights are mixed, or fewer than `count` words
        are left.
        """
        count, seed, weight = index(count), index(seed), self._one_weight()
        if count < 0 or seed < 0:
            raise CodeError(f"spares need count and seed of 0 or more, not {count} and {seed}")
        taken = np.sort(_rank(self.ablations()[0], weight))
        left = self.capacity - len(taken)
        if count > left:
            raise CodeError(
                f"{count} spare codewords asked for, but only {left} exist: {self.components} components at "
                f"weight {weight} have {self.capacity} words and the units hold {len(taken)}; ask for {left} "
                f"at most, or use {components_for(len(taken) + count)} components (weight n // 2)"
            )
        # The f-th free rank is f plus the taken ones before it; taken[i] - i free ones precede taken[i].
        free = list(islice(_without_replacement(_stream("spares", seed), left), count))
        free = np.array(free, dtype=taken.dtype)
        before = np.searchsorted(taken - np.arange(len(taken)), free, side="right")
        return _unrank(free + before.astype(taken.dtype), self.components, weight)

    def select(self, rows: Sequence[int] | np.ndarray) -> Code:
        """The code of these rows alone, in this order. CodeError for none, or one outside 0..units - 1."""
        if not len(picked := self._rows(rows)):
            raise CodeError("a code needs at least 1 row, none was picked")
        return _restore(self.matrix[picked], self.design)

    def columns(self, components: Sequence[int] | np.ndarray) -> Code:
        """The code of these components alone, in this order, as it is for an ensemble that lost the others.

        Units that none of them trains on, and units that all of them train on, are allowed: nothing survives the
        removal of the latter. CodeError for no component, or one outside 0..components - 1.
        """
        picked = [index(component) for component in components]
        if not picked or not all(0 <= component < self.components for component in picked):
            raise CodeError(f"components {picked} are not some of 0 to {self.components - 1}")
        return _restore(self.matrix[:, picked])

    def digest(self) -> str:
        """SHA-256, in hex, of the shape and the bits: two codes share it exactly when they are equal."""
        shape = struct.pack("<QQ", self.units, self.components)
        return hashlib.sha256(b"ablatable code v1\0" + shape + b"".join(_packed(self.matrix))).hexdigest()

    def words(self) -> list[str]:
        """One string of 0s and 1s per unit, component 0 first, for files."""
        text = (self.matrix.astype(np.uint8) + ord("0")).tobytes().decode("ascii")
        n = self.components
        return [text[start : start + n] for start in range(0, len(text), n)]

    def _one_weight(self) -> int:
        if (weight := self.weight) is None:
            weights = self.matrix.sum(axis=1)
            raise CodeError(
                f"the codewords' weights differ ({weights.min()} to {weights.max()}): capacity and spare "
                "codewords are defined for a code of one weight"
            )
        return weight

    def _rows(self, rows: int | Sequence[int] | np.ndarray) -> np.ndarray:
        """Checked rows, int64 (k,). A negative one is refused: it would silently name another unit."""
        picked = np.atleast_1d(np.asarray(rows))
        if picked.size == 0:
            return np.zeros(0, np.int64)
        if picked.ndim != 1 or picked.dtype.kind not in "iu":
            raise CodeError(
                f"rows must be integers in one dimension, not {picked.dtype} of shape {picked.shape}; turn a "
                "mask into rows with numpy.flatnonzero"
            )
        if outside := [int(row) for row in picked if not 0 <= row < self.units]:
            raise CodeError(f"there is no row {outside[0]}: this code has rows 0 to {self.units - 1}")
        return picked.astype(np.int64)


def _drawn(units: int, components: int, seed: int, weight: int | None) -> tuple[np.ndarray, random.Random]:
    """Distinct words drawn uniformly, bool (units, components), and the generator they were drawn from."""
    units, components, seed = index(units), index(components), index(seed)
    if units < 1:
        raise CodeError(f"a code needs at least 1 unit, not {units}")
    if components < 2:
        raise CodeError(f"a code needs at least 2 components, not {components}: one must survive the other")
    if seed < 0:
        raise CodeError(f"the code's seed must be 0 or more, not {seed}")
    given, weight = weight is not None, components // 2 if weight is None else index(weight)
    if not 1 <= weight < components:
        raise CodeError(
            f"weight {weight} is impossible with {components} components: give 1 to {components - 1}, so "
            "that each unit is trained on and some component survives its removal"
        )
    words = comb(components, weight)
    if words < units:
        remedy = f"use at least {components_for(units)} components (weight n // 2)"
        if given:
            remedy += f", or {components_for(units, weight)} to keep weight {weight}"
        raise CodeError(
            f"{components} components at weight {weight} have {words} distinct codewords, too few for "
            f"{units} units: {remedy}"
        )
    rng = _stream("codewords", seed)
    ranks = list(islice(_without_replacement(rng, words), units))
    return _unrank(ranks, components, weight), rng


def components_for(words: int, weight: int | None = None, *, at_least: int = 2) -> int:
    """The smallest number of components, from `at_least` up, that has this many codewords.

    At the given weight, or at n // 2 when `weight` is None. There always is one for words >= 1 and weight >=
    1; CodeError otherwise.
    """
    if words < 1:
        raise CodeError(f"the number of codewords must be 1 or more, not {words}")
    if weight is not None and weight < 1:
        raise CodeError(f"the weight must be 1 or more, not {weight}: some component has to train on each unit")
    if weight is None:
        n = max(2, at_least)
        while comb(n, n // 2) < words:
            n += 1
        return n
    # C(n, w) grows with n, and C(n, w) >= n - w + 1, which bounds the search.
    low = max(weight + 1, at_least)
    return low + bisect_left(range(low, low + words), words, key=lambda n: comb(n, weight))


def weight_change(words: np.ndarray) -> np.ndarray:
    """How ablations, bool (ablations, n), True where a component goes, change the mean's weights: float64 (.., n)."""
    alive = ~np.asarray(words, bool)
    return alive / alive.sum(axis=-1, keepdims=True) - 1 / alive.shape[-1]


def _restore(matrix: np.ndarray, design: str = GIVEN) -> Code:
    """Wrap rows and columns of a code that was validated before, whatever is left of them."""
    code = object.__new__(Code)
    object.__setattr__(code, "matrix", _sealed(matrix))
    object.__setattr__(code, "design", design)
    return code


def _sealed(bits: np.ndarray) -> np.ndarray:
    """A copy that cannot be made writable again, as bytes can't be written through."""
    return np.frombuffer(bits.tobytes(), dtype=bool).reshape(bits.shape)


def _validated(matrix: Any, *, allow_dummy: bool) -> np.ndarray:
    """A copy as bool (units, components) that cannot be made writable again."""
    try:
        values = np.asarray(matrix)
    except ValueError as error:  # ragged rows
        raise CodeError(f"a code is a matrix (units, components) of booleans: {error}") from error
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 2:
        raise CodeError(
            f"a code is a matrix (units, components) of at least 1 row and 2 columns, this one has shape {values.shape}"
        )
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise CodeError("a code holds booleans, or zeros and ones; other values were found")
    bits = values.astype(bool)
    if len(full := np.flatnonzero(bits.all(axis=1))):
        raise CodeError(
            f"the codeword of row {full[0]} is all ones: every component trains on that unit, so none "
            "survives its removal; clear at least one bit"
        )
    if not allow_dummy and len(empty := np.flatnonzero(~bits.any(axis=1))):
        raise CodeError(
            f"the codeword of row {empty[0]} is all zeros: no component trains on that unit, so it has no "
            "influence by construction; set a bit, or pass allow_dummy=True if it is a negative control"
        )
    return _sealed(bits)


def _stream(purpose: str, seed: int) -> random.Random:
    """Random numbers for one purpose.

    Hashed, so that the spares of seed 0 do not run parallel to the codewords of seed 0: equal streams would
    put each spare at nearly the same relative rank as a unit, hence share most of its bits.
    """
    digest = hashlib.sha256(f"ablatable code v1 {purpose} {seed}".encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))


def _below(rng: random.Random, bound: int) -> int:
    """A uniform integer in 0..bound - 1, from `random()` alone, whose sequence Python promises to keep."""
    bits = (bound - 1).bit_length()
    while True:
        value, have = 0, 0
        while have < bits:
            value, have = value << 53 | int(rng.random() * 2**53), have + 53
        if (value := value >> (have - bits)) < bound:
            return value


def _without_replacement(rng: random.Random, population: int) -> Iterator[int]:
    """0..population - 1 in uniformly random order, lazily: a Fisher-Yates shuffle that stores only what it
    moved.

    `random.sample(range(population), k)` would do, but its order is not promised across Python versions and a
    range of 2**63 or more has no length.
    """
    moved: dict[int, int] = {}
    for at in range(population):
        pick = at + _below(rng, population - at)
        yield moved.get(pick, pick)
        moved[pick] = moved.pop(at, at)


def _binomials(components: int, weight: int) -> np.ndarray:
    """C(c, k) at [c, k] for c < components, k <= weight; int64 if all ranks fit, else Python integers.

    Entries that no word of this weight reaches (more than weight - k ones above bit c) are zero; they may be
    larger than C(components, weight) and need not fit.
    """
    dtype = np.int64 if comb(components, weight) < _INT64_WORDS else object
    table = np.zeros((components, weight + 1), dtype=dtype)
    for c in range(components):
        for k in range(max(0, weight - (components - 1 - c)), weight + 1):
            table[c, k] = comb(c, k)
    return table


def _unrank(ranks: Any, components: int, weight: int) -> np.ndarray:
    """The words of the given ranks in 0..C(components, weight) - 1, bool (len(ranks), components).

    The combinatorial number system: the word with ones at c_1 < .. < c_w has rank C(c_1, 1) + .. + C(c_w, w),
    so the highest one sits at the largest c with C(c, w) <= rank, and so on downwards.
    """
    table = _binomials(components, weight)
    rest = np.array(ranks, dtype=table.dtype)
    ones = np.full(len(rest), weight)
    words = np.zeros((len(rest), components), dtype=bool)
    for c in reversed(range(components)):
        least = table[c, ones]
        here = (rest >= least).astype(bool)
        rest = np.where(here, rest - least, rest)
        ones = ones - here
        words[:, c] = here
    return words


def _rank(words: np.ndarray, weight: int) -> np.ndarray:
    """The inverse of `_unrank` for words of one weight: (words,) of int64 or Python integers."""
    table = _binomials(words.shape[1], weight)
    nth = words.cumsum(axis=1)
    rank = np.zeros(len(words), dtype=table.dtype)
    for c in range(words.shape[1]):
        rank += np.where(words[:, c], table[c, nth[:, c]], 0)
    return rank


def _even_splits(words: np.ndarray, rng: random.Random) -> np.ndarray:
    """Distinct words of one weight -> the same with column sums that differ by at most one.

    Moves a one of some row from the fullest component a to the emptiest b wherever the new word is unused.
    There always is such a row: moving maps the words with (a, b) = (1, 0) one to one on those with (0, 1),
    and when a is fuller than b, more words in use are of the first kind than of the second. Each move lowers
    the sum of squared sizes, so this ends, and only when no two sizes differ by more than one.
    """
    components = words.shape[1]
    columns = words.T.copy()  # (components, units), so that a column is contiguous
    packed = [int.from_bytes(word, "big") for word in _packed(words)]
    used = set(packed)
    high = -components % 8 + components - 1  # component c is bit high - c of a packed word
    sizes = columns.sum(axis=1)
    low, excess = divmod(int(sizes.sum()), components)
    top = low + (excess > 0)
    while sizes.max() - sizes.min() > 1:
        a, b = int(sizes.argmax()), int(sizes.argmin())
        flip = 1 << (high - a) | 1 << (high - b)
        wanted = max(1, min(sizes[a] - top, low - sizes[b]))  # as many as settle a or b in one scan
        candidates = np.flatnonzero(columns[a] & ~columns[b])
        moved = []
        for pick in _without_replacement(rng, len(candidates)):
            row = int(candidates[pick])
            word = packed[row] ^ flip
            if word not in used:
                used.remove(packed[row])
                used.add(word)
                packed[row] = word
                moved.append(row)
                if len(moved) == wanted:
                    break
        columns[a, moved], columns[b, moved] = False, True
        sizes[a], sizes[b] = sizes[a] - len(moved), sizes[b] + len(moved)
    return columns.T


def _packed(words: np.ndarray) -> list[bytes]:
    """Each row's bits as bytes, component 0 in the highest bit of the first byte, zero-padded at the end."""
    packed = np.packbits(words, axis=1)
    data, width = packed.tobytes(), packed.shape[1]
    return [data[start : start + width] for start in range(0, len(data), width)]
