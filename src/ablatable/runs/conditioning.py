"""Conditions of a run's samples: checked when they are asked for, and turned into what its components take."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from itertools import cycle, islice
from typing import TYPE_CHECKING

from ..diffusion.conditions import Classes, Condition, Takes, Text, per_sample
from ..errors import DataError, SettingsError, option

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.units import Units
    from ..diffusion.given import Given
    from ..diffusion.recipe import Recipe
    from ..diffusion.text_encoder import TextEncoder
    from .run import Run
    from .shared import Shared, SharedPart


def asked(
    run: Run, conditions: Condition | Sequence[Condition] | None, samples: int, guidance: float = 1.0
) -> tuple[Condition, ...] | None:
    """One condition per sample, checked; None if there are none.

    Raises:
        SettingsError: the run's components take no such condition, do not know the class, or a prompt is too long; or
            guidance is asked for and they know nothing to lead away from.
    """
    each, takes = per_sample(conditions, samples), run.recipe.component.takes
    if takes is None:
        if guidance != 1 or any(condition != Condition() for condition in each or ()):
            raise SettingsError(
                f"the components of {run.path} take neither labels nor prompts; leave {option('label')}, "
                f"{option('prompt')} and {option('guidance')} out"
            )
        return None
    for condition in dict.fromkeys(each or (Condition(),)):
        if isinstance(takes, Classes):
            _check_class(run, takes, condition, guidance)
        else:
            _check_text(run, condition, guidance)
    return each


def given_of(
    run: Run, conditions: Sequence[Condition] | None, rows: int, guidance: float = 1.0, device: str = "cpu"
) -> Given | None:
    """What the run's components take for so many rows under these conditions; None if they take none.

    `conditions`: one per row, which were checked; None = rows without a condition.
    """
    import torch

    from ..diffusion.given import Given

    takes = run.recipe.component.takes
    if takes is None:
        return None
    wanted = list(conditions) if conditions is not None else [Condition()] * rows
    distinct = list(dict.fromkeys(wanted))
    place = {condition: number for number, condition in enumerate(distinct)}
    row = torch.tensor([place[condition] for condition in wanted])
    if isinstance(takes, Classes):
        numbers = [_class_number(takes, condition) for condition in distinct]
        tensors = {"class_labels": torch.tensor(numbers)}
        instead = None if takes.null is None else {"class_labels": torch.full((len(distinct),), takes.null)}
    else:
        encoder = text_encoder(run.shared)
        tensors = {"encoder_hidden_states": _encoded(encoder, [each.prompt or "" for each in distinct])}
        away = [each.negative_prompt or "" for each in distinct]
        instead = None if guidance == 1 else {"encoder_hidden_states": _encoded(encoder, away)}
    return Given(tensors, row, guidance, instead).to(device)


def some_conditions(run: Run, samples: int) -> list[Condition] | None:
    """Conditions for a few samples that nobody asked for anything of: every class in turn, or the first captions."""
    takes = run.recipe.component.takes
    if takes is None:
        return None
    if isinstance(takes, Classes):
        return [Condition(label=name) for name in islice(cycle(takes.names), samples)]
    captions = run.units().captions or ("",)
    return [Condition(prompt=caption) for caption in islice(cycle(captions), samples)]


def text_encoder(shared: Shared) -> TextEncoder:
    """The text encoder that a run's components share."""
    from ..diffusion.text_encoder import PART, load_text_encoder

    return load_text_encoder(shared.folders[PART])


def with_classes(recipe: Recipe, classes: Sequence[str] | None) -> Recipe:
    """The recipe for components that take one of these classes; None leaves it as it is.

    The list is fixed here, before any data are looked at: a class counted from the data would tell components about
    units outside their split.

    Raises `SettingsError` if components of this kind take no class, or two classes have one name.
    """
    from ..diffusion.recipe import UNetConfig, recipe_from

    if classes is None:
        return recipe
    if not isinstance(recipe.component, UNetConfig):
        raise SettingsError(
            f"components of kind '{recipe.component.kind}' are not given classes here; leave {option('classes')} out"
        )
    component = {**recipe.component.model_dump(), "classes": tuple(classes)}
    return recipe_from({**recipe.model_dump(), "component": component})


def check_units(units: Units, takes: Takes | None, shared: Sequence[SharedPart] = ()) -> None:
    """Make sure that every image has what components are to be trained with.

    Args:
        units: the training data.
        takes: what the components take.
        shared: among them the text encoder, for components that take a text.

    Raises:
        DataError: labels or captions are missing, or a label is no class.
        SettingsError: there is no such text encoder, or a caption is longer than it takes.
    """
    if isinstance(takes, Classes):
        if units.labels is None:
            raise DataError(
                f"the components take a class, and the units have no labels; load them with {option('label_column')}"
            )
        if unknown := sorted(set(units.labels) - set(takes.names)):
            raise DataError(
                f"the label '{unknown[0]}' is none of the classes, which are {', '.join(takes.names)}; leave the "
                f"images out that have it, or name it in {option('classes')}"
            )
    elif isinstance(takes, Text):
        if units.captions is None:
            raise DataError(
                f"the components take a text, and the units have no captions; load them with {option('caption_column')}"
            )
        from ..diffusion.text_encoder import PART, load_text_encoder

        folder = next((part.folder for part in shared if part.name == PART), None)
        if folder is None:
            raise SettingsError(f"components that take a text need a text encoder; give the shared part '{PART}'")
        encoder = load_text_encoder(folder)
        if encoder.takes != takes:
            raise SettingsError(
                f"the components take {takes.tokens} tokens of {takes.width} numbers, and the text encoder in {folder} "
                f"gives {encoder.tokens} of {encoder.width}; give the one that belongs to them"
            )
        for caption in dict.fromkeys(units.captions):
            encoder.check(caption, "the caption")


def training_given(split: Units, takes: Takes, shared: Shared) -> Given:
    """What components are given with each image of a split, of which nothing is from outside it.

    Every caption is encoded alone, once. The last entry of the tensors stands for an image whose condition is withheld.
    """
    import torch

    from ..diffusion.given import Given

    if isinstance(takes, Classes):
        assert split.labels is not None
        numbers = [*range(len(takes.names)), takes.null if takes.null is not None else 0]
        row = torch.tensor([takes.names.index(label) for label in split.labels])
        return Given({"class_labels": torch.tensor(numbers)}, row)
    assert split.captions is not None
    texts = [*dict.fromkeys(split.captions), ""]
    row = torch.tensor([texts.index(caption) for caption in split.captions])
    return Given({"encoder_hidden_states": _encoded(text_encoder(shared), texts)}, row)


def _encoded(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    import torch

    known = {text: encoder.encode(text) for text in dict.fromkeys(texts)}
    return torch.stack([known[text] for text in texts])


def _class_number(takes: Classes, condition: Condition) -> int:
    if condition.label is not None:
        return takes.names.index(condition.label)
    assert takes.null is not None  # as `asked` checks
    return takes.null


def _check_class(run: Run, takes: Classes, condition: Condition, guidance: float) -> None:
    if condition.prompt is not None or condition.negative_prompt is not None:
        raise SettingsError(
            f"the components of {run.path} take a class and no prompt; give {option('label')}: {_some(takes.names)}"
        )
    if condition.label is None and takes.null is None:
        raise SettingsError(f"the components of {run.path} take a class; give {option('label')}: {_some(takes.names)}")
    if condition.label is not None and condition.label not in takes.names:
        close = get_close_matches(condition.label, takes.names, n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {_some(takes.names)}"
        raise SettingsError(f"the components of {run.path} know no class '{condition.label}'; {hint}")
    if guidance != 1 and takes.null is None:
        raise SettingsError(
            f"the components of {run.path} have no class that stands for none, so there is nothing to lead away from; "
            f"leave {option('guidance')} out"
        )


def _check_text(run: Run, condition: Condition, guidance: float) -> None:
    if condition.label is not None:
        raise SettingsError(f"the components of {run.path} take a prompt and no class; give {option('prompt')}")
    if condition.negative_prompt and guidance == 1:
        raise SettingsError(
            f"a negative prompt counts only with guidance; give {option('guidance', 3)}, or leave it out"
        )
    encoder = text_encoder(run.shared)
    encoder.check(condition.prompt or "")
    encoder.check(condition.negative_prompt or "", "the negative prompt")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12])
    return shown if len(names) <= 12 else f"{shown} and {len(names) - 12} more"
