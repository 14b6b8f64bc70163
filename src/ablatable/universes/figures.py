"""Figures of a universe, enumerated or screened, for notebooks."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .landscapes import Landscapes, checked_sample
from .showing import farthest

REMOVED, SPARE = "#2c6fbb", "#9a9a9a"


class NotebookFigure(Figure):
    """A figure that a notebook shows although pyplot does not know it."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        FigureCanvasAgg(self).print_png(buffer)
        return buffer.getvalue()


def show(universe: Landscapes, sample: int, *, top: int = 6) -> Figure:
    """One sample, the counterfactuals farthest from it, and below each the first training image of the unit removed."""
    checked_sample(sample, universe.seeds)
    found, training = farthest(universe, sample, top), universe.training
    rows = sorted({row for row, *_ in found})
    pictures = dict(zip(rows, universe.counterfactuals(sample, np.array(rows)), strict=True))
    columns = 1 + len(found)
    figure, axes = _new(2, columns, 1.35, 1.55)
    for one in axes.flat:
        one.set_axis_off()
    _draw(axes[0, 0], universe.factual[sample], f"seed {universe.seeds[sample]}\nfactual")
    for column, (row, unit, distance) in enumerate(found, start=1):
        _draw(axes[0, column], pictures[row], f"without {_short(unit)}\ndistance {distance:.1f}")
        _draw(axes[1, column], training.of(unit)[0], f"{_short(unit)}: removed")
    return figure


def plot_landscape(universe: Landscapes, sample: int) -> Figure:
    """Distances of one sample's counterfactuals, the farthest first, with those of the spares beside them."""
    number = checked_sample(sample, universe.seeds)
    one = slice(number, number + 1)
    distances, spares = universe.distances(samples=one)[:, 0], universe.spare_distances(samples=one)[:, 0]
    distances = np.sort(distances[~np.isnan(distances)])[::-1]
    figure, grid = _new(1, 1, 6.4, 3.4)
    axes = grid[0, 0]
    axes.plot(np.arange(1, len(distances) + 1), distances, "o-", ms=3, lw=1, color=REMOVED, label="without one unit")
    if len(spares):
        places = np.linspace(1, max(2, len(distances)), len(spares))
        label = "spare codewords (no unit removed completely)"
        axes.plot(places, np.sort(spares)[::-1], "s", ms=4, color=SPARE, label=label, zorder=1)
    axes.set(
        xlabel="units, by how far their removal moves the sample",
        ylabel="distance (scaled to 256 x 256 x 3)",
        title=f"Landscape of sample {number} (seed {universe.seeds[number]})",
        ylim=(0, None),
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.2)
    return figure


def _draw(axes: Any, image: np.ndarray, title: str) -> None:
    axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
    axes.set_title(title, fontsize=8)


def _short(unit: str) -> str:
    return unit if len(unit) <= 18 else f"{unit[:17]}…"


def _new(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure with a grid of axes, each of this size in inches."""
    figure = NotebookFigure(figsize=(width * columns, height * rows), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)
