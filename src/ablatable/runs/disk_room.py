"""How much room training takes: on the disk, so that too small a one is noticed before hours of work, and on a GPU."""

from __future__ import annotations

import math

from .._runtime.execution import Execution
from ..data.units import Units
from ..diffusion import gpu_room
from ..diffusion.recipe import Recipe
from .shared import NOTHING_SHARED, Shared

CHECKPOINT = 4  # times the weights in 32 bits: the weights, their average, and two moments of Adam


def training_bytes(
    recipe: Recipe,
    units: Units,
    components: int,
    largest: int,
    execution: Execution,
    shared: Shared = NOTHING_SHARED,
) -> int:
    """Bytes of some components, and of the checkpoints and splits beside those that train at any one time.

    Args:
        recipe: of the components.
        units: those of the run.
        components: how many are trained.
        largest: how many images the largest of their splits has.
        execution: how they are trained.
        shared: the frozen models that they use.
    """
    at_once, split = min(execution.processes(), components), largest * math.prod(units.shape)
    one, two = (_stored(recipe, units, count, shared) for count in (1, 2))
    weights = one + (two - one) * (largest - 1)  # a component that is not trained may keep the images themselves
    checkpoints = CHECKPOINT * weights if recipe.component.trained else 0
    if recipe.training.stored != "float32":
        weights //= 2
    return components * weights + at_once * (checkpoints + split)


def gpu_bytes(recipe: Recipe, units: Units, shared: Shared = NOTHING_SHARED) -> int:
    """Bytes of a GPU's memory that a worker takes, which trains one component, or a stack, with the frozen models."""
    one = gpu_room.training_bytes(recipe, units.shape, _stored(recipe, units, 1, shared))
    return shared.size + recipe.training.stacked * one


def _stored(recipe: Recipe, units: Units, images: int, shared: Shared) -> int:
    """Bytes of the weights of a component of so many images, before they are rounded."""
    from ..diffusion.kinds import build_component

    made = build_component(recipe, units.images[:images], 0, shared.folders)
    return sum(tensor.numel() * tensor.element_size() for tensor in made.state_dict().values())
