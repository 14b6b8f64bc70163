"""Search a landscape for the units that move a sample most, drawing few counterfactuals.

The search draws some ablations, fits a surrogate to what they changed, and draws next the units that most probably move
the sample farther than any so far. It stops when it is improbable that a unit which was not drawn moves the sample
farther, or when enough are drawn. Distances of what was drawn are exact; the others are guesses with an uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..._runtime.rng import generator
from ...data.distance import euclidean, native_to_scaled
from ...errors import SettingsError
from .surrogate import Surrogate, beyond

ROUND = 16  # ablations drawn between two fits, at least; with half of the components each, they fill a batch
STRIP = 256  # pictures that are turned into float64 at once
GROWTH = 8  # and at least one for so many that are drawn: a fit costs the cube of their number
SURE = 0.99  # stop when the chance of having found the farthest units reaches this


@dataclass(frozen=True, eq=False)
class Found:
    """One sample: the part of its landscape that was drawn, and guesses for the rest.

    Attributes:
        factual: uint8 (C, H, W).
        rows: the ablations that were drawn, int64 (m,), in that order.
        pictures: uint8 (m, C, H, W).
        mean, variance: of each ablation's squared distance (native, images in [0, 1]), float64 (ablations,); of a
            drawn one, its square and 0.
    """

    factual: np.ndarray
    rows: np.ndarray
    pictures: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    @cached_property
    def drawn(self) -> np.ndarray:
        """Whether each ablation was drawn, bool (ablations,)."""
        drawn = np.zeros(len(self.mean), bool)
        drawn[self.rows] = True
        return drawn

    @cached_property
    def distances(self) -> np.ndarray:
        """Of every ablation, in the paper's unit, float32 (ablations,): exact where drawn, else a guess."""
        found = (np.sqrt(self.mean) * native_to_scaled(self.factual.shape)).astype(np.float32)
        found[self.rows] = euclidean(self.pictures, self.factual)
        return found

    def chance(self, candidates: np.ndarray, top: int = 1) -> float:
        """The chance that of these ablations (rows) the `top` farthest are the farthest `top` of those drawn.

        Errors of different ablations are taken as independent; 0 if fewer than `top` are drawn.
        """
        drawn = candidates[self.drawn[candidates]]
        if len(drawn) < min(top, len(candidates)):
            return 0.0
        rest = candidates[~self.drawn[candidates]]
        bar = np.sort(self.mean[drawn])[-min(top, len(drawn))]
        return float(np.prod(1 - beyond(-excess(self.mean[rest], self.variance[rest], bar))))


def excess(mean: np.ndarray, variance: np.ndarray, bar: float) -> np.ndarray:
    """By how many standard deviations guesses are above a bar; a guess without any is on it."""
    return np.divide(mean - bar, np.sqrt(variance), out=np.zeros_like(mean), where=variance > 0)


def most_drawn(share: float, candidates: int, spares: int, components: int) -> int:
    """How many candidates may be drawn; `SettingsError` if that teaches a surrogate nothing."""
    if not 0 < share <= 1:
        raise SettingsError(f"a share of {share:g} of the units cannot be drawn; it is above 0 and at most 1")
    most = math.ceil(share * candidates - 1e-9)
    needed = min(candidates, max(1, components + 2 - spares))
    if most < needed:
        raise SettingsError(
            f"{share:g} of {candidates} ablations are {most}, and screening {components} components takes {needed} "
            f"or more; draw a share of {math.ceil(100 * needed / candidates) / 100:g}"
        )
    return most


def search(
    draw: Callable[[np.ndarray], np.ndarray],
    factual: np.ndarray,
    words: np.ndarray,
    candidates: np.ndarray,
    spares: np.ndarray,
    *,
    seed: int,
    most: int,
    top: int = 1,
    sure: float = SURE,
    on_round: Callable[[int, float], None] = lambda drawn, chance: None,
) -> Found:
    """Search one sample's landscape.

    Args:
        draw: gives the images of some ablations (rows of `words`), uint8 (rows, C, H, W).
        factual, words, candidates, spares, seed, most, top, sure, on_round: see `searching`.
    """
    steps = searching(factual, words, candidates, spares, seed=seed, most=most, top=top, sure=sure, on_round=on_round)
    wanted = next(steps)
    while True:
        try:
            wanted = steps.send(draw(wanted))
        except StopIteration as end:
            return end.value


def searching(
    factual: np.ndarray,
    words: np.ndarray,
    candidates: np.ndarray,
    spares: np.ndarray,
    *,
    seed: int,
    most: int,
    top: int = 1,
    sure: float = SURE,
    on_round: Callable[[int, float], None] = lambda drawn, chance: None,
) -> Generator[np.ndarray, np.ndarray, Found]:
    """Search one sample's landscape, whoever draws: yields ablations (rows of `words`), and is sent their images.

    Images are uint8 (rows, C, H, W).

    Args:
        factual: uint8 (C, H, W).
        words: the ablations, bool (ablations, n).
        candidates: rows of the units' ablations.
        spares: rows of the spares'. All are drawn, first: they teach the surrogate as much as units do.
        seed: decides, with nothing else, which units are drawn before anything is known.
        most: how many candidates may be drawn.
        top: how many of the farthest units are wanted.
        sure: stop earlier, when the chance of having them is as large.
        on_round: told how many candidates are drawn, and that chance.
    """
    rows = first_drawn(seed, candidates, spares, most=most, components=words.shape[1])
    pictures = yield rows
    surrogate, gram = Surrogate(words), np.zeros((0, 0))
    while True:
        gram = _grown(gram, pictures, factual)
        found = _guessed(surrogate, rows, gram / 255**2, factual, pictures)
        chance, count = found.chance(candidates, top), int(found.drawn[candidates].sum())
        on_round(count, chance)
        if chance >= sure or count >= most:
            return found
        rest, seen = candidates[~found.drawn[candidates]], candidates[found.drawn[candidates]]
        bar = np.sort(found.mean[seen])[-min(top, len(seen))] if len(seen) else 0.0
        promising = np.argsort(-excess(found.mean[rest], found.variance[rest], bar), kind="stable")
        fresh = rest[promising[: min(max(ROUND, len(rows) // GROWTH), most - count)]]
        drawn = yield fresh
        rows, pictures = np.concatenate([rows, fresh]), np.concatenate([pictures, drawn])


def first_drawn(seed: int, candidates: np.ndarray, spares: np.ndarray, *, most: int, components: int) -> np.ndarray:
    """The ablations that are drawn before anything is known, int64: the spares', and units' that `seed` decides."""
    order = generator("screen", seed).permutation(len(candidates))
    start = candidates[order[: min(most, max(0, components + 4 - len(spares)))]]
    return np.concatenate([spares, start]).astype(np.int64)


def _grown(gram: np.ndarray, pictures: np.ndarray, factual: np.ndarray) -> np.ndarray:
    """Inner products of the changes that all pictures show, in levels of 255, given those of the first ones: (m, m).

    They are whole numbers, so exact and the same however many are new.
    """
    old, side = len(gram), factual.size
    centre = np.empty((len(pictures), len(pictures)))
    centre[:old, :old] = gram
    for first in range(old, len(pictures), STRIP):
        rows = slice(first, first + STRIP)
        new = (pictures[rows].astype(np.int16) - factual).reshape(-1, side).astype(np.float64)
        for other in range(0, len(pictures), STRIP):
            columns = slice(other, other + STRIP)
            there = (pictures[columns].astype(np.int16) - factual).reshape(-1, side).astype(np.float64)
            centre[rows, columns] = new @ there.T
            centre[columns, rows] = centre[rows, columns].T
    return centre


def _guessed(
    surrogate: Surrogate, rows: np.ndarray, gram: np.ndarray, factual: np.ndarray, pictures: np.ndarray
) -> Found:
    if gram.any():
        mean, variance = surrogate.fit(rows, gram).squares(np.arange(len(surrogate.dw)))
    else:  # nothing moved anything, and nothing can be learnt from that
        mean = variance = np.zeros(len(surrogate.dw))
    mean, variance = mean.copy(), variance.copy()
    mean[rows], variance[rows] = np.diag(gram), 0
    return Found(factual, rows, pictures, mean, variance)
