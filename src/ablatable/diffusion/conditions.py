"""What a sample is asked to show (a class or a prompt), and which conditions a kind of component takes.

A condition belongs to the sample, as its seed does: it is recorded with it, and a counterfactual keeps both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ..errors import SettingsError


class Condition(BaseModel):
    """What one sample is to show; without any field, nothing in particular (a model's unconditional prediction).

    Attributes:
        label: the name of a class that the components know.
        prompt: a text, for components that know a text encoder.
        negative_prompt: with guidance above 1, a text that the sample is led away from, instead of the empty text.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    def __str__(self) -> str:
        """In words, as it stands beside a seed."""
        told = []
        if self.label is not None:
            told.append(f"label {self.label}")
        if self.prompt is not None:
            told.append(f"prompt '{self.prompt}'")
        if self.negative_prompt:
            told.append(f"not '{self.negative_prompt}'")
        return ", ".join(told) or "no condition"


class Classes(BaseModel):
    """Components take a class.

    Attributes:
        names: of the classes, in the order of the network's class numbers; fixed before any data are looked at.
        null: the class number that stands for none of them; None = there is none, so nothing can be guided.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["classes"] = "classes"
    names: tuple[str, ...] = Field(min_length=1)
    null: int | None = None

    @model_validator(mode="after")
    def _check(self) -> Classes:
        check_classes(self.names)
        return self

    def told(self) -> str:
        """In words."""
        return f"one of {len(self.names)} classes: {', '.join(self.names[:24])}" + (", .." if self.names[24:] else "")


class Text(BaseModel):
    """Components attend to what a text encoder makes of a prompt.

    Attributes:
        tokens: how many tokens the encoder takes, its marks for start and end among them.
        width: numbers per token.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["text"] = "text"
    tokens: int = Field(ge=1)
    width: int = Field(ge=1)

    def told(self) -> str:
        """In words."""
        return f"a prompt of up to {self.tokens} tokens, its marks for start and end among them"


Takes = Classes | Text


def check_classes(names: Sequence[str]) -> None:
    """`ValueError` unless these can be names of classes: distinct, and not blank."""
    for place, name in enumerate(names):
        if not name.strip() or name in names[:place]:
            raise ValueError(f"classes={tuple(names)}: give every class one name, and none twice")


def per_sample(conditions: Condition | Sequence[Condition] | None, samples: int) -> tuple[Condition, ...] | None:
    """One condition per sample, from one for all of them, one for each, or None.

    Raises `SettingsError` for another number of them.
    """
    if conditions is None:
        return None
    each = (conditions,) * samples if isinstance(conditions, Condition) else tuple(conditions)
    if len(each) == 1:
        each *= samples
    if len(each) != samples:
        raise SettingsError(
            f"{len(each)} conditions for {samples} samples; give one for all of them, or one for each, in the order "
            "of the seeds"
        )
    return each
