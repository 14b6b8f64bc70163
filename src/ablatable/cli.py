"""The command line: reads arguments, calls the library, prints. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._version import __version__
from .errors import AblatableError, SettingsError
from .recipe import PRESETS, preset

if TYPE_CHECKING:
    import polars as pl

app = typer.Typer(
    name="ablatable",
    help="Train an ensemble whose training data can be removed exactly, and see what it would have drawn without it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="a trained run's folder")]
UniverseUrl = Annotated[str, typer.Argument(metavar="U.zarr", help="a universe: a folder or an object-store URL")]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="start anew over what is there")]
Workers = Annotated[int | None, typer.Option(min=0, help="worker processes; one per core if not given, 0 for none")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:k")]
Seeds = Annotated[str, typer.Option(help="one picture a seed: 0-9 or 1,5,7")]
Sampler = Annotated[str, typer.Option(help="ddpm, ddim or dpmsolver++")]
SamplingSteps = Annotated[int, typer.Option("--steps", min=1, help="sampling steps")]


def main() -> None:
    """Run the command line. Exit codes: 0 fine, 1 something was found wrong, 2 wrong usage, 130 Ctrl-C."""
    try:
        app(standalone_mode=True)
    except AblatableError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _fail(f"{error.strerror or error}{where}; what is finished is kept, mend this and give the command again", 1)


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="where the run, the universe and the report go")] = Path("demo"),
    workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train on 48 real digits, draw, enumerate every counterfactual, and show what depends on what. Minutes."""
    from .demo import run_demo

    outcome = run_demo(out, workers=workers, overwrite=overwrite)
    if as_json:
        _print_json(outcome.as_dict())
        return
    _print_table(outcome.table, title="What was drawn, and what it depends on")
    for line in outcome.sentences():
        _print(line)


@app.command()
def plan(
    units: Annotated[int, typer.Option(help="how many units there are")],
    components: Annotated[int | None, typer.Option(help="components; recommended if not given")] = None,
    weight: Annotated[int | None, typer.Option(help="components that see a unit; half of them if not given")] = None,
    seed: Annotated[int, typer.Option(help="the code's seed")] = 0,
    as_json: Json = False,
) -> None:
    """Say what a code would give and cost before anything is trained, and recommend one."""
    from .plan import plan as make_plan

    made = make_plan(units, components, weight, seed=seed)
    if as_json:
        _print_json(made.as_dict())
        return
    _print_rows([], made.rows(), title=f"{made.units} units, {made.components} components, weight {made.weight}")
    _print_rows(["removed", "survivors, mean", "worst", "none left"], made.survivor_rows(), title="After removals")
    for sentence in made.recommendation:
        _print(f"- {sentence}")


@app.command()
def train(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="a folder of images, an IDX, .npz or .npy file, or digits:48")
    ],
    out: Annotated[Path, typer.Option(help="the run's folder; if it holds this run unfinished, training goes on")],
    components: Annotated[
        int | None, typer.Option(help="components; see 'plan' for what is taken if not given")
    ] = None,
    weight: Annotated[int | None, typer.Option(help="components that see a unit; half of them if not given")] = None,
    preset_name: Annotated[str, typer.Option("--preset", help=f"one of {', '.join(PRESETS)}")] = "tiny",
    steps: Annotated[int | None, typer.Option(help="training steps of each component")] = None,
    batch: Annotated[int | None, typer.Option(help="images a step")] = None,
    seed: Annotated[int, typer.Option(help="the ensemble seed; all randomness follows from it")] = 0,
    workers: Workers = None,
    size: Annotated[str | None, typer.Option(help="resize to this: 28 or 28x32 (height x width)")] = None,
    channels: Annotated[int | None, typer.Option(help="1 = grey, 3 = colour; as the images are if not given")] = None,
    unit_column: Annotated[
        str | None, typer.Option(help="metadata column whose values are the units, e.g. artist")
    ] = None,
    device: Device = "auto",
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16 (autocast)")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train an ablatable ensemble: every component on its own split of the units."""
    from .code import Code
    from .plan import recommended_components
    from .training import train as train_ensemble
    from .units import load_units

    recipe = preset(preset_name, steps=steps, batch=batch, precision=precision)
    units = load_units(data, unit_column=unit_column, size=size, channels=channels)
    n = components or recommended_components(len(units), weight)
    code = Code.balanced(len(units), n, seed, weight=weight)
    run = train_ensemble(units, code, recipe, out=out, seed=seed, workers=workers, device=device, overwrite=overwrite)
    told = {"run": str(out), "units": len(units), "components": n, "weight": code.weight, "digest": run.digest}
    if as_json:
        _print_json(told)
        return
    _print(f"{out}: {n} components trained, {len(units)} units, each seen by {code.weight} of them")
    _print(f"next: ablatable universe {out} --seeds 0-7 --out {out}.zarr")


@app.command()
def sample(
    run: RunPath,
    out: Annotated[Path, typer.Option(help="folder for the pictures")],
    seeds: Seeds = "0-7",
    without: Annotated[list[str] | None, typer.Option(help="a unit to remove; may be given several times")] = None,
    sampler: Sampler = "ddpm",
    steps: SamplingSteps = 50,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw pictures with all components, or without some units: the same seed is the same noise."""
    from .pipeline import AblatablePipeline
    from .progress import Display
    from .sampling import parse_seeds
    from .settings import resolve_device

    chosen, gone = parse_seeds(seeds), without or []
    paths = [out / f"sample-{seed:05d}.png" for seed in chosen]
    taken = [path for path in paths if path.exists()]
    if taken and not overwrite:
        raise SettingsError(f"{taken[0]} exists; choose another --out, or --overwrite")
    model = AblatablePipeline.from_pretrained(run).to(resolve_device(device))
    with Display("drawing", steps) as display:
        pictures = model(
            chosen,
            without=gone,
            sampler=sampler,
            num_inference_steps=steps,
            callback=lambda step: display.update(0, "step", step, steps),
            return_dict=False,
        )[0]
    out.mkdir(parents=True, exist_ok=True)
    for path, picture in zip(paths, pictures, strict=True):
        picture.save(path)
    survivors = int(model.run.survivors(gone).sum())
    if as_json:
        _print_json({"pictures": [str(path) for path in paths], "without": gone, "survivors": survivors})
        return
    what = (
        f"without {', '.join(gone)} ({survivors} of {model.code.components} components survive)" if gone else "factual"
    )
    _print(f"{len(paths)} pictures in {out}, {what}")


@app.command()
def universe(
    run: RunPath,
    out: Annotated[str, typer.Option(help="where it goes; if it holds this universe unfinished, work goes on")],
    seeds: Seeds = "0-7",
    sampler: Sampler = "ddpm",
    steps: SamplingSteps = 50,
    spares: Annotated[int, typer.Option(min=0, help="spare codewords to ablate as well")] = 0,
    workers: Workers = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Enumerate: the factual samples and the counterfactual of every unit, into a store."""
    from .landscape import enumerate_universe
    from .sampling import parse_seeds

    made = enumerate_universe(
        run,
        parse_seeds(seeds),
        out=out,
        sampler=sampler,
        steps=steps,
        spares=spares,
        workers=workers,
        device=device,
        overwrite=overwrite,
    )
    told = {
        "universe": out,
        "samples": len(made.seeds),
        "units": len(made.units),
        "ablations": len(made.settings.words),
    }
    if as_json:
        _print_json(told)
        return
    _print(f"{out}: {told['samples']} samples, {told['units']} units, {told['ablations']} distinct ablations")
    _print(f"next: ablatable report {out} --out report")


@app.command()
def radius(
    universe_url: UniverseUrl,
    native: Annotated[bool, typer.Option(help="native distances")] = False,
    as_json: Json = False,
) -> None:
    """Print the counterfactual radius of every sample, beside the largest distance under a spare ablation."""
    import polars as pl

    from .distance import geometric_mean
    from .universe import Universe

    opened = Universe.open(universe_url)
    distances, spares = opened.distances(scaled=not native), opened.spare_distances(scaled=not native)
    table = pl.DataFrame(
        {
            "sample": range(len(opened.seeds)),
            "seed": list(opened.seeds),
            "radius": distances.max(axis=0),
            "spare radius": spares.max(axis=0) if len(spares) else [None] * len(opened.seeds),
            "top unit": [opened.units[k] for k in distances.argmax(axis=0)],
        }
    )
    if as_json:
        _print_json(table.rename({"spare radius": "spare_radius", "top unit": "top_unit"}).to_dicts())
        return
    unit = "native" if native else "scaled to 256 x 256 x 3"
    _print_table(table, title=f"Counterfactual radius, Euclidean, {unit}")
    _print(f"geometric mean of the radius: {geometric_mean(opened.radius(scaled=not native)):.2f}")


@app.command()
def influence(
    universe_url: UniverseUrl,
    sample_number: Annotated[int, typer.Option("--sample", min=0, help="which sample, from 0")] = 0,
    top: Annotated[int, typer.Option(min=1, help="how many units to print")] = 20,
    native: Annotated[bool, typer.Option(help="native distances")] = False,
    as_json: Json = False,
) -> None:
    """Print the units whose removal moves one sample the most."""
    from .universe import Universe

    opened = Universe.open(universe_url)
    table = opened.influence(sample_number, scaled=not native).head(top)
    if as_json:
        _print_json(table.to_dicts())
        return
    _print_table(table, title=f"Sample {sample_number} (seed {opened.seeds[sample_number]}): units by influence")
    spares = opened.spare_distances(scaled=not native)
    if len(spares):
        most = spares[:, sample_number].max()
        _print(f"largest distance under {len(spares)} spare ablations, which remove no unit: {most:.2f}")


@app.command()
def report(
    universe_url: UniverseUrl,
    out: Annotated[Path, typer.Option(help="folder for the page and the pictures")],
    run: Annotated[Path | None, typer.Option(help="the run behind it, to tell its components on the page")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a page to look at: every sample, what it depends on, its whole landscape."""
    from .report import write_report
    from .universe import Universe

    page = write_report(Universe.open(universe_url), out, run=run, overwrite=overwrite)
    _print_json({"report": str(page)}) if as_json else _print(f"open {page} in a browser")


@app.command()
def check(
    path: Annotated[str, typer.Argument(metavar="PATH", help="a run or a universe")],
    as_json: Json = False,
) -> None:
    """Compare every hash and checksum of a run or universe with what is on disk. Exit code 1 if anything is wrong."""
    from .run import check_run
    from .universe import check_universe

    folder = Path(path)
    if "://" not in path and not folder.exists():
        raise SettingsError(f"there is nothing at {path}")
    is_run = (folder / "ensemble.json").exists() or (folder / "settings.json").exists()
    if not is_run and "://" not in path and not (folder / "zarr.json").exists():
        raise SettingsError(f"{path} is neither a run (ensemble.json) nor a universe (zarr.json)")
    wrong = check_run(folder) if is_run else check_universe(path)
    if as_json:
        _print_json({"path": path, "kind": "run" if is_run else "universe", "wrong": wrong})
    else:
        for line in wrong:
            _print(line)
        _print(f"{path}: {len(wrong)} things are wrong" if wrong else f"{path}: intact")
    if wrong:
        raise typer.Exit(1)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=float))


def _print(text: str) -> None:
    from rich.console import Console

    Console(highlight=False, markup=False).print(text)


def _print_table(table: pl.DataFrame, title: str) -> None:
    _print_rows([name.replace("_", " ") for name in table.columns], table.rows(), title)


def _print_rows(columns: list[str], rows: list[tuple], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, show_header=bool(columns), box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*map(_cell, row))
    if rows:
        for column, value in zip(table.columns, rows[0], strict=True):
            column.justify = "right" if isinstance(value, (int, float)) and not isinstance(value, bool) else "left"
    console = Console(highlight=False, markup=False)
    console.print(f"\n{title}\n")
    console.print(table)
    console.print()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
