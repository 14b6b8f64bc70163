"""How much of a universe one page can show, so that it opens quickly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .content import REPORT_SAMPLES, SHEET_SPARES, SHEET_UNITS

TOP_UNITS = 5  # units shown beside a sample: those of largest distance
PAGE_BYTES = 15_000_000  # what a page weighs at most, about
PICTURE_SHARE = 0.8  # of it; the rest is for words and numbers


@dataclass(frozen=True)
class Caps:
    """How much a page shows, so that it stays below PAGE_BYTES: samples, and of each so many units and spares."""

    samples: int
    units: int
    spares: int


def fit_page(samples: int, units: int, spares: int, picture: float, *, images: int = 1) -> Caps:
    """The most that fits.

    Args:
        samples, units, spares: what there is.
        picture: bytes a picture takes as part of a sprite.
        images: training images at hand.

    First the number of tiles of each sample shrinks, down to some dozens; then the number of samples.
    """
    budget = PAGE_BYTES * PICTURE_SHARE * 3 / 4  # base64 makes 4 bytes of 3
    samples = min(samples, REPORT_SAMPLES)
    least = min(units, 4 * TOP_UNITS)

    def cost(count: int, share: float) -> tuple[float, Caps]:
        own = max(least, int(share * min(units, SHEET_UNITS)))
        other = int(share * min(spares, SHEET_SPARES))
        # beside the sprite: the row of pictures, and for each top unit a training image, a picture and a difference
        alone = 10 + TOP_UNITS * 5
        training = min(images, count * own)
        return picture * (count * (1 + own + other + alone) + training), Caps(count, own, other)

    for count in range(samples, 0, -1):
        for share in np.linspace(1, 0, 101):
            size, caps = cost(count, float(share))
            if size <= budget:
                return caps
    return Caps(1, least, 0)
