"""How many samples does no unit move, and how does their share grow with the number of units?

Pictures are drawn in black and white, each ensemble with its own seeds. A sample that some unit moves is not
unattributable, whatever the other units do: so units are removed a few at a time, always for those samples only that
none has moved yet. That costs little where few samples are left.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from .._runtime.execution import Execution
from .._runtime.files import read_json, write_atomic, write_json
from .._runtime.plotting import Axes, figure_png
from .._runtime.progress import Display
from .._runtime.rng import generator
from .._runtime.stats import wilson
from ..codes.code import Code, components_for
from ..data.distance import pairwise
from ..data.images import delivered
from ..data.units import Units
from ..diffusion.sampling_settings import SamplerName, Sampling
from ..report.pictures import difference
from ..runs.ensemble_training import train
from ..runs.run import Run
from ..universes.drawing import draw
from .cells import Measured, open_study
from .size import COLOURS, Series

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

PUBLISHED = (14, 3731)  # binarised MNIST, over ensembles of several sizes (Dai and Gifford)
BATCH = 64  # rows a component sees at once: many, for small components
ROWS = 1024  # pictures drawn between two marks of progress
COLUMNS = 10, 5  # samples shown: unattributable ones, others


class BinarySeries(Series):
    """One curve."""

    weight: int | None = Field(default=None, description="None = half of the components")
    ensembles: int = Field(default=1, ge=1, description="at each size, each with its own units, code and seeds")
    binary: int | None = Field(
        default=None, ge=1, le=255, description="training pictures in black and white too: white from this level up"
    )


class UnattributableStudy(BaseModel):
    """The whole study."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = "digits:128"
    series: tuple[BinarySeries, ...] = (BinarySeries(name="ideal", sizes=(16, 32, 64, 128), side=8, binary=64),)
    threshold: int = Field(default=128, ge=1, le=255, description="samples: white from this level up")
    sampler: SamplerName = "ddpm"
    steps: int = Field(default=25, ge=1)
    samples: int = Field(default=64, ge=1, description="of each ensemble")
    seed: int = 0


def study_unattributable(config: UnattributableStudy, out: Path, *, execution: Execution = Execution()) -> pl.DataFrame:
    """Make every cell, then `table.csv`, `figure.png`, `pictures.png`; an interrupted study resumes.

    The pictures are of the first series at its largest size. `execution` applies to training; samples are drawn in
    this process.

    Raises:
        SettingsError: `out` holds a study with another configuration, or there are too few units.
    """
    import polars as pl

    open_study(out, config)
    rows, shown = [], []
    for series in config.series:
        units = series.units_of(config.data)
        units = Units(units.ids, delivered(units.images, series.binary), units.owner, **units.said)
        for size in series.sizes:
            cells = []
            for number in range(series.ensembles):
                folder = out / series.name / f"{size:05d}-{number}"
                cells.append(_cell(folder, units, size, number, series, config, execution))
                if series == config.series[0] and size == max(series.sizes):
                    shown.append((Run(folder / "run"), cells[-1]))
            rows.append(_row(series, size, cells))
    table = pl.DataFrame(rows)
    write_atomic(out / "table.csv", table.drop("each").write_csv().encode())
    write_atomic(out / "figure.png", _figure(table))
    run, cell = max(shown, key=lambda pair: len(pair[1]["unattributable"]))
    write_atomic(out / "pictures.png", _pictures(run, cell, config))
    return table


def _cell(
    folder: Path,
    units: Units,
    size: int,
    number: int,
    series: BinarySeries,
    config: UnattributableStudy,
    execution: Execution,
) -> Measured:
    """One ensemble: which of its seeds no unit moves.

    Of the result, `left` says how many samples were left after how many units, `white` the mean number of white pixels,
    `copies` how many training pictures each unattributable sample equals.
    """
    if (folder / "result.json").exists():
        return read_json(folder / "result.json")
    began = time.monotonic()
    picked = generator("units", config.seed, size, number).permutation(len(units))[:size]
    components = series.components or components_for(max(series.sizes), series.weight)
    run = train(
        units.select(units.ids[row] for row in sorted(picked)),
        Code.random(size, components, config.seed + number, weight=series.weight),
        series.recipe,
        out=folder / "run",
        seed=config.seed + number,
        execution=execution,
    )
    trained, drawn = time.monotonic(), _drawing(run, config)
    seeds = list(range(number * config.samples, (number + 1) * config.samples))
    factual = dict(zip(seeds, drawn(np.zeros((1, components), bool), seeds)[0], strict=True))
    progress = folder / "progress.json"
    state = read_json(progress) if progress.exists() else {"removed": 0, "seeds": seeds, "left": []}
    with Display(
        f"{series.name}, {size} units: removing", size, done=state["removed"], quiet=execution.quiet
    ) as display:
        while state["seeds"] and state["removed"] < size:
            first, alive = state["removed"], state["seeds"]
            words = run.code.matrix[first : first + max(4, ROWS // len(alive))]
            same = (drawn(words, alive) == np.stack([factual[seed] for seed in alive])).all(axis=(0, 2, 3, 4))
            alive = [seed for seed, unmoved in zip(alive, same, strict=True) if unmoved]
            removed = first + len(words)
            state = {"removed": removed, "seeds": alive, "left": [*state["left"], [removed, len(alive)]]}
            write_json(progress, state)
            display.finish(0, len(words))
            display.note(f"{len(alive)} samples are left")
    white = {seed: int(np.count_nonzero(picture)) for seed, picture in factual.items()}
    training = Counter(picture.tobytes() for picture in np.moveaxis(run.units().images, -1, 1))
    measured = {
        "seeds": seeds,
        "unattributable": state["seeds"],
        "left": state["left"],
        "white": float(np.mean(list(white.values()))),
        "white_unattributable": [white[seed] for seed in state["seeds"]],
        "copies": [training[factual[seed].tobytes()] for seed in state["seeds"]],
        "training_seconds": round(trained - began, 1),
        "drawing_seconds": round(time.monotonic() - trained, 1),
    }
    write_json(folder / "result.json", measured)
    return measured


def _drawing(run: Run, config: UnattributableStudy) -> Callable[[np.ndarray, list[int]], np.ndarray]:
    """A function of ablations, bool (A, n), and seeds: black and white pictures, uint8 (A, seeds, C, H, W)."""
    from .._runtime.devices import CPU, computing

    ensemble = run.ensemble(batch=BATCH)  # batches of one size, so that a picture's bits don't depend on the others

    def drawn(ablations: np.ndarray, seeds: list[int]) -> np.ndarray:
        with computing(CPU):
            pictures = draw(
                ensemble,
                ablations,
                seeds,
                shape=run.shape,
                schedule=run.recipe.schedule,
                sampling=Sampling(config.sampler, config.steps, clip=False),  # as published
            )
        return delivered(pictures, config.threshold)

    return drawn


def _row(series: BinarySeries, size: int, cells: list[Measured]) -> dict[str, object]:
    each = [len(cell["unattributable"]) for cell in cells]
    samples = sum(len(cell["seeds"]) for cell in cells)
    (low, high), first = wilson(sum(each), samples), sum(cell["left"][0][1] for cell in cells)
    first_low, first_high = wilson(first, samples)
    white = [pixels for cell in cells for pixels in cell["white_unattributable"]]
    return {
        "series": series.name,
        "units": size,
        "ensembles": len(cells),
        "samples": samples,
        "unattributable": sum(each),
        "share": sum(each) / samples,
        "low": low,
        "high": high,
        "first": cells[0]["left"][0][0],
        "first_share": first / samples,
        "first_low": first_low,
        "first_high": first_high,
        "white": float(np.mean([cell["white"] for cell in cells])),
        "white_unattributable": float(np.mean(white)) if white else None,
        "copies_of_one": sum(copies == 1 for cell in cells for copies in cell["copies"]),
        "copies_of_several": sum(copies > 1 for cell in cells for copies in cell["copies"]),
        "blank": sum(pixels == 0 for pixels in white),
        "each": [found / len(cell["seeds"]) for found, cell in zip(each, cells, strict=True)],
        "training_seconds": sum(cell["training_seconds"] for cell in cells),
        "drawing_seconds": sum(cell["drawing_seconds"] for cell in cells),
    }


# --- figures ----------------------------------------------------------------------------------------------------


def _figure(table: pl.DataFrame) -> bytes:
    """Shares of samples that no unit moves, and that the first few do not, with Wilson's intervals.

    The small dots are the single ensembles.
    """

    def draw(whole: Axes, first: Axes) -> None:
        names = table["series"].unique(maintain_order=True)
        for number, name in enumerate(names):
            rows, colour = table.filter(table["series"] == name), COLOURS[number % len(COLOURS)]
            sizes = rows["units"].to_numpy() * 1.04 ** (number - (len(names) - 1) / 2)  # intervals side by side
            for axes, value, low, high in ((whole, "share", "low", "high"), (first, *FIRST)):
                share = 100 * rows[value].to_numpy()
                errors = [share - 100 * rows[low].to_numpy(), 100 * rows[high].to_numpy() - share]
                style = {"color": colour, "markersize": 5, "capsize": 3, "linewidth": 1.4}
                axes.errorbar(sizes, share, np.maximum(errors, 0), fmt="o-", label=name, **style)
            for size, each in zip(sizes, rows["each"], strict=True):
                if len(each) > 1:
                    whole.plot([size] * len(each), 100 * np.array(each), ".", color=colour, alpha=0.5, markersize=4)
        published = 100 * PUBLISHED[0] / PUBLISHED[1]
        whole.axhline(published, color="#555555", linewidth=0.8, linestyle="--", label="published, all sizes together")
        whole.set_ylabel("samples that no unit moves, %")
        first.set_ylabel(f"samples that {table['first'].max()} units do not move, %")
        for axes in (whole, first):
            axes.set_xscale("log", base=2)
            axes.set_xlabel("training units")
            axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend
        whole.legend(fontsize=8, frameon=False, loc="upper left")

    return figure_png(draw, panels=2)


FIRST = ("first_share", "first_low", "first_high")


LABELS = ("drawn", "nearest unit", "without it", "without another", "without another", "without another")


def _pictures(run: Run, cell: Measured, config: UnattributableStudy) -> bytes:
    """Unattributable samples, and others beside them: the nearest unit, counterfactuals; changed pixels in colour."""
    drawn, units = _drawing(run, config), run.units()
    found = cell["unattributable"]
    sides = [found[: COLUMNS[0]], [seed for seed in cell["seeds"] if seed not in found][: COLUMNS[1]]]
    blocks = [_block(side, drawn, run, units) for side in sides if side]
    titles = [
        title for side, title in zip(sides, ("no unit moves these", "some units move these"), strict=True) if side
    ]
    white = np.full((len(blocks[0]), run.shape[-1], 3), 255, np.uint8)
    mosaic = np.concatenate([part for block in blocks for part in (block, white)][:-1], axis=1)

    def paint(axes: Axes) -> None:
        axes.imshow(mosaic, interpolation="nearest", zorder=2)
        height = len(mosaic) / len(LABELS)
        axes.set_yticks([height * (row + 0.5) - 1 for row in range(len(LABELS))], LABELS, fontsize=9)
        axes.set_xticks([])
        axes.tick_params(left=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        left = 0
        for block, title in zip(blocks, titles, strict=True):
            axes.text(left, -2, title, fontsize=10)
            left += block.shape[1] + white.shape[1]

    return figure_png(paint, width=8.4, height=0.5 + 7.0 * mosaic.shape[0] / mosaic.shape[1])


def _block(
    seeds: list[int], drawn: Callable[[np.ndarray, list[int]], np.ndarray], run: Run, units: Units
) -> np.ndarray:
    """A column of pictures for each seed, as `LABELS` says: uint8 RGB, a white line right of and below each picture."""
    columns = []
    for seed in seeds:
        factual = drawn(np.zeros((1, run.code.components), bool), [seed])[0, 0].transpose(1, 2, 0)
        nearest = int(pairwise(factual[None], units.images).argmin())
        random = generator("shown", seed).permutation(len(units))[: len(LABELS) - 3]
        without = drawn(run.code.matrix[[int(units.owner[nearest]), *random]], [seed])[:, 0].transpose(0, 2, 3, 1)
        pictures = [_rgb(factual), _rgb(units.images[nearest])]
        for picture in without:
            change = difference(factual, picture)
            pictures.append(np.where(change[..., 3:] > 0, change[..., :3], _rgb(picture)))
        columns.append(np.concatenate([np.pad(p, ((0, 1), (0, 1), (0, 0)), constant_values=255) for p in pictures]))
    return np.concatenate(columns, axis=1)


def _rgb(picture: np.ndarray) -> np.ndarray:
    return np.broadcast_to(picture, (*picture.shape[:2], 3))
