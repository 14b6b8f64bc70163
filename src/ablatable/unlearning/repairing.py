"""Repair a run that lost components, and extend one by new units: what is touched is trained from scratch, no more.

A component's weights are a function of the recipe, the ensemble's seed, its number and its split. So a component whose
split is what it was is copied, and any other is trained as if the ensemble were new: the result is the same, bit for
bit, as training the whole ensemble on these units under these codewords.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np

from .._runtime.execution import Execution
from .._runtime.outputs import check_folder
from ..codes.code import Code
from ..data.loading import LoadOptions
from ..data.naming import load_units
from ..data.units import Units
from ..data.words import joined
from ..diffusion.recipe import Recipe
from ..errors import CodeError, DataError, SettingsError, command, option
from ..runs.adopting import refuse_claimed
from ..runs.ensemble_training import make_run, reusable
from ..runs.loading_record import options_of
from ..runs.run import RUN, Run, as_run


@dataclass(frozen=True)
class Work:
    """What a repair or an extension comes to, before it is done."""

    units: Units
    design: Code
    present: tuple[int, ...]
    """Components that the new run will have."""
    trained: tuple[int, ...]
    """Those of them that must be trained."""
    recipe: Recipe

    @property
    def share(self) -> float:
        """The cost: components to train, relative to training all that the new run will have."""
        return len(self.trained) / len(self.present)

    def sentence(self) -> str:
        """The cost in words."""
        names = ", ".join(f"{number:02d}" for number in self.trained) or "none"
        steps = f" of {self.recipe.training.steps} steps each" if self.recipe.component.trained else ""
        return (
            f"{len(self.trained)} of {len(self.present)} components to train ({names}){steps}: "
            f"{self.share:.0%} of the cost of a new ensemble"
        )


def plan_repair(run: Run, units: Units | None = None) -> Work:
    """Which components a run lacks, to be trained on `units` (see `run_units`); None = as stored in the run.

    A component that no unit is left for is not brought back. `SettingsError` if they were trained elsewhere.
    """
    refuse_claimed(run.recipe.component, command("run repair"))
    return _work(run, run.units() if units is None else units, run.design)


def plan_extension(run: Run, new: Units) -> Work:
    """Give new units unused codewords, see `extended`, and see which components that touches.

    Raises:
        SettingsError: the run lacks components (repair it first), the pictures' shape differs, or its components were
            trained elsewhere.
        DataError: a new unit has the id of one that is there.
        CodeError: too few codewords are left.
    """
    refuse_claimed(run.recipe.component, command("run extend"))
    if len(run.present) < run.design.components and (run.design.split_sizes() > 0).sum() > len(run.present):
        raise SettingsError(
            f"{run.path} lacks components; repair it first: {command('run repair', run.path, option('out', 'RUN3'))}"
        )
    if new.shape != run.shape:
        raise SettingsError(f"the new units' pictures are {new.shape} (C, H, W), the run's are {run.shape}")
    if taken := sorted(set(new.ids) & set(run.unit_ids)):
        raise DataError(f"there already is a unit '{taken[0]}' in {run.path}; new units need ids of their own")
    old = run.units()
    both = Units(
        (*old.ids, *new.ids),
        np.concatenate([old.images, new.images]),
        np.concatenate([old.owner, new.owner + len(old)]),
        labels=joined(old.labels, new.labels, "label"),
        captions=joined(old.captions, new.captions, "caption"),
    )
    return _work(run, both, extended(run.design, len(new)))


def complete(
    run: Run,
    work: Work,
    *,
    out: str | Path,
    execution: Execution = Execution(),
    overwrite: bool = False,
) -> Run:
    """Do the work into a new run, resumably; the old run is only read."""
    if Path(out).resolve() == run.path.resolve():
        raise SettingsError(f"{out} is the old run, which stays as it is; choose another {option('out')}")
    return make_run(
        work.units,
        work.design,
        work.recipe,
        present=work.present,
        out=out,
        seed=run.seed,
        execution=execution,
        overwrite=overwrite,
        reuse=run,
        shared=run.shared.parts(),
    )


def repair(
    run: str | Path | Run, *, out: str | Path, execution: Execution = Execution(), overwrite: bool = False
) -> Run:
    """Bring a run that forgot units back to all its components: only those it lacks are trained, from scratch.

    Args:
        run: a complete run or its folder, which is only read.
        out: the new run's folder; if it holds the same work unfinished, it is resumed.
        execution: how to run the work.
        overwrite: replace the run at `out`.
    """
    opened = as_run(run)
    return complete(opened, plan_repair(opened), out=out, execution=execution, overwrite=overwrite)


def extend(
    run: str | Path | Run, new: Units, *, out: str | Path, execution: Execution = Execution(), overwrite: bool = False
) -> Run:
    """Train new units into a run: they get unused codewords, and the components these name are trained from scratch.

    Args:
        run: a complete run or its folder, which is only read.
        new: the units to add.
        out: the new run's folder; if it holds the same work unfinished, it is resumed.
        execution: how to run the work.
        overwrite: replace the run at `out`.
    """
    check_folder(Path(out), RUN)
    opened = as_run(run)
    return complete(opened, plan_extension(opened, new), out=out, execution=execution, overwrite=overwrite)


def run_units(run: Run, data: str | Path | None, unit_column: str | None = None) -> Units:
    """A run's units from the run itself or, with `data`, from their source; `DataError` if they are not the same."""
    if data is None:
        return run.units()
    channels, height, width = run.shape
    options: LoadOptions = {**options_of(run.path), "size": (height, width), "channels": channels}
    source = load_units(data, unit_column=unit_column, **options)
    if missing := sorted(set(run.unit_ids) - set(source.ids)):
        raise DataError(f"{data} lacks unit '{missing[0]}' of {run.path}, and {len(missing) - 1} more")
    units = source.select(run.unit_ids)
    for unit, found, expected in zip(run.unit_ids, units.digests, run.digests, strict=True):
        if found != expected:
            raise DataError(f"unit '{unit}' in {data} does not have the content that {run.path} was trained on")
    return units


def extended(design: Code, count: int) -> Code:
    """The design with `count` more rows at its end: unused codewords that touch as few components as possible.

    The new words lie within the smallest set of components that has room for them, the emptiest first, and within it
    are taken so that the splits stay even. A function of the arguments alone. CodeError if too few codewords are left.
    """
    weight = design.weight or Counter(design.matrix.sum(axis=1).tolist()).most_common(1)[0][0]
    used, sizes = set(design.words()), design.split_sizes()
    emptiest = [int(component) for component in np.argsort(sizes, kind="stable")]
    for room in range(weight, design.components + 1):
        chosen = emptiest[:room]
        inside = sum(not set(np.flatnonzero(row).tolist()) - set(chosen) for row in _of_weight(design, weight))
        if comb(room, weight) - inside >= count:
            return Code(np.vstack([design.matrix, _fill(design, chosen, weight, count, used)]), allow_dummy=True)
    left = comb(design.components, weight) - len({word for word in used if word.count("1") == weight})
    raise CodeError(
        f"{left} codewords of weight {weight} are left for {count} new units; train a new ensemble with more components"
    )


def _of_weight(design: Code, weight: int) -> np.ndarray:
    rows = design.ablations()[0]
    return rows[rows.sum(axis=1) == weight]


def _fill(design: Code, chosen: Sequence[int], weight: int, count: int, used: set[str]) -> np.ndarray:
    """`count` unused words within the chosen components, each the one whose components are emptiest so far."""
    free = []
    for ones in combinations(sorted(chosen), weight):
        word = np.zeros(design.components, bool)
        word[list(ones)] = True
        if "".join("01"[bit] for bit in word.astype(int)) not in used:
            free.append(word)
    words, sizes, taken = np.array(free), design.split_sizes().astype(np.int64), []
    for _ in range(count):
        pick = int(np.argmin(words @ sizes**2))
        taken.append(words[pick])
        sizes += words[pick]
        words = np.delete(words, pick, axis=0)
    return np.array(taken)


def _work(run: Run, units: Units, design: Code) -> Work:
    present = tuple(int(number) for number in np.flatnonzero(design.split_sizes()))
    trained = tuple(
        number for number in present if not reusable(run, units, design, run.recipe, run.seed, number, run.shared)
    )
    return Work(units, design, present, trained, run.recipe)
