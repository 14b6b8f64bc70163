"""The figure of the page "An artist opts out": every sample of a universe, with and without one artist.

python docs/_site/opt_out_figure.py UNIVERSE.zarr "Selina Bauder" docs/images/opt-out-story.png

The universe is one of the bundled run. p is the witness test's, of this artist.
"""

from __future__ import annotations

import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import ablatable as ab
from ablatable.analysis.witness import witness_pictures

url, artist, out = sys.argv[1:]
universe = ab.Universe.open(url)
training, factual = universe.training, universe.factual
drawings = training.images[training.owner == training.ids.index(artist)]
flat = factual.astype(float).reshape(len(factual), 1, -1) - drawings.astype(float).reshape(1, len(drawings), -1)
spare = universe.ablations(list(universe.settings.spares)[:1])[0]  # the first, for all samples alike
rows = {
    "sample": factual,
    "nearest of\nthe artist's": drawings[(flat**2).sum(2).argmin(1)],
    "without\nthe artist": universe.counterfactual(artist),
    "nobody removed\n(as few left)": spare,
}
moved = universe.distances()[universe.unit_ids.index(artist)]
controls = universe.spare_distances()
tested = witness_pictures(ab.bundled(), factual, universe.seeds, units=[artist]).p[0]

mpl.rcParams["font.size"] = 8
figure, axes = plt.subplots(len(rows), len(factual), figsize=(8, 4.3))
for line, (name, pictures) in zip(axes, rows.items(), strict=True):
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for ax, picture in zip(line, np.asarray(pictures), strict=True):
        ax.imshow(picture, interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
for sample, ax in enumerate(axes[0]):
    ax.set_title(f"moves {moved[sample]:.0f}\np = {tested[sample]:.3f}", fontsize=8)
figure.tight_layout(h_pad=0.3, w_pad=0.3)
figure.savefig(out, dpi=110)
print([round(float(v), 1) for v in moved])
print("controls that move as far:", [int((controls[:, k] >= moved[k]).sum()) for k in range(len(moved))])
