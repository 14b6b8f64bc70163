"""What notebooks show: images and tables as HTML."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

import numpy as np

SIZE = 72  # pixels, about, of an image in a notebook's cell


def image_html(picture: np.ndarray, caption: str) -> str:
    """An image, uint8 (H, W, C), that is shown `SIZE` pixels high, with its caption as a tooltip."""
    from .plotting import png

    data, about = base64.b64encode(png(np.asarray(picture))).decode("ascii"), escape(caption)
    style = f"height:{SIZE}px;image-rendering:pixelated;margin:1px"
    return f'<img src="data:image/png;base64,{data}" alt="{about}" title="{about}" style="{style}">'


def captioned(picture: np.ndarray, caption: str) -> str:
    """A table's cell: an image above its caption."""
    style = "text-align:center;vertical-align:top;font-size:80%"
    return f'<td style="{style}">{image_html(picture, caption)}<br>{escape(caption)}</td>'


def figures_html(title: str, figures: Mapping[str, object]) -> str:
    """Key figures by name, under a title."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in figures.items())
    return f"<table><caption>{escape(title)}</caption>{rows}</table>"
