"""Screen: find the units that move samples most without drawing every counterfactual.

Screening draws the same bits as enumerating does; `search` decides which ablations are drawn, for each sample alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..._runtime.execution import Execution
from ..._runtime.outputs import output_folder
from ..._runtime.progress import Display
from ..._runtime.workers import chunks
from ...diffusion.conditions import Condition
from ...diffusion.sampling_settings import Sampling
from ...errors import SettingsError
from ...runs.batches import drawing_bytes
from ...runs.run import Run, as_run
from ..drawing import Drawing, Source
from ..enumeration import plan_universe, settled
from ..settings import refuse_other_hardware
from ..store import SCREENED, absolute
from .screen import Screen, ScreenSettings
from .search import ROUND, SURE, Found, most_drawn, searching

DRAWN_AT_ONCE = 128  # rows that are drawn together, unless batches take more: it bounds memory
MORE = 4  # samples in a task, in units of those that go in lockstep


@dataclass(frozen=True)
class ScreenTask:
    """Some samples, as given to a worker: at most `lockstep` of them are searched at once."""

    source: Source
    screen: str
    seeds: tuple[int, ...]
    lockstep: int = 1


def screen_samples(task: ScreenTask, report: Callable[[dict], None]) -> None:
    """Screen samples and store each as it is finished.

    A round of one search draws few ablations, too few for a GPU's batch, so several searches go on side by side and
    what they want next is drawn together. None learns from another, so results don't depend on which are together.
    """
    place = Screen.open(task.screen, partial=True)
    made_with, settings = place.made_with, place.settings
    drawing, words = task.source.load(settings), settings.codewords
    candidates, spares = np.unique(settings.ablation), np.array(settings.spares, int)
    most = most_drawn(made_with.share, len(candidates), len(spares), words.shape[1])
    waiting, active = list(task.seeds), dict[int, _Active]()
    while waiting or active:
        fresh = [waiting.pop(0) for _ in range(min(len(waiting), task.lockstep - len(active)))]
        factuals = drawing(np.zeros((1, words.shape[1]), bool), fresh)[0] if fresh else ()
        for seed, factual in zip(fresh, factuals, strict=True):

            def on_round(drawn: int, chance: float, seed: int = seed) -> None:
                report({"seed": seed, "drawn": drawn, "most": most, "chance": chance})

            search = searching(
                factual,
                words,
                candidates,
                spares,
                seed=seed,
                most=most,
                top=made_with.top,
                sure=made_with.sure,
                on_round=on_round,
            )
            active[seed] = _Active(search, next(search))
        drawn = _drawn_together(drawing, words, active, task.lockstep)
        for seed in list(active):
            try:
                active[seed] = _Active(active[seed].search, active[seed].search.send(drawn[seed]))
            except StopIteration as end:
                place.write(seed, end.value)
                report({"seed": seed, "finished": True})
                del active[seed]


@dataclass(frozen=True)
class _Active:
    """A search under way, and the ablations (rows of the universe's words) that it wants."""

    search: Generator[np.ndarray, np.ndarray, Found]
    wanted: np.ndarray


def _drawn_together(
    drawing: Drawing, words: np.ndarray, active: dict[int, _Active], lockstep: int
) -> dict[int, np.ndarray]:
    """What each search wants, by its seed: uint8 (rows, C, H, W)."""
    seeds = list(active)
    of_seed = np.repeat(np.arange(len(seeds)), [len(each.wanted) for each in active.values()])
    rows = np.concatenate([each.wanted for each in active.values()])
    parts = []
    for first, last in chunks(len(rows), max(DRAWN_AT_ONCE, lockstep * ROUND)):
        there = np.unique(of_seed[first:last])
        near = [seeds[k] for k in there]
        parts.append(drawing.rows(words[rows[first:last]], np.searchsorted(there, of_seed[first:last]), near))
    images = np.concatenate(parts)
    return {seed: images[of_seed == k] for k, seed in enumerate(seeds)}


def _tasks(found: Screen, source: Source, place: str, seeds: list[int], workers: int) -> list[ScreenTask]:
    """Samples, shared out: as many in lockstep as fill a component's batch, and no fewer tasks than there are workers.

    A task has some more samples than go in lockstep, so that others follow those that are finished early.
    """
    survive = 1 - found.settings.codewords.mean()  # a component's share of the rows
    lockstep = max(1, math.ceil((found.settings.batch or 1) / (ROUND * survive) - 1e-9))
    each = min(len(seeds), max(1, math.ceil(len(seeds) / workers)), lockstep * MORE if lockstep > 1 else 1)
    return [
        ScreenTask(source, place, tuple(seeds[first:last]), min(lockstep, each))
        for first, last in chunks(len(seeds), each)
    ]


def screen_universe(
    run: str | Path | Run,
    seeds: Iterable[int],
    *,
    out: str | Path,
    share: float = 0.1,
    top: int = 1,
    sure: float = SURE,
    units: Iterable[str] | None = None,
    sampling: Sampling = Sampling(),
    spares: int = 0,
    conditions: Condition | Sequence[Condition] | None = None,
    execution: Execution = Execution(),
    overwrite: bool = False,
) -> Screen:
    """Search the landscapes of some samples for the units that move them most.

    Args:
        run: a complete run, or its folder.
        seeds: one per sample.
        out: the screen's folder or object-store URL. If it holds this screen, unfinished or with fewer seeds, only
            what is missing or damaged is computed.
        share: draw at most this share of the units' distinct ablations per sample; above 0, at most 1.
        top: how many of the farthest units to look for; 1 gives the radius.
        sure: stop drawing a sample when the chance of having found them reaches this; 1 always draws all of `share`.
        units, sampling, spares, conditions, execution, overwrite: as `enumerate_universe` takes them, without a
            threshold. All of the spares' ablations are drawn.

    Returns:
        The screened universe, opened for reading.

    Raises:
        SettingsError: impossible settings, or `out` was made with others (both values are named).
        CodeError: more spares than there are.
        StoreError: not a run; or another process is writing `out`; or the disk refuses.
    """
    from ...diffusion.sampling import parse_seeds

    opened, execution = as_run(run), execution.resolved()
    if sampling.threshold is not None:
        raise SettingsError(
            "screening assumes that images change smoothly, and black and white images do not; leave the threshold out"
        )
    if top < 1 or not 0 < sure <= 1:
        raise SettingsError(f"top is {top} and sure is {sure:g}; top must be 1 or more, and sure above 0 and at most 1")
    universe = plan_universe(
        opened,
        parse_seeds(list(seeds)),
        units=units,
        sampling=settled(sampling, execution),
        spares=spares,
        conditions=conditions,
        hardware=execution.hardware(sampling.precision),
        memory=execution.memory(),
    )
    most_drawn(share, len(np.unique(universe.ablation)), spares, opened.code.components)
    settings = ScreenSettings(universe=universe, share=share, top=top, sure=sure)
    with output_folder(out, SCREENED):
        found = Screen.begin(out, settings, opened.units().select(universe.units), overwrite=overwrite)
        missing = [seed for seed in found.seeds if not found.has(seed)]
        if missing:
            refuse_other_hardware(found.settings.hardware, universe.hardware, out)
            source = Source.of(opened, execution)
            workers = execution.processes()
            tasks = _tasks(found, source, absolute(out), missing, workers)
            room = drawing_bytes(opened, universe.batch, universe.precision, execution.max_resident, universe.at_once)
            _compute(found, tasks, len(missing), execution, room)
    return Screen.open(out)


def _compute(found: Screen, tasks: list[ScreenTask], missing: int, execution: Execution, room: int) -> None:
    total = len(found.seeds)
    title = f"screening {len(found.unit_ids)} units of {total} samples"
    with (
        execution.pool(screen_samples, run=Path(tasks[0].source.run), gpu_bytes=room) as workforce,
        Display(title, total, done=total - missing, quiet=execution.quiet) as display,
    ):

        def on_event(number: int, event: dict) -> None:
            if "finished" in event:
                display.finish(event["seed"], 1)
                return
            note = f"{event['drawn']} drawn, {event['chance']:.0%} sure"
            display.update(event["seed"], f"seed {event['seed']}", event["drawn"] / event["most"], 1, note)

        for _ in workforce.run(tasks, on_event):
            pass
