"""The noise schedule of a diffusion model: how much of the picture is left at step t."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import torch


class Schedule(BaseModel):
    """Linear betas over `train_steps` steps (paper: 1000 steps, 1e-4 .. 0.02; Ho et al. 2020).

    With alpha_t = 1 - beta_t and abar_t = prod_{s<=t} alpha_s, the noisy picture is
    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_steps: int = Field(default=1000, ge=1)
    beta_start: float = Field(default=1e-4, gt=0, lt=1)
    beta_end: float = Field(default=0.02, gt=0, lt=1)

    def alphas_cumprod(self) -> torch.Tensor:
        """abar_t for t = 0 .. train_steps - 1; float64 (train_steps,)."""
        import torch

        betas = np.linspace(self.beta_start, self.beta_end, self.train_steps, dtype=np.float64)
        return torch.from_numpy(np.cumprod(1.0 - betas))


def add_noise(x0: torch.Tensor, noise: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    """The noisy picture x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (Ho et al. 2020, eq. 4).

    Args:
        x0, noise: float (..., C, H, W); their shapes broadcast.
        abar: abar_t in their dtype, one for all rows () or one per row (rows,).
    """
    a = abar.reshape(*abar.shape, 1, 1, 1) if abar.ndim else abar
    return a.sqrt() * x0 + (1 - a).sqrt() * noise
