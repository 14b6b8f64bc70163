"""What the engine is measured against: the plain loop, as a script by hand would have it.

One process, all threads; for each unit, for each step, for each surviving component, one forward pass on the batch of
samples. It shares nothing with the engine but the weights and the noise.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel


@torch.inference_mode()
def plain_universe(components: list[UNet2DModel], alive: np.ndarray, noise: torch.Tensor, steps: int) -> np.ndarray:
    """Counterfactuals uint8 (units, samples, C, H, W) for survivors `alive`, bool (units, components)."""
    scheduler = DDIMScheduler(clip_sample=False)
    pictures = []
    for survivors in alive:
        scheduler.set_timesteps(steps)
        x = noise[0]
        for k, t in enumerate(scheduler.timesteps, start=1):
            predicted = torch.stack(
                [c(x, t).sample for c, kept in zip(components, survivors, strict=True) if kept]
            ).mean(0)
            x = scheduler.step(predicted, t, x, eta=1.0, variance_noise=noise[k]).prev_sample
        pictures.append(((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy())
    return np.stack(pictures)
