"""Score attribution methods against a universe: what does each name, and what does removal show?

Work is cut into pieces, a method's scores of a few samples each; every finished piece is a file, so an evaluation that
was interrupted resumes, and methods can be added to one that is finished. All metrics are computed from the pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .._runtime.devices import CPU
from .._runtime.execution import Execution
from .._runtime.files import file_hash, json_hash, read_json, write_atomic, write_json
from .._runtime.outputs import OutputKind, output_folder
from .._runtime.progress import Display
from .._runtime.provenance import compare_settings
from .._runtime.text import as_option
from .._runtime.workers import chunks
from ..data.grouping import per_unit
from ..errors import SettingsError, option
from ..runs.run import Run
from ..universes.landscapes import checked_sample
from ..universes.reader import Universe
from .methods import Method, as_method, find_method
from .metrics import FalseAttribution
from .pieces import (
    Content,
    Piece,
    another_unit,
    compute_piece,
    content_of,
    finished,
    make_ready,
    other_units,
    score_piece,
)
from .scoreboard import Evaluation, Measured, Scored, as_tex, figure, measure, measured
from .scores import SUFFIXES, write_pieces
from .truth import Removals

PIECE = 16  # samples of one method in a piece

EVALUATION = OutputKind(
    what="evaluation",
    marker="evaluation.json",
    recognises=lambda value: set(value) - {"samples"} == {"universe", "run", "rule"},
    files=(
        r"evaluation\.json|results\.(csv|json|tex|png)",
        r"scores/[^/]+\.(parquet|ask\.csv)",
        r"pieces/[^/]+/\d+\.(parquet|json)",  # JSON until 0.3
    ),
)
"""What an evaluation's folder holds."""


def evaluate(
    universe: Universe | str | Path,
    methods: Sequence[str] | Mapping[str, Any],
    *,
    out: str | Path,
    run: str | Path | Run | None = None,
    rule: str = "max",
    samples: Sequence[int] | None = None,
    execution: Execution = Execution(),
    overwrite: bool = False,
) -> Evaluation:
    """Score methods against what removal shows, into the folder `out`.

    `results.csv`, `results.json`, `results.tex`, `results.png`, and every method's scores, `scores/<method>.parquet`.

    Args:
        universe: what to compare with, or its place. Metrics that need spares or the run are left out where there
            are none.
        methods: names (see `attribution.find_method`), or by name a method of your own, which runs in this process: a
            matrix of scores (samples, units), of all samples or of those chosen, a function that scores pictures, or a
            `Method`. Files of scores must have those of the samples chosen.
        run: the universe's run, for methods and metrics that look into components.
        rule: how scores of images become scores of units: `max`, `sum` or `mean`.
        samples: compare these samples alone (indices, from 0); None = all.
        execution: how to run the work.
        overwrite: replace the evaluation that is there.

    Raises:
        SettingsError: an unknown method or rule, a method needs what is not given, the universe has a single unit, or
            `out` holds another evaluation.
        DataError: scores do not fit the universe, or there is no such sample.
    """
    universe, execution = Universe.open(universe), execution.resolved()
    folder, opened = Path(out), _run_of(universe, run)
    if len(universe.unit_ids) < 2:
        raise SettingsError(
            f"{universe.url} has one unit, so every method names it, and there is nothing to compare methods by; "
            "give a universe of two units or more"
        )
    numbers = _numbers(universe, samples)
    if isinstance(methods, Mapping):
        chosen = {name: as_method(name, given, universe, numbers) for name, given in methods.items()}
    else:
        names = [methods] if isinstance(methods, str) else methods
        chosen = {name: find_method(name, universe, samples=numbers) for name in names}
    if not chosen:
        raise SettingsError("no attribution method is given; name one or more")
    for name, method in chosen.items():
        _check_needs(name, method, universe, opened)
    labels = {name: _label(name) for name in chosen}
    if len(set(labels.values())) < len(labels):
        raise SettingsError(f"two of the methods have one name: {', '.join(labels.values())}")
    per_unit(np.zeros((1, len(universe.unit_ids))), universe.training, rule)  # is there such a rule?
    settings = {"universe": _digest(universe), "run": universe.settings.run_sha256 if opened else None, "rule": rule}
    if len(numbers) < len(universe.seeds):
        settings["samples"] = as_option(numbers)
    with output_folder(folder, EVALUATION, overwrite=overwrite):
        _begin(folder, settings)
        own = {} if not isinstance(methods, Mapping) else dict(chosen)
        tasks = [
            Piece(
                universe=universe.url,
                run=None if opened is None else str(opened.path.resolve()),
                method=name,
                rule=rule,
                samples=tuple(numbers[first:last]),
                path=str(folder / "pieces" / _slug(labels[name]) / f"{numbers[first]:07d}.parquet"),
                stamp=_stamp(name),
                device=execution.device,
            )
            for name in chosen
            for first, last in chunks(len(numbers), PIECE)
        ]
        _compute(universe, opened, own, tasks, execution)
        pieces = {labels[name]: tuple(task for task in tasks if task.method == name) for name in chosen}
        removals = Removals(universe, opened, numbers, CPU if execution.ray is not None else execution.device)
        found = _compare(universe, removals, numbers, pieces, execution)
        _write(folder, found, universe)
    return found


# --- work ----------------------------------------------------------------------------------------------------------


def _compute(
    universe: Universe, run: Run | None, own: dict[str, Method], tasks: list[Piece], execution: Execution
) -> None:
    """What is missing: by workers, or for methods that only this process knows, here."""
    total = sum(len(task.samples) for task in tasks)
    todo = [task for task in tasks if finished(task) is None]
    done = total - sum(len(task.samples) for task in todo)
    if not todo:
        return
    with Display(f"scoring {total} samples", total, done=done, quiet=execution.quiet) as display:

        def finish(task: Piece) -> None:
            display.finish(0, len(task.samples))
            display.note(task.method)

        for name, method in own.items():
            mine = [task for task in todo if task.method == name]
            if mine:
                ready = make_ready(method, universe, run)
                for task in mine:
                    score_piece(ready, task)
                    finish(task)
        rest = [task for task in todo if task.method not in own]
        with execution.pool(compute_piece) as pool:
            for number, _ in pool.run(rest):
                finish(rest[number])


def _compare(
    universe: Universe,
    removals: Removals,
    numbers: Sequence[int],
    pieces: dict[str, tuple[Piece, ...]],
    execution: Execution,
) -> Evaluation:
    """All methods' metrics, from finished pieces; those of the same samples are together in memory, and no others."""
    parts: dict[str, list[Measured]] = {label: [] for label in pieces}
    answers: dict[str, list[Content]] = {label: [] for label in pieces}
    named: dict[str, list[np.ndarray]] = {label: [] for label in pieces}
    samples = len(numbers)
    with Display(f"comparing {samples} samples", samples, quiet=execution.quiet) as display:
        for same in zip(*pieces.values(), strict=True):
            truth = removals.of(same[0].samples)
            for label, piece in zip(pieces, same, strict=True):
                content = content_of(piece)
                parts[label].append(measured(content.scores, truth))
                named[label].append(content.scores.argmax(axis=1))
                answers[label].append(replace(content, scores=content.scores[:, :0]))
            display.finish(0, len(same[0].samples))
    scored = {label: _scored(mine, answers[label], np.concatenate(named[label])) for label, mine in pieces.items()}
    results = {label: measure(parts[label], answer.far, label) for label, answer in scored.items()}
    return Evaluation(results, scored, removals.why, samples, len(universe.unit_ids))


def _scored(pieces: tuple[Piece, ...], contents: list[Content], named: np.ndarray) -> Scored:
    """`contents` need no scores here."""
    far, answers = None, [content.again for content in contents if content.again is not None]
    if len(answers) == len(contents):
        again = np.concatenate(answers, axis=1)
        far = FalseAttribution(again[0] > 0, again[1])
    counts = np.array([len(piece.samples) for piece in pieces])
    seconds = np.array([content.seconds for content in contents])
    ready = max(content.ready for content in contents)
    return Scored(pieces, named, far, float((seconds * counts).sum() / counts.sum()), float(ready))


# --- what is given, and what is written --------------------------------------------------------------------------


def _run_of(universe: Universe, run: str | Path | Run | None) -> Run | None:
    if run is None:
        return None
    opened = run if isinstance(run, Run) else Run(run)
    if opened.digest != universe.settings.run_sha256:
        raise SettingsError(f"{universe.url} is not a universe of the run {opened.path}; give the run it was made from")
    return opened


def _numbers(universe: Universe, samples: Sequence[int] | None) -> Sequence[int]:
    """The samples that are compared, ascending."""
    if samples is None:
        return range(len(universe.seeds))
    numbers = sorted({checked_sample(sample, universe.seeds) for sample in samples})
    if not numbers:
        raise SettingsError("no sample is given to compare; name one or more")
    return numbers


def _check_needs(name: str, method: Method, universe: Universe, run: Run | None) -> None:
    strange = method.needs - {"run", "trajectory"}
    if strange:
        raise SettingsError(f"'{name}' needs {', '.join(sorted(strange))}; a method can need run and trajectory")
    if "run" in method.needs and run is None:
        raise SettingsError(f"'{name}' looks into the components; give the universe's run with {option('run')}")
    if "trajectory" in method.needs and universe.settings.imported:
        raise SettingsError(f"'{name}' follows the noise trajectories, and an imported universe has none on record")


def _label(name: str) -> str:
    """What a method is called in tables: a file of scores by its stem."""
    return Path(name).stem if _stamp(name) else name.removeprefix("features:")


def _stamp(name: str) -> str:
    path = Path(name)
    return file_hash(path) if path.suffix in SUFFIXES and path.is_file() else ""


def _slug(label: str) -> str:
    """A label as a file's name."""
    from urllib.parse import quote

    return quote(label, safe="").lstrip(".")[:80] or "method"


def _digest(universe: Universe) -> str:
    return json_hash(universe.settings.model_dump(mode="json"))


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / "evaluation.json"
    if path.exists():
        compare_settings(read_json(path), settings, folder)
    else:
        write_json(path, settings)


def _write(folder: Path, found: Evaluation, universe: Universe) -> None:
    table = found.table()
    for label, answer in found.scored.items():
        stored, numbers = [Path(piece.path) for piece in answer.pieces], [piece.samples for piece in answer.pieces]
        write_pieces(folder / "scores" / f"{_slug(label)}.parquet", stored, numbers, universe.unit_ids)
        if answer.far is None:
            write_atomic(folder / "scores" / f"{_slug(label)}.ask.csv", _questions(universe, answer))
    write_atomic(folder / "results.csv", table.write_csv().encode())
    about = {"samples": found.samples, "units": found.units, "not_measured": found.why, "results": table.to_dicts()}
    write_json(folder / "results.json", about)
    write_atomic(folder / "results.tex", as_tex(found).encode())
    write_atomic(folder / "results.png", figure(found))


def _questions(universe: Universe, answer: Scored) -> bytes:
    """Which counterfactuals would have to be scored as well for the false attribution rate: sample, removed."""
    import polars as pl

    rows = []
    numbers = [sample for piece in answer.pieces for sample in piece.samples]
    for sample, unit in zip(numbers, answer.named.tolist(), strict=True):
        if len(other_units(universe, unit)):
            other = another_unit(universe, sample, unit)
            rows += [{"sample": sample, "removed": universe.unit_ids[k]} for k in (unit, other)]
    return pl.DataFrame(rows).write_csv().encode()
