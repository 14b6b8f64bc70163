"""The noise schedule of a diffusion model: how much of the picture is left at step t."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

if TYPE_CHECKING:
    import torch


class Schedule(BaseModel):
    """The variance beta_t of the noise that step t adds (paper: 1000 steps, linear from 1e-4 to 0.02; Ho et al. 2020).

    With alpha_t = 1 - beta_t and abar_t = prod_{s<=t} alpha_s, the noisy picture is
    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps.

    Attributes:
        train_steps: T, the number of steps.
        beta_start, beta_end: beta_0 and beta_{T-1}; `squaredcos_cap_v2` and given betas do without.
        curve: how beta_t runs between them, in diffusers' names (`beta_schedule`): `linear`; `scaled_linear`, whose
            square root is linear (latent diffusion); `squaredcos_cap_v2`, the cosine of Nichol & Dhariwal 2021
            (eq. 17), capped at 0.999; `sigmoid` of a line from -6 to 6 (GeoDiff).
        trained_betas: beta_t itself, T numbers; then the other settings have no effect.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train_steps: int = Field(default=1000, ge=1)
    beta_start: float = Field(default=1e-4, gt=0, lt=1)
    beta_end: float = Field(default=0.02, gt=0, lt=1)
    curve: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "linear"
    trained_betas: tuple[float, ...] | None = None

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = handler(self)  # settings that came later are left out at their defaults: records keep their hashes
        later = {"curve": "linear", "trained_betas": None}
        return {name: value for name, value in values.items() if name not in later or value != later[name]}

    @model_validator(mode="after")
    def _check(self) -> Schedule:
        betas = self.trained_betas
        if betas is not None and (len(betas) != self.train_steps or not all(0 < beta < 1 for beta in betas)):
            raise ValueError(f"trained_betas must be {self.train_steps} numbers between 0 and 1, one per step")
        return self

    def betas(self) -> np.ndarray:
        """beta_t for t = 0 .. train_steps - 1; float64 (train_steps,)."""
        first, last, steps = self.beta_start, self.beta_end, self.train_steps
        if self.trained_betas is not None:
            return np.array(self.trained_betas, np.float64)
        if self.curve == "scaled_linear":
            return np.linspace(first**0.5, last**0.5, steps, dtype=np.float64) ** 2
        if self.curve == "sigmoid":
            return (last - first) / (1 + np.exp(-np.linspace(-6, 6, steps, dtype=np.float64))) + first
        if self.curve == "squaredcos_cap_v2":
            left = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
            return np.minimum(1 - left[1:] / left[:-1], 0.999)
        return np.linspace(first, last, steps, dtype=np.float64)

    def alphas_cumprod(self) -> torch.Tensor:
        """abar_t for t = 0 .. train_steps - 1; float64 (train_steps,)."""
        import torch

        return torch.from_numpy(np.cumprod(1.0 - self.betas()))

    def for_diffusers(self) -> dict[str, Any]:
        """Arguments that give a diffusers scheduler this schedule."""
        known = self.trained_betas is None and self.curve != "sigmoid"  # which only the DDPM scheduler knows
        return {
            "num_train_timesteps": self.train_steps,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "beta_schedule": self.curve if known else "linear",
            **({} if known else {"trained_betas": self.betas().tolist()}),
        }

    def words(self) -> str:
        """In words, for people."""
        if self.trained_betas is not None:
            return f"{self.train_steps} steps, their β given one by one"
        if self.curve == "squaredcos_cap_v2":
            return f"{self.train_steps} steps, cosine"
        curve = "" if self.curve == "linear" else f", {self.curve.replace('_', ' ')}"
        return f"{self.train_steps} steps, β {self.beta_start:g} to {self.beta_end:g}{curve}"


def add_noise(x0: torch.Tensor, noise: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    """The noisy picture x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (Ho et al. 2020, eq. 4).

    Args:
        x0, noise: float (..., C, H, W); their shapes broadcast.
        abar: abar_t in their dtype, one for all rows () or one per row (rows,).
    """
    a = abar.reshape(*abar.shape, 1, 1, 1) if abar.ndim else abar
    return a.sqrt() * x0 + (1 - a).sqrt() * noise
