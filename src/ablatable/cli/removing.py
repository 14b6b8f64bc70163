"""Commands that remove units and bring runs back: forget, repair, extend, certificates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._runtime.execution import Execution
from ..errors import SettingsError
from .common import Device, Json, Overwrite, RunPath, Workers, app, print_json, print_rows, say

if TYPE_CHECKING:
    from ..runs.run import Run
    from ..unlearning.repairing import Work

DryRun = Annotated[bool, typer.Option("--dry-run", help="only say what it comes to")]
Out = Annotated[Path | None, typer.Option(help="the new run's folder; the old run stays as it is")]
Source = Annotated[str | None, typer.Option(metavar="DATA", help="read the units from here, not from the run")]
UnitColumn = Annotated[str | None, typer.Option(help="metadata column whose values are the units, e.g. artist")]

certificates = typer.Typer(name="certificate", help="Certificates of removal: check, show, make a key.")
app.add_typer(certificates, no_args_is_help=True)


def _needed(out: Path | None) -> Path:
    if out is None:
        raise SettingsError("say where the new run goes: --out RUN2 (or --dry-run to look first)")
    return out


@app.command()
def forget(
    run: RunPath,
    unit: Annotated[list[str], typer.Option(help="a unit to forget; may be given several times")],
    out: Out = None,
    requested_by: Annotated[str | None, typer.Option(help="who asked for it, for the certificate")] = None,
    hash_ids: Annotated[bool, typer.Option("--hash-ids", help="keep the units' ids only as hashes")] = False,
    sign: Annotated[Path | None, typer.Option(metavar="KEY.pem", help="sign the certificate with this key")] = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a run that never saw some units, of the components that never saw them, with a certificate. At once."""
    from ..codes.removal_budget import counted
    from ..runs.run import Run
    from ..unlearning.forgetting import forget as forget_units
    from ..unlearning.forgetting import plan_removal
    from ..unlearning.verification import audit_unit

    removal = plan_removal(Run(run), unit)
    near = {
        (gone, other) for gone in removal.ids for other, *_ in audit_unit(run, gone).near if other not in removal.ids
    }
    told = {
        "units": removal.ids,
        "ablated": removal.ablated,
        "survivors": removal.survivors,
        "near_duplicates": sorted(near),
        "budget": removal.budget.as_dict(),
    }
    if not dry_run:
        new, made = forget_units(
            run, unit, out=_needed(out), requested_by=requested_by, hash_ids=hash_ids, key=sign, overwrite=overwrite
        )
        told |= {"run": str(out), "digest": new.digest, "certificate": made.sha256}
    if as_json:
        print_json(told)
        return
    loses = "would lose" if dry_run else "loses"
    lost = counted(len(removal.ablated), "component")
    say(f"without {counted(len(removal.ids), 'unit')} the run {loses} {lost}")
    for sentence in removal.budget.sentences():
        say(f"- {sentence}")
    for gone, other in sorted(near):
        say(f"- {other} looks much like {gone}; its influence stays unless it is removed too")
    if not dry_run:
        say(f"{out}: never saw them; its certificate is {out}/certificate.json")
        say(f"next: ablatable certificate check {out}/certificate.json {out}")


@app.command()
def repair(
    run: RunPath,
    out: Out = None,
    data: Source = None,
    unit_column: UnitColumn = None,
    workers: Workers = None,
    device: Device = "auto",
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Bring a run that forgot units back to all its components: only those it lacks are trained, from scratch."""
    from ..runs.run import Run
    from ..unlearning.repairing import plan_repair, run_units

    opened = Run(run)
    _complete(
        opened,
        plan_repair(opened, run_units(opened, data, unit_column)),
        out,
        Execution(workers, device),
        dry_run,
        overwrite,
        as_json,
    )


@app.command()
def extend(
    run: RunPath,
    data: Annotated[str, typer.Option(metavar="DATA", help="the new units")],
    out: Out = None,
    unit_column: UnitColumn = None,
    workers: Workers = None,
    device: Device = "auto",
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train new units into a run: they get unused codewords, and the components these name are trained from scratch."""
    from ..data.units import load_units
    from ..runs.run import Run
    from ..unlearning.repairing import plan_extension

    opened = Run(run)
    channels, height, width = opened.shape
    new = load_units(data, unit_column=unit_column, size=(height, width), channels=channels)
    _complete(opened, plan_extension(opened, new), out, Execution(workers, device), dry_run, overwrite, as_json)


def _complete(
    opened: Run,
    work: Work,
    out: Path | None,
    execution: Execution,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    from ..unlearning.repairing import complete

    told = {"units": len(work.units), "components": work.present, "trained": work.trained, "share": work.share}
    if not as_json:
        say(work.sentence())
    if not dry_run:
        new = complete(opened, work, out=_needed(out), execution=execution, overwrite=overwrite)
        told |= {"run": str(out), "digest": new.digest}
    if as_json:
        print_json(told)
    elif not dry_run:
        say(f"{out}: {len(work.units)} units, {len(work.present)} components")


@certificates.command("check")
def check_certificate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the certificate")],
    run: Annotated[Path, typer.Argument(metavar="RUN2", help="the run it is about")],
    public_key: Annotated[str | None, typer.Option(metavar="HEX", help="it must be signed with this key")] = None,
    as_json: Json = False,
) -> None:
    """Verify a certificate offline against the run it is about. Exit code 1 if anything is wrong."""
    from ..unlearning.certificate import check, read

    certificate = read(file)
    wrong = check(certificate, run, public_key=public_key)
    signer = certificate.signature.public_key if certificate.signature else None
    if as_json:
        print_json({"certificate": str(file), "run": str(run), "signed_with": signer, "wrong": wrong})
    else:
        for line in wrong:
            say(f"- {line}")
        say(f"{file}: {len(wrong)} things are wrong" if wrong else f"{file}: holds for {run}")
        if not wrong and signer is None:
            say("It is not signed: who issued it, when and at whose request, is not proven.")
        elif not wrong and public_key is None:
            say(f"It is signed with key {signer}; whose that is, you have to know (--public-key).")
    if wrong:
        raise typer.Exit(1)


@certificates.command("show")
def show_certificate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="the certificate")],
) -> None:
    """Print a certificate for people to read."""
    from ..unlearning.certificate import read, render

    print(render(read(file)))


@certificates.command("key")
def make_key(
    out: Annotated[Path, typer.Option(metavar="KEY.pem", help="where the private key goes; keep it to yourself")],
) -> None:
    """Make an Ed25519 key to sign certificates with, and print its public half."""
    from ..unlearning.certificate import new_key

    print(new_key(out))


@app.command()
def budget(
    run: RunPath,
    top: Annotated[int, typer.Option(min=1, help="how many of the cheapest and dearest units to print")] = 5,
    as_json: Json = False,
) -> None:
    """Say how many more removals a run bears, and which units are cheap or dear to remove."""
    from ..codes.removal_budget import budget_of
    from ..runs.run import Run

    opened = Run(run)
    left = budget_of(opened.code, opened.ids, opened.design.components)
    if as_json:
        print_json(left.as_dict())
        return
    ahead = [(row.removals, row.mean, row.worst, f"{row.none:.2%}") for row in left.ahead]
    print_rows(
        ["removed", "survivors, mean", "worst", "none left"], ahead, title=f"{run}: after removals of random units"
    )
    shown = left.costs if len(left.costs) <= 2 * top else (*left.costs[:top], *left.costs[-top:])
    print_rows(["unit", "components it costs"], list(shown), title="Units, the cheapest and the dearest")
    for sentence in left.sentences():
        say(f"- {sentence}")
