"""Pixels as networks see them, and back: the only two places where they are turned into each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import AblatableError

if TYPE_CHECKING:
    import torch


def to_model(images: np.ndarray) -> torch.Tensor:
    """As networks see it: uint8 `(..., H, W, C)` -> float32 `(..., C, H, W)` in [-1, 1], x / 127.5 - 1."""
    import torch

    if images.dtype != np.uint8:
        raise TypeError(f"to_model takes uint8 pixels, got {images.dtype}")
    pixels = torch.tensor(images).movedim(-1, -3)
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)


def to_images(x: torch.Tensor) -> np.ndarray:
    """The inverse of `to_model`: float `(..., C, H, W)` -> uint8 `(..., H, W, C)`.

    Clamped to [-1, 1], scaled, rounded half to even. `AblatableError` for NaN, which no pixel can show.
    """
    import torch

    x = x.detach().cpu()
    x = x if x.dtype == torch.float64 else x.float()
    if x.isnan().any():
        raise AblatableError(
            "a sample contains NaN: the model diverged; train with a smaller learning rate or more precision"
        )
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(pixels.movedim(-3, -1).numpy())
