"""Enumerate: draw the counterfactual of every unit, for every sample, into a universe.

The work is cut into blocks of fixed place and size. A block's images depend only on the components, its ablations and
its seeds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .._runtime.devices import CPU
from .._runtime.execution import Execution
from .._runtime.files import check_room
from .._runtime.outputs import output_folder
from .._runtime.progress import Display
from ..codes.code import Code
from ..data.images import delivered
from ..diffusion.conditions import Condition
from ..diffusion.sampling_settings import Sampling
from ..errors import CodeError, SettingsError, command, option
from ..runs.backends import backend_of
from ..runs.batches import batch_of, drawing_bytes
from ..runs.conditioning import asked
from ..runs.run import Run, as_run
from .blocks import Block
from .drawing import Source
from .reader import Universe
from .settings import UniverseSettings, refuse_other_hardware
from .store import UNIVERSE, absolute
from .writer import UniverseWriter

BLOCK_SAMPLES = 16  # a block holds at most this many samples
BLOCK_ROWS = (128, 1024)  # images per block: enough to fill batches, few enough to share out and to lose
LEAST = 4  # images are compressed to some part of their size, rarely to less than a quarter
BLOCK_BYTES = 32 * 2**20  # and no more than this of pixels: large pictures take long, and memory
BLOCKS = 16  # about this many blocks, within those bounds


@dataclass(frozen=True)
class BlockTask:
    """One block of one universe, as given to a worker."""

    source: Source
    universe: str
    block: Block


def compute_block(task: BlockTask, report: Callable[[dict], None]) -> None:
    """Draw one block, or what is missing of it since the universe grew, and store it."""
    universe, block = UniverseWriter.again(task.universe), task.block
    settings = universe.settings
    draw_samples, words, steps = task.source.load(settings), universe.codewords, settings.sampling.steps
    (first_a, last_a), (first_s, last_s) = block.ablations or (0, 1), block.samples
    images = np.empty((last_a - first_a, last_s - first_s, *settings.shape), np.uint8)
    done, rest = 0, [block]
    if present := universe.part(block):
        part, stored = present
        images[: stored.shape[0], : stored.shape[1]] = stored
        done, rest = part.rows, block.beyond(part)
    for piece in rest:
        ablations = words[slice(*piece.ablations)] if piece.ablations else np.zeros((1, words.shape[1]), bool)

        def on_step(step: int, piece: Block = piece, done: int = done) -> None:
            report({"rows": done + piece.rows * step / steps, "step": step})

        drawn = draw_samples(ablations, settings.seeds[slice(*piece.samples)], on_step=on_step)
        rows = slice(None) if piece.ablations is None else slice(piece.ablations[0] - first_a, None)
        images[rows, piece.samples[0] - first_s :][: len(drawn)] = drawn
        done += piece.rows
    universe.write(block, delivered(images, settings.threshold))


def enumerate_universe(
    run: str | Path | Run,
    seeds: Iterable[int],
    *,
    out: str | Path,
    units: Iterable[str] | None = None,
    sampling: Sampling = Sampling(),
    spares: int = 0,
    conditions: Condition | Sequence[Condition] | None = None,
    execution: Execution = Execution(),
    overwrite: bool = False,
) -> Universe:
    """Draw factual samples and the counterfactual of every unit; each distinct ablation is computed once.

    Args:
        run: a complete run, or its folder.
        seeds: one per sample.
        out: the universe's folder or object-store URL. If it holds this universe, unfinished or with fewer seeds,
            units or spares, only what is missing or damaged is computed.
        units: ids of the units to remove, one at a time; None = all. The universe then holds only these.
        sampling: how to draw samples; see `precision_error` for what `bf16` changes.
        spares: how many spare codewords to ablate as well. They are the null distribution: they remove as many
            components as a unit does, and no unit.
        conditions: what the samples are to show: one for all of them, or one for each, in the order of the seeds. A
            counterfactual keeps its sample's seed and condition.
        execution: how to run the work. All nodes of a cluster must be able to reach `out`.
        overwrite: replace the universe that is there.

    Returns:
        The universe, opened for reading.

    Raises:
        SettingsError: impossible settings, or `out` was made with others (both values are named).
        CodeError: more spares than there are.
        StoreError: not a run; or another process is writing `out`; or the disk refuses.
    """
    from ..diffusion.sampling import parse_seeds

    opened, execution = as_run(run), execution.resolved()
    settings = plan_universe(
        opened,
        parse_seeds(list(seeds)),
        units=units,
        sampling=settled(sampling, execution),
        spares=spares,
        conditions=conditions,
        hardware=execution.hardware(sampling.precision),
        memory=execution.memory(),
    )
    with output_folder(out, UNIVERSE):
        universe = UniverseWriter.begin(out, settings, opened.units, overwrite=overwrite)
        todo = universe.missing()
        if todo:
            refuse_other_hardware(universe.settings.hardware, settings.hardware, out)
            _check_room(out, universe.settings, todo)
            source = Source.of(opened, execution)
            universe.changes()
            made = universe.settings
            room = drawing_bytes(opened, made.batch, made.precision, execution.max_resident, made.at_once)
            _compute(universe, [BlockTask(source, absolute(out), block) for block in todo], execution, room)
        universe.finish()
    return Universe.open(out)


def settled(sampling: Sampling, execution: Execution) -> Sampling:
    """The same, not compiled unless that is asked for where work goes to a cluster: who knows what its nodes have."""
    return replace(sampling, backend=sampling.backend or "eager") if execution.ray is not None else sampling


def _check_room(out: str | Path, settings: UniverseSettings, todo: list[Block]) -> None:
    """`StoreError` if the missing images surely do not fit; how well they compress is known only later."""
    images = sum(block.rows for block in todo)
    what = f"drawing {images:,} images, if they are compressed to 1/{LEAST},"
    check_room(out, images * math.prod(settings.shape) // LEAST, what)


def plan_universe(
    run: Run,
    seeds: list[int],
    *,
    units: Iterable[str] | None = None,
    sampling: Sampling,
    spares: int = 0,
    conditions: Condition | Sequence[Condition] | None = None,
    hardware: str = CPU,
    memory: int | None = None,
) -> UniverseSettings:
    """The settings of a universe that is to be drawn from a run, on some hardware (see `devices.hardware`).

    `memory`: of a GPU, in bytes.
    """
    sampling.check(run.recipe.schedule)
    each = asked(run, conditions, len(seeds), sampling.guidance)
    backend = backend_of(run, sampling.backend, sampling.precision, hardware)
    rows = run.rows(list(dict.fromkeys(units))) if units is not None else list(range(len(run.unit_ids)))
    if not rows:
        raise SettingsError("the list of units is empty; name one or more, or give None to remove each unit in turn")
    words, ablation = run.code.select(rows).ablations()
    if stuck := [run.unit_ids[row] for row in rows if run.code.matrix[row].all()]:
        raise CodeError(
            f"every component that is left was trained on {len(stuck)} of the units, {stuck[0]} among them, so no "
            f"component survives without it; repair the run first: "
            f"{command('run repair', run.path, option('out', 'RUN3'))}"
        )
    if spares:
        words = np.concatenate([words, run.code.spares(spares, seed=run.seed)])
    block_samples = min(BLOCK_SAMPLES, len(seeds))
    most = min(BLOCK_ROWS[1], max(BLOCK_SAMPLES, BLOCK_BYTES // int(np.prod(run.shape))))
    images = min(most, int(np.clip(len(words) * len(seeds) // BLOCKS, *BLOCK_ROWS)))
    pieces = -(-len(words) // max(1, images // block_samples))
    at_once = run.code.components if backend == "stacked" else 1
    return UniverseSettings(
        run_sha256=run.digest,
        shape=run.shape,
        components=run.code.components,
        sampler=sampling.sampler,
        steps=sampling.steps,
        threshold=sampling.threshold,
        precision=sampling.precision,
        backend=backend,
        clip=sampling.clip and run.recipe.latent is None,  # latents have no range
        guidance=sampling.guidance,
        batch=batch_of(run, sampling.precision, hardware, memory, -(-len(words) // pieces) * block_samples, at_once),
        block=(-(-len(words) // pieces), block_samples),  # even pieces, so that workers finish together
        seeds=tuple(seeds),
        conditions=each,
        units=tuple(run.unit_ids[row] for row in rows),
        digests=tuple(run.digests[row] for row in rows),
        words=tuple(Code(words, allow_dummy=True).words()),
        ablation=tuple(int(row) for row in ablation),
        spares=tuple(range(len(words) - spares, len(words))),
        hardware=hardware,
    )


def _compute(universe: UniverseWriter, tasks: list[BlockTask], execution: Execution, room: int | None = None) -> None:
    """Draw the blocks that are missing. Factual ones come first: the others' distances are measured from them."""
    total, settings = sum(block.rows for block in universe.blocks()), universe.settings
    done, drawn, began = total - sum(task.block.rows for task in tasks), 0, time.monotonic()
    title = f"drawing {settings.ablations} ablations of {len(settings.seeds)} samples"
    with (
        execution.pool(compute_block, run=Path(tasks[0].source.run), gpu_bytes=room) as workforce,
        Display(title, total, done=done, quiet=execution.quiet) as display,
    ):
        # blocks of the same samples one after the other, as workers keep their noise
        tasks = sorted(tasks, key=lambda task: (task.block.samples, task.block.ablations or ()))
        for stage in ([t for t in tasks if t.block.ablations is None], [t for t in tasks if t.block.ablations]):

            def on_event(number: int, event: dict, stage: list[BlockTask] = stage) -> None:
                block, step = stage[number].block, f"step {event['step']}/{settings.steps}"
                display.update(number, f"block {block.name}", event["rows"], block.rows, step)

            for number, _ in workforce.run(stage, on_event):
                rows = stage[number].block.rows
                display.finish(number, rows)
                drawn += rows
                display.note(f"{drawn / (time.monotonic() - began):.1f} images per second")
