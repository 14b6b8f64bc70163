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
from collections.abc import Sequence
from itertools import islice
from math import comb
from operator import index
from typing import Any

import numpy as np

from ..errors import CodeError
from .even_images import even_images
from .words import even_splits, packed, rank, sealed, stream, unrank, validated, without_replacement

RANDOM, GIVEN = "random", "given"  # designs: see `Code.design`


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
        object.__setattr__(self, "matrix", validated(matrix, allow_dummy=allow_dummy))
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
    def balanced(
        cls,
        units: int,
        components: int,
        seed: int = 0,
        *,
        weight: int | None = None,
        images: Sequence[int] | np.ndarray | None = None,
    ) -> Code:
        """Distinct random codewords of one weight, whose split sizes differ by at most one.

        With `images`, each unit's number of images, components' numbers of images are evened out too: they differ by at
        most the images of the largest unit, and usually by far fewer, while the numbers of units still differ by at
        most one (`even_images` shows that this always succeeds).

        `weight` None means components // 2. Words are drawn uniformly without replacement, then bits are
        moved from the fullest to the emptiest component until the splits are even (`even_splits` shows that
        this always succeeds). Chance alone would leave split sizes about sqrt(units) / 2 apart from their
        mean.

        The result is a function of the arguments alone: it rests on `random.Random.random`, whose
        sequence Python guarantees, and on exact integers.

        Raises CodeError when units < 1, components < 2, seed < 0, weight is outside 1..components - 1, or
        there are fewer words than units (the message gives the smallest workable number of components); or `images`
        are not one positive number per unit.
        """
        words, rng = _drawn(units, components, seed, weight)
        words = even_splits(words, rng)
        return cls(words if images is None else even_images(words, _counts(images, len(words))))

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
        ablation = np.array([first.setdefault(word, len(first)) for word in packed(self.matrix)], np.int64)
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
        taken = np.sort(rank(self.ablations()[0], weight))
        left = self.capacity - len(taken)
        if count > left:
            raise CodeError(
                f"{count} spare codewords asked for, but only {left} exist: {self.components} components at "
                f"weight {weight} have {self.capacity} words and the units hold {len(taken)}; ask for {left} "
                f"at most, or use {components_for(len(taken) + count)} components (weight n // 2)"
            )
        # The f-th free rank is f plus the taken ones before it; taken[i] - i free ones precede taken[i].
        free = list(islice(without_replacement(stream("spares", seed), left), count))
        free = np.array(free, dtype=taken.dtype)
        before = np.searchsorted(taken - np.arange(len(taken)), free, side="right")
        return unrank(free + before.astype(taken.dtype), self.components, weight)

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
        return hashlib.sha256(b"ablatable code v1\0" + shape + b"".join(packed(self.matrix))).hexdigest()

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
    rng = stream("codewords", seed)
    ranks = list(islice(without_replacement(rng, words), units))
    return unrank(ranks, components, weight), rng


def _counts(images: Sequence[int] | np.ndarray, units: int) -> np.ndarray:
    counts = np.asarray(images)
    if counts.shape != (units,) or counts.dtype.kind not in "iu" or (counts < 1).any():
        raise CodeError(f"images must be a positive whole number for each of {units} units, not {counts.tolist()}")
    return counts


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
    object.__setattr__(code, "matrix", sealed(matrix))
    object.__setattr__(code, "design", design)
    return code
