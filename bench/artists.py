"""Who matters? Artists with many drawings against few, and with subjects of their own against shared ones.

python bench/artists.py draw [CELL ..]     train and draw (resumable, one process)
python bench/artists.py tables             every figure of docs/results/artists.md, as JSON
python bench/artists.py pictures           its pictures, into docs/results/images
python bench/artists.py bundled            many samples of the bundled ensemble: draw, and print figures as JSON

All goes to --out (default bench/out/artists). Components of the cells are ideal: closed-form denoisers of their splits,
which memorise without limit. Cells:

- `first`, `second`: the same 16 designers, all with 40 drawings or more. In `first` 40 drawings are kept of 8 of them,
  chosen at random, and 8 drawings of the others; `second` is the other way round. So sizes are dealt at random, and
  every designer is seen with both.
- `all`: the 32 designers with most drawings, with all of them (18 to 108).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import ablatable as ab
from ablatable._runtime.rng import generator
from ablatable._runtime.stats import wilson
from ablatable.analysis.nearest import nearest_units
from ablatable.analysis.witness import Witness, witness_pictures
from ablatable.data.distance import pairwise
from ablatable.runs.bundled import located

MANY, FEW = 40, 8
MANY_SEEDS = 384
ALPHA = 0.05


@dataclass(frozen=True)
class Cell:
    """One ensemble and its universe."""

    size: int
    samples: int
    swapped: bool | None = None  # None: all designers, all drawings

    def units(self) -> ab.Units:
        if self.swapped is None:
            return ab.Units.openmoji(32, size=self.size)
        every = ab.Units.openmoji(size=self.size)
        large = [unit for unit in every.ids if len(every.of(unit)) >= MANY]
        rng = generator("artists", 0)
        chosen = [large[k] for k in sorted(rng.permutation(len(large))[:16])]
        many = np.zeros(16, bool)
        many[rng.permutation(16)[:8]] = True
        if self.swapped:
            many = ~many
        images = [every.of(unit)[: MANY if more else FEW] for unit, more in zip(chosen, many, strict=True)]
        return ab.Units(tuple(chosen), np.concatenate(images), np.repeat(np.arange(16), [len(some) for some in images]))


CELLS = {"first": Cell(16, 48, False), "second": Cell(16, 48, True), "all": Cell(32, 24)}


def draw(name: str, out: Path) -> None:
    """Train a cell's ensemble and draw its universe."""
    cell, here = CELLS[name], ab.Execution(workers=1, device="cpu")
    units = cell.units()
    code = ab.Code.random(len(units), 12, 0, weight=6)
    run = ab.train(units, code, ab.preset("ideal"), out=out / name / "run", execution=here)
    seeds, steps = range(cell.samples), ab.Sampling(steps=25)
    ab.enumerate_universe(run, seeds, out=out / name / "u.zarr", sampling=steps, spares=40, execution=here)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a cell shows; arrays are (units, samples) unless stated."""

    universe: ab.Universe
    witness: Witness
    images: np.ndarray  # of each unit, (units,)
    distances: np.ndarray
    changed: np.ndarray  # whether the nearest unit changes when it is removed, (samples,)
    changed_spares: np.ndarray  # share of the spares under which it changes, (samples,)

    @property
    def nearest(self) -> np.ndarray:
        """Row of the unit nearest to each sample."""
        return self.witness.nearest


def see(name: str, out: Path) -> Seen:
    """Everything that the tables need of a cell."""
    return seen(ab.Universe.open(out / name / "u.zarr"), ab.Run(out / name / "run"))


def seen(universe: ab.Universe, run: ab.Run) -> Seen:
    """The same of a universe."""
    told = witness_pictures(run, universe.factual, universe.seeds)
    near = nearest_units(universe)
    images = np.bincount(universe.training.owner)
    return Seen(universe, told, images, universe.distances(), near.changed, near.changed_spares)


def share(hits: np.ndarray) -> str:
    """As in `12 of 16 (.75; .51 to .90)`."""
    if not len(hits):
        return "none"
    low, high = wilson(int(hits.sum()), len(hits))
    return f"{int(hits.sum())} of {len(hits)} ({hits.mean():.2f}; {low:.2f} to {high:.2f})"


def difference(values: np.ndarray) -> str:
    """A mean over samples with its 95 % bootstrap interval."""
    rng = generator("artists bootstrap", 0)
    means = values[rng.integers(0, len(values), (2000, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{values.mean():.2f} ({low:.2f} to {high:.2f})"


def by_size(cells: list[Seen]) -> dict[str, dict[str, str]]:
    """Designers with many drawings and with few, both cells together."""
    told = {}
    for name, count in (("many", MANY), ("few", FEW)):
        of = [cell.images == count for cell in cells]

        def joined(values: Callable[[Seen, np.ndarray], np.ndarray], of: list[np.ndarray] = of) -> np.ndarray:
            return np.concatenate([values(cell, mask) for cell, mask in zip(cells, of, strict=True)])

        p = joined(lambda cell, mask: cell.witness.nearest_p[mask[cell.nearest]])
        spares = joined(lambda cell, mask: cell.changed_spares[mask[cell.nearest]])
        told[name] = {
            "samples whose nearest designer it is": share(joined(lambda cell, mask: mask[cell.nearest])),
            "of these, recognised, p <= 0.05": share(p <= ALPHA),
            "p <= 0.01": share(p <= 0.01),
            "the nearest changes when removed": share(joined(lambda cell, mask: cell.changed[mask[cell.nearest]])),
            "under spares": f"{spares.mean():.2f}",
            "mean distance of its removal": difference(joined(lambda cell, mask: cell.distances[mask].mean(axis=0))),
            "is the unit of the radius": share(joined(lambda cell, mask: mask[cell.distances.argmax(axis=0)])),
            "recognised in any sample": share(joined(lambda cell, mask: (cell.witness.p[mask] <= ALPHA).ravel())),
        }
    gap = np.concatenate([c.distances[c.images == MANY].mean(0) - c.distances[c.images == FEW].mean(0) for c in cells])
    told["difference"] = {"mean distance, many less few": difference(gap)}
    spares = np.concatenate([cell.universe.spare_distances().mean(axis=0) for cell in cells])
    told["spares"] = {"mean distance, all samples": difference(spares)}
    return told


def company(units: ab.Units) -> np.ndarray:
    """How alone each designer draws: median over the drawings of the distance to the nearest by someone else."""
    away = pairwise(units.images, units.images)
    away[units.owner[:, None] == units.owner[None]] = np.inf
    alone = away.min(axis=1)
    return np.array([np.median(alone[units.owner == k]) for k in range(len(units))])


def by_company(cell: Seen) -> dict[str, object]:
    """Whether designers with subjects of their own matter more, in the cell of all."""
    from scipy.stats import spearmanr

    alone = company(cell.universe.training)
    order = np.argsort(alone)
    units = len(order)
    rows, told = {}, {}
    moved = cell.distances.mean(axis=1) - cell.universe.spare_distances().mean()
    named = (cell.witness.p <= ALPHA).mean(axis=1)
    largest = cell.distances.argmax(axis=0)
    for name, some in (("shared", order[: units // 2]), ("of their own", order[units // 2 :])):
        near = np.isin(cell.nearest, some)
        rows[name] = {
            "distance to the nearest drawing by another": f"{np.median(alone[some]):.0f}",
            "drawings": int(cell.images[some].sum()),
            "samples whose nearest designer is one of them": share(near),
            "of these, recognised, p <= 0.05": share(cell.witness.nearest_p[near] <= ALPHA),
            "the nearest changes when removed": share(cell.changed[near]),
            "is the unit of the radius": share(np.isin(largest, some)),
            "recognised in any sample, p <= 0.05": f"{named[some].mean():.3f}",
        }
    for name, values in (("distance beyond spares", moved), ("share of samples recognised", named)):
        r, p = spearmanr(alone, values)
        size = spearmanr(cell.images, values)
        told[name] = {"alone": f"{r:.2f} (p = {p:.2g})", "drawings": f"{size[0]:.2f} (p = {size[1]:.2g})"}
    table = [
        {
            "designer": cell.universe.unit_ids[k],
            "drawings": int(cell.images[k]),
            "alone": round(float(alone[k]), 1),
            "beyond spares": round(float(moved[k]), 2),
            "recognised": round(float(named[k]), 2),
            "nearest": int((cell.nearest == k).sum()),
        }
        for k in order
    ]
    return {"halves": rows, "rank correlations": told, "designers": table}


def tables(out: Path) -> None:
    """Print everything that the page states."""
    told: dict[str, object] = {"sizes": by_size([see("first", out), see("second", out)])}
    if (out / "all" / "u.zarr").exists():
        told["company"] = by_company(see("all", out))
    print(json.dumps(told, indent=1, ensure_ascii=False))


def bundled(out: Path) -> None:
    """The ensemble that comes with the package, many samples: what is unique, and what nobody's removal moves."""
    run = ab.Run(located(Path("bundled")))
    universe = ab.enumerate_universe(
        run,
        range(MANY_SEEDS),
        out=out / "bundled.zarr",
        sampling=ab.Sampling("dpmsolver++", 15),
        spares=8,
        execution=ab.Execution(workers=0),
    )
    cell = seen(universe, run)
    radius = cell.distances.max(axis=0)
    stays = (nearest_of(universe, run.units()) == cell.nearest).all(axis=0)
    least = np.argsort(radius)[:8]
    told = {
        "company": by_company(cell),
        "recognised, p <= 0.05": share(cell.witness.nearest_p <= ALPHA),
        "radius": {f"{q:.0%}": round(float(np.quantile(radius, q)), 1) for q in (0, 0.01, 0.1, 0.5, 0.9)},
        "nearest artist the same whoever is removed": share(stays),
        "seeds that move least": {int(k): round(float(radius[k]), 1) for k in least},
        "their nearest artist's p": {int(k): round(float(cell.witness.nearest_p[k]), 3) for k in least},
    }
    print(json.dumps(told, indent=1, ensure_ascii=False))


def nearest_of(universe: ab.Universe, units: ab.Units) -> np.ndarray:
    """Row of the unit nearest to every counterfactual, int (units, samples)."""
    rows = [universe.counterfactual(unit) for unit in universe.unit_ids]
    return np.stack([units.owner[pairwise(row, units.images).argmin(axis=1)] for row in rows])


def pictures(out: Path) -> None:
    """Samples of the cell of all, with and without their nearest designer."""
    cell = see("all", out)
    universe = cell.universe
    shown = list(range(10))
    ids = [universe.unit_ids[cell.nearest[k]] for k in shown]
    training = universe.training
    rows = [[universe.factual[k] for k in shown]]
    rows.append([_nearest_drawing(training.of(unit), universe.factual[k]) for unit, k in zip(ids, shown, strict=True)])
    rows.append([universe.counterfactual(unit)[k] for unit, k in zip(ids, shown, strict=True)])
    rows.append(list(universe.ablations(list(universe.settings.spares)[:1])[0][shown]))
    mpl.rcParams["font.size"] = 7
    figure, axes = plt.subplots(4, len(shown), figsize=(10, 4.9))
    names = ("with everyone", "nearest drawing", "without\nits designer", "spare ablation")
    for line, pictures, name in zip(axes, rows, names, strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        for ax, picture in zip(line, pictures, strict=True):
            ax.imshow(picture, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
    for ax, unit, k in zip(axes[1], ids, shown, strict=True):
        ax.set_title(f"{unit.split()[-1]}\np = {cell.witness.nearest_p[k]:.3f}", fontsize=6.5)
    figure.tight_layout(h_pad=1.0, w_pad=0.3)
    place = Path(__file__).parents[1] / "docs" / "results" / "images" / "artists.png"
    figure.savefig(place, dpi=110)
    print(place)


def _nearest_drawing(drawings: np.ndarray, picture: np.ndarray) -> np.ndarray:
    return drawings[pairwise(picture[None], drawings)[0].argmin()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["draw", "tables", "pictures", "bundled"])
    parser.add_argument("cells", nargs="*", default=list(CELLS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "artists")
    given = parser.parse_args()
    if given.what == "draw":
        for name in given.cells:
            draw(name, given.out)
    else:
        {"tables": tables, "pictures": pictures, "bundled": bundled}[given.what](given.out)


if __name__ == "__main__":
    main()
