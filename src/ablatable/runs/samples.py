"""Samples of a run as picture files: with all components, or without some units."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from .._runtime.devices import one_thread
from .._runtime.execution import Execution
from .._runtime.files import write_atomic, write_json
from .._runtime.outputs import OutputKind, check_folder
from .._runtime.progress import Display
from ..diffusion.sampling_settings import Sampling
from ..errors import SettingsError, option
from .run import Run, as_run

SAMPLES = OutputKind(
    what="samples",
    marker="samples.json",
    recognises=lambda value: value["kind"] == "ablatable samples",
    files=(r"samples\.json|sample-\d+\.png",),
)
"""What a folder of samples holds."""


def draw_samples(
    run: str | Path | Run,
    seeds: Sequence[int],
    *,
    out: str | Path,
    without: Sequence[str] = (),
    sampling: Sampling = Sampling(),
    execution: Execution = Execution(),
    overwrite: bool = False,
) -> list[Path]:
    """Draw one sample per seed, in this process, and write each as `sample-<seed>.png`.

    Args:
        run: a complete run.
        seeds: each fixes one sample's noise trajectory, so the same seed with and without a unit can be compared.
        out: a new or empty folder, or one that holds samples; the others in it stay.
        without: units to remove; every component that saw one of them is ablated.
        sampling: how samples are drawn.
        execution: the device, and whether progress is shown.
        overwrite: replace samples of these seeds that are there.

    Returns:
        The pictures' paths, in the seeds' order.

    Raises:
        SettingsError: `out` holds one of the samples and `overwrite` is not given, holds anything else, or cannot be
            written. Nothing is drawn then.
        DataError: a unit the run does not know.
        CodeError: no component survives.
    """
    from ..data.units import to_images
    from .pipeline import AblatablePipeline, as_pil

    folder, execution = Path(out), execution.resolved()
    paths = [folder / f"sample-{seed:05d}.png" for seed in seeds]
    check_folder(folder, SAMPLES)
    taken = [path for path in paths if path.exists()]
    if taken and not overwrite:
        raise SettingsError(f"{taken[0]} exists; choose another {option('out')}, or {option('overwrite', True)}")
    opened = as_run(run)
    opened.survivors(without)
    model = AblatablePipeline(opened).to(execution.device)
    steps = sampling.steps
    # one thread is faster than two on small networks, and much faster on a busy machine
    with Display("drawing", steps, quiet=execution.quiet) as display, one_thread():
        drawn = model.draw(
            seeds, without=without, sampling=sampling, on_step=lambda step: display.update(0, "step", step, steps)
        )
    write_json(folder / SAMPLES.marker, {"kind": "ablatable samples"})
    for path, picture in zip(paths, as_pil(to_images(drawn)), strict=True):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        write_atomic(path, buffer.getvalue())
    return paths
