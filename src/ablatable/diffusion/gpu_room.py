"""How much of a GPU's memory components take, estimated generously from their recipe."""

from __future__ import annotations

from .recipe import Recipe

ALIVE = 40  # arrays as large as a network's first layer that are in memory at once, generously
KEPT = 4 * ALIVE  # that training keeps until gradients have passed
COPIES = 5  # of the weights while they are trained: themselves, gradients, two moments, and their average


def row_bytes(recipe: Recipe, shape: tuple[int, int, int], precision: str) -> int:
    """Bytes that one row of a batch takes on its way through a component; `shape`: (C, H, W) of pictures."""
    channels, height, width = shape
    wide = max(channels, *getattr(recipe.component, "channels", (0,))[:1])
    return height * width * wide * ALIVE * (2 if precision == "bf16" else 4)


def training_bytes(recipe: Recipe, shape: tuple[int, int, int], weights: int) -> int:
    """Bytes that training one component takes, whose weights take so many in 32 bits."""
    rows = recipe.training.batch * row_bytes(recipe, shape, "fp32") * KEPT // ALIVE
    return COPIES * weights + rows
