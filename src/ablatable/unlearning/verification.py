"""Audit a run: which components saw a unit or a picture, whether its chain of hashes holds, and training once more.

From the artifacts alone, an audit shows that a run's records agree with each other: units, codewords, splits, training
records, weights. That the weights really came from the recorded splits, only training again can show: `repeat` does so
with the unit's data absent, and with noise in its place, and compares bits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .._runtime import merkle
from .._runtime.devices import hardware
from .._runtime.execution import Execution
from .._runtime.provenance import environment
from .._runtime.rng import generator
from ..data.images import fit, read_picture, recolour
from ..data.likeness import NEAR, likeness
from ..data.units import Units
from ..errors import SettingsError, option
from ..runs.adopting import claimed, refuse_claimed
from ..runs.component_training import TrainTask, first_marks, train_component
from ..runs.ensemble_training import Tasks, task_of
from ..runs.loading_record import background_of
from ..runs.records import Mark, SharedRecord, TrainingRecord, read_training
from ..runs.run import Run, as_run, check_run, component_folder

ALIKE = 0.02
"""Largest relative difference between losses of repeated trainings that count as numerically alike."""


# --- from the artifacts alone ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Audit:
    """What a run's artifacts say about one unit or picture."""

    subject: str
    content_sha256: str
    units: tuple[str, ...]
    """Units that hold it: the unit itself, and all that hold one of its pictures, bit for bit."""
    saw: tuple[int, ...]
    """Numbers of the components that trained on any of them."""
    clean: tuple[int, ...]
    """Numbers of the components that trained on none of them."""
    proofs: dict[int, dict[str, Any]]
    """By component, `{"commitment", "proof"}` for `merkle.check` with `content_sha256`."""
    near: tuple[tuple[str, float, tuple[int, ...]], ...]
    """Other units whose pictures are near-duplicates: id, likeness, the components that trained on it."""
    closest: tuple[str, float] | None
    """The most alike other unit, near-duplicate or not."""
    shared: tuple[SharedRecord, ...]
    """The frozen models that all components use: what is said of a component is relative to them."""
    claimed: tuple[str, ...]
    """What is to be said where the components were trained elsewhere; empty otherwise."""
    wrong: tuple[str, ...]
    """What does not hold in the chain units -> code -> splits -> training records -> weights."""

    def as_dict(self) -> dict[str, Any]:
        """All fields as JSON types."""
        proofs = {f"{number:02d}": proof for number, proof in self.proofs.items()}
        return {**asdict(self), "proofs": proofs, "shared": [part.values() for part in self.shared]}


def audit(run: str | Path | Run, unit: str | None = None, *, image: str | Path | None = None) -> Audit:
    """Say which components of a run saw a unit or an image, and whether all its records agree.

    Args:
        run: a complete run, or its folder.
        unit: the id of one of its units; or
        image: an image file, which is looked for in the run's units.

    Raises:
        SettingsError: neither or both of `unit` and `image` are given.
        DataError: the run has no such unit, or the image cannot be read.
    """
    if (unit is None) == (image is None):
        raise SettingsError(f"give either {option('unit')} or {option('image')}")
    return audit_unit(run, unit) if unit is not None else audit_image(run, image or "")


def audit_unit(run: str | Path | Run, unit: str) -> Audit:
    """Audit one of a run's units; `DataError` if the run has no such unit."""
    wrong, opened = _chain(run)
    row = opened.rows([unit])[0]
    return _audit(opened, unit, opened.digests[row], opened.units().of(unit), wrong)


def audit_image(run: str | Path | Run, image: str | Path) -> Audit:
    """Audit a picture, brought to the run's size and channels as training data are; `DataError` if it is unreadable."""
    wrong, opened = _chain(run)
    channels, height, width = opened.shape
    picture = read_picture(Path(image), str(image), background_of(opened.path))
    pixels = fit(recolour(picture, channels), (height, width))[None]
    return _audit(opened, str(image), Units((str(image),), pixels, np.zeros(1, np.int64)).digests[0], pixels, wrong)


def _chain(run: str | Path | Run) -> tuple[list[str], Run]:
    opened = as_run(run)
    return check_run(opened.path), opened


def _audit(run: Run, subject: str, digest: str, pictures: np.ndarray, wrong: list[str]) -> Audit:
    units = run.units()
    known = {picture.tobytes() for picture in pictures}
    same = {
        units.ids[owner] for image, owner in zip(units.images, units.owner, strict=True) if image.tobytes() in known
    }
    held = tuple(unit for unit in units.ids if unit in same)
    clean = run.code.survivors(run.rows(held))
    proofs = {}
    for column, number in enumerate(run.present):
        members = [run.digests[row] for row in run.code.split(column)]
        commitment, proof = run.manifest.split_commitments[column], merkle.prove(members, digest)
        proofs[number] = {"commitment": commitment, "proof": proof}
        verdict = merkle.check(commitment, digest, proof)
        if verdict is None or (verdict and clean[column]):
            wrong = [*wrong, f"component {number:02d}: its commitment does not agree with its split"]
    others = [unit for unit in units.ids if unit not in same]
    alike = _most_alike(pictures, units.select(others)) if others else {}
    order = sorted(alike, key=lambda unit: -alike[unit])
    return Audit(
        subject=subject,
        content_sha256=digest,
        units=held,
        saw=_numbers(run, ~clean),
        clean=_numbers(run, clean),
        proofs=proofs,
        near=tuple(
            (unit, alike[unit], _numbers(run, ~run.code.survivors(run.rows([unit]))))
            for unit in order
            if alike[unit] >= NEAR
        ),
        closest=(order[0], alike[order[0]]) if order else None,
        shared=run.shared.records,
        claimed=tuple(claimed(run.recipe.component)),
        wrong=tuple(wrong),
    )


def _numbers(run: Run, which: np.ndarray) -> tuple[int, ...]:
    return tuple(number for number, chosen in zip(run.present, which, strict=True) if chosen)


def _most_alike(pictures: np.ndarray, units: Units) -> dict[str, float]:
    """Each unit's largest likeness between any of its pictures and any of these."""
    best = likeness(pictures, units.images).max(axis=0)
    return {unit: float(best[units.owner == row].max()) for row, unit in enumerate(units.ids)}


# --- by training again ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repeated:
    """One component trained again, or its first steps."""

    component: int
    variant: Literal["absent", "noise"]
    """What was in the place of the units: nothing, or noise."""
    steps: int
    """Training steps repeated."""
    exact: bool
    """Whether every recorded hash until then was met, and the weights' if it was trained to the end."""
    difference: float | None
    """Largest relative difference of a recorded loss; None where none is recorded (an ideal component)."""

    @property
    def alike(self) -> bool:
        """Whether the losses agree within `ALIKE`: weaker than `exact`, and no proof."""
        return self.exact or (self.difference is not None and self.difference <= ALIKE)


@dataclass(frozen=True)
class Repetition:
    """Components of a run trained again."""

    repeated: tuple[Repeated, ...]
    elsewhere: tuple[str, ...]
    """In what this machine and its versions differ from the run's: where they do, equal bits cannot be demanded."""

    @property
    def holds(self) -> bool:
        """Equal bits; on another machine or with other versions, numerical likeness."""
        return all(each.exact or (bool(self.elsewhere) and each.alike) for each in self.repeated)

    def as_dict(self) -> dict[str, Any]:
        """All fields as JSON types."""
        return {**asdict(self), "holds": self.holds}


def repeat(
    run: Run,
    without: Sequence[str],
    components: Sequence[int],
    *,
    steps: int | None = None,
    units: Units | None = None,
    execution: Execution = Execution(),
    report: Callable[[int, dict], None] = lambda number, event: None,
) -> Repetition:
    """Train components again that did not see the units `without`, twice: without these units, and with noise for them.

    Args:
        run: a complete run.
        without: unit ids, perhaps none.
        components: numbers of components.
        steps: only so many first steps, compared with the hashes recorded on the way; None = all.
        units: the training data; None = as stored in the run.
        execution: how to run the work. Bits are comparable only between devices of the same kind.
        report: called with (task number, event) during training.

    Raises:
        SettingsError: a component saw one of the units, or there is no such component; or they were trained elsewhere.
    """
    refuse_claimed(run.recipe.component, option("retrain"))
    clean = dict(zip(run.present, run.survivors(without), strict=True))
    for number in components:
        if not clean.get(number, False):
            why = "trained on one of the units" if number in clean else "is not in the run"
            raise SettingsError(f"component {number} {why}; give others")
    units = run.units() if units is None else units
    rows, gone = [run.unit_ids.index(unit) for unit in units.ids], set(without)
    design = run.design.select(rows)
    kept = [row for row, unit in enumerate(units.ids) if unit not in gone]
    variants = {"absent": (units.without(without), design.select(kept))}
    if gone:
        variants["noise"] = (_noised(units, gone), design)
    execution = execution.resolved()
    if not run.recipe.component.trained:
        steps = None
    with tempfile.TemporaryDirectory() as scratch:
        what = [(number, variant) for number in components for variant in variants]

        def job(place: int) -> tuple[TrainTask, int | None]:
            number, variant = what[place]
            folder = Path(scratch) / variant
            task = task_of(*variants[variant], run.recipe, run.seed, number, folder, execution.device, run.shared, True)
            return task, steps

        jobs = Tasks(range(len(what)), job)
        with execution.pool(_again) as pool:
            results = dict(pool.run(jobs, report))
    records = {number: read_training(component_folder(run.path, number)) for number in components}
    repeated = [
        _compared(records[number], results[place], number, variant) for place, (number, variant) in enumerate(what)
    ]
    return Repetition(tuple(repeated), tuple(_elsewhere(run, records, execution.device)))


def _again(job: tuple[TrainTask, int | None], report: Callable[[dict], None]) -> tuple[str | None, list[Mark]]:
    """Weights' hash (if trained to the end) and marks of one training."""
    task, steps = job
    if steps is not None and steps < task.recipe.training.steps:
        return None, first_marks(task, steps, report)
    weights = train_component(task, report)
    return weights, read_training(task.folder).marks


def _compared(record: TrainingRecord, result: tuple[str | None, list[Mark]], number: int, variant: str) -> Repeated:
    weights, marks = result
    recorded = record.marks[: len(marks)]
    exact = [mark[:2] for mark in recorded] == [mark[:2] for mark in marks] and weights in (
        None,
        record.weights_sha256,
    )
    losses = [(was, now) for (_, _, was), (_, _, now) in zip(recorded, marks, strict=False)]
    difference = max((abs(now - was) / max(abs(was), 1e-6) for was, now in losses), default=None)
    steps = marks[-1][0] if marks else 0
    return Repeated(number, "noise" if variant == "noise" else "absent", steps, exact, difference)


def _noised(units: Units, ids: set[str]) -> Units:
    """The same units, these ones' pixels replaced by noise."""
    images = units.images.copy()
    places = np.flatnonzero([units.ids[owner] in ids for owner in units.owner])
    images[places] = generator("audit noise").integers(0, 256, (len(places), *images.shape[1:]), dtype=np.uint8)
    return Units(units.ids, images, units.owner, **units.said)


def _elsewhere(run: Run, records: dict[int, TrainingRecord], device: str) -> list[str]:
    was, now = run.manifest.environment, environment()
    different = [
        f"{key}: {was.get(key)} then, {now.get(key)} now" for key in sorted(was) if was.get(key) != now.get(key)
    ]
    here = hardware(device)
    others = {record.hardware or record.device for record in records.values()} - {here}
    return different + [f"device: {other} then, {here} now" for other in sorted(others)]
