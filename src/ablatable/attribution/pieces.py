"""The pieces that an evaluation's work is cut into: a method's scores of a few samples, each piece a file.

A piece holds the scores of the factual samples, and what the method names in counterfactuals of them: whether it names
the same unit again without that unit, and in which share of the pictures without another one.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from .._runtime.devices import CPU, computing
from .._runtime.files import json_hash, write_atomic
from .._runtime.rng import generator
from .._runtime.workers import chunks
from ..data.grouping import per_unit
from ..errors import DataError, StoreError
from ..runs.run import Run
from ..universes.reader import Universe
from .methods import FACTUAL, Attributor, Method, NotScored, find_method, pictures_of

PICTURES = 256  # that a method is asked about at once
OTHERS = 256  # other units whose removal a quick method is asked about, at most


@dataclass(frozen=True)
class Piece:
    """A method's scores of a few samples, by number and ascending, as given to a worker."""

    universe: str
    run: str | None
    method: str
    rule: str
    samples: tuple[int, ...]
    path: str
    stamp: str  # of the file that scores come from; empty for other methods
    device: str = CPU


@dataclass(frozen=True)
class Ready:
    """A method that is ready for a universe, and how many seconds that took."""

    universe: Universe
    attributor: Attributor
    quick: bool
    seconds: float


def compute_piece(piece: Piece, report: Callable[[dict], None]) -> None:
    """Score one piece and store it."""
    with computing(piece.device):
        ready = _prepared(piece.universe, piece.run, piece.method, piece.stamp, piece.device)
        score_piece(ready, piece)


@lru_cache(maxsize=1)
def _prepared(url: str, run: str | None, method: str, stamp: str, device: str) -> Ready:
    """A worker makes a method ready once. Whether a file of scores has all of them was seen before."""
    universe = Universe.open(url)
    return make_ready(find_method(method, universe, device, ()), universe, None if run is None else Run(run))


def make_ready(method: Method, universe: Universe, run: Run | None) -> Ready:
    """Prepare a method for a universe's training data."""
    began = time.perf_counter()
    attributor = method.prepare(universe.training, run)
    return Ready(universe, attributor, method.quick, time.perf_counter() - began)


def score_piece(ready: Ready, piece: Piece) -> None:
    """Score one piece with a method that is ready, and store it."""
    samples = list(piece.samples)

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
    seconds = (time.perf_counter() - began) / len(samples)
    again = _named_again(ready, samples, factual.argmax(axis=1).tolist(), score)
    store(piece, Content(factual, seconds, again, "all" if ready.quick else "one", ready.seconds))


def _named_again(
    ready: Ready, samples: list[int], named: list[int], score: Callable[[Sequence[int], Sequence[int]], np.ndarray]
) -> np.ndarray | None:
    """Whether each sample's unit is named again without itself, and in which share of the pictures without another.

    A quick method is asked about the pictures without each of the other units (OTHERS of them, drawn at random, if
    there are more), another method about one. Float64 (2, samples).
    None where there is no other unit, or where stored scores do not cover these pictures.
    """
    every = [_some_others(ready.universe, sample, unit) for sample, unit in zip(samples, named, strict=True)]
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
            return np.array([itself, hits / np.bincount(place)])
        except NotScored:  # stored scores need not have counterfactuals, or not all of them
            continue
    return None


def other_units(universe: Universe, unit: int) -> np.ndarray:
    """The units other than this one, int (others,). Those that share its codeword go with it, so they are no others."""
    ablation = np.array(universe.settings.ablation)
    return np.flatnonzero(ablation != ablation[unit])


def _some_others(universe: Universe, sample: int, unit: int) -> list[int]:
    others = other_units(universe, unit)
    if len(others) > OTHERS:
        others = np.sort(generator("other units", universe.seeds[sample], unit).choice(others, OTHERS, replace=False))
    return others.tolist()


def another_unit(universe: Universe, sample: int, unit: int) -> int:
    """One of `other_units`, of which there must be some, drawn at random for each sample."""
    return int(generator("another unit", universe.seeds[sample], int(unit)).choice(other_units(universe, unit)))


# --- as files -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Content:
    """What a piece holds.

    Attributes:
        scores: of the factual samples, float64 (samples, units).
        seconds: that scoring one sample took; `ready`: that making the method ready took.
        again: see `_named_again`.
        others: how many counterfactuals a method was asked about: `all`, or `one` per sample.
    """

    scores: np.ndarray
    seconds: float
    again: np.ndarray | None
    others: str
    ready: float

    def digest(self, stamp: str) -> str:
        """SHA-256 over all of it, and over the stamp of the file that scores come from."""
        given = [each for each in (self.scores, self.again) if each is not None]
        arrays = [hashlib.sha256(np.ascontiguousarray(each, np.float64).data).hexdigest() for each in given]
        return json_hash([*arrays, self.seconds, self.others, self.ready, stamp])


def store(piece: Piece, content: Content) -> None:
    """Write a piece's file: Parquet, one row per sample."""
    import polars as pl

    count, again = len(content.scores), content.again
    shown = np.ascontiguousarray(content.scores, np.float64)
    columns = {
        "scores": pl.Series(shown, dtype=pl.Array(pl.Float64, shown.shape[1])),
        "without_itself": [None] * count if again is None else again[0],
        "without_others": [None] * count if again is None else again[1],
    }
    about = {
        "seconds": content.seconds,
        "ready": content.ready,
        "others": content.others,
        "stamp": piece.stamp,
        "sha256": content.digest(piece.stamp),
    }
    buffer = io.BytesIO()
    pl.DataFrame(columns).with_columns(**{name: pl.lit(value) for name, value in about.items()}).write_parquet(buffer)
    write_atomic(Path(piece.path), buffer.getvalue())


def finished(piece: Piece) -> Content | None:
    """A finished piece; None if it is not there, damaged, or of another file."""
    import polars as pl

    try:
        table = pl.read_parquet(piece.path)
        about = table.row(0, named=True)
        again = None
        if about["without_itself"] is not None:
            again = np.stack([table[name].to_numpy() for name in ("without_itself", "without_others")])
        content = Content(table["scores"].to_numpy(), about["seconds"], again, about["others"], about["ready"])
        sound = content.digest(piece.stamp) == about["sha256"]
    except Exception:  # Parquet's readers have many kinds for damaged bytes
        return None
    return content if sound else None


def content_of(piece: Piece) -> Content:
    """A piece that was finished; `StoreError` if it is not there any more."""
    if (content := finished(piece)) is None:
        raise StoreError(f"{piece.path} is missing or damaged; evaluate again, which computes what is missing")
    return content
