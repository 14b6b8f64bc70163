"""Small charts: scales and bins for page and plots alike, and the SVG that the page draws with them.

The SVG holds marks only and is stretched to the width there is; words and numbers are HTML beside it, at percentages
of the width, so that they keep their size on a narrow screen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

LEAST_SPAN = 0.05
STRIP_WIDTH = 1000  # marks of a strip are placed on that many positions; marks on the same one are drawn once


@dataclass(frozen=True)
class Tick:
    """A label of an axis: its value, as text, and where it is in percent of the axis."""

    value: float
    text: str
    percent: float


def nice_step(span: float, ticks: int = 5) -> float:
    """The smallest of 1, 2, 5, 10, 20, .. (and 0.5, 0.2, ..) that divides `span` into at most `ticks` steps.

    For a span next to nothing it is 1, so that its labels still differ.
    """
    if span < LEAST_SPAN:
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / ticks))
    return next(power * factor for factor in (1, 2, 5, 10, 20) if power * factor * ticks >= span * (1 - 1e-9))


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, both multiples of `step`."""

    low: float
    high: float
    step: float

    @classmethod
    def of(cls, low: float, high: float, ticks: int = 5) -> Scale:
        """The axis that holds `low` to `high`."""
        step = nice_step(high - low, ticks)
        first = math.floor(low / step + 1e-9)
        last = max(first + 1, math.ceil(high / step - 1e-9))
        return cls(first * step, last * step, step)

    def percent(self, value: float) -> float:
        """Where a value is, 0 to 100."""
        return round(100 * (float(value) - self.low) / (self.high - self.low), 3)

    def ticks(self) -> list[Tick]:
        """Labels at every step."""
        count = round((self.high - self.low) / self.step)
        values = [self.low + k * self.step for k in range(count + 1)]
        return [Tick(value, f"{value:g}", self.percent(value)) for value in values]


def strip(values: np.ndarray, scale: Scale) -> str:
    """SVG path of one short vertical stroke a value, on a field of STRIP_WIDTH x 1."""
    places = np.unique(np.rint(STRIP_WIDTH * (values - scale.low) / (scale.high - scale.low)).astype(int))
    return "".join(f"M{place} 0v1" for place in places)


def edges(values: np.ndarray) -> np.ndarray:
    """Bin edges for a histogram of `values`: multiples of a round step, about 2 cbrt(n) of them (Rice's rule)."""
    bins = min(30, max(8, math.ceil(2 * len(values) ** (1 / 3))))
    scale = Scale.of(float(values.min()), float(values.max()), bins)
    return scale.low + scale.step * np.arange(round((scale.high - scale.low) / scale.step) + 1)


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram, in percent of the chart: from the left, its width, its height; and its count."""

    left: float
    width: float
    height: float
    count: int


def bars(values: np.ndarray, bins: np.ndarray, tallest: int) -> list[Bar]:
    """A histogram's bars; one of `tallest` is as tall as the chart."""
    counts = np.histogram(values.astype(np.float64), bins)[0]
    width = 100 / len(counts)
    return [
        Bar(round(k * width, 3), round(width, 3), round(100 * count / tallest, 3), int(count))
        for k, count in enumerate(counts)
        if count
    ]


def tallest(bins: np.ndarray, *groups: np.ndarray) -> int:
    """The largest count of any bin in any group of values."""
    return max(int(np.histogram(values.astype(np.float64), bins)[0].max()) for values in groups)
