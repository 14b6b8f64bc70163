"""The commands about one run: run info, sample, forget, repair, extend, budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._runtime.execution import Execution
from .._runtime.text import counted
from ..errors import SettingsError
from .common import Json, Overwrite, RunPath, Seeds, Source, UnitColumn, example, runs
from .data_options import Loading
from .groups import Asked, Drawing, Working, grouped
from .output import next_step, print_json, print_rows, quoted, say

if TYPE_CHECKING:
    from ..runs.run import Run
    from ..unlearning.repairing import Work

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what it costs; change nothing.")]
Out = Annotated[Path | None, typer.Option(help="Folder of the new run; the old run stays as it is.")]


@runs.command(epilog=example("ablatable run info runs/digits"))
def info(run: RunPath, as_json: Json = False) -> None:
    """Show what a run is made of: units, code, recipe, versions, size on disk."""
    from ..runs.adopting import claimed
    from ..runs.run import Run

    opened = Run(run)
    channels, height, width = opened.shape
    files = [path for path in opened.path.rglob("*") if path.is_file()]
    told = {
        "run": str(run),
        "units": len(opened.unit_ids),
        "image": f"{height} x {width}, {channels} channel{'s' if channels > 1 else ''}",
        "components": len(opened.present),
        "components_designed": opened.design.components,
        "weight": opened.design.weight,
        "spare_codewords": opened.code.spare_capacity,
        "component": opened.recipe.component.kind,
        "training_steps": opened.recipe.training_steps,
        **({} if opened.recipe.component.takes is None else {"conditions": opened.recipe.component.takes.told()}),
        **({"training": " ".join(said)} if (said := claimed(opened.recipe.component)) else {}),
        "seed": opened.seed,
        "digest": opened.digest,
        **{f"shared_{part.name}": f"{part.role}, SHA-256 {part.sha256}" for part in opened.shared.records},
        "mebibytes": round(sum(path.stat().st_size for path in files) / 2**20, 1),
        "made_with": ", ".join(f"{name} {value}" for name, value in sorted(opened.manifest.environment.items())),
    }
    if as_json:
        print_json(told)
        return
    print_rows([], [(name.replace("_", " "), str(value)) for name, value in told.items()], title=str(run))
    next_step(f"ablatable run sample {quoted(run)} --out images")


@runs.command(epilog=example("ablatable run sample runs/digits --seeds 0-3 --without digit-0017 --out images"))
@grouped
def sample(
    run: RunPath,
    out: Annotated[Path, typer.Option(help="Folder for the images.")],
    seeds: Seeds = "0-7",
    without: Annotated[
        list[str] | None, typer.Option(metavar="UNIT", help="A unit to remove; repeat for more.")
    ] = None,
    drawing: Drawing = Drawing(),
    asked: Asked = Asked(),
    working: Working = Working(),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw samples with all components, or without some units; the same seed is the same noise."""
    from ..diffusion.sampling import parse_seeds
    from ..runs.run import Run
    from ..runs.samples import SHEET, draw_samples

    opened, gone = Run(run), without or []
    paths = draw_samples(
        opened,
        parse_seeds(seeds),
        out=out,
        without=gone,
        conditions=asked.conditions(),
        sampling=drawing.sampling(guidance=asked.guidance),
        execution=working.execution(),
        overwrite=overwrite,
    )
    survivors = int(opened.survivors(gone).sum())
    if as_json:
        print_json({"pictures": [str(path) for path in paths], "without": gone, "survivors": survivors})
        return
    what = (
        f"without {', '.join(gone)} ({survivors} of {opened.code.components} components survive)" if gone else "factual"
    )
    say(f"{len(paths)} images in {out}, {what}; all of them side by side: {out / SHEET}")
    next_step(
        f"ablatable run forget {quoted(run)} " + " ".join(f"--unit {quoted(unit)}" for unit in gone) + " --dry-run"
        if gone
        else f"ablatable run sample {quoted(run)} --seeds {seeds} --without UNIT --out without"
    )


def _needed(out: Path | None) -> Path:
    if out is None:
        raise SettingsError("say where the new run goes with --out RUN2, or look first with --dry-run")
    return out


@runs.command(epilog=example("ablatable run forget runs/digits --unit digit-0017 --out runs/without"))
def forget(
    run: RunPath,
    unit: Annotated[list[str], typer.Option(metavar="UNIT", help="A unit to forget; repeat for more.")],
    out: Out = None,
    requested_by: Annotated[str | None, typer.Option(help="Who asked for it, for the certificate.")] = None,
    hash_ids: Annotated[bool, typer.Option("--hash-ids", help="Keep the units' ids only as hashes.")] = False,
    sign: Annotated[Path | None, typer.Option(metavar="KEY.pem", help="Sign the certificate with this key.")] = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a new run from the components that never saw some units, with a certificate; nothing is trained."""
    from .._runtime.outputs import check_folder
    from ..runs.adopting import claimed
    from ..runs.run import RUN, Run
    from ..runs.shared import relative_to
    from ..unlearning.forgetting import forget as forget_units
    from ..unlearning.forgetting import plan_removal
    from ..unlearning.verification import audit_unit

    if not dry_run:
        check_folder(_needed(out), RUN)
    removal = plan_removal(Run(run), unit)
    near = {
        (gone, other) for gone in removal.ids for other, *_ in audit_unit(run, gone).near if other not in removal.ids
    }
    shared = Run(run).shared.records
    told = {
        "units": removal.ids,
        "ablated": removal.ablated,
        "survivors": removal.survivors,
        "near_duplicates": sorted(near),
        "budget": removal.budget.as_dict(),
        **({"shared": [part.values() for part in shared]} if shared else {}),
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
    for sentence in (*claimed(Run(run).recipe.component), *relative_to(shared)):
        say(f"- {sentence}")
    if dry_run:
        named = " ".join(f"--unit {quoted(gone)}" for gone in removal.ids)
        next_step(f"ablatable run forget {quoted(run)} {named} --out WITHOUT")
        return
    say(f"{out}: its components never saw them; the certificate is {out}/certificate.json")
    next_step(f"ablatable audit certificate check {quoted(out)}/certificate.json {quoted(out)}")


@runs.command(epilog=example("ablatable run repair runs/without --out runs/repaired"))
@grouped
def repair(
    run: RunPath,
    out: Out = None,
    data: Source = None,
    unit_column: UnitColumn = None,
    working: Working = Working(),
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train, from scratch, the components that a run lost when units were removed."""
    from ..runs.run import Run
    from ..unlearning.repairing import plan_repair, run_units

    opened = Run(run)
    work = plan_repair(opened, run_units(opened, data, unit_column))
    _complete(opened, work, out, working.execution(), dry_run, overwrite, as_json)


@runs.command(epilog=example("ablatable run extend runs/digits --data new/ --out runs/larger"))
@grouped
def extend(
    run: RunPath,
    data: Annotated[str, typer.Option(metavar="DATA", help="The new units.", rich_help_panel="Data")],
    out: Out = None,
    loading: Loading = Loading(),
    working: Working = Working(),
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Add new units to a run; the components that see them are trained from scratch, the others are copied."""
    from ..runs.loading_record import background_of
    from ..runs.run import Run
    from ..unlearning.repairing import plan_extension

    opened = Run(run)
    channels, height, width = opened.shape
    # on the background of the units that are there, unless another is asked for
    new = loading.units(data, (height, width), channels, background=background_of(opened.path), quiet=as_json)
    _complete(opened, plan_extension(opened, new), out, working.execution(), dry_run, overwrite, as_json)


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
        next_step(f"ablatable audit check {quoted(out)}")
    else:
        next_step(f"the same command with --out RUN2 instead of --dry-run, which trains {len(work.trained)} components")


@runs.command(epilog=example("ablatable run budget runs/digits"))
def budget(
    run: RunPath,
    top: Annotated[
        int, typer.Option(min=1, help="How many of the cheapest and of the most expensive units to print.")
    ] = 5,
    as_json: Json = False,
) -> None:
    """Show how many more units can be removed, and how many components each removal costs."""
    from ..unlearning.forgetting import budget as budget_of

    left = budget_of(run)
    if as_json:
        print_json(left.as_dict())
        return
    ahead = [(row.removals, row.mean, row.worst, f"{row.none:.2%}") for row in left.ahead]
    print_rows(
        ["removed", "survivors, mean", "worst", "none left"], ahead, title=f"{run}: after removals of random units"
    )
    shown = left.costs if len(left.costs) <= 2 * top else (*left.costs[:top], *left.costs[-top:])
    print_rows(
        ["unit", "components it costs"], list(shown), title="Units, the cheapest and the most expensive to remove"
    )
    for sentence in left.sentences():
        say(f"- {sentence}")
    next_step(f"ablatable run forget {quoted(run)} --unit {quoted(left.costs[0][0])} --dry-run")
