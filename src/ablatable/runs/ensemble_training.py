"""Train an ensemble: every component on its own split, in parallel, into a run that can be interrupted and resumed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from .._runtime.devices import CPU
from .._runtime.execution import Execution
from .._runtime.files import check_room, file_hash, link_or_copy, move_folder_into_place, write_json
from .._runtime.outputs import check_clearable, output_folder
from .._runtime.progress import Display
from ..codes.code import RANDOM, Code
from ..data.units import Units
from ..diffusion.recipe import Recipe, preset
from ..errors import SettingsError, StoreError, command
from .codecs import with_codec
from .conditioning import check_units, with_classes
from .disk_room import gpu_bytes, training_bytes
from .enough_units import refuse_too_few
from .records import RunSettings, Trained, UnitsLoaded, log, read_training
from .run import RUN, Run, component_folder
from .shared import FOLDER, NOTHING_SHARED, Shared, SharedPart, copy_parts, records_of
from .writing import begin_run, manifest_of

if TYPE_CHECKING:
    from .component_training import TrainTask
    from .stacked_training import StackTask

T = TypeVar("T")

SAVING = 50  # a checkpoint is written after so many times what the last one took, at the earliest
CHECKPOINT_SECONDS = 20.0  # at most so much of a component's training is lost when it is killed


def train(
    units: Units,
    code: Code,
    recipe: Recipe | str,
    *,
    out: str | Path,
    seed: int = 0,
    execution: Execution = Execution(),
    overwrite: bool = False,
    reuse: Run | None = None,
    shared: Sequence[SharedPart] = (),
    codec: str | Path | None = None,
    classes: Sequence[str] | None = None,
) -> Run:
    """Train an ablatable ensemble: every component on its own split, in parallel, resumably.

    Args:
        units: the training data.
        code: one row per unit; fixed beforehand.
        recipe: what to build and how to train it, or the name of a preset, see `preset`.
        out: the run's folder. If it holds the same run unfinished, training resumes; if complete, nothing is done.
        seed: the ensemble seed; all of the training's randomness follows from it.
        execution: how to run the work. A cluster's nodes must all be able to reach `out`.
        overwrite: replace the run that is there.
        reuse: a run whose components are copied instead of trained, each only if its training record says that it was
            made from exactly what this one would be: the same split, recipe, number and seed.
        shared: frozen models that all components use. They are copied into the run, and what it guarantees is relative
            to them. One named `codec` is an autoencoder, as below.
        codec: `haar`, `dct` or an autoencoder's folder: components then denoise coefficients or latents, see
            `with_codec`. An autoencoder is a shared part.
        classes: names of classes, for components that are asked for one of them; the units' labels must be among them.
            The list is part of the recipe: it is fixed here, and never counted from the data.

    Raises:
        SettingsError: `out` holds a run with other settings (both values are named), or is something else; or there
            are too few units for the code.
        DataError: components are to be trained with labels or captions, and the units lack them.
        StoreError: another process is writing this run, or the disk refuses.
        WorkerError: a worker kept dying.
    """
    refuse_too_few(units, code)
    given = with_classes(preset(recipe) if isinstance(recipe, str) else recipe, classes)
    _refuse_unless_stackable(given)
    encoding, parts = with_codec(given, codec, units.shape, shared)
    return make_run(
        units,
        code,
        encoding,
        present=range(code.components),
        out=out,
        seed=seed,
        execution=execution,
        overwrite=overwrite,
        reuse=reuse,
        shared=[*shared, *parts],
    )


def make_run(
    units: Units,
    code: Code,
    recipe: Recipe,
    *,
    present: Sequence[int],
    out: str | Path,
    seed: int,
    execution: Execution,
    overwrite: bool = False,
    reuse: Run | None = None,
    shared: Sequence[SharedPart] = (),
) -> Run:
    """As `train`, for a run that has only the components `present` of its design; none may train on nothing."""
    path, execution = Path(out), execution.resolved()
    if len(units) != code.units:
        raise SettingsError(
            f"{len(units)} units but {code.units} codewords; make the code for as many units as there are"
        )
    if recipe.component.trained:
        check_units(units, recipe.component.takes, shared)
    where = execution.hardware(recipe.training.precision if recipe.component.trained and reuse is None else "fp32")
    settings = RunSettings(
        shape=units.shape,
        components=code.components,
        present=tuple(present),
        units=len(units),
        seed=seed,
        recipe=recipe,
        code_sha256=code.digest(),
        units_sha256=units.fingerprint(),
        torch=version("torch"),
        code_design=RANDOM if code.design == RANDOM else None,
        hardware=None if where == CPU else where,
        shared=records_of(shared),
    )
    inside = Shared(settings.shared or (), path.resolve() / FOLDER)
    with output_folder(path, RUN, overwrite=overwrite):
        begin_run(path, settings, units, code, reuse)
        copy_parts(shared, path)
        inside.check()
        if units.report is not None:
            log(path, UnitsLoaded(**units.report.as_dict()))
        if not (path / "ensemble.json").exists():
            _remove_damaged(path, recipe)
        if reuse is not None:
            for number in present:
                if reusable(reuse, units, code, recipe, seed, number, inside):
                    _take_over(reuse, number, path)
        tasks = Tasks(present, lambda n: task_of(units, code, recipe, seed, n, path, execution.device, inside, True))
        missing = tasks.only([n for n in present if not component_folder(path.resolve(), n).exists()])
        if missing:
            largest = max(int(images_in(units, code.split(number))) for number in missing.numbers)
            room = training_bytes(recipe, units, len(missing), largest, execution, inside)
            check_room(path, room, f"training {len(missing)} components")
            memory = None if execution.ray is None else gpu_bytes(recipe, units, inside)
            stacks = _in_stacks(recipe, missing, units, code, execution.device)
            _train_components(path, recipe, stacks, len(tasks), execution, memory)
        if not (path / "ensemble.json").exists():
            write_json(path / "ensemble.json", manifest_of(path, settings).values())
    return Run(path)


def task_of(
    units: Units,
    code: Code,
    recipe: Recipe,
    seed: int,
    number: int,
    run: Path,
    device: str,
    shared: Shared = NOTHING_SHARED,
    on_disk: bool = False,
) -> TrainTask:
    """Component `number`'s training: of all units it is handed those of its split and no more.

    `on_disk`: the split is a file of its own beside the component, which the task names and deletes when it is done.
    """
    from .component_training import SPLIT, TrainTask, beside

    ids = [units.ids[row] for row in code.split(number)]
    folder = component_folder(run.resolve(), number)
    if on_disk and not folder.exists():
        split = units.write_to(beside(folder) / SPLIT, sorted(ids), lasting=False)  # a resume writes it again
    else:
        split = units.select(ids)
    return TrainTask(
        split=split,
        recipe=recipe,
        component=number,
        seed=seed,
        folder=folder,
        device=device,
        checkpoint_seconds=CHECKPOINT_SECONDS,
        saving=SAVING,
        shared=shared,
    )


def reusable(
    run: Run, units: Units, code: Code, recipe: Recipe, seed: int, number: int, shared: Shared = NOTHING_SHARED
) -> bool:
    """Whether `run` has a component that was made from exactly what `task_of` would have one made from."""
    if number not in run.present:
        return False
    record = read_training(component_folder(run.path, number))
    return (
        record.units == {units.ids[row]: units.digests[row] for row in code.split(number)}
        and record.recipe == recipe
        and (record.component, record.seed) == (number, seed)
        and (record.shared or {}) == shared.digests
    )


def images_in(units: Units, rows: np.ndarray) -> int:
    """How many images some units (rows) have."""
    return int(np.bincount(units.owner, minlength=len(units))[rows].sum())


def _take_over(reuse: Run, number: int, path: Path) -> None:
    """Take a component that is as it would be trained; `StoreError` if it is not what its run vouches for."""
    folder, source = component_folder(path.resolve(), number), component_folder(reuse.path, number)
    if folder.exists():
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, digest in reuse.manifest.files_sha256.items():
        file = reuse.path / name
        if file.parent == source:
            link_or_copy(file, partial / file.name)
            if file_hash(partial / file.name) != digest:
                raise StoreError(f"{file} is damaged; see {command('audit check', reuse.path)}")
    move_folder_into_place(partial, folder)


def _remove_damaged(path: Path, recipe: Recipe) -> None:
    """The manifest is about to vouch for the components: those whose weights are no longer what was trained must go."""
    for folder in (path / "components").glob("[0-9]*[0-9]"):
        try:
            weights = file_hash(folder / recipe.component.weights)
            sound = read_training(folder).weights_sha256 == weights
        except (StoreError, OSError):
            sound = False
        if not sound:
            check_clearable(path, RUN)
            shutil.rmtree(folder)


class Tasks(Sequence[T]):
    """Trainings, each made when it is asked for, as it takes room for a whole split."""

    def __init__(self, numbers: Sequence[int], make: Callable[[int], T]) -> None:
        """`make(number)` gives the task of that number, such as a component's."""
        self.numbers, self.make = list(numbers), make
        self.held = [[number] for number in self.numbers]  # the components of each

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> T:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.make(self.numbers[place])

    def only(self, numbers: Sequence[int]) -> Tasks[T]:
        """The tasks of these numbers alone."""
        return Tasks(numbers, self.make)


def _refuse_unless_stackable(recipe: Recipe) -> None:
    if recipe.training.stacked > 1:
        from ..diffusion.stacked import refuse_unless_stackable

        refuse_unless_stackable(recipe.component)


def _in_stacks(
    recipe: Recipe, tasks: Tasks[TrainTask], units: Units, code: Code, device: str
) -> Tasks[TrainTask] | Tasks[StackTask]:
    """The same trainings as stacks of components, if the recipe asks for them."""
    if recipe.training.stacked == 1:
        return tasks
    from .stacked_training import StackTask, groups

    stacks = groups(recipe, {number: int(images_in(units, code.split(number))) for number in tasks.numbers})
    found = Tasks(range(len(stacks)), lambda k: StackTask(tuple(tasks.make(n) for n in stacks[k]), device))
    found.held = stacks
    return found


def _train_components(
    path: Path,
    recipe: Recipe,
    tasks: Tasks[TrainTask] | Tasks[StackTask],
    of: int,
    execution: Execution,
    gpu_bytes: int | None,
) -> None:
    """Train what is missing of a run of `of` components; `gpu_bytes`: see `Execution.pool`."""
    from .component_training import train_component
    from .stacked_training import train_stack

    steps, trained = recipe.training_steps or 1, [number for numbers in tasks.held for number in numbers]
    with Display(
        f"training {of} components", of * steps, done=(of - len(trained)) * steps, quiet=execution.quiet
    ) as display:
        began, images = time.monotonic(), dict.fromkeys(range(len(tasks)), 0)

        def on_event(number: int, event: dict) -> None:
            images[number] = event["images"]
            speed = sum(images.values()) / (time.monotonic() - began)
            display.note(f"{speed:.0f} images/s")
            first, *more = tasks.held[number]
            display.update(
                number,
                f"component {first:02d}" if not more else f"components {first:02d} and {len(more)} more",
                event["step"] * (1 + len(more)),
                steps * (1 + len(more)),
                f"step {event['step']}/{steps} loss {event['loss']:.4f}",
            )

        function = train_component if recipe.training.stacked == 1 else train_stack
        with execution.pool(function, gpu_bytes=gpu_bytes) as workforce:
            for number, _ in workforce.run(tasks, on_event):
                display.finish(number, steps * len(tasks.held[number]))
    seconds = time.monotonic() - began
    done = Trained(
        components=trained,
        seconds=round(seconds, 1),
        images_per_second=round(sum(images.values()) / seconds, 1),
        workers=execution.workers or 0 if execution.ray is None else f"ray:{execution.ray}",
        device=execution.device,
    )
    log(path, done)
