"""What every component, by itself, makes of a noisy picture: its prediction of the clean one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from .._runtime.rng import generator

if TYPE_CHECKING:
    from torch import nn

    from ..diffusion.autoencoder import Codec
    from ..diffusion.given import Given
    from ..diffusion.schedule import Schedule

ABAR = 0.97  # how much of the picture is left when noise is added: docs/results/witness.md says why
DRAWS = 4  # noises added to each picture
ROWS = 64  # pictures, noise and all, that a component sees at once


def denoised(
    components: Iterable[nn.Module],
    schedule: Schedule,
    pictures: np.ndarray,
    *,
    device: str = "cpu",
    codec: Codec | None = None,
    given: Given | None = None,
) -> np.ndarray:
    """Every component's prediction of the clean picture, averaged over draws of noise, less the components' mean.

    Args:
        components: denoisers on `device`; they may be loaded one after another.
        schedule: the noise schedule that they were trained with.
        pictures: uint8 (samples, H, W, C).
        codec: the autoencoder between pictures and latents, if components denoise latents; predictions are decoded.
        given: the pictures' conditions, one row each: what a component makes of a picture is asked under its own.

    Returns:
        float64 (components, samples, D), D = C H W in the order of `pictures`' last three axes.
    """
    import torch

    from ..data.units import to_model
    from ..diffusion.given import ask
    from ..diffusion.schedule import add_noise

    t, abar = level(schedule)
    clean = np.repeat(
        (to_model(pictures) if codec is None else codec.encode(pictures)).numpy(), DRAWS, axis=0
    )  # (samples * draws, C, H, W)
    noise = np.concatenate(list(_noises(pictures, clean.shape[1:])))
    noisy = add_noise(torch.from_numpy(clean), torch.from_numpy(noise), torch.tensor(abar, dtype=torch.float64))
    shape, said = noisy.shape[1:], []
    rows = None if given is None else given[torch.arange(len(noisy)) // DRAWS]
    with torch.inference_mode():
        for component in components:
            parts = [
                ask(component, noisy[k : k + ROWS].to(device), t, None if rows is None else rows[k : k + ROWS]).cpu()
                for k in range(0, len(noisy), ROWS)
            ]
            if codec is not None:  # not linear, so every draw's prediction is decoded
                latents = (noisy - (1 - abar) ** 0.5 * torch.cat(parts)) / abar**0.5
                seen = codec.decode(latents.float()).double().numpy()
                seen = seen.reshape(len(pictures), DRAWS, *seen.shape[1:]).mean(axis=1)
                said.append(np.moveaxis(seen, 1, -1).reshape(len(pictures), -1))
                continue
            eps = torch.cat(parts).double().numpy().reshape(len(pictures), DRAWS, *shape).mean(axis=1)
            # x_t is common to all components, and goes with the mean
            said.append(-(((1 - abar) / abar) ** 0.5) * np.moveaxis(eps, 1, -1).reshape(len(pictures), -1))
    return np.array(said) - np.mean(said, axis=0)


def matched(said: np.ndarray) -> np.ndarray:
    """The same, filtered so that pixels and patterns in which components disagree at all samples count less.

    With the rows of N what each component says at each sample, C = N^T N / rows and l the mean of C's diagonal, every
    row is multiplied by (C + l I)^-1. As N (C + l I)^-1 = (N N^T / rows + l I)^-1 N, no matrix is larger than rows^2.
    The filter is a function of what components say, so p-values of the witness test stay exact.

    Args:
        said: as from `denoised`, of several samples of one run, float64 (components, samples, D).
    """
    rows = said.reshape(-1, said.shape[2])
    scale = np.square(rows).mean()
    if scale == 0:
        return said
    inner = rows @ rows.T / len(rows)
    return np.linalg.solve(inner / scale + np.eye(len(rows)), rows).reshape(said.shape)


def level(schedule: Schedule) -> tuple[int, float]:
    """The timestep whose abar is nearest to ABAR, and that abar."""
    abar = schedule.alphas_cumprod().numpy()
    t = int(np.abs(abar - ABAR).argmin())
    return t, float(abar[t])


def _noises(pictures: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """A picture's noises, float32 (DRAWS, C, H, W) each: a function of its pixels alone, whatever it comes with."""
    for picture in pictures:
        name = picture_name(picture)
        yield np.stack([generator("witness", name, k).standard_normal(shape, dtype=np.float32) for k in range(DRAWS)])


def picture_name(picture: np.ndarray) -> str:
    """What a picture's noises and ties are keyed by: the SHA-256 (hex) of its pixels."""
    return hashlib.sha256(picture.tobytes()).hexdigest()
