"""The bundled run: a small ensemble, trained on twelve artists' drawings, that travels with the package.

`scripts/make_bundled.py` trains it from what is defined here; its manifest travels with it, so it is opened and checked
like any other run. The drawings are OpenMoji's, CC BY-SA 4.0, and so are the weights that were trained on them.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np

from .._runtime.execution import Execution
from ..codes.code import Code
from ..data.units import Units
from ..diffusion.recipe import Recipe, preset
from .run import Run

WORD = "bundled"
FOLDER = Path(str(files("ablatable"))) / "data" / "assets" / "bundled"

ARTISTS = (
    "Emily Jäger",  # smileys
    "Hilda Kalyoncu",  # flowers and trees
    "Laura Humpfer",  # hearts, drinks
    "Marius Schnabel",  # fruit and tools
    "Martin Wehl",  # the earth, houses
    "Miriam Vollmeier",  # food
    "Nicole Kornhaas",  # games
    "Ronja Bäurlen",  # vehicles
    "Selina Bauder",  # birds, reptiles
    "Sina Schulz",  # music, film
    "Sofie Ascherl",  # mammals
    "Vanessa Boutzikoudi",  # sky and weather
)
DRAWINGS, SIDE = 4, 16
COMPONENTS, WEIGHT, STEPS, BATCH, SEED = 9, 6, 2400, 16, 0  # docs/colour.md says what else was tried


def bundled() -> Run:
    """The bundled run, for trying what reads a run: twelve units (artists) of four drawings, 16 x 16 in colour."""
    return Run(FOLDER)


def located(path: Path) -> Path:
    """A run's folder from what the command line was given: `bundled`, unless there is such a folder, or a path."""
    return FOLDER if str(path) == WORD and not path.exists() else path


def bundled_units() -> Units:
    """Its training data: of each artist the first drawings in the order of their hashes, which is as good as random."""
    everything = Units.openmoji(ARTISTS, size=SIDE)
    images = [everything.of(artist)[:DRAWINGS] for artist in everything.ids]
    return Units(everything.ids, np.concatenate(images), np.repeat(np.arange(len(images)), DRAWINGS))


def bundled_code() -> Code:
    """Its codewords, drawn at random, so that tests on them are exact."""
    return Code.random(len(ARTISTS), COMPONENTS, SEED, weight=WEIGHT)


def bundled_recipe() -> Recipe:
    """How its components were trained."""
    return preset("colour", steps=STEPS, batch=BATCH, precision="bf16", stored="float16")


def train_bundled(out: str | Path, *, execution: Execution = Execution(), overwrite: bool = False) -> Run:
    """Train the bundled run again, into `out`: the same bytes on the same kind of machine with the same versions."""
    from .ensemble_training import train

    units, code, recipe = bundled_units(), bundled_code(), bundled_recipe()
    return train(units, code, recipe, out=out, seed=SEED, execution=execution, overwrite=overwrite)
