"""The report's page as a Jupyter notebook: one cell, whose output is the page in a frame of its own."""

from __future__ import annotations

import json
from html import escape

HEIGHT = 900  # pixels of the frame


def framed(page: str) -> str:
    """A page as an HTML element that holds it: it can neither reach the notebook nor be reached by it."""
    return (
        f'<iframe srcdoc="{escape(page, quote=True)}" sandbox="allow-scripts" style="border:0" width="100%" '
        f'height="{HEIGHT}" title="Ablatable report"></iframe>'
    )


def as_notebook(page: str, universe: str) -> str:
    """The text of a notebook (format 4.5) that shows the page as it is opened; its cell shows the universe anew."""
    source = f"import ablatable as ab\n\nab.Universe.open({universe!r})"
    cell = {
        "cell_type": "code",
        "id": "report",
        "execution_count": None,
        "metadata": {},
        "source": source,
        "outputs": [
            {"output_type": "display_data", "metadata": {}, "data": {"text/html": framed(page), "text/plain": "report"}}
        ],
    }
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return json.dumps(
        {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}, indent=1
    )
