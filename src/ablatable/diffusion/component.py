"""One component: a denoiser built from a configuration and a seed (or, if ideal, from its split alone).

A denoiser maps `(x_t: float (B, C, H, W), t: int (B,) or a single int) -> predicted noise (B, C, H, W)`. A component,
an ensemble and an ablated ensemble all are one, so samplers need to know nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .._runtime.files import writing
from ..errors import SettingsError, StoreError, command, option
from .fast_unet import PlainUNet, SharedTimestepUNet, agrees
from .recipe import IdealConfig, UNetConfig
from .schedule import Schedule

Denoiser = Callable[[Tensor, "Tensor | int"], Tensor]


class UNetDenoiser(nn.Module):
    """A `UNet2DModel` as a denoiser of pictures of any side: padded to what the levels need, then cropped back.

    What the network computes is the noise, or the velocity v = sqrt(a) eps - sqrt(1-a) x_0 (Salimans & Ho 2022,
    section 4), from which eps = sqrt(a) v + sqrt(1-a) x_t: where there is nearly only noise, a = abar_t near 0, the
    noise is then nearly x_t itself, and an error of the network is an error of the image, not 1/sqrt(a) times that.
    """

    def __init__(self, unet: Any, multiple: int, abar: Tensor | None = None) -> None:
        """Wrap a network.

        Args:
            unet: the `UNet2DModel`.
            multiple: sides are padded to a multiple of this, see `UNetConfig.multiple`.
            abar: abar_t, float (T,), if what the network computes is the velocity; None = the noise.
        """
        super().__init__()
        self.unet = unet
        self.multiple = multiple
        self.abar = None if abar is None else abar.float()  # no buffer: it must stay float32 when weights are bfloat16
        self.fast: SharedTimestepUNet | PlainUNet | None = None
        self.compiled = False  # see `SharedTimestepUNet`

    def train(self, mode: bool = True) -> UNetDenoiser:
        """As `nn.Module.train`; forgets what was derived from the weights."""
        self.fast = None
        return super().train(mode)

    def forward(self, x: Tensor, t: Tensor | int) -> Tensor:
        """Predicted noise, same shape and dtype as `x` (B, C, H, W); the network computes in its weights' dtype."""
        given, x = x, x.to(self.unet.conv_in.weight.dtype)
        height, width = x.shape[-2:]
        pad = (0, -width % self.multiple, 0, -height % self.multiple)
        if any(pad):
            x = nn.functional.pad(x, pad)
        if isinstance(t, int) and not self.training and not torch.is_grad_enabled():
            if self.fast is None:
                self.fast = SharedTimestepUNet(self.unet, self.compiled) if agrees(self.unet) else PlainUNet(self.unet)
            predicted = self.fast(x, t)
        else:
            predicted = self.unet(x, t, return_dict=False)[0]
        return self.noise(predicted[..., :height, :width].to(given.dtype), given, t)

    def noise(self, predicted: Tensor, x: Tensor, t: Tensor | int) -> Tensor:
        """What the network computed of `x` at `t`, as noise: linear in both, so directions become noise likewise."""
        if self.abar is None:
            return predicted
        a = self.abar.to(x.device)[t].to(x.dtype).reshape(-1, 1, 1, 1)
        return a.sqrt() * predicted + (1 - a).sqrt() * x


class IdealDenoiser(nn.Module):
    """The denoiser that minimises the training loss on a finite data set, in closed form.

    With data x^(j), x_t = sqrt(a) x_0 + sqrt(1-a) eps and a = abar_t, the posterior over the data is
    p(j | x_t) = softmax_j(-|x_t - sqrt(a) x^(j)|^2 / (2 (1-a))), the optimal prediction of x_0 is its mean, and
    eps = (x_t - sqrt(a) E[x_0 | x_t]) / sqrt(1-a).
    """

    def __init__(self, images: Tensor, schedule: Schedule, dtype: torch.dtype = torch.float32) -> None:
        """`images`: uint8 (M, C, H, W), the split. `dtype`: of the arithmetic; float64 for exact work."""
        super().__init__()
        self.images: Tensor
        self.abar: Tensor
        self.register_buffer("images", images)
        self.register_buffer("abar", schedule.alphas_cumprod(), persistent=False)
        self.dtype = dtype
        self._data: Tensor | None = None

    def _flat(self, device: torch.device) -> Tensor:
        if self._data is None or self._data.device != device:
            self._data = (self.images.to(device, self.dtype) / 127.5 - 1).flatten(1)
        return self._data

    def forward(self, x: Tensor, t: Tensor | int) -> Tensor:
        """Predicted noise, same shape and dtype as `x` (B, C, H, W)."""
        data = self._flat(x.device)  # (M, D)
        a = self.abar[torch.as_tensor(t, device=x.device)].to(self.dtype).reshape(-1, 1)  # (B, 1) or (1, 1)
        flat = x.flatten(1).to(self.dtype)
        # |x - sqrt(a) d|^2 = |x|^2 - 2 sqrt(a) <x, d> + a |d|^2, of which |x|^2 does not depend on the datum
        logits = (a.sqrt() * (flat @ data.T) - a / 2 * data.square().sum(1)) / (1 - a)  # (B, M)
        mean = logits.softmax(dim=1) @ data
        return ((flat - a.sqrt() * mean) / (1 - a).sqrt()).reshape(x.shape).to(x.dtype)


def build(config: UNetConfig, shape: tuple[int, int, int], seed: int, schedule: Schedule | None = None) -> UNetDenoiser:
    """A fresh UNet for pictures of `shape` (C, H, W), its weights a function of (config, shape, seed) alone.

    `schedule` is the noise schedule that it is trained with; None = the default one.
    """
    height, width = (-(-side // config.multiple) * config.multiple for side in shape[1:])
    if min(height, width) // config.multiple < 2:
        raise SettingsError(
            f"pictures of {shape[1]} x {shape[2]} are too small for {len(config.channels)} levels; "
            f"take a preset with fewer levels ('tiny' works from 8 x 8) or larger images ({option('size')})"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = _unet_class()(**_unet_arguments(config, shape[0], (height, width)))
    return UNetDenoiser(unet, config.multiple, _abar_of(config, schedule or Schedule()))


def _abar_of(config: UNetConfig, schedule: Schedule) -> Tensor | None:
    return schedule.alphas_cumprod() if config.prediction == "velocity" else None


def _unet_class() -> type:
    from diffusers.models.unets.unet_2d import UNet2DModel  # seconds to import, so only where it is needed

    return UNet2DModel


def _unet_arguments(config: UNetConfig, channels: int, side: tuple[int, int]) -> dict:
    attends = [level in config.attention for level in range(len(config.channels))]
    return {
        "sample_size": side[0] if side[0] == side[1] else side,
        "in_channels": channels,
        "out_channels": channels,
        "layers_per_block": config.layers,
        "block_out_channels": config.channels,
        "down_block_types": tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
        "norm_num_groups": config.norm_groups,
        "add_attention": config.middle_attention,
    }


WEIGHTS = {"unet": "diffusion_pytorch_model.safetensors", "ideal": "images.safetensors"}


def save_component(denoiser: nn.Module, folder: Path, stored: str = "float32") -> None:
    """Write a component's weights, as `stored` (a dtype's name): a plain diffusers model folder, or ideal images."""
    if not isinstance(denoiser, UNetDenoiser | IdealDenoiser):
        raise TypeError(f"not a component: {type(denoiser).__name__}")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(denoiser, UNetDenoiser):
            rounded = copy.deepcopy(denoiser.unet)
            for parameter in rounded.parameters():
                parameter.data = parameter.data.to(getattr(torch, stored))
            rounded.save_pretrained(folder)  # pyright: ignore[reportCallIssue]
        else:
            save_file({"images": denoiser.images}, folder / WEIGHTS["ideal"])


def load_component(folder: Path, config: UNetConfig | IdealConfig, schedule: Schedule) -> nn.Module:
    """Read a component written by `save_component`, in evaluation mode, on the CPU, weights in float32.

    Raises `StoreError` when a file is missing or unreadable.
    """
    path = folder / WEIGHTS[config.kind]
    try:
        state = load_file(path)
        if isinstance(config, IdealConfig):
            return IdealDenoiser(state["images"], schedule, getattr(torch, config.dtype)).eval()
        unet_class = _unet_class()
        unet = unet_class.from_config(unet_class.load_config(folder, local_files_only=True))
        unet.load_state_dict(state)
        agrees(unet)  # here, on the CPU in fp32; the answer is kept for the architecture
    except Exception as error:  # safetensors and diffusers raise many kinds
        raise StoreError(
            f"component {folder.name}: cannot read {path} ({error}); give the run to {command('audit check')}, "
            f"then repeat {command('train')} to rebuild what is missing"
        ) from error
    return UNetDenoiser(unet, config.multiple, _abar_of(config, schedule)).eval()
