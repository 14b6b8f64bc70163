"""Screen: find the units that move samples most without drawing every counterfactual.

What is drawn is what enumerating would draw, bit for bit; `search` decides what that is, one sample at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..._runtime.execution import Execution
from ..._runtime.outputs import output_folder
from ..._runtime.progress import Display
from ..._runtime.workers import chunks
from ...codes.code import Code
from ...diffusion.sampling_settings import Sampling
from ...errors import SettingsError
from ...runs.run import Run
from ..enumeration import draw, loaded, plan_universe
from ..store import SCREENED
from ..universe import UniverseSettings
from .screen import Screen, ScreenSettings
from .search import SURE, most_drawn, search

if TYPE_CHECKING:
    from ...diffusion.ensemble import Ensemble

DRAWN_AT_ONCE = 128  # ablations of one sample that are drawn together: bounded memory


@dataclass(frozen=True)
class ScreenTask:
    """One sample, as given to a worker."""

    run: str
    run_sha256: str
    screen: str
    seed: int
    device: str
    max_resident: int | None = None


def screen_sample(task: ScreenTask, report: Callable[[dict], None]) -> None:
    """Screen one sample and store it."""
    from ..._runtime.devices import one_thread

    place = Screen.open(task.screen, partial=True)
    settings, made_with = place.settings, place.made_with
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
    candidates, spares = np.unique(settings.ablation), np.array(settings.spares, int)
    most = most_drawn(made_with.share, len(candidates), len(spares), settings.components)

    def pictures(ablations: np.ndarray) -> np.ndarray:
        return _pictures(run, ensemble, settings, ablations, task)

    with one_thread():
        factual = pictures(np.zeros((1, settings.components), bool))[0]
        found = search(
            lambda rows: pictures(words[rows]),
            factual,
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


def _pictures(
    run: Run, ensemble: Ensemble, settings: UniverseSettings, ablations: np.ndarray, task: ScreenTask
) -> np.ndarray:
    """One sample under some ablations, bool (rows, n): uint8 (rows, C, H, W)."""
    parts = [
        draw(
            ensemble,
            ablations[first:last],
            [task.seed],
            shape=settings.shape,
            schedule=run.recipe.schedule,
            sampling=settings.sampling,
            device=task.device,
        )[:, 0]
        for first, last in chunks(len(ablations), DRAWN_AT_ONCE)
    ]
    return np.concatenate(parts)


def screen_universe(
    run: str | Path,
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
        run: a complete run.
        seeds: one sample each.
        out: the screen's folder or object-store URL. If it holds this screen, unfinished or with fewer seeds, only
            what is missing or damaged is computed.
        share: of the units' distinct ablations, drawn of each sample at most; above 0, at most 1.
        top: how many of the farthest units are looked for; 1 is the radius.
        sure: of each sample, drawing stops when the chance of having found them is as large; 1 draws all of `share`.
        units, sampling, spares, execution, overwrite: as `enumerate_universe` takes them, without a threshold. The
            spares' ablations are all drawn.

    Raises:
        SettingsError: impossible settings, or `out` was made with others (both values are named).
        CodeError: more spares than there are.
        StoreError: not a run; or another process is writing `out`; or the disk refuses.
    """
    from ...diffusion.sampling import parse_seeds

    opened, execution = Run(run), execution.resolved()
    if sampling.threshold is not None:
        raise SettingsError(
            "screening takes changes to be smooth, which black and white is not; leave the threshold out"
        )
    if top < 1 or not 0 < sure <= 1:
        raise SettingsError(f"top {top}, sure {sure:g}: look for 1 unit or more, with a chance above 0 and up to 1")
    universe = plan_universe(
        opened,
        parse_seeds(list(seeds)),
        units=units,
        sampling=sampling,
        spares=spares,
    )
    most_drawn(share, len(np.unique(universe.ablation)), spares, universe.components)
    settings = ScreenSettings(universe=universe, share=share, top=top, sure=sure)
    with output_folder(out, SCREENED):
        found = Screen.begin(out, settings, opened.units().select(universe.units), overwrite=overwrite)
        missing = [seed for seed in found.seeds if not found.has(seed)]
        if missing:
            place = str(out) if "://" in str(out) else str(Path(out).resolve())
            folder = str(Path(run).resolve())
            tasks = [
                ScreenTask(folder, opened.digest, place, seed, execution.device, execution.max_resident)
                for seed in missing
            ]
            _compute(found, tasks, execution)
    return Screen.open(out)


def _compute(found: Screen, tasks: list[ScreenTask], execution: Execution) -> None:
    total = len(found.seeds)
    title = f"screening {len(found.units)} units of {total} samples"
    with (
        execution.pool(screen_sample, run=Path(tasks[0].run)) as workforce,
        Display(title, total, done=total - len(tasks), quiet=execution.quiet) as display,
    ):

        def on_event(number: int, event: dict) -> None:
            note = f"{event['drawn']} drawn, {event['chance']:.0%} sure"
            display.update(number, f"seed {tasks[number].seed}", event["drawn"] / event["most"], 1, note)

        for number, _ in workforce.run(tasks, on_event):
            display.finish(number, 1)
