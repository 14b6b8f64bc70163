"""Train one component on its split: noise prediction, deterministic, stoppable at any step and resumable bit for bit.

What component i sees at step k is a pure function of (ensemble seed, i, k, its split). This module receives the split
and nothing else, so nothing outside it can reach a component: that is the non-interference the whole method rests on.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from .._runtime.devices import one_thread
from .._runtime.files import file_hash, json_hash, move_folder_into_place, sweep, write_atomic, write_json
from .._runtime.merkle import commit
from .._runtime.rng import generator, torch_seed
from ..data.units import Units, to_model
from ..diffusion.component import WEIGHTS, IdealDenoiser, UNetDenoiser, build, save_component
from ..diffusion.recipe import Recipe, TrainingConfig, UNetConfig

Report = Callable[[dict], None]
"""Receives {"step", "steps", "loss", "images"} now and then while a component trains."""

LOSS_POINTS = 200  # length of the loss history kept with a component

Mark = list
"""[step, SHA-256 (hex) of the weights and their average after so many steps, that step's loss]."""


@dataclass(frozen=True)
class TrainTask:
    """All that training one component may depend on, and where to put it."""

    split: Units
    recipe: Recipe
    component: int
    seed: int
    folder: Path  # the finished component's folder; work happens beside it
    device: str = "cpu"
    checkpoint_seconds: float = 20.0


def batch_at(task: TrainTask, step: int, images: Tensor, train_steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Step k's images, timesteps and noise, from nothing but the task and k.

    Images are taken in shuffled passes over the split. Timesteps are stratified, one draw in each of B equally likely
    parts of 0 .. T-1, which lowers the loss's variance and leaves its mean as it is.

    Args:
        images: float32 (M, C, H, W), the split's images in [-1, 1].

    Returns:
        x_0 float32 (B, C, H, W), t int64 (B,), noise float32 (B, C, H, W), B = min(batch, M).
    """
    config, count = task.recipe.training, len(images)
    batch = min(config.batch, count)
    first, last = step * batch // count, ((step + 1) * batch - 1) // count
    passes = [
        generator("pass", task.seed, task.component, number).permutation(count) for number in range(first, last + 1)
    ]
    rows = np.concatenate(passes)[step * batch - first * count :][:batch]

    rng = generator("step", task.seed, task.component, step)
    t = timesteps_of((np.arange(batch) + rng.random(batch)) / batch, task.recipe)
    noise = rng.standard_normal((batch, *images.shape[1:]), dtype=np.float32)
    x0 = images[torch.from_numpy(rows)]
    if config.flips:
        mirrored = torch.from_numpy(rng.random(batch) < 0.5)[:, None, None, None]
        x0 = torch.where(mirrored, x0.flip(-1), x0)
    return x0, torch.from_numpy(t.clip(max=train_steps - 1)), torch.from_numpy(noise)


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


def train_component(task: TrainTask, report: Report = lambda event: None) -> str:
    """Train (or, if ideal, simply build) one component and put its finished folder in place.

    Goes on from the task's checkpoint if there is one; the result is the same bits either way. A component whose
    folder is already there is left alone.

    Returns:
        SHA-256 (hex) of the weights file.
    """
    split, recipe = task.split, task.recipe
    weights = task.folder / WEIGHTS[recipe.component.kind]
    if task.folder.exists():
        return file_hash(weights)
    partial = task.folder.with_name(task.folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    sweep(partial)
    # rows in an order that only the split decides, whatever order the source had
    split = split.select(sorted(split.ids))
    if isinstance(recipe.component, UNetConfig):
        with one_thread():
            denoiser, losses, marks = _fit(task, split, report, partial / "checkpoint")
    else:
        dtype = getattr(torch, recipe.component.dtype)
        pixels = torch.tensor(split.images).permute(0, 3, 1, 2).contiguous()
        denoiser, losses, marks = IdealDenoiser(pixels, recipe.schedule, dtype), [], []
    save_component(denoiser, partial, recipe.training.stored)
    write_json(
        partial / "training.json",
        {
            "component": task.component,
            "seed": task.seed,
            "units": dict(zip(split.ids, split.digests, strict=True)),
            "images": len(split.images),
            "recipe": recipe.model_dump(mode="json"),
            "split_commitment": commit(split.digests),
            "device": torch.device(task.device).type,
            "loss": losses,
            "marks": marks,
            "weights_sha256": file_hash(partial / weights.name),
        },
    )
    (partial / "checkpoint").unlink(missing_ok=True)
    move_folder_into_place(partial, task.folder)
    return file_hash(weights)


def first_marks(task: TrainTask, steps: int, report: Report = lambda event: None) -> list[Mark]:
    """A component's first steps once more, from scratch: the marks that its training record should hold until then."""
    with one_thread():
        return _fit(task, task.split.select(sorted(task.split.ids)), report, until=steps)[2]


def marked_steps(steps: int) -> set[int]:
    """The steps that leave a mark in the training record: powers of two, and the last."""
    return {1 << k for k in range(steps.bit_length())} | {steps}


def _fit(
    task: TrainTask, split: Units, report: Report, checkpoint: Path | None = None, until: int | None = None
) -> tuple[UNetDenoiser, list[list[float]], list[Mark]]:
    """The training loop, of which `until` does but the first steps.

    Returns the averaged model (on the CPU), the loss history as [step, mean loss] pairs, and the marks.
    """
    recipe, config, device = task.recipe, task.recipe.training, torch.device(task.device)
    assert isinstance(recipe.component, UNetConfig)
    images = to_model(split.images)  # (M, C, H, W)
    model = build(recipe.component, split.shape, torch_seed("weights", task.seed, task.component), recipe.schedule)
    model = model.to(device).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer_class = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    optimizer = optimizer_class(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    ema = [p.detach().clone() for p in parameters]
    abar = recipe.schedule.alphas_cumprod().float()
    losses = np.zeros(config.steps, dtype=np.float32)
    state = TrainingState(parameters, ema, optimizer, losses, fingerprint=_fingerprint(task, split))
    start = state.load(checkpoint) if checkpoint else 0
    marked = marked_steps(config.steps)

    saved = told = time.monotonic()
    for step in range(start, config.steps if until is None else min(until, config.steps)):
        x0, t, noise = batch_at(task, step, images, recipe.schedule.train_steps)
        a = abar[t][:, None, None, None]
        x_t = a.sqrt() * x0 + (1 - a).sqrt() * noise
        x_t, t, noise = x_t.to(device), t.to(device), noise.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            predicted = model(x_t, t)
        loss = _loss(recipe.component, predicted.float(), noise, a.to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.step()
        with torch.no_grad():
            # early on the average follows the weights, or it would remember their random start
            decay = min(config.ema, (1 + step) / (10 + step))
            for average, parameter in zip(ema, parameters, strict=True):
                average.lerp_(parameter, 1 - decay)
        losses[step] = loss.item()
        if step + 1 in marked:
            state.mark(step + 1)

        now = time.monotonic()
        if now - told > 0.5 or step + 1 == config.steps:
            recent = float(losses[max(start, step - 49) : step + 1].mean())
            report({"step": step + 1, "steps": config.steps, "loss": recent, "images": (step + 1 - start) * len(x0)})
            told = now
        if checkpoint and now - saved > task.checkpoint_seconds and step + 1 < config.steps:
            state.save(checkpoint, step + 1)
            saved = time.monotonic()

    with torch.no_grad():
        for parameter, average in zip(parameters, ema, strict=True):
            parameter.copy_(average)
    return model.cpu().eval(), _history(losses), state.marks


def _loss(component: UNetConfig, predicted: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    """Mean squared error of what the network computes: an error e of the velocity is one of sqrt(a) e of the noise."""
    if component.prediction == "velocity":
        return ((predicted - noise).square() / abar).mean()
    return nn.functional.mse_loss(predicted, noise)


def _history(losses: np.ndarray) -> list[list[float]]:
    """Loss history thinned to at most LOSS_POINTS means over equal stretches: [last step of the stretch, mean]."""
    stretches = np.array_split(losses.astype(np.float64), min(LOSS_POINTS, len(losses)))
    ends = np.cumsum([len(stretch) for stretch in stretches])
    return [[int(end), round(float(stretch.mean()), 6)] for end, stretch in zip(ends, stretches, strict=True)]


def _fingerprint(task: TrainTask, split: Units) -> str:
    """What a checkpoint must have been made from to be worth going on from."""
    return json_hash(
        [task.recipe.model_dump(mode="json"), task.component, task.seed, split.fingerprint(), torch.__version__]
    )


class TrainingState:
    """Everything that changes while a component trains, to and from one checksummed file."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        ema: list[Tensor],
        optimizer: torch.optim.Optimizer,
        losses: np.ndarray,
        fingerprint: str,
    ) -> None:
        self.parameters, self.ema, self.optimizer, self.losses, self.fingerprint = (
            parameters,
            ema,
            optimizer,
            losses,
            fingerprint,
        )
        self.marks: list[Mark] = []

    def mark(self, step: int) -> None:
        """Record what the training has come to after `step` steps, for whoever repeats it."""
        digest = hashlib.sha256()
        for tensor in (*self.parameters, *self.ema):
            digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
        self.marks.append([step, digest.hexdigest(), round(float(self.losses[step - 1]), 6)])

    def save(self, path: Path, step: int) -> None:
        """Write the state after `step` steps; the file ends with its own SHA-256."""
        tensors = {"loss": torch.from_numpy(self.losses)}
        for k, (parameter, average) in enumerate(zip(self.parameters, self.ema, strict=True)):
            moments = self.optimizer.state[parameter]
            tensors[f"{k}.weight"], tensors[f"{k}.ema"] = parameter.detach(), average
            tensors[f"{k}.first"], tensors[f"{k}.second"] = moments["exp_avg"], moments["exp_avg_sq"]
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"step": str(step), "fingerprint": self.fingerprint, "marks": json.dumps(self.marks)}
        payload = save_bytes(tensors, metadata=metadata)
        write_atomic(path, payload + hashlib.sha256(payload).digest())

    def load(self, path: Path) -> int:
        """Restore the state and return the step to go on from: 0 if there is no checkpoint that fits and is whole."""
        if not path.exists():
            return 0
        content = path.read_bytes()
        payload, digest = content[:-32], content[-32:]
        if hashlib.sha256(payload).digest() != digest:
            return 0
        header = _safetensors_metadata(payload)
        if header.get("fingerprint") != self.fingerprint:
            return 0
        tensors, step = load_bytes(payload), int(header["step"])
        self.marks = json.loads(header["marks"])
        self.losses[:] = tensors["loss"].numpy()
        with torch.no_grad():
            for k, (parameter, average) in enumerate(zip(self.parameters, self.ema, strict=True)):
                parameter.copy_(tensors[f"{k}.weight"])
                average.copy_(tensors[f"{k}.ema"])
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(step), device=parameter.device),
                    "exp_avg": tensors[f"{k}.first"].to(parameter.device),
                    "exp_avg_sq": tensors[f"{k}.second"].to(parameter.device),
                }
        return step


def _safetensors_metadata(payload: bytes) -> dict[str, str]:
    length = int.from_bytes(payload[:8], "little")
    return json.loads(payload[8 : 8 + length]).get("__metadata__", {})
