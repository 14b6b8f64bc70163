"""The command that takes over components trained elsewhere: run adopt."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import Json, Overwrite, example, runs
from .data_options import Loading
from .groups import grouped
from .output import next_step, print_json, quoted, say


@dataclass(frozen=True)
class Models:
    """What is said of the models."""

    scheduler: Annotated[
        Path | None, typer.Option(help="A scheduler_config.json.", show_default="the one beside each model")
    ] = None
    label: Annotated[int | None, typer.Option(help="Draw samples of this class, if the models take one.")] = None
    embedding: Annotated[
        Path | None, typer.Option(help="A safetensors file: a prompt's embedding to draw samples of.")
    ] = None
    codec: Annotated[
        Path | None,
        typer.Option(help="The autoencoder whose latents the models denoise.", show_default="the pipelines' vae/"),
    ] = None
    text_encoder: Annotated[
        Path | None,
        typer.Option(help="A folder with a text encoder, for prompts.", show_default="the one in the first pipeline"),
    ] = None
    classes: Annotated[
        str | None, typer.Option(help="Names of the models' classes, with commas.", show_default="their numbers")
    ] = None
    null_class: Annotated[int | None, typer.Option(help="The class number that stands for no class.")] = None

    def given(self) -> dict[str, Any]:
        """As the library takes it."""
        names = None if self.classes is None else [name.strip() for name in self.classes.split(",")]
        return {**{field.name: getattr(self, field.name) for field in fields(self)}, "classes": names}


@runs.command(
    epilog=example("ablatable run adopt models/0 models/1 models/2 --data photos/ --splits saw.csv --out runs/adopted")
)
@grouped
def adopt(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDERS...", help="One per component, in order: diffusers' models or pipelines."),
    ],
    data: Annotated[str, typer.Option(metavar="DATA", help="The training data.", rich_help_panel="Data")],
    splits: Annotated[
        Path,
        typer.Option(help="Who saw what: a table with the columns unit, and codeword (0110) or component (0, 1..)."),
    ],
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    models: Models = Models(),
    claim: Annotated[str | None, typer.Option(help="What is claimed of the training, in words.")] = None,
    channels: Annotated[
        int | None, typer.Option(help="1 for grey, 3 for colour.", show_default="as the models", rich_help_panel="Data")
    ] = None,
    loading: Loading = Loading(),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a run of components that were trained elsewhere; who saw what is recorded as claimed."""
    from .._runtime.outputs import check_place
    from ..runs.adopting import CLAIM, claimed
    from ..runs.adopting import adopt as adopt_models
    from ..runs.codecs import picture_shape
    from ..runs.model_folders import read_folders
    from ..runs.run import RUN

    check_place(out, RUN)
    depth, height, width = picture_shape(read_folders(folders, models.scheduler), models.codec)
    units = loading.units(data, (height, width), channels or depth, quiet=as_json)
    run = adopt_models(folders, units, splits, out=out, claim=claim or CLAIM, overwrite=overwrite, **models.given())
    clips = getattr(run.recipe.component, "clip_sample", True)
    if as_json:
        print_json({"run": str(out), "units": len(units), "components": len(run.present), "digest": run.digest})
        return
    say(f"{out}: {len(run.present)} components adopted, with {len(units)} units")
    for sentence in claimed(run.recipe.component):
        say(sentence)
    if not clips:
        say("note: their scheduler draws without clipping; --no-clip does the same here")
    clip = "" if clips else " --no-clip"
    next_step(f"ablatable universe create {quoted(out)} --seeds 0-7{clip} --out {quoted(out)}.zarr")
