"""Forget units: a new run of the components that never saw them, and the certificate.

The new run is what `train` would have made of the remaining units under the remaining codewords, but for the components
that saw a removed unit, which it lacks. It is put together from the survivors' files alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .._runtime.execution import HERE
from ..codes.code import Code
from ..codes.removal_budget import Budget, budget_of
from ..data.units import Units
from ..errors import DataError, SettingsError, option
from ..runs.ensemble_training import make_run
from ..runs.run import Run, as_run
from . import certificate as certificates


@dataclass(frozen=True)
class Removal:
    """What forgetting some units comes to, before it is done."""

    ids: tuple[str, ...]
    ablated: tuple[int, ...]
    """Numbers of the components that saw one of the units."""
    survivors: tuple[int, ...]
    units: Units
    """The units that stay."""
    design: Code
    """Their codewords over all components of the design."""
    budget: Budget
    """What can be removed after that."""


def plan_removal(run: Run, ids: Sequence[str]) -> Removal:
    """Look before removing.

    Raises:
        DataError: an unknown unit; no unit would stay; or a unit that stays has a picture of one that goes, whose
            influence would stay with it.
        CodeError: no component survives; says how many of the units can go together.
    """
    ids = tuple(dict.fromkeys(ids))
    if not ids:
        raise SettingsError(f"name at least one unit to forget: {option('ids', 'X')}")
    rows, alive = run.rows(ids), run.survivors(ids)
    if len(ids) == len(run.unit_ids):
        raise DataError("no unit would stay; delete the run instead")
    units = run.units()
    _refuse_copies(units, ids)
    gone = set(rows)
    kept = [row for row in range(len(run.unit_ids)) if row not in gone]
    survivors = tuple(number for number, lives in zip(run.present, alive, strict=True) if lives)
    design = run.design.select(kept)
    stay = units.without(ids)
    return Removal(
        ids=ids,
        ablated=tuple(number for number in run.present if number not in survivors),
        survivors=survivors,
        units=stay,
        design=design,
        budget=budget_of(design.columns(survivors), stay.ids, run.design.components),
    )


def forget(
    run: str | Path | Run,
    ids: Sequence[str],
    *,
    out: str | Path,
    requested_by: str | None = None,
    hash_ids: bool = False,
    key: Path | None = None,
    overwrite: bool = False,
) -> tuple[Run, certificates.Certificate]:
    """Make a run that never saw some units, and its certificate (in the new run, `certificate.json`).

    The old run is only read. The new one carries nothing of the ablated components nor of the units: no weights, loss
    histories, pictures, or ids but in the certificate. It is complete when its `ensemble.json` is there; if this is
    killed before, the same call resumes it.

    Args:
        run: a complete run, or its folder; it may have forgotten units before.
        ids: the units.
        out: the new run's folder.
        requested_by: who asked for it, for the certificate.
        hash_ids: keep the units' ids only as SHA-256 in the certificate. Ids that can be guessed can be tried.
        key: a private Ed25519 key (PEM file) to sign the certificate with.
        overwrite: replace the run that is at `out`.

    Raises:
        DataError, CodeError: see `plan_removal`.
        SettingsError: `out` holds something else.
    """
    old, out = as_run(run), Path(out)
    if out.resolve() == old.path.resolve():
        raise SettingsError(f"{out} is the old run, which stays as it is; choose another {option('out')}")
    removal = plan_removal(old, ids)
    new = make_run(
        removal.units,
        removal.design,
        old.recipe,
        present=removal.survivors,
        out=out,
        seed=old.seed,
        execution=HERE,
        overwrite=overwrite,
        reuse=old,
        shared=old.shared.parts(),
    )
    path = out / certificates.NAME
    if path.exists():
        return new, certificates.read_certificate(path)
    made = certificates.issue(old, new, removal.ids, requested_by=requested_by, hash_ids=hash_ids, key=key)
    certificates.write(made, path)
    return new, made


def budget(run: str | Path | Run) -> Budget:
    """How many more units a run, or the one in a folder, can lose, and how many components each removal costs."""
    opened = as_run(run)
    return budget_of(opened.code, opened.unit_ids, opened.design.components)


def _refuse_copies(units: Units, ids: Sequence[str]) -> None:
    gone = set(ids)
    owners = [units.ids[owner] for owner in units.owner]
    hashes = [hashlib.sha256(image).digest() for image in units.images]
    named = {digest: owner for digest, owner in zip(hashes, owners, strict=True) if owner in gone}
    for digest, owner in zip(hashes, owners, strict=True):
        if owner not in gone and digest in named:
            raise DataError(
                f"unit '{owner}' holds the same picture as '{named[digest]}', whose influence would stay with it; "
                f"remove both: {named[digest]} and {owner}"
            )
