"""Train the bundled ensemble: twelve artists' drawings in colour, small enough to travel with the package.

    python scripts/make_bundled.py [OUT]

OUT is `src/ablatable/data/assets/bundled` if not given. The result is a run like any other, with its manifest; it is
the same bytes on the same kind of machine with the same versions. An interrupted call resumes. About twenty minutes of
one core; training uses one process, so that it disturbs nothing.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np

import ablatable as ab

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
DRAWINGS, SIDE, COMPONENTS, WEIGHT, STEPS, SEED = 12, 16, 8, 4, 1800, 0
DEFAULT = Path(__file__).parents[1] / "src" / "ablatable" / "data" / "assets" / "bundled"


def bundled_units() -> ab.Units:
    """Twelve drawings by each artist: the first in the order that a unit keeps them in, which is as good as random."""
    everything = ab.Units.openmoji(ARTISTS, size=SIDE)
    images = [everything.of(artist)[:DRAWINGS] for artist in everything.ids]
    return ab.Units(everything.ids, np.concatenate(images), np.repeat(np.arange(len(images)), DRAWINGS))


def main(out: Path) -> None:
    """Train, then leave out what only the machine that trained has a use for."""
    code = ab.Code.balanced(units=len(ARTISTS), components=COMPONENTS, weight=WEIGHT, seed=SEED)
    recipe = ab.preset("colour", steps=STEPS, precision="bf16", stored="float16")
    run = ab.train(bundled_units(), code, recipe, out=out, seed=SEED, execution=ab.Execution(workers=1, device="cpu"))
    for name in ("log.jsonl", ".lock", ".lock.json"):
        (run.path / name).unlink(missing_ok=True)
    for folder in run.path.glob("first_look*"):
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
    size = sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file())
    print(f"{run.path}: {size / 1e6:.1f} MB, manifest {run.digest}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT)
