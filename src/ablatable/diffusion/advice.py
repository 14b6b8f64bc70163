"""What training a data set of some kind needs: a recipe to start from, and doubts about one that was chosen.

The figures are those of docs/colour.md: small drawings come out recognisable when every image of a split was seen a few
hundred times, and as noise when it was seen some tens of times, whatever the sampler.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import Message, option
from .recipe import Recipe, TrainingConfig, UNetConfig, preset

PASSES = 400  # times that each image of a split should be seen
ENOUGH = 200  # below this, samples are blurred or noise
LEAST = 1000  # training steps, however few the images are
COLOUR = 3  # channels


def chosen(name: str | None, shape: tuple[int, int, int], images: int, **training: Any) -> tuple[str, Recipe]:
    """A preset's name and recipe: what was asked for, and what the images ask for where nothing was.

    Args:
        name: a preset; None = `colour` for images in colour, else `tiny` up to 16 pixels and `small` above, with as
            many steps as the images need, if that is more than the preset has.
        shape: of the images, (C, H, W).
        images: in the largest split.
        training: settings that replace the preset's; None leaves a setting alone.
    """
    if name is not None:
        return name, preset(name, **training)
    name = "colour" if shape[0] == COLOUR else "tiny" if max(shape[1:]) <= 16 else "small"
    recipe = preset(name, **training)
    if training.get("steps") is None:
        recipe = recipe.replace(steps=max(recipe.training.steps, steps_for(recipe.training, images)))
    return name, recipe


@dataclass(frozen=True)
class Needs:
    """What training asks for.

    Attributes:
        preset: its name.
        steps: training steps of each component.
        images: how many images a component sees.
        doubts: what speaks against it all the same, see `concerns`.
    """

    preset: str
    steps: int
    images: int
    doubts: tuple[Message, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same for programs."""
        return asdict(self)

    def sentences(self) -> list[Message]:
        """For people."""
        settings = f"{option('preset', self.preset)} {option('steps', self.steps)}"
        return [Message(f"training: {settings}, for about {self.images} images per component"), *self.doubts]


def needs(shape: tuple[int, int, int], images: int) -> Needs:
    """What components ask for that see `images` images of `shape` (C, H, W) each."""
    name, recipe = chosen(None, shape, images)
    return Needs(name, recipe.training.steps, images, tuple(concerns(recipe, shape, images)))


def steps_for(training: TrainingConfig, images: int) -> int:
    """Training steps after which each of `images` was seen `PASSES` times, in hundreds; at least `LEAST`."""
    return max(LEAST, math.ceil(PASSES * images / min(training.batch, images) / 100) * 100)


def passes(training: TrainingConfig, images: int) -> float:
    """How often a component sees each of its `images`."""
    return training.steps * min(training.batch, images) / images


def remedy(recipe: Recipe, shape: tuple[int, int, int], images: int) -> Message:
    """What to change after training by this recipe gave samples that are broken.

    Args:
        recipe: the components' recipe.
        shape: of the images, (C, H, W).
        images: in the largest split.
    """
    if not recipe.component.trained:
        return Message("what helps: more images per unit, or a code of higher weight; these components do not train")
    training, (name, advised) = recipe.training, chosen(None, shape, images)
    steps = max(2 * training.steps, steps_for(training, images), advised.training.steps)
    told = (
        f"what helps: {option('steps', steps)} (each image was seen {passes(training, images):.0f} times in "
        f"{training.steps} steps, and would be {passes(training, images) * steps / training.steps:.0f} times)"
    )
    if isinstance(recipe.component, UNetConfig) and recipe.component != advised.component:
        told += f"; {option('preset', name)}, which is for such images"
    return Message(f"{told}; smaller images ({option('size')}); fewer images per unit")


def concerns(recipe: Recipe, shape: tuple[int, int, int], images: int) -> list[Message]:
    """Why samples of this recipe may be noise, with what to change; empty if nothing is known against it.

    Args:
        recipe: the components' recipe.
        shape: of the images, (C, H, W).
        images: in the largest split.
    """
    if not isinstance(recipe.component, UNetConfig):
        return []
    found, seen = [], passes(recipe.training, images)
    if seen < ENOUGH:
        more = option("steps", steps_for(recipe.training, images))
        found.append(
            f"each image is seen {seen:.0f} times, which leaves noise or blur: take {more} ({PASSES} times), fewer "
            f"images, or a larger {option('batch')}"
        )
    elif recipe.training.steps < LEAST:
        found.append(
            f"{recipe.training.steps} steps leave blur, however few the images are: take "
            f"{option('steps', max(2 * LEAST, steps_for(recipe.training, images)))}"
        )
    if shape[0] == COLOUR and recipe.component.prediction == "noise" and recipe.training.steps < 20_000:
        found.append(
            "components that predict noise get the colour of whole areas wrong when trained briefly: take "
            f"{option('preset', 'colour')}"
        )
    levels, side = len(recipe.component.channels), max(shape[1:])
    if side > 8 * 2**levels:
        smaller = option("size", 8 * 2**levels)
        found.append(
            f"{levels} levels see little of {side} pixels at once: take {smaller}, or a preset with more "
            "levels (small and colour have 3)"
        )
    return list(map(Message, found))
