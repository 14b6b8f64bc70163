"""The kind `unet`: a diffusers `UNet2DModel`, trained from scratch, kept as a plain diffusers model folder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import SettingsError, option
from .fast_unet import CompiledUNet, PlainUNet, SharedTimestepUNet, agrees
from .kinds import Kind
from .recipe import UNetConfig
from .schedule import Schedule
from .stacked_unet import StackedUNet, has_attention
from .tangent_unet import push_unet
from .transforms import BlockTransform


class UNetDenoiser(nn.Module):
    """A `UNet2DModel` as a denoiser of pictures of any side: padded to what the levels need, then cropped back.

    What the network computes is the noise, or the velocity v = sqrt(a) eps - sqrt(1-a) x_0 (Salimans & Ho 2022,
    section 4), from which eps = sqrt(a) v + sqrt(1-a) x_t: where there is nearly only noise, a = abar_t near 0, the
    noise is then nearly x_t itself, and an error of the network is an error of the image, not 1/sqrt(a) times that.
    """

    def __init__(
        self,
        unet: Any,
        multiple: int,
        abar: Tensor | None = None,
        sigma_data: float | None = None,
        transform: BlockTransform | None = None,
    ) -> None:
        """Wrap a network.

        Args:
            unet: the `UNet2DModel`.
            multiple: sides are padded to a multiple of this, see `UNetConfig.multiple`.
            abar: abar_t, float (T,), if what the network computes is not the noise.
            sigma_data: with `abar`, EDM's preconditioning for images of that size; None = the velocity.
            transform: the network computes on coefficients of this; None = on pixels.
        """
        super().__init__()
        self.unet = unet
        self.multiple = multiple
        self.abar = None if abar is None else abar.float()  # no buffer: it must stay float32 when weights are bfloat16
        self._abar_on: dict[torch.device, Tensor] = {}
        self.sigma_data = sigma_data
        self.transform = transform
        self.inference: SharedTimestepUNet | PlainUNet | None = None
        self.passes: Callable[..., SharedTimestepUNet] = SharedTimestepUNet
        self.captured = False  # see `SharedTimestepUNet`

    def train(self, mode: bool = True) -> UNetDenoiser:
        """As `nn.Module.train`; forgets what was derived from the weights."""
        self.inference = None
        return super().train(mode)

    def forward(self, x: Tensor, t: Tensor | int, class_labels: Tensor | None = None) -> Tensor:
        """Predicted noise, same shape and dtype as `x` (B, C, H, W); the network computes in its weights' dtype.

        `class_labels`: each row's class, int64 (B,), for a network that takes one; None = none of them, its last.
        """
        if self.transform is None:
            return self.coefficients(x, t, class_labels)
        return self.transform.decode(self.coefficients(self.transform.encode(x), t, class_labels))

    def coefficients(self, x: Tensor, t: Tensor | int, class_labels: Tensor | None = None) -> Tensor:
        """As `forward`, of what the network computes on: coefficients where there is a codec, else pixels."""
        given, (asked, time) = x, self.asked(x, t)
        if class_labels is None and self.unet.config.num_class_embeds is not None:
            class_labels = torch.full((len(x),), self.unet.config.num_class_embeds - 1, device=x.device)
        x = asked.to(next(self.unet.parameters()).dtype)
        height, width = x.shape[-2:]
        pad = (0, -width % self.multiple, 0, -height % self.multiple)
        if any(pad):
            x = nn.functional.pad(x, pad)
        if not isinstance(time, Tensor) and not self.training and not torch.is_grad_enabled():
            predicted = self._at_one_timestep(x, time, class_labels)
        else:  # a float as such would be cut to an integer
            time = torch.tensor([time], device=x.device) if isinstance(time, float) else time
            predicted = self.unet(x, time, class_labels, return_dict=False)[0]
        return self.noise(predicted[..., :height, :width].to(given.dtype), given, t)

    def _at_one_timestep(self, x: Tensor, time: float, class_labels: Tensor | None) -> Tensor:
        if self.inference is None:
            known = agrees(self.unet)
            self.inference = self.passes(self.unet, captured=self.captured) if known else PlainUNet(self.unet)
        return self.inference(x, time, class_labels)

    def fast(self) -> UNetDenoiser:
        """Let `torch.compile` fuse the inference pass; the weights become channels-last."""
        self.passes = CompiledUNet
        return self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def by_openvino(self, precision: str) -> UNetDenoiser:
        """Let OpenVINO compute the inference pass, on the CPU; `SettingsError` if it is of another architecture."""
        from .openvino_unet import OpenVINOUNet

        if not agrees(self.unet):
            raise SettingsError(
                "only networks with the layers that the presets have are computed by OpenVINO; "
                f"take {option('backend', 'eager')}"
            )
        self.passes = partial(OpenVINOUNet, precision=precision)
        return self

    def capture(self) -> UNetDenoiser:
        """Launch each inference pass at once, on a device that can, see `Captured`; bits stay as they are."""
        self.captured = True
        return self

    def tangent(self, x: Tensor, t: int, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Its prediction and its derivatives along some directions, see `tangents.push`."""
        if self.transform is None:
            return push_unet(self, x, t, directions)
        back = self.transform.decode  # all of it is linear, so directions pass as pictures do
        here = self.transform.encode(torch.cat([x[None], directions]))
        predicted, along = push_unet(self, here[0], t, here[1:])
        return back(predicted[None])[0], back(along)

    def asked(self, x: Tensor, t: Tensor | int) -> tuple[Tensor, Tensor | float]:
        """What the network is given for `x` at `t`: a multiple of x, and t, or what stands for it."""
        if self.sigma_data is None:
            return x, t
        sigma = self._sigma(x, t)
        scaled = ((1 + sigma**2) / (sigma**2 + self.sigma_data**2)).sqrt() * x  # c_in x sqrt(1 + sigma^2)
        here = sigma if isinstance(t, Tensor) else self._sigma(torch.empty(0, dtype=x.dtype), t)
        time = 250 * here.log().flatten()  # 1000 c_noise
        return scaled, time if isinstance(t, Tensor) else float(time)  # on the CPU, as nothing may wait for a device

    def noise(self, predicted: Tensor, x: Tensor, t: Tensor | int) -> Tensor:
        """What the network computed of `x` at `t`, as noise: linear in both, so directions become noise likewise."""
        if self.abar is None:
            return predicted
        if self.sigma_data is not None:
            sigma, data = self._sigma(x, t), self.sigma_data
            total = sigma**2 + data**2
            return (1 + sigma**2).sqrt() * sigma / total * x - data / total.sqrt() * predicted
        a = self._abar(x, t)
        return a.sqrt() * predicted + (1 - a).sqrt() * x

    def _abar(self, x: Tensor, t: Tensor | int) -> Tensor:
        """abar_t for the rows of `x`, (B, 1, 1, 1) or (1, 1, 1, 1)."""
        assert self.abar is not None
        if x.device not in self._abar_on:
            self._abar_on[x.device] = self.abar.to(x.device)
        return self._abar_on[x.device][t].to(x.dtype).reshape(-1, 1, 1, 1)

    def _sigma(self, x: Tensor, t: Tensor | int) -> Tensor:
        a = self._abar(x, t)
        return ((1 - a) / a).sqrt()


class StackedUNetDenoiser(UNetDenoiser):
    """Several denoisers of one architecture as one: rows come as equal parts, part k for denoiser k."""

    def __init__(self, components: Sequence[UNetDenoiser]) -> None:
        """Their weights are copied. `SettingsError` if their architecture cannot be stacked."""
        first = components[0]
        if has_attention(first.unet) or not agrees(first.unet):
            raise SettingsError(
                "networks with attention, or with layers of another kind than the presets tiny, small and colour have, "
                f"cannot be stacked; train without {option('stacked')}, and draw with {option('backend', 'eager')}"
            )
        unets = StackedUNet([component.unet for component in components])
        super().__init__(unets, first.multiple, first.abar, first.sigma_data, first.transform)

    def write_to(self, components: Sequence[UNetDenoiser]) -> None:
        """Copy the weights back into denoisers of their own."""
        self.unet.write_to([component.unet for component in components])

    def _at_one_timestep(self, x: Tensor, time: float, class_labels: Tensor | None) -> Tensor:
        return self.unet.at(x, time, self.captured)


def build(config: UNetConfig, shape: tuple[int, int, int], seed: int, schedule: Schedule | None = None) -> UNetDenoiser:
    """A fresh UNet for pictures of `shape` (C, H, W), its weights a function of (config, shape, seed) alone.

    `schedule` is the noise schedule that it is trained with; None = the default one.
    """
    pictures, transform = shape, _transform(config)
    shape = shape if transform is None else transform.shape(shape)
    height, width = (-(-side // config.multiple) * config.multiple for side in shape[1:])
    if min(height, width) // config.multiple < 2:
        raise SettingsError(
            f"pictures of {pictures[1]} x {pictures[2]} are too small for {len(config.channels)} levels"
            f"{'' if transform is None else f' on blocks of {config.block} x {config.block}'}; "
            f"take a preset with fewer levels ('tiny' works from 8 x 8) or larger images ({option('size')})"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = _unet_class()(**_unet_arguments(config, shape[0], (height, width)))
    return _wrapped(unet, config, schedule or Schedule())


def _wrapped(unet: Any, config: UNetConfig, schedule: Schedule) -> UNetDenoiser:
    abar = None if config.prediction == "noise" else schedule.alphas_cumprod()
    sigma_data = config.sigma_data if config.prediction == "edm" else None
    return UNetDenoiser(unet, config.multiple, abar, sigma_data, _transform(config))


def _transform(config: UNetConfig) -> BlockTransform | None:
    return None if config.codec is None else BlockTransform(config.codec, config.block)


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
        **({"num_class_embeds": len(config.classes) + 1} if config.classes else {}),
    }


def _build_kind(config: UNetConfig, pixels: np.ndarray, seed: int, schedule: Schedule) -> UNetDenoiser:
    return build(config, (pixels.shape[3], *pixels.shape[1:3]), seed, schedule)


def _save(denoiser: UNetDenoiser, folder: Path, stored: str) -> None:
    rounded = copy.deepcopy(denoiser.unet)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.to(getattr(torch, stored))
    rounded.save_pretrained(folder)


def _load(folder: Path, config: UNetConfig, schedule: Schedule) -> UNetDenoiser:
    unet_class = _unet_class()
    architecture = unet_class.load_config(folder, local_files_only=True)
    unet = _with_weights(lambda: unet_class.from_config(architecture), load_file(folder / config.weights))
    agrees(unet)  # here, on the CPU in fp32; the answer is kept for the architecture
    return _wrapped(unet, config, schedule)


def _with_weights(make: Callable[[], Any], state: dict[str, Tensor]) -> Any:
    """A model with these weights, as float32. It isn't initialised first, unless it has more than the file holds."""
    with torch.device("meta"):
        model = make()
    # copied: a kernel may choose its way by how memory is aligned, and in a file it is aligned otherwise
    model.load_state_dict({name: weight.to(torch.float32, copy=True) for name, weight in state.items()}, assign=True)
    if any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        model = make()
        model.load_state_dict(state)
    return model


def _loss(config: UNetConfig, predicted: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    """Mean squared error of what the network computes, from that of the noise.

    An error e of the velocity is one of sqrt(a) e of the noise; one of EDM's F is sigma_data / sqrt(sigma^2 +
    sigma_data^2) e. (Karras et al. 2022, eq. 8, with lambda = 1 / c_out^2.)
    """
    if config.prediction == "edm":
        weight = (1 + (1 - abar) / abar / config.sigma_data**2).reshape(-1, 1, 1, 1)
        return (weight * (predicted - noise).square()).mean()
    if config.prediction == "velocity":
        return ((predicted - noise).square() / abar.reshape(-1, 1, 1, 1)).mean()
    return nn.functional.mse_loss(predicted, noise)


KIND = Kind(UNetConfig, UNetDenoiser, build=_build_kind, save=_save, load=_load, loss=_loss, stack=StackedUNetDenoiser)
