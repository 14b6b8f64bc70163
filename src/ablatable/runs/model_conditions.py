"""Which conditions a model that was trained elsewhere takes: what its config says, and what its giver adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..diffusion.conditions import Classes, Takes
from ..errors import SettingsError, option
from .model_folders import CONFIG, ModelFolder
from .shared import SharedPart


@dataclass(frozen=True)
class Asking:
    """What samples of a model can be asked for.

    Attributes:
        label: the one class that all are drawn of.
        fixed: whether all are drawn of one embedding.
        classes: names of the model's classes, by their numbers; None = their numbers.
        null: the class number that stands for none of them.
        text_encoder: a folder with a text encoder; None = the one beside the model, if there is one.
    """

    label: int | None = None
    fixed: bool = False
    classes: Sequence[str] | None = None
    null: int | None = None
    text_encoder: Path | None = None


def condition_of(model: ModelFolder, asking: Asking) -> tuple[Takes | None, list[SharedPart]]:
    """The conditions that a model takes, and the text encoder as a shared part if it is one of them.

    Raises:
        SettingsError: names that do not fit the model, or a text encoder of another width.
        DataError: the text encoder's files are missing or damaged.
    """
    classes = _classes(model, asking)
    if model.config.get("_class_name") != "UNet2DConditionModel" or asking.fixed:
        if asking.text_encoder is not None:
            raise SettingsError(
                f"{model.folder} attends to no prompt, or to one that is given; leave {option('text_encoder')} out"
            )
        return classes, []
    if classes is not None:
        raise SettingsError(
            f"{model.folder} takes a class and a prompt; samples can be asked for one of them: give {option('label')} "
            f"to draw all of one class, or {option('embedding')} for one prompt"
        )
    from ..diffusion.text_encoder import FOLDERS, PART, ROLE, load_text_encoder

    folder, beside = asking.text_encoder, model.folder.parent
    if folder is None and all((beside / name).is_dir() for name in FOLDERS):
        folder = beside
    if folder is None:
        return None, []
    encoder, width = load_text_encoder(folder), model.config.get("cross_attention_dim")
    if width != encoder.width:
        raise SettingsError(
            f"the model in {model.folder} attends to {width} numbers a token ({CONFIG}), and the text encoder in "
            f"{folder} gives {encoder.width}; give the one that it was trained with"
        )
    only = FOLDERS if all((folder / name).is_dir() for name in FOLDERS) else ()
    return encoder.takes, [SharedPart(PART, ROLE, folder, only=only)]


def _classes(model: ModelFolder, asking: Asking) -> Classes | None:
    count, null = _count(model.config)
    if count is None or asking.label is not None:
        if asking.classes is not None or asking.null is not None:
            why = "takes no class" if count is None else f"is drawn of one class ({option('label', asking.label)})"
            raise SettingsError(f"{model.folder} {why}; leave {option('classes')} and {option('null_class')} out")
        return None
    null = null if asking.null is None else asking.null
    names = tuple(asking.classes) if asking.classes is not None else tuple(map(str, range(count)))
    if len(names) != count and not (null == len(names) == count - 1):
        raise SettingsError(f"{model.folder} has {count} classes, and {len(names)} names are given; name each of them")
    if null is not None and not 0 <= null <= count:
        raise SettingsError(f"there is no class {null} in {model.folder}; its classes are 0 to {count - 1}")
    try:
        return Classes(names=names, null=null)
    except ValueError:
        raise SettingsError(f"the names of the classes of {model.folder} are not distinct, or blank") from None


def _count(config: dict[str, Any]) -> tuple[int | None, int | None]:
    """How many classes a model has, and the number beyond them that stands for none, if it has one."""
    if config.get("_class_name") == "DiTTransformer2DModel":
        count = int(config.get("num_embeds_ada_norm") or 0)
        return count, count
    if config.get("num_class_embeds") and config.get("class_embed_type") in (None, "timestep"):
        return int(config["num_class_embeds"]), None
    return None, None
