"""The pictures of a universe as vectors, of pixels or features, read a piece at a time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .._runtime.workers import chunks
from ..universes.landscapes import Landscapes
from .features import Features

PIECE = 64 * 2**20  # bytes of vectors that are held at once


class Seen:
    """Factual samples, counterfactuals and training images as float64 vectors.

    Features are computed once for all training images, and kept; pixels are read where they are.

    Attributes:
        universe: whose pictures.
        ablation: each unit's row of the ablations, int (units,).
        starts: where each unit's images begin, and at the end how many there are, int (units + 1,).
        mean: the mean training image, float64 (D,).
        at_once: how many vectors are held at once.
    """

    def __init__(self, universe: Landscapes, features: Features | None) -> None:
        """`features`: the space; None = pixels, from 0 to 255."""
        self.universe, self.see = universe, features
        training = universe.training
        self.ablation = np.array(universe.settings.ablation)
        self.starts = np.append(np.flatnonzero(np.diff(training.owner, prepend=-1)), len(training.images))
        self._factual = universe.factual
        self._images = training.images if features is None else features(training.images)
        self.at_once = max(16, PIECE // (8 * int(np.prod(self._images.shape[1:]))))
        self.mean = np.zeros(int(np.prod(self._images.shape[1:])))
        for first, last in chunks(len(self._images), self.at_once):
            self.mean += self.images(slice(first, last)).sum(axis=0)
        self.mean /= len(self._images)

    def factual(self, sample: int) -> np.ndarray:
        """A factual sample, (D,)."""
        return self._vectors(self._factual[sample : sample + 1])[0]

    def counterfactuals(self, sample: int, rows: np.ndarray) -> np.ndarray:
        """One sample under some ablations, in any order: (rows, D)."""
        if not len(rows):
            return self.images(slice(0, 0))
        wanted, place = np.unique(rows, return_inverse=True)
        return self._vectors(self.universe.counterfactuals(sample, wanted))[place]

    def images(self, which: np.ndarray | slice) -> np.ndarray:
        """Some training images, (images, D)."""
        found = self._images[which]
        return found.reshape(len(found), -1).astype(np.float64)

    def speakers(self, factual: np.ndarray) -> np.ndarray:
        """Of each unit, which of its images is nearest to a factual sample, (D,): int (units,)."""
        if len(self.starts) == len(self._images) + 1:  # each has one
            return self.starts[:-1]
        away = np.concatenate(
            [
                np.square(self.images(slice(first, last)) - factual).sum(axis=1)
                for first, last in chunks(len(self._images), self.at_once)
            ]
        )
        bounds = zip(self.starts[:-1], self.starts[1:], strict=True)
        return np.array([first + int(away[first:last].argmin()) for first, last in bounds])

    def pieces(self) -> Iterable[tuple[int, int]]:
        """Spans of units that together have about `at_once` images."""
        share = len(self._images) / (len(self.starts) - 1)
        return chunks(len(self.starts) - 1, max(1, int(self.at_once / share)))

    def _vectors(self, pictures: np.ndarray) -> np.ndarray:
        vectors = pictures if self.see is None else self.see(pictures)
        return vectors.reshape(len(vectors), -1).astype(np.float64)
