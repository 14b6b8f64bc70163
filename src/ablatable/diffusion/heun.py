"""Heun's sampler: second order, two calls of the denoiser per step (Karras et al. 2022, algorithm 1, without churn).

With sigma = sqrt((1 - abar) / abar), the picture y = x_t / sqrt(abar_t) follows dy / dsigma = eps(x_t, t), the
predicted noise. A step goes from sigma to the next lower sigma' along the noise predicted at sigma, has the noise
predicted there, too, and goes along the mean of both instead. The last step, to sigma = 0, has no second prediction.
Whatever denoiser is sampled is called at both, so an ablated ensemble is the mean over its survivors at both.

Noise levels are those of Karras et al. (eq. 5, rho = 7), each moved to the nearest that the schedule has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from .schedule import Schedule

RHO = 7  # how much more steps are spent at low noise
HIGHEST = 80.0  # sigma of the first step, if the schedule goes so far: above, there is nothing but noise


def heun_sampler(schedule: Schedule, steps: int) -> tuple[list[int], Callable[[Tensor, int, Tensor, Tensor], Tensor]]:
    """The timesteps at which the denoiser is asked, 2 steps - 1 of them, and what follows each; see `make_sampler`.

    What follows is linear in predictions and pictures. It remembers half a step, so it serves one trajectory.
    """
    abar = schedule.alphas_cumprod().numpy()
    sigma = np.sqrt((1 - abar) / np.where(abar > 0, abar, np.nan))
    first, *others = heun_timesteps(sigma, steps)
    visits = [first, *(t for t in others for _ in range(2))]
    half: list[tuple[Tensor, Tensor, int]] = []  # y before the step, its predicted noise, and where that was

    def step_from(predicted: Tensor, t: int, x: Tensor, z: Tensor) -> Tensor:
        if half:
            y, before, start = half.pop()
            return (y + (sigma[t] - sigma[start]) / 2 * (before + predicted)) * float(abar[t] ** 0.5)
        y, after = x / float(abar[t] ** 0.5), following[t]
        if after is None:
            return y - float(sigma[t]) * predicted
        half.append((y, predicted, t))
        return (y + (sigma[after] - sigma[t]) * predicted) * float(abar[after] ** 0.5)

    following = dict(zip([first, *others], [*others, None], strict=True))
    return visits, step_from


def heun_timesteps(sigma: np.ndarray, steps: int) -> list[int]:
    """`steps` different timesteps, highest first; `sigma` (T,) ascends and may be NaN (infinite) at its end.

    Spread as sigma^(1/rho) is, from the lowest sigma to 80, or the highest there is. Where the schedule has too few
    levels, neighbours are taken.
    """
    known = np.log(sigma[np.isfinite(sigma)])
    lowest, highest = np.exp(known[0]), min(HIGHEST, np.exp(known[-1]))
    levels = np.linspace(lowest ** (1 / RHO), highest ** (1 / RHO), steps) ** RHO if steps > 1 else [highest]
    nearest = np.abs(known[None] - np.log(levels)[:, None]).argmin(axis=1)
    place = np.arange(steps)
    apart = np.maximum.accumulate(nearest - place) + place  # each at least one above the one before
    return np.minimum(apart, len(sigma) - steps + place)[::-1].tolist()
