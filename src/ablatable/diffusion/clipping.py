"""Clipping: at every sampling step, the image that a noise prediction implies is brought into the range of images.

With a = abar_t, a prediction eps of the noise in x_t implies the image x_0 = (x_t - sqrt(1-a) eps) / sqrt(a). At a high
noise level sqrt((1-a)/a) is large (157 at the first of 1000 linear steps), so a small error of eps moves x_0 far out
of [-1, 1], and the sampler carries that on as a wrong colour of a whole area. Clipping x_0 and going on with the noise
that belongs to the clipped image is what Ho et al. 2020 (their published code) do at every step.

An ensemble is clipped after the mean over its survivors: clipping is part of the sampler, and no component knows of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from .schedule import Schedule


def scheduler_abar(schedule: Schedule) -> list[float]:
    """abar_t as diffusers' schedulers have it, in float32, so that the image they find is the clipped one."""
    if schedule.curve == "linear" and schedule.trained_betas is None:
        betas = torch.linspace(schedule.beta_start, schedule.beta_end, schedule.train_steps, dtype=torch.float32)
    else:
        betas = torch.from_numpy(schedule.betas()).float()
    return torch.cumprod(1 - betas, dim=0).tolist()


def clip_noise(predicted: Tensor, x: Tensor, abar: float) -> Tensor:
    """The prediction whose image is the clipped image of `predicted`; pixels in range keep their bits.

    Equal to a diffusers scheduler's step with `clip_sample=True` (for DDIM also `use_clipped_model_output=True`; for
    DPM-Solver++ `thresholding=True, sample_max_value=1`).

    Args:
        predicted: predicted noise, float (..., C, H, W).
        x: the noisy image x_t, likewise.
        abar: abar_t, above 0 and below 1.
    """
    image = (x - (1 - abar) ** 0.5 * predicted) / abar**0.5
    clipped = (x - abar**0.5 * image.clamp(-1, 1)) / (1 - abar) ** 0.5
    return torch.where(image.abs() > 1, clipped, predicted)


def clip_noise_along(along: Tensor, dx: Tensor, predicted: Tensor, x: Tensor, abar: float) -> Tensor:
    """Forward derivative of `clip_noise`, a piecewise linear function, at (`predicted`, `x`) along (`along`, `dx`).

    Where the image is clipped it does not move, so the noise moves with x_t alone: d eps = dx / sqrt(1-a). On the edge
    itself (an image of exactly 1 or -1) this is the derivative from inside.

    Args:
        along, dx: how the prediction and x_t move, float (K, C, H, W), one row per direction.
        predicted, x: where, float (1, C, H, W).
        abar: abar_t.
    """
    image = (x - (1 - abar) ** 0.5 * predicted) / abar**0.5
    return torch.where(image.abs() > 1, dx / (1 - abar) ** 0.5, along)
