"""Train several components as one computation: a stack of K networks takes each component's own batches.

What component i sees, and all that changes it, is what it would be by itself: no sum reaches over components, gradients
are clipped one component at a time, and the optimiser works number by number. Bits differ from those of a component
trained alone by rounding, and depend on K, which the recipe records. A stack with fewer components than K is filled up
with copies of its first, so that a component's bits don't depend on which others there were; a test at the start
compares them, and refuses a device where they do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .._runtime.devices import computing
from .._runtime.files import file_hash, json_hash
from ..data.units import Units
from ..diffusion.kinds import kind_named
from ..diffusion.recipe import Recipe, TrainingConfig
from ..diffusion.stacked import refuse_unless_alone, stacked
from .checkpoint import TrainingState
from .component_training import (
    CHECKPOINT,
    Report,
    TrainTask,
    begin,
    beside,
    fingerprint,
    finish,
    fresh,
    in_order,
    noisy_batches,
    take_steps,
)
from .records import Mark


@dataclass(frozen=True)
class StackTask:
    """Components to train as one: at most as many as the recipe says, all with batches of one size."""

    tasks: tuple[TrainTask, ...]
    device: str


class StackedState(TrainingState):
    """The state of all components of a stack; each parameter is (K, ...)."""

    def __init__(self, parameters: list[nn.Parameter], config: TrainingConfig, fingerprint: str) -> None:
        """See `TrainingState`."""
        self.shape = (len(parameters[0]),)
        super().__init__(parameters, config, fingerprint)

    def clip(self) -> None:
        """Each component's gradient by itself."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        lengths = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
        scale = (self.config.clip / (torch.linalg.vector_norm(lengths, dim=0) + 1e-6)).clamp(max=1)  # (K,)
        for gradient in gradients:
            gradient.mul_(scale.view(-1, *[1] * (gradient.ndim - 1)))

    def mark(self, step: int) -> None:
        """As `TrainingState.mark`, for every component: (step, their digests, their losses)."""
        digests = [hashlib.sha256() for _ in range(*self.shape)]
        for tensor in (*self.parameters, *self.ema):
            values = tensor.detach().cpu().numpy()
            for digest, own in zip(digests, values, strict=True):
                digest.update(np.ascontiguousarray(own).data)
        losses = [round(float(loss), 6) for loss in self.losses[step - 1]]
        self.marks.append((step, [digest.hexdigest() for digest in digests], losses))  # pyright: ignore[reportArgumentType]

    def marks_of(self, k: int) -> list[Mark]:
        """Component k's marks."""
        return [(step, digests[k], losses[k]) for step, digests, losses in self.marks]  # pyright: ignore[reportIndexIssue, reportReturnType]


def train_stack(task: StackTask, report: Report = lambda event: None) -> list[str]:
    """Train components as one and put their folders in place; those that are there are left alone.

    Returns:
        SHA-256 (hex) of each weights file.
    """
    missing = [each for each in task.tasks if not each.folder.exists()]
    if missing:
        splits = [in_order(each.split) for each in missing]
        for each in missing:
            begin(beside(each.folder))
        with computing(task.device, missing[0].recipe.training.precision):
            models, state = _loop(missing, splits, report=report, checkpoint=True)
        for k in reversed(range(len(missing))):  # the first, which has the checkpoint, comes last
            finish(missing[k], splits[k], models[k], state.thinned(state.losses[:, k]), state.marks_of(k))
    return [file_hash(each.folder / each.recipe.component.weights) for each in task.tasks]


def stack_marks(task: StackTask, steps: int, report: Report = lambda event: None) -> list[Mark]:
    """The first component's first steps once more, from scratch: the marks until then."""
    with computing(task.device, task.tasks[0].recipe.training.precision):
        splits = [in_order(each.split) for each in task.tasks]
        return _loop(list(task.tasks), splits, report=report, until=steps)[1].marks_of(0)


def groups(recipe: Recipe, images: dict[int, int]) -> list[list[int]]:
    """Components, by their number of images, in stacks of one batch size, each at most as large as the recipe says."""
    of_batch: dict[int, list[int]] = {}
    for number, count in images.items():
        of_batch.setdefault(min(recipe.training.batch, count), []).append(number)
    most = recipe.training.stacked
    return [numbers[k : k + most] for numbers in of_batch.values() for k in range(0, len(numbers), most)]


def _loop(
    tasks: list[TrainTask],
    splits: list[Units],
    *,
    report: Report,
    checkpoint: bool = False,
    until: int | None = None,
) -> tuple[list[nn.Module], StackedState]:
    """As `training_loop`, for all tasks and what fills the stack up; the models of the tasks, on the CPU."""
    first, config = tasks[0], tasks[0].recipe.training
    device, kind = torch.device(first.device), kind_named(first.recipe.component.kind)
    own = [*range(len(tasks)), *[0] * (config.stacked - len(tasks))]  # which task each slot is of
    models = [fresh(task, split) for task, split in zip(tasks, splits, strict=True)]
    stack = stacked([models[k] for k in own], first.recipe.component.kind).to(device).train()
    parameters = [parameter for parameter in stack.parameters() if parameter.requires_grad]
    prints = [fingerprint(task, split) for task, split in zip(tasks, splits, strict=True)]
    state = StackedState(parameters, config, json_hash(prints))
    batches = [noisy_batches(task, split) for task, split in zip(tasks, splits, strict=True)]

    def one_loss(predicted: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
        return kind.loss(first.recipe.component, predicted, noise, abar)

    def batch(step: int) -> tuple[Tensor, ...]:
        made = [make(step) for make in batches]
        return tuple(torch.cat([made[k][part] for k in own]) for part in range(4))

    def losses_of(x_t: Tensor, t: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
        """(K,)."""
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            predicted = stack(x_t, t).float()
        own_rows = (each.unflatten(0, (config.stacked, -1)) for each in (predicted, noise, abar))
        return torch.func.vmap(one_loss)(*own_rows)

    _refuse_unless_alone(models, tasks[0], batches[0](0), losses_of, parameters)
    path = beside(first.folder) / CHECKPOINT if checkpoint else None
    take_steps(first, state, batch, losses_of, report=report, checkpoint=path, until=until, recordable=True)
    stack.write_to([models[k] for k in own])  # pyright: ignore[reportCallIssue]
    return [model.cpu().eval() for model in models], state


def _refuse_unless_alone(
    models: Sequence[nn.Module],
    task: TrainTask,
    given: tuple[Tensor, ...],
    losses_of: Callable[..., Tensor],
    parameters: list[nn.Parameter],
) -> None:
    """The first component's gradients in several slots, beside others that see other pictures: the same bits."""
    count, device, seen = task.recipe.training.stacked, torch.device(task.device), []
    before = [parameter.detach().clone() for parameter in parameters]
    draws = torch.Generator().manual_seed(0)
    for slot in sorted({0, count // 2, count - 1}):
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value.roll(1 + slot, 0))
                parameter[slot] = value[0]
        x_t, t, noise, abar = ([each] * count for each in given)
        for other in set(range(count)) - {slot}:
            x_t[other] = torch.randn(given[0].shape, generator=draws)
        losses = losses_of(*(torch.cat(each).to(device) for each in (x_t, t, noise, abar)))
        seen.append([each[slot].cpu() for each in torch.autograd.grad(losses.sum(), parameters)])
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
    refuse_unless_alone(seen)
