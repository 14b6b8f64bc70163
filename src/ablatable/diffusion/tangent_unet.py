"""Forward-mode derivatives of a UNet.

The batched rules of `torch.func` (`vmap` of `jvp`) cost four to eight times what passing as many pictures costs. Nearly
all of the network is linear, though: a convolution takes directions as it takes pictures, without its bias. So
here the prediction and its directions go through as one batch, and only normalisation, SiLU and attention tell them
apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from .fast_unet import PhasedUpsample, agrees
from .tangents import push_through

if TYPE_CHECKING:
    from .unet import UNetDenoiser

_TANGENTS: WeakKeyDictionary[nn.Module, TangentUNet] = WeakKeyDictionary()


def push_unet(component: UNetDenoiser, x: Tensor, t: int, directions: Tensor) -> tuple[Tensor, Tensor]:
    """As `tangents.push`, for a UNet."""
    if not agrees(component.unet):
        steps = torch.tensor([t], device=x.device)
        with sdpa_kernel(SDPBackend.MATH):
            return push_through(lambda row: component.coefficients(row[None], steps)[0], x, directions)
    if component not in _TANGENTS:
        _TANGENTS[component] = TangentUNet(component.unet)
    height, width = x.shape[-2:]
    pad = (0, -width % component.multiple, 0, -height % component.multiple)
    rows, time = component.asked(torch.cat([x[None], directions]), t)
    out = _TANGENTS[component](functional.pad(rows, pad), float(time))[..., :height, :width]
    out = component.noise(out, torch.cat([x[None], directions]), t)
    return out[0], out[1:]


class TangentUNet:
    """A `UNet2DModel` as `unet.build` makes them. Row 0 of every batch is the picture, the others directions."""

    def __init__(self, unet: Any) -> None:
        self.unet = unet
        self.upsamplers = [
            PhasedUpsample(block.upsamplers[0].conv) if block.upsamplers else None for block in unet.up_blocks
        ]
        for upsampler in filter(None, self.upsamplers):
            upsampler.bias = None

    def __call__(self, h: Tensor, t: float) -> Tensor:
        """(1 + K, C, H, W) at timestep `t`, likewise out."""
        unet = self.unet
        features = unet.time_proj(torch.tensor([t], device=h.device)).to(h.dtype)
        time = functional.silu(unet.time_embedding(features))  # (1, D)
        h = _convolution(unet.conv_in, h)
        skips = [h]
        for block in unet.down_blocks:
            for resnet, attention in _layers(block):
                h = _attention(attention, _residual(resnet, h, time))
                skips.append(h)
            for downsample in block.downsamplers or ():
                h = _convolution(downsample.conv, h)
                skips.append(h)
        middle = unet.mid_block
        h = _residual(middle.resnets[0], h, time)
        for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
            h = _residual(resnet, _attention(attention, h), time)
        for block, upsample in zip(unet.up_blocks, self.upsamplers, strict=True):
            for resnet, attention in _layers(block):
                h = _attention(attention, _residual(resnet, torch.cat([h, skips.pop()], dim=1), time))
            if upsample is not None:
                h = _biased(upsample(h), block.upsamplers[0].conv.bias)
        return _convolution(unet.conv_out, _silu(_normalised(unet.conv_norm_out, h)))


def _layers(block: Any) -> list[tuple[Any, Any]]:
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return list(zip(block.resnets, attentions, strict=True))


def _residual(resnet: Any, x: Tensor, time: Tensor) -> Tensor:
    h = _silu(_normalised(resnet.norm1, x))
    h = _biased(_convolution(resnet.conv1, h), resnet.time_emb_proj(time)[0])
    h = _convolution(resnet.conv2, _silu(_normalised(resnet.norm2, h)))
    return h + (x if resnet.conv_shortcut is None else _convolution(resnet.conv_shortcut, x))


def _attention(attention: Any, h: Tensor) -> Tensor:
    if attention is None:
        return h
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no forward-mode derivative
        picture, directions = push_through(lambda row: attention(row[None])[0], h[0], h[1:])
    return torch.cat([picture[None], directions])


def _convolution(conv: nn.Conv2d, h: Tensor) -> Tensor:
    """A direction d moves conv(x) by conv(d) without the bias."""
    return _biased(functional.conv2d(h, conv.weight, None, conv.stride, conv.padding), conv.bias)


def _biased(h: Tensor, bias: Tensor | None) -> Tensor:
    if bias is not None:
        h[0] += bias[:, None, None]
    return h


def _silu(h: Tensor) -> Tensor:
    """Y = x s(x), with s the sigmoid; dy = s (1 + x (1 - s)) dx."""
    x, s = h[0], torch.sigmoid(h[0])
    return torch.cat([(x * s)[None], h[1:] * (s * (1 + x * (1 - s)))])


def _normalised(norm: nn.GroupNorm, h: Tensor) -> Tensor:
    """Within a group y = (x - m) / v; dy = (dx - mean(dx) - y mean(y dx)) / v, with v^2 = variance + eps."""
    grouped = h.reshape(len(h), norm.num_groups, -1)
    x, dx = grouped[0], grouped[1:]
    x = x - x.mean(-1, keepdim=True)
    v = (x.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    y = x / v
    dy = (dx - dx.mean(-1, keepdim=True) - y * (y * dx).mean(-1, keepdim=True)) / v
    out = torch.cat([y[None], dy]).reshape(h.shape) * norm.weight[:, None, None]
    return _biased(out, norm.bias)
