"""Enumerate: the counterfactual of every unit, for every sample, into a universe.

The work is cut into blocks of fixed place and size; `draw` computes the pictures of one, and is a pure function of the
components, the ablations and the seeds. Every row's bits are the same whichever block it is computed in, because the
components always see batches of one fixed size (see `Ensemble`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._runtime.execution import Execution
from .._runtime.outputs import output_folder
from .._runtime.progress import Display
from ..codes.code import Code
from ..data.images import delivered
from ..diffusion.sampling_settings import Sampling
from ..errors import CodeError, SettingsError
from ..runs.run import Run
from .compiling import did_not_pay, has_compiler, would_pay
from .store import UNIVERSE
from .universe import Block, Universe, UniverseSettings

if TYPE_CHECKING:
    from torch import Tensor

    from ..diffusion.ensemble import Ensemble
    from ..diffusion.schedule import Schedule

# rows a component sees at once: as fast as more, and the last one of a block is filled up with fewer
BATCH = {"fp32": 8, "bf16": 16}
BLOCK_SAMPLES = 16  # samples a block holds at most
BLOCK_ROWS = (128, 1024)  # pictures a block holds: enough to fill batches, few enough to share out and to lose
BLOCKS = 16  # as many blocks as this, within those bounds
START_UP = 30.0  # seconds until the speed of drawing is known well enough


@dataclass(frozen=True)
class BlockTask:
    """One block of one universe, as given to a worker."""

    run: str
    run_sha256: str
    universe: str
    block: Block
    device: str
    max_resident: int | None = None


def draw(
    ensemble: Ensemble,
    ablations: np.ndarray,
    seeds: Sequence[int],
    *,
    shape: tuple[int, int, int],
    schedule: Schedule,
    sampling: Sampling,
    device: str = "cpu",
    on_step: Callable[[int], None] = lambda step: None,
) -> np.ndarray:
    """Draw the same noise trajectories under several ablations.

    Args:
        ensemble: all components.
        ablations: bool (ablations, components), True where a component is removed; a row of False is factual.
        seeds: the samples.

    Returns:
        uint8 (ablations, samples, C, H, W).
    """
    import torch

    from ..data.units import to_images
    from ..diffusion.sampling import Trajectories, sample

    alive = np.repeat(~ablations, len(seeds), axis=0)  # row (a, s) at a * samples + s
    noise = Trajectories(seeds, shape, repeat=len(ablations), device=device)
    ablated, started = ensemble.ablate(alive), False

    def denoiser(x: Tensor, t: Tensor | int) -> Tensor:
        nonlocal started
        if started:
            return ablated(x, t)
        started = True  # all ablations of a sample start from the same noise, so each component sees it once
        return ablated.shared(x[: len(seeds)], t)

    with torch.inference_mode():
        x = sample(denoiser, noise, schedule=schedule, sampling=sampling, on_step=on_step)
    pictures = np.moveaxis(to_images(x.cpu()), -1, -3)
    return pictures.reshape(len(ablations), len(seeds), *shape)


@lru_cache(maxsize=1)
def loaded(
    run: str, run_sha256: str, batch: int, precision: str, compiled: bool, device: str, max_resident: int | None
) -> tuple[Run, Ensemble]:
    """A worker loads a run's components once."""
    opened = Run(run)
    if opened.digest != run_sha256:
        raise SettingsError(f"{run} changed while its universe was being enumerated; give the same command again")
    return opened, opened.ensemble(
        batch=batch, precision=precision, compiled=compiled, device=device, max_resident=max_resident
    )


def compute_block(task: BlockTask, report: Callable[[dict], None]) -> None:
    """Draw one block, or what is missing of it since the universe grew, and store it."""
    from .._runtime.devices import one_thread

    universe, block = Universe.open(task.universe, partial=True), task.block
    settings = universe.settings
    run, ensemble = loaded(
        task.run,
        task.run_sha256,
        settings.batch,
        settings.precision,
        settings.compiled,
        task.device,
        task.max_resident,
    )
    words = Code.from_words(list(settings.words), allow_dummy=True).matrix
    (first_a, last_a), (first_s, last_s) = block.ablations or (0, 1), block.samples
    pictures = np.empty((last_a - first_a, last_s - first_s, *settings.shape), np.uint8)
    done, rest = 0, [block]
    if present := universe.part(block):
        part, drawn = present
        pictures[: drawn.shape[0], : drawn.shape[1]] = drawn
        done, rest = part.rows, block.beyond(part)
    for piece in rest:
        ablations = words[slice(*piece.ablations)] if piece.ablations else np.zeros((1, run.code.components), bool)

        def on_step(step: int, piece: Block = piece, done: int = done) -> None:
            report({"rows": done + piece.rows * step / settings.steps, "step": step})

        with one_thread():
            drawn = draw(
                ensemble,
                ablations,
                settings.seeds[slice(*piece.samples)],
                shape=settings.shape,
                schedule=run.recipe.schedule,
                sampling=settings.sampling,
                device=task.device,
                on_step=on_step,
            )
        rows = slice(None) if piece.ablations is None else slice(piece.ablations[0] - first_a, None)
        pictures[rows, piece.samples[0] - first_s :][: len(drawn)] = drawn
        done += piece.rows
    universe.write(block, delivered(pictures, settings.threshold))


def enumerate_universe(
    run: str | Path,
    seeds: Iterable[int],
    *,
    out: str | Path,
    units: Iterable[str] | None = None,
    sampling: Sampling = Sampling(),
    spares: int = 0,
    execution: Execution = Execution(),
    overwrite: bool = False,
) -> Universe:
    """Draw factual samples and the counterfactual of every unit; each distinct ablation is computed once.

    Args:
        run: a complete run.
        seeds: one sample each.
        out: the universe's folder or object-store URL. If it holds this universe, unfinished or with fewer seeds,
            units or spares, only what is missing or damaged is computed.
        units: ids of the units to remove, one at a time; None = all. The universe then knows only these.
        sampling: how to draw; see `precision_error` for what `bf16` changes.
        spares: how many spare codewords to ablate as well: the null distribution of losing as many components.
        execution: how to run the work. A cluster's nodes must all be able to reach `out`.
        overwrite: replace the universe that is there.

    Raises:
        SettingsError: impossible settings, or `out` was made with others (both values are named).
        CodeError: more spares than there are.
        StoreError: not a run; or another process is writing `out`; or the disk refuses.
    """
    from ..diffusion.sampling import parse_seeds

    opened, execution = Run(run), execution.resolved()
    settings = plan_universe(
        opened,
        parse_seeds(list(seeds)),
        units=units,
        sampling=sampling,
        spares=spares,
    )
    with output_folder(out, UNIVERSE):
        universe = Universe.begin(out, settings, opened.units, overwrite=overwrite)
        todo = [block for block in universe.blocks() if not universe.has(block)]
        if todo:
            folder = str(Path(run).resolve())
            place = str(out) if "://" in str(out) else str(Path(out).resolve())
            tasks = [
                BlockTask(folder, opened.digest, place, block, execution.device, execution.max_resident)
                for block in todo
            ]
            compilable = opened.recipe.component.kind == "unet" and execution.device == "cpu"
            _compute(universe, tasks, execution, compilable=compilable)
    return Universe.open(out)


def plan_universe(
    run: Run,
    seeds: list[int],
    *,
    units: Iterable[str] | None = None,
    sampling: Sampling,
    spares: int = 0,
) -> UniverseSettings:
    """What a universe of a run is to hold, before anything is computed."""
    sampling.check(run.recipe.schedule)
    if (sampling.precision != "fp32" or sampling.compiled) and run.recipe.component.kind == "ideal":
        raise SettingsError("ideal components are computed as their recipe says; leave --precision and --compile out")
    if sampling.compiled and not has_compiler():
        raise SettingsError("--compile needs a C++ compiler and finds none; install g++, or leave it out")
    rows = run.rows(list(dict.fromkeys(units))) if units is not None else list(range(len(run.ids)))
    if not rows:
        raise SettingsError("no units are named; name one or more, or none for all of them")
    words, ablation = run.code.select(rows).ablations()
    if stuck := [run.ids[row] for row in rows if run.code.matrix[row].all()]:
        raise CodeError(
            f"every component that is left saw {len(stuck)} of the units, {stuck[0]} among them, so nothing draws what "
            f"would be without it; repair the run first: ablatable run repair {run.path} --out RUN3"
        )
    if spares:
        words = np.concatenate([words, run.code.spares(spares, seed=run.seed)])
    block_samples = min(BLOCK_SAMPLES, len(seeds))
    pictures = int(np.clip(len(words) * len(seeds) // BLOCKS, *BLOCK_ROWS))
    pieces = -(-len(words) // max(1, pictures // block_samples))
    return UniverseSettings(
        run_sha256=run.digest,
        shape=run.shape,
        components=run.code.components,
        sampler=sampling.sampler,
        steps=sampling.steps,
        threshold=sampling.threshold,
        precision=sampling.precision,
        compiled=sampling.compiled,
        batch=BATCH[sampling.precision],
        block=(-(-len(words) // pieces), block_samples),  # even pieces, so that workers finish together
        seeds=tuple(seeds),
        units=tuple(run.ids[row] for row in rows),
        digests=tuple(run.digests[row] for row in rows),
        words=tuple(Code(words, allow_dummy=True).words()),
        ablation=tuple(int(row) for row in ablation),
        spares=tuple(range(len(words) - spares, len(words))),
    )


def _compute(universe: Universe, tasks: list[BlockTask], execution: Execution, *, compilable: bool) -> None:
    """Factual blocks first: the others' distances are measured from them."""
    total = sum(block.rows for block in universe.blocks())
    done, drawn = total - sum(task.block.rows for task in tasks), 0
    steps, precision, began = universe.settings.steps, universe.settings.precision, time.monotonic()
    undecided = compilable and not universe.settings.compiled and has_compiler()
    title = f"drawing {len(universe.settings.words)} ablations of {len(universe.seeds)} samples"
    with (
        execution.pool(compute_block, run=Path(tasks[0].run)) as workforce,
        Display(title, total, done=done, quiet=execution.quiet) as display,
    ):
        for stage in ([t for t in tasks if t.block.ablations is None], [t for t in tasks if t.block.ablations]):

            def on_event(number: int, event: dict, stage: list[BlockTask] = stage) -> None:
                block = stage[number].block
                display.update(
                    number,
                    f"block {block.name}",
                    event["rows"],
                    block.rows,
                    f"step {event['step']}/{steps}",
                )

            for number, _ in workforce.run(stage, on_event):
                rows = stage[number].block.rows
                display.finish(number, rows)
                drawn += rows
                display.note(f"{drawn / (time.monotonic() - began):.1f} pictures/s")
                elapsed, left, whole = display.seconds()
                if undecided and elapsed > START_UP:
                    undecided = False
                    if advice := would_pay(precision, left, whole):
                        display.say(advice)
        if universe.settings.compiled and drawn == total and (advice := did_not_pay(precision, display.seconds()[0])):
            display.say(advice)
