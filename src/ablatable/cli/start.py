"""The commands at the top level that make something: demo, train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from .._runtime.execution import Execution
from . import choices
from .common import (
    Components,
    Data,
    Even,
    Json,
    Overwrite,
    Removals,
    Weight,
    Workers,
    app,
    example,
)
from .data_options import Loading
from .groups import FarWorking, grouped
from .output import next_step, print_json, print_table, quoted, say

if TYPE_CHECKING:
    from ..analysis.first_look import FirstLook
    from ..diffusion.recipe import Recipe
    from ..errors import Message
    from ..runs.run import Run
    from ..runs.shared import SharedPart

_TRAINING, _ADAPTERS = "Training", "Adapters"


@app.command(epilog=example("ablatable demo --out demo"))
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the universe, the report, and the run.")] = Path("demo"),
    data: Annotated[
        choices.DemoData,
        typer.Option(help="Twelve artists' drawings in colour, or 48 handwritten digits, which always trains."),
    ] = "artists",
    train_it: Annotated[
        bool, typer.Option("--train", help="Train the ensemble instead of taking the one that comes with the package.")
    ] = False,
    workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Draw pictures, remove every artist in turn, and report what depends on whom; takes minutes."""
    from ..demo import run_demo

    if data == "artists" and not train_it and not as_json:
        say("starting from the ensemble that comes with the package: 12 artists, 9 components; --train trains it")
    outcome = run_demo(out, data=data, train=train_it, execution=Execution(workers), overwrite=overwrite)
    if as_json:
        print_json(outcome.as_dict())
        return
    print_table(outcome.table, title="What was drawn, and what it depends on")
    for line in outcome.sentences():
        say(line)
    next_step(f"ablatable universe influence {quoted(outcome.universe.url)} --sample 0")


@dataclass(frozen=True)
class Training:
    """How components are trained."""

    preset_name: Annotated[
        choices.Preset | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help=f"Architecture and training: {choices.told(choices.Preset)}.",
            show_default="chosen from the images",
            rich_help_panel=_TRAINING,
        ),
    ] = None
    steps: Annotated[int | None, typer.Option(help="Training steps of each component.", rich_help_panel=_TRAINING)] = (
        None
    )
    batch: Annotated[int | None, typer.Option(help="Images per training step.", rich_help_panel=_TRAINING)] = None
    precision: Annotated[
        choices.Precision | None, typer.Option(help="Precision of training (autocast).", rich_help_panel=_TRAINING)
    ] = None
    stacked: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Components that are trained as one network, on a GPU.",
            show_default="1",
            rich_help_panel=_TRAINING,
        ),
    ] = None
    codec: Annotated[
        str | None,
        typer.Option(
            help="Denoise coefficients or latents: haar, dct, or the folder of an autoencoder.",
            show_default="pixels",
            rich_help_panel=_TRAINING,
        ),
    ] = None

    classes: Annotated[
        str | None,
        typer.Option(
            help="Draw by class: the classes' names, with commas; labels come from --label-column.",
            show_default="no classes",
            rich_help_panel=_TRAINING,
        ),
    ] = None

    def names(self) -> list[str] | None:
        """Of the classes."""
        return None if self.classes is None else [name.strip() for name in self.classes.split(",")]

    def recipe(self, shape: tuple[int, int, int], most: int, *, quiet: bool) -> tuple[str, Recipe, list[Message]]:
        """The preset's name, the recipe, and doubts about it, said unless `quiet`.

        `shape`: the images' (C, H, W); `most`: images of the largest split.
        """
        from ..diffusion.advice import chosen, concerns, duration, minutes

        asked = {"steps": self.steps, "batch": self.batch, "precision": self.precision, "stacked": self.stacked}
        name, recipe = chosen(self.preset_name, shape, most, codec=self.codec is None, **asked)
        doubts = concerns(recipe, shape, most)
        if not quiet:
            if self.preset_name is None:
                takes = duration(minutes(name, recipe.training, shape, most))
                say(
                    f"preset {name}, {recipe.training.steps} steps: chosen from the images, see --preset and --steps; "
                    f"about {takes} of one core per component"
                )
            for doubt in doubts:
                say(f"note: {doubt.shell}")
        return name, recipe, doubts


@dataclass(frozen=True)
class OnBase:
    """Whether components are adapters on a frozen base model."""

    base: Annotated[
        Path | None,
        typer.Option(help="Train small adapters (LoRA) on this diffusers model instead.", rich_help_panel=_ADAPTERS),
    ] = None
    rank: Annotated[int, typer.Option(min=1, help="Rank of the adapters.", rich_help_panel=_ADAPTERS)] = 4
    text_encoder: Annotated[
        Path | None,
        typer.Option(
            help="A folder with the base's text encoder, for captions and prompts.",
            show_default="the one beside the base",
            rich_help_panel=_ADAPTERS,
        ),
    ] = None
    statement: Annotated[
        str | None, typer.Option(help="What the base was trained on, for the record.", rich_help_panel=_ADAPTERS)
    ] = None

    def recipe(
        self, training: Training, shape: tuple[int, int, int], most: int, *, quiet: bool
    ) -> tuple[str, Recipe, list[Message], list[SharedPart]]:
        """As `Training.recipe`, and the shared parts: the base, if there is one."""
        from ..errors import SettingsError
        from ..runs.adapters import adapters

        if self.base is None:
            return *training.recipe(shape, most, quiet=quiet), []
        if training.preset_name is not None:
            raise SettingsError("--base brings its own architecture; leave --preset out")
        if training.stacked is not None:
            raise SettingsError("adapters cannot be stacked; leave --stacked out")
        asked = {"steps": training.steps, "batch": training.batch, "precision": training.precision}
        given = {name: value for name, value in asked.items() if value is not None}
        conditions = {"text_encoder": self.text_encoder, "classes": training.names()}
        recipe, shared = adapters(self.base, rank=self.rank, statement=self.statement, **conditions, **given)
        return "adapters", recipe, [], shared


@app.command(
    epilog=example(
        "ablatable train digits:48 --size 14 --out runs/digits",
        "ablatable train openmoji:32 --size 16 --out runs/emoji",
        "ablatable train paintings/ --unit-column artist --size 32 --out runs/artists",
    )
)
@grouped
def train(
    data: Data,
    out: Annotated[Path, typer.Option(help="The run's folder; an unfinished run in it is resumed.")],
    components: Components = None,
    weight: Weight = None,
    removals: Removals = None,
    even: Even = False,
    training: Training = Training(),
    on_base: OnBase = OnBase(),
    seed: Annotated[
        int, typer.Option(help="The ensemble's seed; all randomness follows from it.", rich_help_panel=_TRAINING)
    ] = 0,
    size: Annotated[
        str | None,
        typer.Option(help="Resize the images: 28, or 28x32 (height x width).", rich_help_panel="Data"),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(help="1 for grey, 3 for colour.", show_default="as the images", rich_help_panel="Data")
    ] = None,
    loading: Loading = Loading(),
    working: FarWorking = FarWorking(),
    look: Annotated[
        bool,
        typer.Option("--look/--no-look", help="Draw samples at the end and judge them.", rich_help_panel=_TRAINING),
    ] = True,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train an ensemble in which every component sees its own part of the units."""
    from .._runtime.outputs import check_place
    from ..codes.planning import designed, on_marking
    from ..runs.ensemble_training import train as train_ensemble
    from ..runs.run import RUN, recorded_code

    check_place(out, RUN)
    units = loading.units(data, size, channels, quiet=as_json)
    recorded = None if overwrite else recorded_code(out)
    images = np.bincount(units.owner)
    wanted = {"bear": removals, "images": images if even else None, "recorded": recorded}
    code = designed(len(units), components, weight, seed=seed, **wanted)
    most = int((images @ code.matrix).max())  # images of the largest split
    name, recipe, doubts, shared = on_base.recipe(training, units.shape, most, quiet=as_json)
    for sentence in on_marking(code, half=weight is None) if not as_json else []:
        say(f"note: {sentence}")
    how: dict[str, Any] = {"execution": working.execution(), "overwrite": overwrite, "codec": training.codec}
    how["classes"] = None if on_base.base is not None else training.names()
    run = train_ensemble(units, code, recipe, out=out, seed=seed, shared=shared, **how)
    looked = _look(run, working.device) if look else None
    if as_json:
        told = {"run": str(out), "units": len(units), "components": code.components, "weight": code.weight}
        found = {"preset": name, "notes": doubts, "samples": looked.as_dict() if looked else None}
        loaded = units.report.as_dict() if units.report is not None else None
        print_json({**told, "digest": run.digest, **found, "loaded": loaded})
        return
    say(f"{out}: {code.components} components trained on {len(units)} units; {code.weight} of them saw each unit")
    for sentence in looked.sentences() if looked else []:
        say(sentence)
    spares = min(len(units), code.spare_capacity)
    asked = f" --spares {spares}" if spares else ""
    next_step(f"ablatable universe create {quoted(out)} --seeds 0-7{asked} --out {quoted(out)}.zarr")


def _look(run: Run, device: str) -> FirstLook:
    from .._runtime.devices import resolve_device
    from ..analysis.first_look import first_look

    return first_look(run, device=resolve_device(device))
