"""Codecs that were trained: a frozen autoencoder, between pixels and the latents that components denoise.

Each picture is encoded alone, in a batch of one, so its latents depend on that picture and on the autoencoder alone.
Latents are decoded in batches of one fixed size, so a sample's pixels do not depend on what it is drawn with.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..data.units import to_model
from ..errors import DataError, SettingsError, option
from .recipe import LatentConfig

ARCHITECTURES = ("AutoencoderKL", "AutoencoderTiny")
WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
PART = "codec"  # the shared part that holds it
DECODED = 8  # rows that are decoded at once


class Codec:
    """A frozen autoencoder."""

    def __init__(self, model: Any, config: LatentConfig) -> None:
        self.model, self.config = model.eval().requires_grad_(False), config

    @torch.no_grad()
    def encode(self, images: np.ndarray) -> Tensor:
        """Latents of pictures, uint8 (M, H, W, C): float32 (M, c, h, w); no randomness (a posterior's mode)."""
        latents = [self._encoded(to_model(image[None])) for image in images]
        return (torch.cat(latents) - self.config.shift) * self.config.scale

    def _encoded(self, picture: Tensor) -> Tensor:
        encoded = self.model.encode(picture)
        return encoded.latent_dist.mode() if self.config.architecture == "AutoencoderKL" else encoded.latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of latents (B, c, h, w): (B, C, H, W), about [-1, 1], on the latents' device."""
        model, given = self.model.to(latents.device), latents / self.config.scale + self.config.shift
        pictures = []
        for first in range(0, len(given), DECODED):
            part = given[first : first + DECODED]
            filled = torch.cat([part, part[:1].expand(DECODED - len(part), *part.shape[1:])])
            pictures.append(model.decode(filled).sample[: len(part)])
        return torch.cat(pictures).to(latents.dtype)


def load_codec(folder: Path, config: LatentConfig) -> Codec:
    """The autoencoder of a folder, on the CPU in float32; raises anything if a file is missing or does not fit."""
    import diffusers

    kind = getattr(diffusers, config.architecture)
    settings = kind.load_config(folder, local_files_only=True)
    if config.architecture == "AutoencoderTiny":
        settings.pop("block_out_channels", None)  # it writes this, and warns when it reads it
    model = kind.from_config(settings)
    model.load_state_dict({name: weight.float() for name, weight in load_file(folder / WEIGHTS).items()})
    return Codec(model, config)


def latent_config(folder: Path, shape: tuple[int, int, int]) -> LatentConfig:
    """What an autoencoder's folder says, for pictures of `shape` (C, H, W).

    Raises:
        DataError: files are missing, pickled or damaged. SettingsError: another architecture, or pictures that it does
            not give back in their shape.
    """
    from .._runtime.files import read_json

    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise DataError(f"{folder} holds no autoencoder of diffusers: it needs {CONFIG} and {WEIGHTS} (no pickle)")
    values = read_json(folder / CONFIG)
    name = values.get("_class_name")
    if name not in ARCHITECTURES:
        raise SettingsError(f"{folder} holds a {name}; a codec is one of {', '.join(ARCHITECTURES)}")
    if values.get("in_channels", 3) != shape[0]:
        raise SettingsError(
            f"the codec in {folder} takes {values.get('in_channels', 3)} channels, and the pictures have {shape[0]}; "
            f"load them with {option('channels', values.get('in_channels', 3))}"
        )
    trial = LatentConfig(architecture=name, shape=(1, 1, 1))
    try:
        codec = load_codec(folder, trial)
    except Exception as error:  # diffusers and safetensors raise many kinds
        raise DataError(f"{folder}: the autoencoder cannot be read ({' '.join(str(error).split())[:200]})") from error
    scale, shift = _scaling(folder, name, codec.model.config)
    try:
        latents = codec.encode(np.zeros((1, *shape[1:], shape[0]), np.uint8))
        with torch.no_grad():
            back = tuple(codec.model.decode(latents).sample.shape[1:])
    except RuntimeError:  # of layers whose halves do not meet
        latents, back = torch.zeros(1, 0, 0, 0), ()
    if back != shape:
        raise SettingsError(
            f"the codec in {folder} does not give pictures of {shape[1]} x {shape[2]} back in their size; choose a "
            f"{option('size')} that it can halve as often as it does"
        )
    channels, *side = latents.shape[1:]
    return LatentConfig(architecture=name, scale=scale, shift=shift, shape=(channels, side[0], side[1]))


def _scaling(folder: Path, name: str, config: Any) -> tuple[float, float]:
    """`scaling_factor` and `shift_factor`; where the file has none, those that diffusers takes then.

    Raises `SettingsError` unless latents can be multiplied by the one, divided by it again, and shifted by the other.
    """
    scale, shift = config.get("scaling_factor"), config.get("shift_factor")
    if name == "AutoencoderTiny":
        shift = None  # it shifts its latents itself
    for key, value in (("scaling_factor", scale), ("shift_factor", 0.0 if shift is None else shift)):
        number = isinstance(value, (int, float)) and math.isfinite(value)
        if not number or (key == "scaling_factor" and value <= 0):
            raise SettingsError(
                f"{folder / CONFIG}: {key} is {value!r}, and latents are multiplied by scaling_factor and shifted by "
                f"shift_factor; write 1 over the standard deviation of the autoencoder's latents, or 1"
            )
    return float(scale), 0.0 if shift is None else float(shift)
