"""Figures of studies and sheets of images, as PNG files: one look for all of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np

Axes = Any  # matplotlib's, whose import takes a second
TARGET = 96  # pixels of the longer side of an image in a sheet, about
GAP = 4
GREY = 214


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


def contact_sheet(*rows: np.ndarray) -> np.ndarray:
    """Rows of images, uint8 (N, H, W, C) each, as one picture (height, width, C), enlarged by whole pixels."""
    count = max(map(len, rows))
    _, height, width, channels = rows[0].shape
    factor = max(1, round(TARGET / max(height, width)))
    height, width = height * factor, width * factor
    sheet = np.full((len(rows) * (height + GAP) + GAP, count * (width + GAP) + GAP, channels), GREY, np.uint8)
    for r, images in enumerate(rows):
        for c, image in enumerate(images):
            top, left = GAP + r * (height + GAP), GAP + c * (width + GAP)
            sheet[top : top + height, left : left + width] = image.repeat(factor, axis=0).repeat(factor, axis=1)
    return sheet


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of one image, uint8 (H, W, C)."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
