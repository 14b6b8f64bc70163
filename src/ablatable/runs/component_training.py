"""Train one component on its split: noise prediction, deterministic, stoppable at any step and resumable bit for bit.

What component i sees at step k is a pure function of (ensemble seed, i, k, its split). This module receives the split
and nothing else, so nothing outside it can reach a component: that is the non-interference the whole method rests on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor, nn

from .._runtime.devices import CPU, computing, hardware, kind_of
from .._runtime.files import file_hash, json_hash, move_folder_into_place, sweep, write_json
from .._runtime.merkle import commit
from .._runtime.rng import generator, torch_seed
from ..data.units import Units, to_model
from ..diffusion.ahead import ahead
from ..diffusion.captured import loss_and_gradients, records
from ..diffusion.conditions import Classes
from ..diffusion.given import Given
from ..diffusion.kinds import build_component, kind_named, save_component
from ..diffusion.recipe import Recipe, TrainingConfig
from ..diffusion.schedule import add_noise
from .checkpoint import TrainingState, marked_steps
from .conditioning import training_given
from .records import TRAINING, Mark, TrainingRecord
from .shared import NOTHING_SHARED, Shared

Report = Callable[[dict], None]
"""Receives {"step", "steps", "loss", "images"} now and then while a component trains."""

CHECKPOINT = "checkpoint"
SPLIT = "split.safetensors"  # a split on its way to training, see `task_of`
REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class TrainTask:
    """All that training one component may depend on, and where to put it."""

    split: Units
    recipe: Recipe
    component: int
    seed: int
    folder: Path  # the finished component's folder; work happens beside it
    device: str = "cpu"
    checkpoint_seconds: float = 20.0  # the least time between two checkpoints
    saving: int = 50  # and that in units of what the last one took, which bounds their share of the time
    shared: Shared = NOTHING_SHARED  # frozen models, the same for all components


def training_loop(
    task: TrainTask,
    split: Units,
    *,
    report: Report = lambda event: None,
    checkpoint: Path | None = None,
    until: int | None = None,
) -> tuple[nn.Module, TrainingState]:
    """Train a component on `split`: all of its steps, or the first `until` of them.

    Resumes at `checkpoint` if it is there and fits, and saves one there now and then; the result is the same either
    way. Returns the model, on the CPU, with the average of its weights over training, and what the training came to.
    """
    recipe, config, device = task.recipe, task.recipe.training, torch.device(task.device)
    kind = kind_named(recipe.component.kind)
    model = fresh(task, split).to(device).train()
    state = TrainingState(kind.parameters(model), config, fingerprint(task, split))

    takes = recipe.component.takes
    given = None if takes is None else training_given(split, takes, task.shared)

    def loss_of(x_t: Tensor, t: Tensor, noise: Tensor, abar: Tensor, *conditions: Tensor) -> Tensor:
        asked = dict(zip(given.tensors, conditions, strict=True)) if given is not None else {}
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            predicted = model(x_t, t, **asked)
        return kind.loss(recipe.component, predicted.float(), noise, abar)

    batches = noisy_batches(task, split, given)
    how = {"report": report, "checkpoint": checkpoint, "until": until, "recordable": hasattr(model, "capture")}
    take_steps(task, state, batches, loss_of, **how)
    return model.cpu().eval(), state


def take_steps(
    task: TrainTask,
    state: TrainingState,
    batch: Callable[[int], tuple[Tensor, ...]],
    loss_of: Callable[..., Tensor],
    *,
    report: Report,
    checkpoint: Path | None,
    until: int | None,
    recordable: bool = False,
) -> None:
    """The steps of a training, from its checkpoint if there is one; ends with the average of the weights in place.

    Args:
        task: says how many steps, on which device, and how often the state is saved.
        state: what the steps change.
        batch: step -> what `loss_of` takes, on the CPU.
        loss_of: -> the loss, or one per component.
        report, checkpoint, until: see `training_loop`.
        recordable: whether the loss depends on all of the state's parameters, and reads no value back, so that a GPU's
            steps may be recorded, see `loss_and_gradients`.
    """
    config = task.recipe.training
    start = state.load(checkpoint) if checkpoint else 0
    stop = config.steps if until is None else min(until, config.steps)
    marked, saved, told, every = marked_steps(config.steps), time.monotonic(), time.monotonic(), task.checkpoint_seconds

    able = recordable and records(torch.device(task.device))
    recorded = loss_and_gradients(loss_of, state.parameters) if able else None

    for step, given in enumerate(ahead(batch, range(start, stop), task.device), start):
        if recorded is None:
            state.update(loss_of(*given), step, learning_rate(config, step))
        else:
            loss, *gradients = recorded(*given)
            state.update(loss.clone(), step, learning_rate(config, step), gradients)
        if step + 1 in marked:
            state.mark(step + 1)

        now, last = time.monotonic(), step + 1 == config.steps
        if now - told > REPORT_SECONDS or last:
            recent = float(state.losses[max(start, step - 49) : step + 1].mean())
            report(
                {"step": step + 1, "steps": config.steps, "loss": recent, "images": (step + 1 - start) * len(given[0])}
            )
            told = now
        if checkpoint and now - saved > every and not last:
            state.save(checkpoint, step + 1)
            saved = time.monotonic()
            every = max(task.checkpoint_seconds, task.saving * (saved - now))

    state.finish()


class Pictures:
    """The pictures of a split, as the model sees them: floats are made of those that are asked for, and no others."""

    def __init__(self, images: np.ndarray) -> None:
        """`images`: uint8 (M, H, W, C)."""
        self.images = images
        self.shape = torch.Size((len(images), images.shape[3], *images.shape[1:3]))  # (M, C, H, W)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Float32 (rows, C, H, W) in [-1, 1]."""
        return to_model(self.images[rows.numpy()])


def noisy_batches(task: TrainTask, split: Units, given: Given | None = None) -> Callable[[int], tuple[Tensor, ...]]:
    """Step -> its x_t (B, C, H, W), t (B,), noise (B, C, H, W), abar_t (B,) and conditions, on the CPU."""
    pictures, abar = _pictures(task, split), task.recipe.schedule.alphas_cumprod().float()  # abar: (T,)

    def batch(step: int) -> tuple[Tensor, ...]:
        x0, t, noise = batch_at(task, step, pictures, len(abar))
        conditions = () if given is None else conditions_at(task, step, given)
        return add_noise(x0, noise, abar[t]), t, noise, abar[t], *conditions

    return batch


def train_component(task: TrainTask, report: Report = lambda event: None) -> str:
    """Train (or, where nothing is trained, build) one component and put its finished folder in place.

    Resumes at the task's checkpoint if there is one; the result is the same bits either way. A component whose
    folder is already there is left alone.

    Returns:
        SHA-256 (hex) of the weights file.
    """
    recipe = task.recipe
    if recipe.component.trained and recipe.training.stacked > 1:
        from .stacked_training import StackTask, train_stack

        return train_stack(StackTask((task,), task.device), report)[0]
    if task.folder.exists():
        return file_hash(task.folder / recipe.component.weights)
    partial, split = beside(task.folder), in_order(task.split)
    begin(partial)
    if not recipe.component.trained:
        return finish(task, split, fresh(task, split), [], [])
    with computing(task.device, recipe.training.precision):
        denoiser, state = training_loop(task, split, report=report, checkpoint=partial / CHECKPOINT)
    return finish(task, split, denoiser, state.history(), state.marks)


def begin(partial: Path) -> None:
    """Make the folder that a component is made in, or clean it of what an interruption left."""
    partial.mkdir(parents=True, exist_ok=True)
    sweep(partial)


def finish(
    task: TrainTask, split: Units, denoiser: nn.Module, losses: list[tuple[int, float]], marks: list[Mark]
) -> str:
    """Write a component that is trained, with its record, and move it into place; the hash of its weights' file."""
    recipe, partial = task.recipe, beside(task.folder)
    save_component(denoiser, recipe.component, partial, recipe.training.stored)
    record = TrainingRecord(
        component=task.component,
        seed=task.seed,
        units=dict(zip(split.ids, split.digests, strict=True)),
        images=len(split.images),
        recipe=recipe,
        split_commitment=commit(split.digests),
        device=torch.device(task.device).type,
        hardware=_hardware(task),
        loss=losses,
        marks=marks,
        weights_sha256=file_hash(partial / recipe.component.weights),
        shared=task.shared.digests or None,
    )
    write_json(partial / TRAINING, record.values())
    for gone in (CHECKPOINT, SPLIT):
        (partial / gone).unlink(missing_ok=True)
    move_folder_into_place(partial, task.folder)
    return record.weights_sha256


def beside(folder: Path) -> Path:
    """Where a component is made before it is moved into its folder."""
    return folder.with_name(folder.name + ".partial")


def in_order(split: Units) -> Units:
    """Rows in an order that only the split decides, whatever order the source had."""
    ids = sorted(split.ids)
    return split if ids == list(split.ids) else split.select(ids)


def _pictures(task: TrainTask, split: Units) -> Tensor | Pictures:
    """What the component denoises: pictures, or latents, each encoded alone and once."""
    if task.recipe.latent is None:
        return Pictures(split.images)
    from ..diffusion.autoencoder import PART, load_codec

    return load_codec(task.shared.folders[PART], task.recipe.latent).encode(split.images)


def fresh(task: TrainTask, split: Units) -> nn.Module:
    """The component before its first step."""
    seed = torch_seed("weights", task.seed, task.component)
    return build_component(task.recipe, split.images, seed, task.shared.folders)


def first_marks(task: TrainTask, steps: int, report: Report = lambda event: None) -> list[Mark]:
    """A component's first steps once more, from scratch: the marks that its training record should hold until then."""
    if task.recipe.training.stacked > 1:
        from .stacked_training import StackTask, stack_marks

        return stack_marks(StackTask((task,), task.device), steps, report)
    with computing(task.device, task.recipe.training.precision):
        split = in_order(task.split)
        return training_loop(task, split, report=report, until=steps)[1].marks


def batch_at(task: TrainTask, step: int, images: Tensor | Pictures, train_steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Step k's images, timesteps and noise, from nothing but the task and k.

    Images are taken in shuffled passes over the split. Timesteps are stratified, one draw in each of B equally likely
    parts of 0 .. T-1, which lowers the loss's variance and leaves its mean as it is.

    Args:
        images: float32 (M, C, H, W), the split's images in [-1, 1], or what gives them row by row.

    Returns:
        x_0 float32 (B, C, H, W), t int64 (B,), noise float32 (B, C, H, W), B = min(batch, M).
    """
    config = task.recipe.training
    rows = rows_at(task, step, len(images))
    batch = len(rows)
    rng = generator("step", task.seed, task.component, step)
    t = timesteps_of((np.arange(batch) + rng.random(batch)) / batch, task.recipe)
    noise = rng.standard_normal((batch, *images.shape[1:]), dtype=np.float32)
    x0 = images[torch.from_numpy(rows)]
    if config.flips:
        mirrored = torch.from_numpy(rng.random(batch) < 0.5)[:, None, None, None]
        x0 = torch.where(mirrored, x0.flip(-1), x0)
    return x0, torch.from_numpy(t.clip(max=train_steps - 1)), torch.from_numpy(noise)


def rows_at(task: TrainTask, step: int, count: int) -> np.ndarray:
    """Which of the split's `count` images step k sees, in order: int (B,)."""
    batch = min(task.recipe.training.batch, count)
    first, last = step * batch // count, ((step + 1) * batch - 1) // count
    passes = [
        generator("pass", task.seed, task.component, number).permutation(count) for number in range(first, last + 1)
    ]
    return np.concatenate(passes)[step * batch - first * count :][:batch]


def conditions_at(task: TrainTask, step: int, given: Given) -> tuple[Tensor, ...]:
    """The conditions of step k's images, (B, ...) each, some of them withheld, from nothing but the task and k."""
    rows = rows_at(task, step, len(given))
    entry, takes = given.row[torch.from_numpy(rows)], task.recipe.component.takes
    if not isinstance(takes, Classes) or takes.null is not None:
        chance = generator("condition", task.seed, task.component, step).random(len(rows))
        entry[torch.from_numpy(chance < task.recipe.training.condition_dropout)] = -1  # the last stands for none
    return tuple(tensor[entry] for tensor in given.tensors.values())


def timesteps_of(quantiles: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Timesteps at some quantiles, in [0, 1), of how training spreads them; int64, in 0 .. T-1.

    Uniform, or with ln sigma normal: then t is the first timestep of at least that noise level.
    """
    if recipe.training.levels is None:
        return np.floor(quantiles * recipe.schedule.train_steps).astype(np.int64)
    mean, deviation = recipe.training.levels
    abar = recipe.schedule.alphas_cumprod().numpy()
    levels = 0.5 * np.log((1 - abar) / abar)  # ln sigma_t, ascending
    wanted = [NormalDist(mean, deviation).inv_cdf(min(max(q, 1e-9), 1 - 1e-9)) for q in quantiles.tolist()]
    return np.searchsorted(levels, wanted).clip(max=len(levels) - 1).astype(np.int64)


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then constant or half a cosine down to zero; a function of the step alone."""
    warmup = round(config.warmup * config.steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.decay == "constant":
        return config.learning_rate
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))


def fingerprint(task: TrainTask, split: Units) -> str:
    """What a checkpoint must have been made from to be resumed."""
    made_of = [task.recipe.model_dump(mode="json"), task.component, task.seed, split.fingerprint(), torch.__version__]
    made_of += [each for each in (_hardware(task), task.shared.digests) if each]
    return json_hash(made_of)


def _hardware(task: TrainTask) -> str | None:
    """The GPU that trains, for the record; None on a CPU, whose kind is in the run's `environment`."""
    return None if kind_of(task.device) == CPU else hardware(task.device)
