"""The command of whoever trusts nobody: verify."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._runtime.execution import Execution
from ..errors import SettingsError
from .common import Device, Json, RunPath, Workers, app, print_json, say

if TYPE_CHECKING:
    from ..unlearning.verification import Audit, Repetition


@app.command()
def verify(
    run: RunPath,
    unit: Annotated[str | None, typer.Option(help="a unit of the run")] = None,
    image: Annotated[Path | None, typer.Option(help="a picture, looked for in the run's units by content")] = None,
    retrain: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="train K components that did not see it once more, and compare"),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="only so many first steps of each")] = None,
    data: Annotated[str | None, typer.Option(metavar="DATA", help="read the units from here, not from the run")] = None,
    unit_column: Annotated[str | None, typer.Option(help="as the run was trained with, for --data")] = None,
    proofs: Annotated[Path | None, typer.Option(metavar="FILE", help="write the Merkle proofs here")] = None,
    workers: Workers = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Check that components never saw a unit: from the artifacts, and by training them again. Exit code 1 if not."""
    from .._runtime.files import canonical_json, write_atomic
    from ..unlearning.verification import audit_image, audit_unit

    if (unit is None) == (image is None):
        raise SettingsError("give either --unit X or --image FILE")
    found = audit_unit(run, unit) if unit is not None else audit_image(run, image or "")
    told: dict[str, Any] = found.as_dict()
    if proofs is not None:
        if proofs.exists():
            raise SettingsError(f"{proofs} exists; choose another file")
        write_atomic(proofs, canonical_json({"content_sha256": found.content_sha256, "components": told["proofs"]}))
    repeated = None
    if retrain is not None:
        repeated = _repeat(run, found, retrain, steps, data, unit_column, Execution(workers, device))
        told["retrained"] = repeated.as_dict()
    failed = bool(found.wrong) or (repeated is not None and not repeated.holds)
    if as_json:
        print_json(told)
    else:
        for line in [*_found(found), *(_repeated(repeated) if repeated is not None else [])]:
            say(line)
    if failed:
        raise typer.Exit(1)


def _repeat(
    run: Path,
    found: Audit,
    count: int,
    steps: int | None,
    data: str | None,
    unit_column: str | None,
    execution: Execution,
) -> Repetition:
    from .._runtime.progress import Display
    from ..runs.run import Run
    from ..unlearning.repairing import run_units
    from ..unlearning.verification import repeat

    if count > len(found.clean):
        raise SettingsError(f"only {len(found.clean)} components did not see it; give --retrain {len(found.clean)}")
    opened = Run(run)
    # which ones must be nobody's guess, so this one choice is not a function of any seed
    chosen = sorted(random.SystemRandom().sample(found.clean, count))
    total = min(steps or opened.recipe.training.steps, opened.recipe.training.steps)
    trainings = count * (2 if found.units else 1)  # with the data absent; with noise in its place, if there is data
    with Display(f"training {count} components again", trainings * total) as display:
        return repeat(
            opened,
            found.units,
            chosen,
            steps=steps,
            units=run_units(opened, data, unit_column),
            execution=execution,
            report=lambda number, event: display.update(number, f"training {number}", event["step"], total),
        )


def _found(found: Audit) -> list[str]:
    said = [f"{found.subject}: content {found.content_sha256}"]
    said += [f"- the chain does not hold: {line}" for line in found.wrong]
    if not found.wrong:
        said.append("- every hash holds: units, code, splits, training records, weights")
    if found.units:
        said.append(f"- held by {', '.join(found.units)}; seen by components {_listed(found.saw)}")
    else:
        said.append("- no unit of the run holds it")
    said.append(f"- never seen, bit for bit, by components {_listed(found.clean)}")
    for unit, like, saw in found.near[:10]:
        said.append(
            f"- {unit} is a near-duplicate (likeness {like:.3f}), seen by {_listed(saw)}: its influence is its own"
        )
    if not found.near and found.closest is not None:
        said.append(f"- no near-duplicate; the most alike is {found.closest[0]} (likeness {found.closest[1]:.3f})")
    said.append("  Likeness is of coarse brightness alone: a crop, a rotation or a repainting is not found by it.")
    return said


def _repeated(repetition: Repetition) -> list[str]:
    said = []
    for each in repetition.repeated:
        what = "without its data" if each.variant == "absent" else "with noise for its data"
        verdict = "the same bits" if each.exact else "OTHER BITS"
        if not each.exact and each.difference is not None:
            verdict += f", losses within {each.difference:.2g}"
        said.append(f"- component {each.component:02d}, {each.steps or 'all'} steps {what}: {verdict}")
    if repetition.elsewhere:
        said.append(
            f"- this machine is not the run's ({'; '.join(repetition.elsewhere)}): equal bits cannot be expected"
        )
        if not all(each.exact for each in repetition.repeated):
            said.append(
                "  What is shown is numerical likeness, which is weaker and no proof: repeat it on such a machine."
            )
    return said


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(f"{number:02d}" for number in numbers) or "none"
