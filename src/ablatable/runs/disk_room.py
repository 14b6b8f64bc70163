"""How much room training takes on the disk, so that a disk that is too small is noticed before hours of work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._runtime.execution import Execution
from .._runtime.workers import default_workers

if TYPE_CHECKING:
    from .component_training import TrainTask

CHECKPOINT = 4  # times the weights in 32 bits: the weights, their average, and two moments of Adam


def training_bytes(tasks: Sequence[TrainTask], execution: Execution) -> int:
    """Bytes of the components that these tasks make, and of the checkpoints beside them at any one time."""
    from .component_training import fresh

    first = tasks[0]  # made when it is asked for
    recipe = first.recipe
    made = fresh(first, first.split, 0)
    numbers = sum(tensor.numel() for tensor in made.state_dict().values())
    weights = numbers * (4 if recipe.training.stored == "float32" else 2)
    at_once = 1 if execution.workers == 0 else execution.workers or default_workers()
    checkpoints = CHECKPOINT * 4 * numbers * min(at_once, len(tasks)) if recipe.component.trained else 0
    return len(tasks) * weights + checkpoints
