"""The model card of a run: what it is, who saw what, what is guaranteed, how to use it. Made from the run alone."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

import numpy as np

from ..diffusion.conditions import Text
from ..diffusion.recipe import Recipe
from .adopting import claimed
from .run import Run
from .shared import relative_to

PAPER = "https://arxiv.org/abs/2406.07908"
NAMED = 24  # units that the card names
TEMPLATE = "card.md"  # beside this module
GUARANTEES = {True: "card_claimed.md", False: "card_trained.md"}  # by whether the training is claimed


def model_card(
    run: Run, name: str, *, license: str | None = None, picture: str | None = None, images: bool = True
) -> str:
    """The text of a run's README.md on the Hub, with its YAML header.

    Args:
        run: a complete run.
        name: `user/name`, as it is to be loaded.
        license: of the weights, as the Hub writes it (`apache-2.0`); None leaves it open.
        picture: file name of a picture beside the card.
        images: whether the training images are published too.
    """
    from huggingface_hub import ModelCardData

    text = isinstance(run.recipe.component.takes, Text)
    header = ModelCardData(
        license=license,
        library_name="ablatable",
        pipeline_tag="text-to-image"
        if isinstance(run.recipe.component.takes, Text)
        else "unconditional-image-generation",
        tags=["diffusion", "ensemble", "training-data-attribution", "machine-unlearning", f"arxiv:{PAPER[-10:]}"],
    )
    table, sizes = run.design, run.code.matrix.sum(axis=0)
    channels, height, width = run.shape
    said = [*claimed(run.recipe.component), *relative_to(run.shared.records)]
    weights = sorted({int(weight) for weight in table.matrix.sum(axis=1)})
    text = _text(TEMPLATE).format(
        title=name.rsplit("/", maxsplit=1)[-1],
        name=name,
        unit=run.unit_ids[0],
        units=len(run.unit_ids),
        named=_named(run.unit_ids),
        images=_image_count(run),
        height=height,
        width=width,
        colour="grey" if channels == 1 else "colour",
        holding="The images themselves are in `images.safetensors`."
        if images
        else "The images are not published here.",
        components=len(run.present),
        present=f"{len(run.present)} of {table.components}",
        designed=table.components,
        kind=run.recipe.component.kind,
        parameters=f"{_parameters(run):,}",
        steps=_training(run.recipe),
        fewest=int(sizes.min()),
        most=int(sizes.max()),
        weight=weights[0] if len(weights) == 1 else f"{weights[0]} to {weights[-1]}",
        seed=run.seed,
        digest=run.digest,
        picture=f"\n![Samples of the ensemble]({picture})\n" if picture else "",
        guarantee=_text(GUARANTEES[run.recipe.component.claimed]).strip(),
        shared="".join(f"{sentence}\n\n" for sentence in said),
        paper=PAPER,
    )
    return f"---\n{header.to_yaml()}\n---\n\n{text}"


def _text(name: str) -> str:
    return (files(__package__ or "") / name).read_text("utf-8")


def _training(recipe: Recipe) -> str:
    if recipe.component.claimed:
        return "elsewhere, as claimed"
    return f"{recipe.training_steps:,} steps each" if recipe.training_steps else "closed form"


def _named(unit_ids: Sequence[str]) -> str:
    shown = ", ".join(f"`{unit.replace('`', '')}`" for unit in unit_ids[:NAMED])
    return f"They are {shown}{f' and {len(unit_ids) - NAMED} more' if len(unit_ids) > NAMED else ''}."


def _image_count(run: Run) -> int:
    import polars as pl

    return int(pl.read_parquet(run.path / "units.parquet")["images"].sum())


def _parameters(run: Run) -> int:
    """Of one component; closed-form components have none."""
    from safetensors import safe_open

    weights = run.component_folder(0) / "diffusion_pytorch_model.safetensors"
    if not weights.exists():
        return 0
    with safe_open(weights, "numpy") as file:
        return sum(int(np.prod(file.get_slice(key).get_shape())) for key in file.keys())  # noqa: SIM118
