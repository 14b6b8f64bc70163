"""The kind `ideal`: the closed-form optimal denoiser of its split. Nothing is trained; it is an exact reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from .kinds import Kind
from .recipe import IdealConfig
from .schedule import Schedule
from .tangents import push_through

LEAST = 4  # columns of a matrix product; with fewer, some processors add in an order that depends on a row's place


class IdealDenoiser(nn.Module):
    """The denoiser that minimises the training loss on a finite data set, in closed form.

    With data x^(j), x_t = sqrt(a) x_0 + sqrt(1-a) eps and a = abar_t, the posterior over the data is
    p(j | x_t) = softmax_j(-|x_t - sqrt(a) x^(j)|^2 / (2 (1-a))), the optimal prediction of x_0 is its mean, and
    eps = (x_t - sqrt(a) E[x_0 | x_t]) / sqrt(1-a).
    """

    def __init__(self, images: Tensor, schedule: Schedule, dtype: torch.dtype = torch.float32) -> None:
        """`images`: uint8 (M, C, H, W), the split. `dtype`: of the arithmetic; float64 for exact work."""
        super().__init__()
        self.images: Tensor
        self.abar: Tensor
        self.register_buffer("images", images)
        self.register_buffer("abar", schedule.alphas_cumprod(), persistent=False)
        self.dtype = dtype
        self._data: Tensor | None = None

    def _flat(self, device: torch.device) -> Tensor:
        if self._data is None or self._data.device != device:
            self._data = (self.images.to(device, self.dtype) / 127.5 - 1).flatten(1)
        return self._data

    def forward(self, x: Tensor, t: Tensor | int) -> Tensor:
        """Predicted noise, same shape and dtype as `x` (B, C, H, W)."""
        data = self._flat(x.device)  # (M, D)
        a = self.abar[t].to(self.dtype).reshape(-1, 1)  # (B, 1) or (1, 1)
        flat = x.flatten(1).to(self.dtype)
        # |x - sqrt(a) d|^2 = |x|^2 - 2 sqrt(a) <x, d> + a |d|^2, of which |x|^2 does not depend on the datum
        inner = (flat @ functional.pad(data, (0, 0, 0, max(0, LEAST - len(data)))).T)[:, : len(data)]
        logits = (a.sqrt() * inner - a / 2 * data.square().sum(1)) / (1 - a)  # (B, M)
        mean = logits.softmax(dim=1) @ data
        return ((flat - a.sqrt() * mean) / (1 - a).sqrt()).reshape(x.shape).to(x.dtype)

    def tangent(self, x: Tensor, t: int, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Its prediction and its derivatives along some directions, see `tangents.push`."""
        return push_through(lambda row: self(row[None], t)[0], x, directions)


def _build(config: IdealConfig, pixels: np.ndarray, seed: int, schedule: Schedule) -> IdealDenoiser:
    images = torch.tensor(pixels).permute(0, 3, 1, 2).contiguous()
    return IdealDenoiser(images, schedule, getattr(torch, config.dtype))


def _save(denoiser: IdealDenoiser, folder: Path, stored: str) -> None:
    save_file({"images": denoiser.images}, folder / IdealConfig.weights)


def _load(folder: Path, config: IdealConfig, schedule: Schedule) -> IdealDenoiser:
    return IdealDenoiser(load_file(folder / config.weights)["images"], schedule, getattr(torch, config.dtype))


KIND = Kind(IdealConfig, IdealDenoiser, build=_build, save=_save, load=_load)
