"""Everything that changes while a component trains, kept in one checksummed file so that training can resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from .._runtime.files import write_atomic
from ..diffusion.recipe import TrainingConfig
from .records import Mark

LOSS_POINTS = 200  # length of the loss history kept with a component


def marked_steps(steps: int) -> set[int]:
    """The steps that leave a mark in the training record: powers of two, and the last."""
    return {1 << k for k in range(steps.bit_length())} | {steps}


class TrainingState:
    """The weights, their running average, the optimiser's moments, the losses and the marks.

    Attributes:
        parameters: the weights that are trained.
        ema: their running average, which is what is kept in the end.
        optimizer: Adam or AdamW.
        marks: what the training had come to at some steps, see `Mark`.
    """

    shape: tuple[int, ...] = ()  # of a step's loss

    def __init__(self, parameters: list[nn.Parameter], config: TrainingConfig, fingerprint: str) -> None:
        """`fingerprint`: what a checkpoint must have been made from to be resumed."""
        self.parameters, self.config, self.fingerprint = parameters, config, fingerprint
        self.ema = [parameter.detach().clone() for parameter in parameters]
        optimizer_class = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = optimizer_class(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self._losses = np.zeros((config.steps, *self.shape), dtype=np.float32)
        self._late: dict[int, Tensor] = {}  # losses by step that are on the device still: reading one waits for it
        self.marks: list[Mark] = []

    def update(self, loss: Tensor, step: int, learning_rate: float, gradients: Sequence[Tensor] | None = None) -> None:
        """One step of the optimiser, and of the running average; `gradients`: the loss's, if they are known."""
        self.optimizer.zero_grad()
        if gradients is None:
            loss.sum().backward() if self.shape else loss.backward()
        else:
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient
        self.clip()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        with torch.no_grad():
            # early on the average follows the weights, or it would remember their random start
            decay = min(self.config.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.ema, list[Tensor](self.parameters), 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        self._late[step] = loss.detach()

    def clip(self) -> None:
        """Shorten the gradient to the longest that is allowed."""
        nn.utils.clip_grad_norm_(self.parameters, self.config.clip)

    @property
    def losses(self) -> np.ndarray:
        """float32 (steps,), of the steps done."""
        if self._late:
            self._losses[list(self._late)] = torch.stack(list(self._late.values())).cpu().numpy()
            self._late.clear()
        return self._losses

    def mark(self, step: int) -> None:
        """Record what the training has come to after `step` steps, for whoever repeats it."""
        digest = hashlib.sha256()
        for tensor in (*self.parameters, *self.ema):
            digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
        self.marks.append((step, digest.hexdigest(), round(float(self.losses[step - 1]), 6)))

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
        self.marks = [(step, digest, loss) for step, digest, loss in json.loads(header["marks"])]
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

    def finish(self) -> None:
        """Put the running average in place of the weights."""
        with torch.no_grad():
            for parameter, average in zip(self.parameters, self.ema, strict=True):
                parameter.copy_(average)

    def history(self) -> list[tuple[int, float]]:
        """Losses, thinned to at most LOSS_POINTS means over equal stretches: (last step of the stretch, mean)."""
        return self.thinned(self.losses)

    @staticmethod
    def thinned(losses: np.ndarray) -> list[tuple[int, float]]:
        """`history` of some losses, (steps,)."""
        stretches = np.array_split(losses.astype(np.float64), min(LOSS_POINTS, len(losses)))
        ends = np.cumsum([len(stretch) for stretch in stretches])
        return [(int(end), round(float(stretch.mean()), 6)) for end, stretch in zip(ends, stretches, strict=True)]


def _safetensors_metadata(payload: bytes) -> dict[str, str]:
    length = int.from_bytes(payload[:8], "little")
    return json.loads(payload[8 : 8 + length]).get("__metadata__", {})
