"""The README's picture: samples that depend on an artist, and one that stays the same whoever is removed.

    ablatable demo --out demo
    python bench/shared_subjects.py --out shared
    python docs/_site/story_figure.py demo/universe.zarr bundled shared docs/images/story.png

What is shown follows a rule, so that nothing is picked for its looks. Left, of the bundled ensemble, whose components
are trained: the first ROWS samples by seed whose nearest artist the components recognise (p <= 0.05). Right, of an
ideal ensemble whose code was chosen for artists who drew nearly the same (see bench/shared_subjects.py): the one of its
samples that moves least, without the artists whose removal moves it most. Controls are the first spare ablation.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import ablatable as ab
from ablatable.analysis.members import members_of_picture
from ablatable.analysis.witness import ALPHA, witness_pictures
from ablatable.data.distance import pairwise
from ablatable.runs.bundled import located

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
from shared_subjects import read

ROWS, FARTHEST = 4, 8
INK, MUTED, RULE = "#1d2024", "#4d535b", "#cdcac2"


def main(url: str, name: str, shared: str, out: str) -> None:
    """Draw it."""
    mpl.rcParams.update({"font.size": 10, "font.family": "DejaVu Sans", "text.color": INK})
    figure = plt.figure(figsize=(8.3, 6.15), dpi=200, facecolor="white")
    depends(figure, ab.Universe.open(url), ab.Run(located(Path(name))))
    stays(figure, Path(shared))
    figure.savefig(out)


def depends(figure, universe: ab.Universe, run: ab.Run) -> None:
    """A row per sample: drawn with everyone, the artist it depends on, without the artist, and the control."""
    told = witness_pictures(run, universe.factual, universe.seeds)
    shown = np.flatnonzero(told.nearest_p <= ALPHA)[:ROWS]
    spare = universe.ablations(list(universe.settings.spares)[:1])[0]
    distances, spares = universe.distances(), universe.spare_distances()
    grid = figure.add_gridspec(ROWS, 4, left=0.01, right=0.58, top=0.8, bottom=0.05, hspace=0.3, wspace=0.1)
    heads = ("drawn with\neveryone", "depends on\nthis artist", "without\nthis artist", "control:\nnobody gone")
    figure.text(0.01, 0.965, "These depend on one artist", weight="bold", fontsize=12.5)
    figure.text(0.01, 0.925, "trained ensemble of twelve artists, four drawings by each", color=MUTED, fontsize=9)
    for row, sample in enumerate(shown):
        nearest = told.nearest[sample]
        artist = universe.unit_ids[nearest]
        drawing = members_of_picture(run, artist, universe.factual[sample], universe.seeds[sample]).images[0]
        tiles = (universe.factual[sample], drawing, universe.counterfactual(artist)[sample], spare[sample])
        captions = (
            f"sample {sample}",
            f"{artist.split()[0]}, p = {told.nearest_p[sample]:.3f}",
            f"moves {distances[nearest, sample]:.0f}",
            f"moves {spares[0, sample]:.0f}",
        )
        for column, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
            axes = figure.add_subplot(grid[row, column])
            _draw(axes, tile, caption)
            if not row:
                axes.text(0, 1.1, heads[column], transform=axes.transAxes, weight="bold", va="bottom")


def stays(figure, shared: Path) -> None:
    """A sample, the two drawings it is near to, the removals that move it most, and the control."""
    found, units = read(shared / "covering.npz"), ab.Units.openmoji(32, size=32)
    sample = found.order[0]
    factual, distances = found.factual[sample], found.distances[:, sample]
    near = pairwise(factual[np.newaxis], units.images)[0]
    first = int(near.argmin())
    alike = pairwise(units.images[first : first + 1], units.images)[0]
    second = int(np.where(units.owner == units.owner[first], np.inf, alike).argmin())
    grid = figure.add_gridspec(4, 3, left=0.645, right=0.99, top=0.8, bottom=0.05, hspace=0.3, wspace=0.1)
    figure.text(0.645, 0.965, "This one stays the same", weight="bold", fontsize=12.5)
    about = f"ideal ensemble of {len(units)} artists; every\ncomponent has seen one of these two, or both"
    figure.text(0.645, 0.9, about, color=MUTED, fontsize=9, linespacing=1.25)
    tiles = [(factual, f"sample {found.seeds[sample]}")]
    tiles += [(units.images[k], f"by {units.ids[units.owner[k]].split()[0]}") for k in (first, second)]
    for unit in np.argsort(-distances, kind="stable")[:FARTHEST]:
        tiles.append((found.without[unit, sample], f"no {units.ids[unit].split()[0]}: {distances[unit]:.0f}"))
    tiles.append((found.spare[0, sample], f"control: {found.spare_distances[0, sample]:.0f}"))
    for place, (tile, caption) in enumerate(tiles):
        axes = figure.add_subplot(grid[place // 3, place % 3])
        _draw(axes, tile, caption)
        if place in (0, 1):
            head = ("drawn with\neveryone", "the two drawings\nit is near to")[place]
            axes.text(0, 1.1, head, transform=axes.transAxes, weight="bold", va="bottom")


def _draw(axes, tile, caption) -> None:
    axes.imshow(tile, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(RULE)
    axes.set_xlabel(caption, fontsize=8.6, color=MUTED, labelpad=2.5)


if __name__ == "__main__":
    main(*sys.argv[1:])
