"""Codewords as numbers: their ranks, and draws of them that depend on a seed alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from math import comb
from typing import Any

import numpy as np

from ..errors import CodeError

_INT64_WORDS = 2**63  # ranks below this are computed in int64, beyond it in Python integers


def stream(purpose: str, seed: int) -> random.Random:
    """Random numbers for one purpose.

    Hashed, so that the spares of seed 0 do not run parallel to the codewords of seed 0: equal streams would
    put each spare at nearly the same relative rank as a unit, hence share most of its bits.
    """
    digest = hashlib.sha256(f"ablatable code v1 {purpose} {seed}".encode()).digest()
    return random.Random(int.from_bytes(digest, "big"))


def below(rng: random.Random, bound: int) -> int:
    """A uniform integer in 0..bound - 1, from `random()` alone, whose sequence Python promises to keep."""
    bits = (bound - 1).bit_length()
    while True:
        value, have = 0, 0
        while have < bits:
            value, have = value << 53 | int(rng.random() * 2**53), have + 53
        if (value := value >> (have - bits)) < bound:
            return value


def without_replacement(rng: random.Random, population: int) -> Iterator[int]:
    """0..population - 1 in uniformly random order, lazily: a Fisher-Yates shuffle that stores only what it
    moved.

    `random.sample(range(population), k)` would do, but its order is not promised across Python versions and a
    range of 2**63 or more has no length.
    """
    moved: dict[int, int] = {}
    for at in range(population):
        pick = at + below(rng, population - at)
        yield moved.get(pick, pick)
        moved[pick] = moved.pop(at, at)


def binomials(components: int, weight: int) -> np.ndarray:
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


def unrank(ranks: Any, components: int, weight: int) -> np.ndarray:
    """The words of the given ranks in 0..C(components, weight) - 1, bool (len(ranks), components).

    The combinatorial number system: the word with ones at c_1 < .. < c_w has rank C(c_1, 1) + .. + C(c_w, w),
    so the highest one sits at the largest c with C(c, w) <= rank, and so on downwards.
    """
    table = binomials(components, weight)
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


def rank(words: np.ndarray, weight: int) -> np.ndarray:
    """The inverse of `unrank` for words of one weight: (words,) of int64 or Python integers."""
    table = binomials(words.shape[1], weight)
    nth = words.cumsum(axis=1)
    rank = np.zeros(len(words), dtype=table.dtype)
    for c in range(words.shape[1]):
        rank += np.where(words[:, c], table[c, nth[:, c]], 0)
    return rank


def even_splits(words: np.ndarray, rng: random.Random) -> np.ndarray:
    """Distinct words of one weight -> the same with column sums that differ by at most one.

    Moves a one of some row from the fullest component a to the emptiest b wherever the new word is unused.
    There always is such a row: moving maps the words with (a, b) = (1, 0) one to one on those with (0, 1),
    and when a is fuller than b, more words in use are of the first kind than of the second. Each move lowers
    the sum of squared sizes, so this ends, and only when no two sizes differ by more than one.
    """
    components = words.shape[1]
    columns = words.T.copy()  # (components, units), so that a column is contiguous
    bits = [int.from_bytes(word, "big") for word in packed(words)]
    used = set(bits)
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
        for pick in without_replacement(rng, len(candidates)):
            row = int(candidates[pick])
            word = bits[row] ^ flip
            if word not in used:
                used.remove(bits[row])
                used.add(word)
                bits[row] = word
                moved.append(row)
                if len(moved) == wanted:
                    break
        columns[a, moved], columns[b, moved] = False, True
        sizes[a], sizes[b] = sizes[a] - len(moved), sizes[b] + len(moved)
    return columns.T


def packed(words: np.ndarray) -> list[bytes]:
    """Each row's bits as bytes, component 0 in the highest bit of the first byte, zero-padded at the end."""
    packed = np.packbits(words, axis=1)
    data, width = packed.tobytes(), packed.shape[1]
    return [data[start : start + width] for start in range(0, len(data), width)]


def sealed(bits: np.ndarray) -> np.ndarray:
    """A copy that cannot be made writable again, as bytes can't be written through."""
    return np.frombuffer(bits.tobytes(), dtype=bool).reshape(bits.shape)


def validated(matrix: Any, *, allow_dummy: bool) -> np.ndarray:
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
    return sealed(bits)
