"""Samples of a run as picture files: with all components, or without some units.

A sample's bytes are those that a universe has for it, and do not depend on what it is drawn with: components process
batches of one fixed size (see `Ensemble`), and the samples of a batch are one worker's task.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._runtime.devices import computing
from .._runtime.execution import Execution
from .._runtime.files import write_atomic, write_json
from .._runtime.outputs import OutputKind, check_folder
from .._runtime.plotting import contact_sheet, png
from .._runtime.progress import Display
from .._runtime.workers import chunks, default_workers
from ..diffusion.conditions import Condition
from ..diffusion.sampling_settings import Sampling
from ..errors import SettingsError, option
from .backends import backend_of
from .batches import batch_alone
from .conditioning import asked, given_of
from .run import Run, as_run

if TYPE_CHECKING:
    from ..diffusion.ensemble import Ensemble

SHEET, COLUMNS = "contact-sheet.png", 8

SAMPLES = OutputKind(
    what="samples",
    marker="samples.json",
    recognises=lambda value: value["kind"] == "ablatable samples",
    files=(r"samples\.json|sample-\d+\.png|contact-sheet\.png",),
)
"""What a folder of samples holds."""


def draw_samples(
    run: str | Path | Run,
    seeds: Sequence[int],
    *,
    out: str | Path,
    without: Sequence[str] = (),
    conditions: Condition | Sequence[Condition] | None = None,
    sampling: Sampling = Sampling(),
    execution: Execution = Execution(),
    overwrite: bool = False,
) -> list[Path]:
    """Draw one sample per seed, and write each as `sample-<seed>.png`, and all of the folder in `contact-sheet.png`.

    Args:
        run: a complete run.
        seeds: each fixes one sample's noise trajectory, so the same seed with and without a unit can be compared.
        out: a new or empty folder, or one that holds samples; the others in it stay.
        without: units to remove; every component that saw one of them is ablated.
        conditions: what the samples are to show: one for all of them, or one for each, in the order of the seeds.
        sampling: how samples are drawn.
        execution: how to run the work; it does not change a byte.
        overwrite: replace samples of these seeds that are there.

    Returns:
        The samples' paths, in the seeds' order.

    Raises:
        SettingsError: `out` holds one of the samples and `overwrite` is not given, holds anything else, or cannot be
            written. Nothing is drawn then.
        DataError: a unit the run does not know.
        CodeError: no component survives.
    """
    opened, folder, execution = as_run(run), Path(out), execution.resolved()
    each = asked(opened, conditions, len(seeds), sampling.guidance)
    paths = [folder / f"sample-{seed:05d}.png" for seed in seeds]
    check_folder(folder, SAMPLES)
    taken = [path for path in paths if path.exists()]
    if taken and not overwrite:
        raise SettingsError(f"{taken[0]} exists; choose another {option('out')}, or {option('overwrite', True)}")
    alive = tuple(opened.survivors([without] if isinstance(without, str) else without).tolist())
    precision, hardware = sampling.precision, execution.hardware(sampling.precision)
    # a few samples are not worth the time of compiling, unless it is asked for
    sampling = replace(sampling, backend=backend_of(opened, sampling.backend or "eager", precision, hardware))
    batch = batch_alone(opened, precision, hardware, execution.memory())
    source = Source(
        str(opened.path.resolve()), opened.digest, sampling, execution.device, execution.max_resident, batch
    )
    tasks = [
        SampleTask(source, tuple(seeds[first:last]), alive, None if each is None else each[first:last])
        for first, last in chunks(len(paths), batch)
    ]
    images = _draw_all(opened, tasks, execution)
    write_json(folder / SAMPLES.marker, {"kind": "ablatable samples"})
    for path, image in zip(paths, images, strict=True):
        write_atomic(path, png(image))
    write_atomic(folder / SHEET, png(_sheet(folder)))
    return paths


@dataclass(frozen=True)
class Source:
    """The ensemble that samples are drawn with: a run that must not change meanwhile, and how it is to be used."""

    run: str
    run_sha256: str
    sampling: Sampling
    device: str
    max_resident: int | None
    batch: int


@dataclass(frozen=True)
class SampleTask:
    """A batch of samples, as given to a worker."""

    source: Source
    seeds: tuple[int, ...]
    alive: tuple[bool, ...]
    conditions: tuple[Condition, ...] | None = None


def draw_batch(task: SampleTask, report: Callable[[dict], None]) -> np.ndarray:
    """Draw a batch of samples: uint8 (seeds, H, W, C)."""
    import torch

    from ..data.units import to_images
    from ..diffusion.sampling import Trajectories, sample

    run, ensemble = _loaded(task.source)
    noise, sampling = Trajectories(task.seeds, run.noise_shape, device=task.source.device), task.source.sampling
    given = given_of(run, task.conditions, len(task.seeds), sampling.guidance, task.source.device)
    # one thread is faster than two on small networks, and much faster on a busy machine
    with torch.inference_mode(), computing(task.source.device, task.source.sampling.precision):
        drawn = sample(
            ensemble.ablate(np.array(task.alive)).under(given),
            noise,
            schedule=run.recipe.schedule,
            sampling=task.source.sampling,
            on_step=lambda step: report({"step": step}),
            codec=run.codec,
        )
    return to_images(drawn.cpu())


@lru_cache(maxsize=1)
def _loaded(source: Source) -> tuple[Run, Ensemble]:
    """A worker loads the components once."""
    opened = Run(source.run)
    if opened.digest != source.run_sha256:
        raise SettingsError(f"{source.run} changed while it was being used; give the same command again")
    return opened, opened.ensemble(
        batch=source.batch,
        precision=source.sampling.precision,
        backend=source.sampling.backend or "eager",
        device=source.device,
        max_resident=source.max_resident,
    )


def _draw_all(run: Run, tasks: Sequence[SampleTask], execution: Execution) -> list[np.ndarray]:
    """Do all tasks; one, or those of a GPU, which one process keeps busy, here, unless workers are asked for."""
    if execution.workers is None and execution.ray is None:
        here = len(tasks) == 1 or execution.device != "cpu"
        execution = replace(execution, workers=0 if here else min(len(tasks), default_workers()))
    steps, drawn = tasks[0].source.sampling.steps, dict[int, np.ndarray]()
    with (
        Display("drawing", len(tasks) * steps, quiet=execution.quiet) as display,
        execution.pool(draw_batch, run=run.path) as pool,
    ):

        def on_event(number: int, event: dict) -> None:
            display.update(number, f"samples {number * len(tasks[0].seeds)}..", event["step"], steps)

        for number, images in pool.run(tasks, on_event):
            display.finish(number, steps)
            drawn[number] = images
    return [image for number in range(len(tasks)) for image in drawn[number]]


def _sheet(folder: Path) -> np.ndarray:
    """All samples of a folder, by their seeds, as one picture."""
    from PIL import Image

    images = []
    for path in sorted(folder.glob("sample-*.png")):
        with Image.open(path) as image:
            pixels = np.asarray(image)
        images.append(pixels if pixels.ndim == 3 else pixels[..., None])
    same = np.stack([image for image in images if image.shape == images[-1].shape])
    return contact_sheet(*(same[first:last] for first, last in chunks(len(same), COLUMNS)))
