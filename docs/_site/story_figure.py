"""The README's picture, from the demo's universe and run.

python docs/_site/story_figure.py demo/universe.zarr bundled docs/images/story.png

Which samples are shown follows a rule, so that none is picked for its looks. Left: the first COLUMNS by seed whose
nearest artist the components recognise (p <= 0.05). Right: the sample that moves least, whichever artist is removed.
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
from ablatable.runs.bundled import located

COLUMNS = 5
INK, MUTED, RULE = "#1d2024", "#5c626b", "#cdcac2"


def main(url: str, name: str, out: str) -> None:
    """Draw it."""
    universe, run = ab.Universe.open(url), ab.Run(located(Path(name)))
    told = witness_pictures(run, universe.factual, universe.seeds)
    distances, radius = universe.distances(), universe.radius()
    still = int(radius.argmin())
    shown = [k for k in np.flatnonzero(told.nearest_p <= ALPHA) if k != still][:COLUMNS]
    spare = universe.ablations(list(universe.settings.spares)[:1])[0]  # the first, for all samples alike

    mpl.rcParams.update({"font.size": 8.5, "font.family": "DejaVu Sans", "text.color": INK})
    figure = plt.figure(figsize=(10.2, 5.4), dpi=150, facecolor="white")
    grid = figure.add_gridspec(4, COLUMNS, left=0.165, right=0.715, top=0.86, bottom=0.01, hspace=0.34, wspace=0.12)
    titles = (
        "drawn with\neveryone",
        "the artist it\ndepends on",
        "same noise,\nwithout the artist",
        "same noise,\nnobody removed",
    )
    notes = (
        "",
        "nearest drawing,\nwitness test",
        "by components that\nnever saw this artist",
        "as many components\ngone: a control",
    )
    for column, sample in enumerate(shown):
        artist = universe.unit_ids[told.nearest[sample]]
        nearest = members_of_picture(run, artist, universe.factual[sample], universe.seeds[sample]).images[0]
        without = universe.counterfactual(artist)[sample]
        tiles = (universe.factual[sample], nearest, without, spare[sample])
        moved = universe.spare_distances()[0, sample]
        captions = (
            f"sample {sample}",
            f"{artist.split()[0]}\np = {told.nearest_p[sample]:.3f}",
            f"moves {distances[told.nearest[sample], sample]:.0f}",
            f"moves {moved:.0f}",
        )
        for row, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
            axes = figure.add_subplot(grid[row, column])
            _draw(axes, tile, caption)
            if column == 0:
                axes.text(-1.38, 0.66, titles[row], transform=axes.transAxes, weight="bold", va="center")
                axes.text(-1.38, 0.2, notes[row], transform=axes.transAxes, color=MUTED, va="center", fontsize=7)

    order = np.argsort(-distances[:, still])[:12]
    right = figure.add_gridspec(5, 3, left=0.765, right=0.99, top=0.86, bottom=0.01, hspace=0.42, wspace=0.2)
    figure.text(0.765, 0.955, f"Sample {still} changes least of {len(radius)}", weight="bold")
    _draw(figure.add_subplot(right[0, 1]), universe.factual[still], "with everyone")
    for place, row in enumerate(order):
        artist = universe.unit_ids[row]
        tile = universe.counterfactual(artist)[still]
        _draw(
            figure.add_subplot(right[1 + place // 3, place % 3]),
            tile,
            f"no {artist.split()[0]}: {distances[row, still]:.0f}",
        )
    figure.text(0.165, 0.955, "Samples that depend on an artist", weight="bold")
    figure.savefig(out)
    print("columns", shown, "still", still, "radius", np.round(radius, 1).tolist())
    print("p", np.round(told.nearest_p, 3).tolist())


def _draw(axes, tile, caption) -> None:
    axes.imshow(tile, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(RULE)
    axes.set_title(caption, fontsize=7.5, color=MUTED, pad=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
