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
LARGE = 20  # pixels; above, Haar coefficients draw better (docs/colour.md)
MICROSECONDS = {"tiny": 8.0, "small": 25.0, "colour": 9.0, "colour32": 7.0}
"""Time of one core per pixel and image of a training step in fp32, as docs/colour.md measured it."""


def chosen(
    name: str | None, shape: tuple[int, int, int], images: int, *, codec: bool = True, **training: Any
) -> tuple[str, Recipe]:
    """A preset's name and recipe: what was asked for, and what the images ask for where nothing was.

    Args:
        name: a preset; None = `colour` for images in colour and `colour32` for those above 20 pixels (of even sides),
            else `tiny` up to 16 pixels and `small` above, with as many steps as the images need, if that is more than
            the preset has.
        shape: of the images, (C, H, W).
        images: in the largest split.
        codec: whether a preset with a codec may be chosen, because the user gave none.
        training: settings that replace the preset's; None leaves a setting alone.
    """
    if name is not None:
        return name, preset(name, **training)
    if shape[0] == COLOUR:
        even = not any(side % 2 for side in shape[1:])
        name = "colour32" if codec and even and max(shape[1:]) > LARGE else "colour"
    else:
        name = "tiny" if max(shape[1:]) <= 16 else "small"
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
        minutes: of one core, that training one component takes about.
        doubts: what speaks against it all the same, see `concerns`.
    """

    preset: str
    steps: int
    images: int
    minutes: float
    doubts: tuple[Message, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same for programs."""
        return asdict(self)

    def sentences(self) -> list[Message]:
        """For people."""
        settings = f"{option('preset', self.preset)} {option('steps', self.steps)}"
        cost = f"about {duration(self.minutes)} of one core per component"
        return [Message(f"training: {settings}, for about {self.images} images per component; {cost}"), *self.doubts]


def needs(shape: tuple[int, int, int], images: int) -> Needs:
    """What components ask for that see `images` images of `shape` (C, H, W) each."""
    name, recipe = chosen(None, shape, images)
    doubts = tuple(concerns(recipe, shape, images))
    return Needs(name, recipe.training.steps, images, minutes(name, recipe.training, shape, images), doubts)


def minutes(name: str, training: TrainingConfig, shape: tuple[int, int, int], images: int) -> float:
    """Minutes of one core, about, that training a component of a preset that `chosen` chooses takes in fp32."""
    processed = training.steps * min(training.batch, images) * math.prod(shape[1:])  # pixels
    return MICROSECONDS[name] * processed / 60e6


def duration(minutes: float) -> str:
    """Rounded minutes, or hours from two on: `7 minutes`, `3 hours`."""
    if minutes >= 120:
        return f"{minutes / 60:.0f} hours"
    return f"{math.ceil(minutes)} minute{'' if minutes <= 1 else 's'}"


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
    seen_at_once = 8 * 2**levels * (recipe.component.block if recipe.component.codec else 1)
    if side > seen_at_once:
        smaller = option("size", seen_at_once)
        found.append(
            f"{levels} levels see little of {side} pixels at once: take {smaller}, or a preset with more "
            "levels (small and colour have 3)"
        )
    return list(map(Message, found))
