"""Noise trajectories and the sampling loop. A sampler knows a denoiser and a trajectory, and nothing of ablation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .._runtime.devices import CPU
from .._runtime.rng import generator
from ..errors import SettingsError
from .ahead import ahead
from .clipping import clip_noise, scheduler_abar
from .heun import heun_sampler
from .sampling_settings import Sampling
from .schedule import Schedule

if TYPE_CHECKING:
    from .autoencoder import Codec
    from .denoiser import Denoiser


KEPT_SEEDS, KEPT_BYTES = 64, 2**20  # of how many seeds noise is kept, and how much of each, for the next block


class Noise(Protocol):
    """What a sampler draws from: `noise[0]` is the start x_T, `noise[k]` the noise of step k; (B, C, H, W) each."""

    def __getitem__(self, step: int, /) -> Tensor: ...


class Trajectories:
    """The noise trajectories of some seeds, made step by step as they are needed.

    Row b's noise at step k depends on (row b's seed, k) alone: not on its neighbours, the number of steps or anything
    else.
    """

    def __init__(
        self,
        seeds: Iterable[int],
        shape: tuple[int, int, int],
        *,
        rows: np.ndarray | None = None,
        device: str = CPU,
    ) -> None:
        """Make nothing yet.

        Args:
            seeds: all different.
            shape: (C, H, W) of a sample.
            rows: int (B,), the place of each row's seed among `seeds`, so that many ablations share one noise; None =
                one row per seed.
            device: where the noise is wanted. It is drawn on the CPU in any case.
        """
        self.seeds, self.shape, self.device = [int(s) for s in seeds], tuple(shape), device
        self.rows = None if rows is None else torch.from_numpy(np.asarray(rows, np.int64)).to(device)

    def __getitem__(self, step: int, /) -> Tensor:
        """Noise of one step, float32 (B, C, H, W)."""
        return self._placed(self._made(step).to(self.device))

    def ahead(self, steps: Sequence[int]) -> Iterator[Tensor]:
        """The noise of these steps, made and sent to a GPU while it computes; see `ahead`."""
        for (sent,) in ahead(lambda step: (self._made(step),), steps, self.device):
            yield self._placed(sent)

    def _made(self, step: int) -> Tensor:
        """Of every seed, on the CPU."""
        return torch.from_numpy(np.stack([_noise_of(seed, self.shape, step) for seed in self.seeds]))

    def _placed(self, noise: Tensor) -> Tensor:
        return noise if self.rows is None else noise[self.rows]


def _noise_of(seed: int, shape: tuple[int, ...], step: int) -> np.ndarray:
    """One seed's noise at one step, float32 `shape`; the first steps of the last seeds are kept in memory."""
    kept = _steps_of(seed, shape)
    if (noise := kept.get(step)) is None:
        noise = generator("noise", seed, step).standard_normal(shape, dtype=np.float32)
        if (len(kept) + 1) * noise.nbytes <= KEPT_BYTES:
            kept[step] = noise
    return noise


@lru_cache(maxsize=KEPT_SEEDS)
def _steps_of(seed: int, shape: tuple[int, ...]) -> dict[int, np.ndarray]:
    return {}


def noise_trajectory(seeds: Iterable[int], steps: int, shape: tuple[int, int, int]) -> Tensor:
    """All the randomness of some samples: float32 (steps + 1, seeds, C, H, W).

    [0] is the start x_T and [k] the noise of step k (of which the last is never used: the last step adds none).
    """
    trajectories = Trajectories(seeds, shape)
    return torch.stack([trajectories[step] for step in range(steps + 1)])


Step = Callable[[Tensor, int, Tensor, Tensor], Tensor]
"""(predicted noise, t, x_t, this step's noise) -> the next x."""


def sample(
    denoiser: Denoiser,
    noise: Noise,
    *,
    schedule: Schedule | None = None,
    sampling: Sampling | None = None,
    on_step: Callable[[int], None] = lambda step: None,
    codec: Codec | None = None,
) -> Tensor:
    """Draw pictures: follow `denoiser` from `noise[0]` down to t = 0.

    Args:
        denoiser: maps (x_t (B, C, H, W), t) to the predicted noise.
        noise: the trajectories; `noise[k]` is asked for only by samplers that add noise.
        schedule: the noise schedule that the denoiser was trained with; None = the default one.
        sampling: the sampler and its number of steps; `heun` calls the denoiser twice at all but the last.
        on_step: called with the number of steps done, after each.
        codec: between latents, which the denoiser then knows, and pictures. Latents have no range: nothing is clipped.

    Returns:
        float (B, C, H, W), about [-1, 1], and within it only if `sampling.clip`; dtype and device of `noise[0]`.

    Raises:
        SettingsError: unknown sampler, or more steps than the schedule has.
    """
    sampling = sampling or Sampling()
    if codec is not None:
        sampling = replace(sampling, clip=False)
    timesteps, step_from = make_sampler(sampling, schedule or Schedule())
    adds = sampling.sampler == "ddpm"  # the others add none
    steps = range(len(timesteps) + 1) if adds else range(1)
    noises = noise.ahead(steps) if isinstance(noise, Trajectories) else (noise[step] for step in steps)
    x = next(noises)
    for number, t in enumerate(timesteps, start=1):
        z = next(noises) if adds else x
        x = step_from(denoiser(x, t), t, x, z)
        if done := sampling.finished(number):
            on_step(done)
    return x if codec is None else codec.decode(x)


def make_sampler(sampling: Sampling, schedule: Schedule) -> tuple[list[int], Step]:
    """The timesteps at which a sampler asks for the noise, highest first, and what follows each.

    One step follows each, by a diffusers scheduler; half a step with `heun`. Without clipping it is linear in the
    prediction, x_t and the noise. Some samplers remember what came before, so this serves one trajectory.
    """
    sampling.check(schedule)
    timesteps, step_from = _sampler(sampling, schedule)
    if not sampling.clip:
        return timesteps, step_from
    abar = scheduler_abar(schedule)

    def clipped(predicted: Tensor, t: int, x: Tensor, z: Tensor) -> Tensor:
        return step_from(clip_noise(predicted, x, abar[t]), t, x, z)

    return timesteps, clipped


def _sampler(sampling: Sampling, schedule: Schedule) -> tuple[list[int], Step]:
    """As `make_sampler`, without clipping."""
    sampler, steps = sampling.sampler, sampling.steps
    if sampler == "heun":
        return heun_sampler(schedule, steps)
    betas = schedule.for_diffusers()
    if sampler == "dpmsolver++":
        from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

        scheduler = DPMSolverMultistepScheduler(**betas, algorithm_type="dpmsolver++", solver_order=2)
        options: dict[str, Any] = {}
    else:
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        scheduler = DDIMScheduler(**betas, clip_sample=False, set_alpha_to_one=True)
        # eta = 1 makes the variance that of the ancestral sampler (DDIM paper, eq. 16: sigma^2 = beta-tilde)
        options = {"eta": 1.0} if sampler == "ddpm" else {"eta": 0.0}
    scheduler.set_timesteps(steps)

    def step_from(predicted: Tensor, t: int, x: Tensor, z: Tensor) -> Tensor:
        if sampler == "ddpm":
            options["variance_noise"] = z
        return scheduler.step(predicted, t, x, **options)[0]

    return [int(t) for t in scheduler.timesteps], step_from


def parse_seeds(text: str | Sequence[int], what: str = "seeds") -> list[int]:
    """Seeds from `0-9`, `1,5,7` or a mixture; `SettingsError` for anything else, or a seed named twice.

    `what` they are called in errors: samples are written in the same way.
    """
    if not isinstance(text, str):
        seeds = [int(s) for s in text]
    else:
        seeds = []
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            if not first.isdecimal() or (dash and not last.isdecimal()):
                raise SettingsError(f"{what} '{text}': write them as 0-9 or 1,5,7")
            seeds += range(int(first), int(last if dash else first) + 1)
    if not seeds or len(set(seeds)) != len(seeds):
        wrong = f"a {what[:-1]} is named twice" if seeds else "none are named"
        raise SettingsError(f"{what} '{text}': {wrong}; write them as 0-9 or 1,5,7")
    return seeds
