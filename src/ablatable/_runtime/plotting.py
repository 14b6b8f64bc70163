"""Figures of studies, as PNG files: one look for all of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

Axes = Any  # matplotlib's, whose import takes a second


def figure_png(draw: Callable[..., None], *, panels: int = 1, width: float = 5.2, height: float = 4.0) -> bytes:
    """A figure with `panels` axes side by side, drawn by `draw(*axes)`, as a PNG file on white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * panels, height), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    draw(*axes)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
