"""What a lower precision changes: draw some of a universe's images again in float32, and compare them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._runtime.devices import computing, resolve_device
from ..data.distance import euclidean
from ..data.images import delivered
from ..runs.conditioning import given_of
from ..runs.run import Run, as_run
from .drawing import draw
from .reader import Universe

SAMPLES, ABLATIONS = 2, 24  # of a universe, at most: its first ones
PASSES = 10_000  # rows that components process, at most


@dataclass(frozen=True)
class PrecisionError:
    """How far a universe's images, radii and top units are from those of float32, on a subset.

    Attributes:
        samples, ablations: how many of each were compared.
        grey_levels: mean absolute difference of a pixel, in levels of 255.
        within_one_level: share of pixels that differ by one level at most.
        radius: mean relative difference of the largest distance of a sample.
        rank: mean number of places by which the five farthest ablations of float32 moved.
    """

    samples: int
    ablations: int
    grey_levels: float
    within_one_level: float
    radius: float
    rank: float

    def sentence(self) -> str:
        """For people."""
        compared = f"{self.ablations} ablations of {self.samples} samples"
        return (
            f"against fp32, on {compared}: {self.grey_levels:.2f} grey levels a pixel, {self.within_one_level:.1%} of "
            f"pixels within one; radius {self.radius:.1%} off; the top units {self.rank:.1f} places"
        )


def precision_error(
    universe: str | Path | Universe, run: str | Path | Run, *, max_resident: int | None = None, device: str = "auto"
) -> PrecisionError:
    """Draw a universe's first images in float32, in this process, and compare them with those that are stored.

    Args:
        universe: the universe, or its place.
        run: the run that it was drawn from, or its folder.
        max_resident: how many components are kept in memory at once; None = all.
        device: where to draw; take the universe's, or other hardware's rounding is compared as well.

    Raises:
        StoreError: `run` is no run, or `universe` cannot be read.
    """
    universe = Universe.open(universe)
    settings, opened = universe.settings, as_run(run)
    device = resolve_device(device)
    samples, ablations = subset(settings.codewords, len(universe.seeds), settings.sampling.passes)
    words, first = settings.codewords[:ablations], settings.conditions_of(universe.seeds[:samples])
    removed = np.concatenate([np.zeros((1, words.shape[1]), bool), words])
    with computing(device):
        exact = draw(
            opened.ensemble(batch=settings.batch, device=device, max_resident=max_resident),
            removed,
            universe.seeds[:samples],
            shape=opened.noise_shape,
            codec=opened.codec,
            schedule=opened.recipe.schedule,
            sampling=settings.sampling,
            device=device,
            given=given_of(opened, first, samples, settings.guidance, device=device),
        )
    exact = delivered(exact, settings.threshold)
    stored = np.stack([universe.landscape(s)[:ablations] for s in range(samples)], axis=1)
    stored = np.concatenate([universe.factual[None, :samples], stored])
    return compare(np.moveaxis(stored, -1, -3), exact)


def subset(codewords: np.ndarray, samples: int, passes: int) -> tuple[int, int]:
    """How many of the first samples and ablations are compared: as many as PASSES allow, and one of each at least."""
    samples, ablations = min(SAMPLES, samples), min(ABLATIONS, len(codewords))
    survivors = (~codewords[:ablations]).sum(axis=1)
    while samples > 1 or ablations > 1:
        if samples * passes * (codewords.shape[1] + survivors[:ablations].sum()) <= PASSES:
            break
        if samples > 1:
            samples -= 1
        else:
            ablations -= 1
    return samples, ablations


def compare(pictures: np.ndarray, exact: np.ndarray) -> PrecisionError:
    """Both uint8 (1 + ablations, samples, C, H, W), the factual samples first."""
    levels = np.abs(pictures.astype(np.int16) - exact.astype(np.int16))
    there, here = (euclidean(drawn[1:], drawn[0]).astype(np.float64) for drawn in (pictures, exact))
    top = np.argsort(-here, axis=0, kind="stable")[:5]
    places = np.argsort(np.argsort(-there, axis=0, kind="stable"), axis=0)
    moved = np.abs(np.take_along_axis(places, top, axis=0) - np.arange(len(top))[:, None])
    radius = here.max(axis=0)
    off = np.abs(there.max(axis=0) - radius) / np.where(radius > 0, radius, 1)
    return PrecisionError(
        samples=pictures.shape[1],
        ablations=len(pictures) - 1,
        grey_levels=float(levels.mean()),
        within_one_level=float((levels <= 1).mean()),
        radius=float(off.mean()),
        rank=float(moved.mean()),
    )
