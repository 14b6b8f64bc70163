"""The commands that check and trust nobody: audit verify, check, certificate."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._runtime.execution import Execution
from .._runtime.text import counted
from ..errors import SettingsError
from .common import Device, Json, RunPath, Source, UnitColumn, Workers, audits, example, located_run
from .output import next_step, print_json, quoted, say

if TYPE_CHECKING:
    from ..unlearning.verification import Audit, Repetition


certificates = typer.Typer(name="certificate", help="Certificates of removal: check, show, make a key.")
audits.add_typer(certificates, no_args_is_help=True)


@audits.command(epilog=example("ablatable audit verify runs/digits --unit digit-0017 --retrain 1"))
def verify(
    run: RunPath,
    unit: Annotated[str | None, typer.Option(help="A unit of the run.")] = None,
    image: Annotated[Path | None, typer.Option(help="An image file; the run's units are searched for it.")] = None,
    retrain: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="Train K components that did not see it once more, and compare."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Repeat only this many first steps of each.")] = None,
    data: Source = None,
    unit_column: UnitColumn = None,
    proofs: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the Merkle proofs to this file.")] = None,
    workers: Workers = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Check which components never saw a unit or image; exit code 1 if anything is wrong."""
    from .._runtime.files import canonical_json, write_atomic
    from .._runtime.outputs import check_file
    from ..unlearning.verification import audit

    if proofs is not None:
        check_file(proofs, "a file of proofs", lambda path: False)
    found = audit(run, unit, image=image)
    told: dict[str, Any] = found.as_dict()
    if proofs is not None:
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
        next_step(
            f"ablatable audit check {quoted(run)}"
            if failed or not found.units
            else f"ablatable run forget {quoted(run)} --unit {quoted(found.units[0])} --dry-run"
        )
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
    from ..runs.shared import relative_to

    said = [f"{found.subject}: content {found.content_sha256}"]
    said += [f"- the chain does not hold: {line}" for line in found.wrong]
    if not found.wrong:
        training = "what is claimed of their training" if found.claimed else "training records"
        said.append(f"- every hash holds: units, code, splits, {training}, weights")
    if found.units:
        said.append(f"- held by {', '.join(found.units)}; seen by components {_listed(found.saw)}")
    else:
        said.append("- no unit of the run holds it")
    exactly = ", as is claimed," if found.claimed else ", bit for bit,"
    said.append(f"- never seen{exactly} by components {_listed(found.clean)}")
    said += [f"  {line}" for line in (*found.claimed, *relative_to(found.shared))]
    for unit, like, saw in found.near[:10]:
        said.append(
            f"- {unit} is a near-duplicate (likeness {like:.3f}), seen by {_listed(saw)}: its influence is its own"
        )
    if not found.near and found.closest is not None:
        said.append(f"- no near-duplicate; the most alike is {found.closest[0]} (likeness {found.closest[1]:.3f})")
    said.append("  Likeness is of coarse edges alone: a crop, a rotation or a repainting is not found by it.")
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


def _located(path: str) -> str:
    return path if "://" in path else str(located_run(Path(path)))


@audits.command(epilog=example("ablatable audit check runs/digits", "ablatable audit check u.zarr"))
def check(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A run ('bundled' too) or a universe.", callback=_located)
    ],
    repair: Annotated[
        bool, typer.Option("--repair", help="Write a universe's array metadata again where it is damaged.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare every hash and checksum of a run or universe with what is on disk; exit code 1 if anything is wrong."""
    from ..universes import checking

    kind = checking.kind_of(path)
    repaired = checking.repair_metadata(path) if repair else []
    wrong = checking.check(path)
    if as_json:
        print_json({"path": path, "kind": kind, "wrong": wrong, "repaired": repaired})
    else:
        for name in repaired:
            say(f"{path}: {name} was damaged and is repaired")
        for line in wrong:
            say(line)
        say(f"{path}: {counted(len(wrong), 'problem')}" if wrong else f"{path}: intact")
        again = "train" if kind == "run" else f"universe {'screen' if kind == 'screened universe' else 'create'}"
        if wrong:
            next_step(f"delete what is damaged, then give the same 'ablatable {again}' command again")
        elif kind == "run":
            next_step(f"ablatable audit verify {quoted(path)} --unit UNIT")
        else:
            next_step(f"ablatable universe radius {quoted(path)}")
    if wrong:
        raise typer.Exit(1)


def _is_run(folder: Path) -> bool:
    return (folder / "ensemble.json").exists() or (folder / "settings.json").exists()


@certificates.command(
    "check", epilog=example("ablatable audit certificate check runs/without/certificate.json runs/without")
)
def check_certificate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The certificate.")],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run it is about.")],
    public_key: Annotated[str | None, typer.Option(metavar="HEX", help="It must be signed with this key.")] = None,
    as_json: Json = False,
) -> None:
    """Check a certificate, offline, against the run it is about; exit code 1 if anything is wrong."""
    from ..unlearning.certificate import check_certificate as check
    from ..unlearning.certificate import read_certificate

    certificate = read_certificate(file)
    wrong = check(certificate, run, public_key=public_key)
    signer = certificate.signature.public_key if certificate.signature else None
    if as_json:
        print_json({"certificate": str(file), "run": str(run), "signed_with": signer, "wrong": wrong})
    else:
        for line in wrong:
            say(f"- {line}")
        say(f"{file}: {counted(len(wrong), 'problem')}" if wrong else f"{file}: holds for {run}")
        if not wrong and signer is None:
            say("It is not signed: who issued it, when and at whose request, is not proven.")
        elif not wrong and public_key is None:
            say(f"It is signed with key {signer}. If you know whose key that is, give it as --public-key.")
        next_step(
            f"ablatable audit check {quoted(run)}" if wrong else f"ablatable audit certificate show {quoted(file)}"
        )
    if wrong:
        raise typer.Exit(1)


@certificates.command("show", epilog=example("ablatable audit certificate show runs/without/certificate.json"))
def show_certificate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The certificate.")],
) -> None:
    """Print a certificate in a form that people can read."""
    from ..unlearning.certificate import read_certificate, render_certificate

    print(render_certificate(read_certificate(file)))
    next_step(f"ablatable audit certificate check {quoted(file)} RUN2")


@certificates.command("key", epilog=example("ablatable audit certificate key --out key.pem"))
def make_key(
    out: Annotated[Path, typer.Option(metavar="KEY.pem", help="File for the private key; keep it secret.")],
) -> None:
    """Make an Ed25519 key to sign certificates with, and print its public half."""
    from ..unlearning.certificate import new_key

    print(new_key(out))
    next_step(f"ablatable run forget RUN --unit UNIT --sign {quoted(out)} --out WITHOUT")
