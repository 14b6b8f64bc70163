"""What a notebook shows of a universe, enumerated or screened: key figures and small images."""

from __future__ import annotations

import html as escaping

import numpy as np

from .._runtime.notebook import image_html
from .landscapes import Landscapes

SHOWN = 8  # samples in a notebook's cell


def summary(universe: Landscapes) -> str:
    """One line: how much there is, how it was drawn, how far the samples move."""
    settings, drawn = universe.settings, universe.drawn()
    how = "imported" if settings.imported else f"{settings.sampler}, {settings.steps} steps"
    part = "" if drawn.all() else f", {drawn.mean():.0%} of the counterfactuals drawn"
    return (
        f"{len(universe.seeds)} samples of {' x '.join(map(str, settings.shape))}, {len(universe.unit_ids)} units, "
        f"{len(settings.spares)} spares, {how}{part}"
    )


def html(universe: Landscapes) -> str:
    """A notebook's cell: the first samples, each with the unit whose removal moves it most, and its radius."""
    factual, radius = universe.factual, universe.radius()
    least = "" if universe.drawn().all() else "at least "
    among = " among those that were drawn" if least else ""
    cells = []
    for sample in range(min(SHOWN, len(universe.seeds))):
        found = farthest(universe, sample, 1)
        asked = universe.settings.conditions
        told = "" if asked is None else f"<br>{escaping.escape(str(asked[sample]))}"
        caption = f"seed {universe.seeds[sample]}{told}<br>radius {least}{radius[sample]:.1f}"
        images = image_html(factual[sample], "factual sample")
        for row, unit, _ in found:
            images += image_html(universe.counterfactuals(sample, np.array([row]))[0], f"without {unit}")
            caption += f"<br>{escaping.escape(unit)}"
        cells.append(f'<td style="text-align:center;vertical-align:top;font-size:80%">{images}<br>{caption}</td>')
    more = "" if len(universe.seeds) <= SHOWN else f"<p>and {len(universe.seeds) - SHOWN} more samples</p>"
    name = escaping.escape(f"{type(universe).__name__} {universe.url}")
    return (
        f"<p><b>{name}</b><br>{escaping.escape(summary(universe))}</p>"
        f"<table><tr>{''.join(cells)}</tr></table>"
        f"<p>Left: the factual sample. Right: without the unit named below, which moves it most{among}.</p>{more}"
    )


def farthest(universe: Landscapes, sample: int, top: int) -> list[tuple[int, str, float]]:
    """Ablation, unit and distance of the farthest counterfactuals that were drawn."""
    distances = universe.distances(samples=slice(sample, sample + 1))[:, 0]
    order = [k for k in np.argsort(-np.nan_to_num(distances, nan=-1), kind="stable") if not np.isnan(distances[k])]
    return [(universe.settings.ablation[k], universe.unit_ids[k], float(distances[k])) for k in order[:top]]
