"""Screen: find the units that move samples most without drawing every counterfactual.

Screening draws the same bits as enumerating does; `search` decides which ablations are drawn, one sample at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..._runtime.execution import Execution
from ..._runtime.outputs import output_folder
from ..._runtime.progress import Display
from ..._runtime.workers import chunks
from ...diffusion.sampling_settings import Sampling
from ...errors import SettingsError
from ...runs.run import Run, as_run
from ..batches import drawing_bytes
from ..drawing import Source
from ..enumeration import plan_universe
from ..settings import refuse_other_hardware
from ..store import SCREENED, absolute
from .screen import Screen, ScreenSettings
from .search import SURE, most_drawn, search

DRAWN_AT_ONCE = 128  # ablations of one sample that are drawn together, which bounds memory


@dataclass(frozen=True)
class ScreenTask:
    """One sample, as given to a worker."""

    source: Source
    screen: str
    seed: int


def screen_sample(task: ScreenTask, report: Callable[[dict], None]) -> None:
    """Screen one sample and store it."""
    place = Screen.open(task.screen, partial=True)
    made_with, settings = place.made_with, place.settings
    draw_samples, words = task.source.load(settings), settings.codewords
    candidates, spares = np.unique(settings.ablation), np.array(settings.spares, int)
    most = most_drawn(made_with.share, len(candidates), len(spares), words.shape[1])

    def images(ablations: np.ndarray) -> np.ndarray:
        pieces = chunks(len(ablations), DRAWN_AT_ONCE)
        return np.concatenate([draw_samples(ablations[first:last], [task.seed])[:, 0] for first, last in pieces])

    found = search(
        lambda rows: images(words[rows]),
        images(np.zeros((1, words.shape[1]), bool))[0],
        words,
        candidates,
        spares,
        seed=task.seed,
        most=most,
        top=made_with.top,
        sure=made_with.sure,
        on_round=lambda drawn, chance: report({"drawn": drawn, "most": most, "chance": chance}),
    )
    place.write(task.seed, found)


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
        units, sampling, spares, execution, overwrite: as `enumerate_universe` takes them, without a threshold. All of
            the spares' ablations are drawn.

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
        sampling=sampling,
        spares=spares,
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
            room = drawing_bytes(opened, universe, execution.max_resident)
            _compute(found, [ScreenTask(source, absolute(out), seed) for seed in missing], execution, room)
    return Screen.open(out)


def _compute(found: Screen, tasks: list[ScreenTask], execution: Execution, room: int) -> None:
    total = len(found.seeds)
    title = f"screening {len(found.unit_ids)} units of {total} samples"
    with (
        execution.pool(screen_sample, run=Path(tasks[0].source.run), gpu_bytes=room) as workforce,
        Display(title, total, done=total - len(tasks), quiet=execution.quiet) as display,
    ):

        def on_event(number: int, event: dict) -> None:
            note = f"{event['drawn']} drawn, {event['chance']:.0%} sure"
            display.update(number, f"seed {tasks[number].seed}", event["drawn"] / event["most"], 1, note)

        for number, _ in workforce.run(tasks, on_event):
            display.finish(number, 1)
