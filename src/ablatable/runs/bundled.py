"""The bundled run: a small ensemble, trained on twelve artists' drawings, that travels with the package.

`scripts/make_bundled.py` trains it; its manifest travels with it, so it is opened and checked like any other run. The
drawings are OpenMoji's, CC BY-SA 4.0, and so are the weights that were trained on them.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from .run import Run

WORD = "bundled"
FOLDER = Path(str(files("ablatable"))) / "data" / "assets" / "bundled"


def bundled() -> Run:
    """The bundled run, for trying what reads a run: twelve units (artists) of twelve drawings, 16 x 16 in colour."""
    return Run(FOLDER)


def located(path: Path) -> Path:
    """A run's folder from what the command line was given: `bundled`, unless there is such a folder, or a path."""
    return FOLDER if str(path) == WORD and not path.exists() else path
