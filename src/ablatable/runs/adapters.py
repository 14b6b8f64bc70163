"""Adapters on a frozen base model: the recipe, and the base as a part that all components share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..diffusion.adopted import AdoptedConfig
from ..diffusion.autoencoder import PART
from ..diffusion.lora import BASE, TARGETS
from ..diffusion.recipe import Recipe, recipe_from
from .codecs import ROLE
from .model_conditions import Asking, condition_of
from .model_folders import read_folders, recipe_of
from .shared import SharedPart

TRAINING = {"steps": 500, "batch": 16, "learning_rate": 1e-3, "weight_decay": 0.0}


def adapters(
    base: str | Path,
    *,
    rank: int = 4,
    alpha: int | None = None,
    targets: tuple[str, ...] = TARGETS,
    label: int | None = None,
    text_encoder: str | Path | None = None,
    classes: Sequence[str] | None = None,
    null_class: int | None = None,
    scheduler: str | Path | None = None,
    statement: str | None = None,
    **training: Any,
) -> tuple[Recipe, list[SharedPart]]:
    """What `train` needs to train a small adapter per component on a frozen base model (LoRA, Hu et al. 2021).

    ```python
    recipe, shared = ab.adapters("models/base", rank=4, statement="trained on drawings by nobody in this data")
    run = ab.train(units, code, recipe, out="runs/adapters", shared=shared)
    ```

    What such a run guarantees is relative to the base: a removed unit was never seen in fine-tuning. Whether the base
    saw it is for its giver to state. A pipeline's autoencoder (`vae/`) becomes a shared part as well, and components
    then denoise its latents.

    Args:
        base: the base's folder in diffusers' format, or a pipeline's with one in it: a `UNet2DModel`, or a model that
            takes a class or a prompt. Then the units need labels or captions.
        rank: r, of the update of each layer's weight.
        alpha: the update is multiplied by alpha / r; None = r.
        targets: which layers are adapted, by the ends of their names in the base.
        label: the class that every image is and every sample is drawn of, for bases that take one; None = each its own.
        text_encoder, classes, null_class: as `adopt` takes them. The text encoder becomes a shared part.
        scheduler: a `scheduler_config.json` for a base that has none beside it.
        statement: what the base (and what comes with it in its pipeline) was trained on; it is shown wherever the run's
            guarantees are.
        training: settings of `TrainingConfig` other than 500 steps of 16 images at a rate of 1e-3.

    Raises:
        DataError, SettingsError: the folder holds no model that can be used; the message says why.
    """
    model = read_folders([base], scheduler)[0]
    asking = Asking(label, False, classes, null_class, Path(text_encoder) if text_encoder else None)
    condition, parts = condition_of(model, asking)
    found = recipe_of(model, claim="", label=label, condition=condition)
    assert isinstance(found.component, AdoptedConfig)
    component = {
        "kind": "lora",
        "rank": rank,
        "alpha": rank if alpha is None else alpha,
        "targets": targets,
        "prediction": found.component.prediction,
        "label": label,
        "condition": None if condition is None else condition.model_dump(),
    }
    values = {"component": component, "schedule": found.schedule.model_dump(), "training": {**TRAINING, **training}}
    shared = [SharedPart(BASE, "base model", model.folder, statement)]
    if model.codec is not None:
        shared.append(SharedPart(PART, ROLE, model.codec, statement))
    if text_encoder is None:  # then it is the pipeline's, and the statement is about all of that
        parts = [replace(part, statement=statement) for part in parts]
    return recipe_from(values), [*shared, *parts]
