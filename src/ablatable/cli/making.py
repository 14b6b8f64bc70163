"""Commands that make things: the demo, plans, runs, samples, universes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .._runtime.execution import Execution
from ..diffusion.recipe import PRESETS, preset
from ..diffusion.sampling_settings import Sampling
from ..errors import SettingsError
from .common import (
    Device,
    Json,
    Overwrite,
    Ray,
    RunPath,
    SamplerOption,
    SamplingSteps,
    Seeds,
    Workers,
    app,
    print_json,
    print_rows,
    print_table,
    say,
)

Removals = Annotated[int | None, typer.Option(min=1, help="choose a code that bears so many removals of random units")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="where the run, the universe and the report go")] = Path("demo"),
    workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train on 48 real digits, draw, enumerate every counterfactual, and show what depends on what. Minutes."""
    from ..demo import run_demo

    outcome = run_demo(out, execution=Execution(workers), overwrite=overwrite)
    if as_json:
        print_json(outcome.as_dict())
        return
    print_table(outcome.table, title="What was drawn, and what it depends on")
    for line in outcome.sentences():
        say(line)


@app.command()
def plan(
    units: Annotated[int, typer.Option(help="how many units there are")],
    components: Annotated[int | None, typer.Option(help="components; recommended if not given")] = None,
    weight: Annotated[int | None, typer.Option(help="components that see a unit; half of them if not given")] = None,
    removals: Removals = None,
    seed: Annotated[int, typer.Option(help="the code's seed")] = 0,
    as_json: Json = False,
) -> None:
    """Say what a code would give and cost before anything is trained, and recommend one."""
    from ..codes.planning import plan as make_plan

    made = make_plan(units, components, weight, seed=seed, bear=removals)
    if as_json:
        print_json(made.as_dict())
        return
    print_rows([], made.rows(), title=f"{made.units} units, {made.components} components, weight {made.weight}")
    print_rows(["removed", "survivors, mean", "worst", "none left"], made.survivor_rows(), title="After removals")
    for sentence in made.recommendation:
        say(f"- {sentence}")


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
    removals: Removals = None,
    preset_name: Annotated[str, typer.Option("--preset", help=f"one of {', '.join(PRESETS)}")] = "tiny",
    steps: Annotated[int | None, typer.Option(help="training steps of each component")] = None,
    batch: Annotated[int | None, typer.Option(help="images a step")] = None,
    seed: Annotated[int, typer.Option(help="the ensemble seed; all randomness follows from it")] = 0,
    workers: Workers = None,
    ray: Ray = None,
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
    from ..codes.planning import designed
    from ..data.units import load_units
    from ..runs.ensemble_training import train as train_ensemble

    recipe = preset(preset_name, steps=steps, batch=batch, precision=precision)
    units = load_units(data, unit_column=unit_column, size=size, channels=channels)
    code = designed(len(units), components, weight, seed=seed, bear=removals)
    run = train_ensemble(
        units,
        code,
        recipe,
        out=out,
        seed=seed,
        execution=Execution(workers, device, ray=ray),
        overwrite=overwrite,
    )
    told = {
        "run": str(out),
        "units": len(units),
        "components": code.components,
        "weight": code.weight,
        "digest": run.digest,
    }
    if as_json:
        print_json(told)
        return
    say(f"{out}: {code.components} components trained, {len(units)} units, each seen by {code.weight} of them")
    say(f"next: ablatable universe {out} --seeds 0-7 --out {out}.zarr")


@app.command()
def sample(
    run: RunPath,
    out: Annotated[Path, typer.Option(help="folder for the pictures")],
    seeds: Seeds = "0-7",
    without: Annotated[list[str] | None, typer.Option(help="a unit to remove; may be given several times")] = None,
    sampler: SamplerOption = "ddpm",
    steps: SamplingSteps = 50,
    device: Device = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw pictures with all components, or without some units: the same seed is the same noise."""
    from .._runtime.devices import resolve_device
    from .._runtime.progress import Display
    from ..diffusion.sampling import parse_seeds
    from ..runs.pipeline import AblatablePipeline

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
        print_json({"pictures": [str(path) for path in paths], "without": gone, "survivors": survivors})
        return
    what = (
        f"without {', '.join(gone)} ({survivors} of {model.code.components} components survive)" if gone else "factual"
    )
    say(f"{len(paths)} pictures in {out}, {what}")


@app.command()
def universe(
    run: RunPath,
    out: Annotated[str, typer.Option(help="where it goes; if it holds this universe unfinished, work goes on")],
    seeds: Seeds = "0-7",
    unit: Annotated[
        list[str] | None, typer.Option(help="enumerate only this unit; may be given several times; all if not given")
    ] = None,
    sampler: SamplerOption = "ddpm",
    steps: SamplingSteps = 50,
    spares: Annotated[int, typer.Option(min=0, help="spare codewords to ablate as well")] = 0,
    screen: Annotated[
        float | None,
        typer.Option(help="do not enumerate: look for the radius, drawing at most this share of the units"),
    ] = None,
    threshold: Annotated[
        int | None, typer.Option(help="black and white: levels from this one, 1 to 255, up are white")
    ] = None,
    precision: Annotated[str, typer.Option(help="fp32, or bf16: sooner, and about a grey level off")] = "fp32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="compile the forward passes: for runs of ten minutes and more")
    ] = False,
    workers: Workers = None,
    ray: Ray = None,
    device: Device = "auto",
    max_resident: Annotated[
        int | None, typer.Option(min=1, help="components a worker keeps in memory; all if not given")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Enumerate: the factual samples and the counterfactual of every unit, into a store."""
    from ..diffusion.sampling import parse_seeds
    from ..universes.enumeration import enumerate_universe

    asked: dict[str, Any] = {
        "out": out,
        "units": unit,
        "sampling": Sampling(sampler, steps, precision, compiled, threshold),
        "spares": spares,
        "execution": Execution(workers, device, max_resident, ray),
        "overwrite": overwrite,
    }
    if screen is not None:
        _screen(run, parse_seeds(seeds), screen, asked, as_json)
        return
    made = enumerate_universe(run, parse_seeds(seeds), **asked)
    told: dict[str, Any] = {
        "universe": out,
        "samples": len(made.seeds),
        "units": len(made.units),
        "ablations": len(made.settings.words),
    }
    error = None
    if precision != "fp32":
        from ..universes.precision import precision_error

        error = precision_error(made, run, max_resident=max_resident)
        told["error"] = asdict(error)
    if as_json:
        print_json(told)
        return
    say(f"{out}: {told['samples']} samples, {told['units']} units, {told['ablations']} distinct ablations")
    if error is not None:
        say(f"{precision} {error.sentence()}")
    say(f"next: ablatable report {out} --out report")


def _screen(run: Path, seeds: list[int], share: float, asked: dict[str, Any], as_json: bool) -> None:
    from ..universes.screening.screening_run import screen_universe

    made = screen_universe(run, seeds, share=share, **asked)
    (passes, all_passes), chance = made.passes(), made.chance()
    told = {
        "universe": made.url,
        "samples": len(made.seeds),
        "units": len(made.units),
        "drawn": made.drawn().sum(axis=0).tolist(),
        "chance": chance.tolist(),
        "passes": passes,
        "passes_of_all": all_passes,
    }
    if as_json:
        print_json(told)
        return
    say(
        f"{made.url}: {told['samples']} samples, {told['units']} units, of which {min(told['drawn'])} to "
        f"{max(told['drawn'])} were drawn: {passes / all_passes:.1%} of the forward passes of all"
    )
    unsure = int((chance < made.made_with.sure).sum())
    if unsure:
        say(
            f"in {unsure} samples the chance of having found the radius is below {made.made_with.sure:.0%}; "
            "a larger --screen (with --overwrite) draws on"
        )
    say(f"next: ablatable radius {made.url}")
