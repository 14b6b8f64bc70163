"""The pieces that an evaluation's work is cut into: a method's scores of a few samples, each piece a file.

A piece holds the scores of the factual samples, and what the method names in counterfactuals of them: whether it names
the same unit again without that unit, and in which share of the pictures without another one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .._runtime.files import json_hash, write_json
from .._runtime.rng import generator
from .._runtime.workers import chunks
from ..data.grouping import per_unit
from ..errors import DataError
from ..runs.run import Run
from ..universes.reader import Universe
from .methods import FACTUAL, Attributor, Method, NotScored, find_method, pictures_of

PICTURES = 256  # that a method is asked about at once


@dataclass(frozen=True)
class Piece:
    """A method's scores of a few samples, as given to a worker."""

    universe: str
    run: str | None
    method: str
    rule: str
    samples: tuple[int, int]
    path: str
    stamp: str  # of the file that scores come from; empty for other methods


@dataclass(frozen=True)
class Ready:
    """A method that is ready for a universe, and how many seconds that took."""

    universe: Universe
    attributor: Attributor
    quick: bool
    seconds: float


def compute_piece(piece: Piece, report: Callable[[dict], None]) -> None:
    """Score one piece and store it."""
    from .._runtime.devices import CPU, computing

    ready = _prepared(piece.universe, piece.run, piece.method, piece.stamp)
    with computing(CPU):
        score_piece(ready, piece)


@lru_cache(maxsize=1)
def _prepared(url: str, run: str | None, method: str, stamp: str) -> Ready:
    """A worker makes a method ready once."""
    universe = Universe.open(url)
    return make_ready(find_method(method, universe), universe, None if run is None else Run(run))


def make_ready(method: Method, universe: Universe, run: Run | None) -> Ready:
    """Prepare a method for a universe's training data."""
    began = time.perf_counter()
    attributor = method.prepare(universe.training, run)
    return Ready(universe, attributor, method.quick, time.perf_counter() - began)


def score_piece(ready: Ready, piece: Piece) -> None:
    """Score one piece with a method that is ready, and store it."""
    samples = list(range(*piece.samples))

    def score(samples: Sequence[int], removed: Sequence[int]) -> np.ndarray:
        pictures = pictures_of(ready.universe, samples, removed)
        scores = np.asarray(ready.attributor(pictures), dtype=np.float64)
        if scores.ndim != 2 or len(scores) != len(samples) or not np.isfinite(scores).all():
            raise DataError(
                f"'{piece.method}' gave scores of shape {scores.shape} for {len(samples)} pictures, or some that are "
                "not finite; expected (pictures, units) or (pictures, images)"
            )
        return per_unit(scores, ready.universe.training, piece.rule)

    began = time.perf_counter()
    factual = score(samples, [FACTUAL] * len(samples))
    content = {
        "scores": factual.tolist(),
        "seconds": (time.perf_counter() - began) / len(samples),
        "again": _named_again(ready, samples, factual.argmax(axis=1).tolist(), score),
        "others": "all" if ready.quick else "one",
        "ready": ready.seconds,
        "stamp": piece.stamp,
    }
    write_json(Path(piece.path), content | {"sha256": json_hash(content)})


def _named_again(
    ready: Ready, samples: list[int], named: list[int], score: Callable[[Sequence[int], Sequence[int]], np.ndarray]
) -> list[list[float]] | None:
    """Whether each sample's unit is named again without itself, and in which share of the pictures without another.

    A quick method is asked about the pictures without each of the other units, another about one, drawn at random.
    None where there is no other unit, or where stored scores do not cover these pictures.
    """
    every = [other_units(ready.universe, unit).tolist() for unit in named]
    if not all(every):
        return None
    one = [[another_unit(ready.universe, sample, unit)] for sample, unit in zip(samples, named, strict=True)]
    for others in (every, one) if ready.quick else (one,):
        try:
            itself = score(samples, named).argmax(axis=1) == named
            place = np.repeat(np.arange(len(samples)), [len(gone) for gone in others])  # of each picture's sample
            asked, gone = np.array(samples)[place].tolist(), [unit for units in others for unit in units]
            parts = [slice(first, last) for first, last in chunks(len(gone), PICTURES)]
            said = np.concatenate([score(asked[part], gone[part]).argmax(axis=1) for part in parts])
            hits = np.bincount(place, weights=said == np.array(named)[place])
            return [itself.tolist(), (hits / np.bincount(place)).tolist()]
        except NotScored:  # stored scores need not have counterfactuals, or not all of them
            continue
    return None


def other_units(universe: Universe, unit: int) -> np.ndarray:
    """The units other than this one, int (others,). Those that share its codeword go with it, so they are no others."""
    ablation = np.array(universe.settings.ablation)
    return np.flatnonzero(ablation != ablation[unit])


def another_unit(universe: Universe, sample: int, unit: int) -> int:
    """One of `other_units`, of which there must be some, drawn at random for each sample."""
    return int(generator("another unit", universe.seeds[sample], int(unit)).choice(other_units(universe, unit)))


def finished(piece: Piece) -> dict[str, Any] | None:
    """A finished piece; None if it is not there, damaged, of before all others were asked about, or of another file."""
    try:
        content = json.loads(Path(piece.path).read_bytes())
        digest = content.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return content if json_hash(content) == digest and content["stamp"] == piece.stamp and "others" in content else None
