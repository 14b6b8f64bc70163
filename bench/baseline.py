"""What the engine is measured against: plain loops, as scripts by hand would have them.

One process, all threads. They share nothing with the engine but the weights, the noise and the architecture.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel


@torch.inference_mode()
def plain_universe(components: list[UNet2DModel], alive: np.ndarray, noise: torch.Tensor, steps: int) -> np.ndarray:
    """Counterfactuals uint8 (units, samples, C, H, W) for survivors `alive`, bool (units, components).

    For each unit, for each step, for each surviving component, one forward pass on the batch of samples.
    """
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


def plain_training(unet: UNet2DModel, images: torch.Tensor, steps: int, batch: int) -> None:
    """The usual loop: random images, timesteps and noise; mean squared error; AdamW; clipped gradients."""
    scheduler, optimizer = DDPMScheduler(), torch.optim.AdamW(unet.parameters(), lr=1e-3)
    unet.train()
    for _ in range(steps):
        x0 = images[torch.randint(len(images), (batch,))]
        noise, t = torch.randn_like(x0), torch.randint(1000, (batch,))
        loss = torch.nn.functional.mse_loss(unet(scheduler.add_noise(x0, noise, t), t).sample, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
