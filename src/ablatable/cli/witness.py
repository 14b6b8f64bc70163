"""The command that tests which training units a sample's components recognise: witness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .common import Clip, Device, Json, RunPath, Sampler, SamplingSteps, app, example
from .groups import Asked, grouped
from .output import next_step, print_json, print_rows, quoted, say

if TYPE_CHECKING:
    from ..analysis.witness import Witness

TESTED = (
    "What is tested: whether the components that saw a unit denoise the sample towards it, after noise was added to it "
    "again, more than the others do. score: by how much, in standard deviations; p: the chance of such a score if the "
    "unit influences no component; q: the same for all units at once."
)
APPROXIMATE = (
    "p and q are approximate: this run's codewords were balanced or chosen, not drawn at random; "
    "new runs draw them at random."
)


@app.command(epilog=example("ablatable witness runs/digits --seed 0", "ablatable witness runs/digits --seeds 0-11"))
@grouped
def witness(
    run: RunPath,
    seeds: Annotated[
        str, typer.Option("--seed", "--seeds", help="One sample per seed: 0, or 0-9, or 1,5,7.", metavar="SEEDS")
    ],
    unit: Annotated[
        list[str] | None,
        typer.Option("--unit", metavar="UNIT", help="Test only this unit; repeat for more.", show_default="every unit"),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many units to print.")] = 10,
    sampler: Sampler = "ddpm",
    steps: SamplingSteps = 50,
    clip: Clip = True,
    asked: Asked = Asked(),
    matched: Annotated[
        bool,
        typer.Option(
            "--matched", help="With many samples: patterns in which components disagree at all of them count less."
        ),
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Test which training units influence a sample, without removing any."""
    from .._runtime.devices import resolve_device
    from ..analysis.witness import witness as test
    from ..diffusion.sampling_settings import Sampling

    found = test(
        run,
        seeds,
        units=unit,
        conditions=asked.conditions(),
        sampling=Sampling(sampler, steps, clip=clip, guidance=asked.guidance),
        matched=matched,
        device=resolve_device(device),
    )
    if as_json:
        alike = {str(seed): list(names) for seed, names in zip(found.seeds, found.alike, strict=True)}
        print_json({"exact": found.exact, "alike": alike, "table": found.to_polars().to_dicts()})
        return
    if len(found.seeds) == 1:
        _print_sample(found, top)
    else:
        _print_samples(found)
    say(TESTED)
    if not found.exact:
        say(APPROXIMATE)
    nearest = found.unit_ids[found.nearest[0]]
    next_step(f"ablatable run sample {quoted(run)} --seeds {found.seeds[0]} --without {quoted(nearest)} --out images")


def _print_sample(found: Witness, top: int) -> None:
    table = found.to_polars().head(top)
    rows = [
        (rank, row["unit"], row["score"], f"{row['p']:.2g}", f"{row['q']:.2g}", row["marked"], row["nearest"])
        for rank, row in enumerate(table.to_dicts(), start=1)
    ]
    columns = ["rank", "unit", "score", "p", "q", "marked", "nearest by pixels"]
    print_rows(columns, rows, title=f"Seed {found.seeds[0]}: units that the components recognise")
    say(found.verdict(0))
    if remark := found.remark(0):
        say(f"{remark[0].upper()}{remark[1:]}.")


def _print_samples(found: Witness) -> None:
    rows, marked = [], found.marked().sum(axis=0)
    for sample, seed in enumerate(found.seeds):
        nearest, surest = int(found.nearest[sample]), int(found.p[:, sample].argmin())
        cells = (found.unit_ids[nearest], f"{found.p[nearest, sample]:.2g}", found.unit_ids[surest])
        rows.append((seed, *cells, f"{found.p[surest, sample]:.2g}", int(marked[sample])))
    columns = ["seed", "nearest unit", "its p", "surest unit", "its p", "units marked"]
    print_rows(columns, rows, title=f"{len(found.seeds)} samples: units that the components recognise")
    say(found.headline())
