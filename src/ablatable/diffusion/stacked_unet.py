"""Several UNets of one architecture as one network, for devices that the small kernels of one leave idle.

K networks become one whose layers have K times the channels: convolutions with K groups, group norms with K times the
groups, and products of matrices in a batch of K. Network k reads and writes part k of the channels alone, so nothing
reaches from one into another, forward or backward. A pass launches about as many kernels as one network's does.
Sums may be added in another order than by a network alone, so bits differ from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import stack_module_state
from torch.nn import functional

from .captured import Captured
from .fast_unet import KEPT_TIMESTEPS


class StackedUNet(nn.Module):
    """K `UNet2DModel`s without attention, called as one is: rows come as K equal parts, part k for network k."""

    def __init__(self, unets: Sequence[Any]) -> None:
        """`unets`: as `unet.build` makes them, of one architecture; their weights are copied, (K, ...) each."""
        super().__init__()
        parameters, _ = stack_module_state(list(unets))
        self.count, self.names = len(unets), list(parameters)
        self.weights = nn.ParameterList(parameters.values())
        # in a list, so that it is no part of this one: it tells the order of layers, strides and numbers of groups
        self._one = [unets[0]]
        self._places = {id(module): name for name, module in unets[0].named_modules()}
        self._captured = Captured(lambda *given: (self._predict(*given),))
        self._shifts: dict[Any, list[Tensor]] = {}

    @property
    def config(self) -> Any:
        """The architecture."""
        return self._one[0].config

    def write_to(self, unets: Sequence[Any]) -> None:
        """Copy the weights back into networks of their own."""
        with torch.no_grad():
            for k, unet in enumerate(unets):
                own = dict(unet.named_parameters())
                for name, weight in zip(self.names, self.weights, strict=True):
                    own[name].copy_(weight[k])

    def forward(self, x: Tensor, t: Tensor, class_labels: None = None, return_dict: bool = False) -> tuple[Tensor]:
        """Predictions (K B, C, H, W) for rows (K B, C, H, W) of as many timesteps (K B,), or of one (1,)."""
        return (self._predict(x, *self._time(t.expand(len(x)), x.dtype)),)

    def at(self, x: Tensor, t: float, captured: bool = False) -> Tensor:
        """The same without gradients, at one timestep of all rows: what depends on it alone is computed once.

        `captured`: launch the pass at once, see `Captured`.
        """
        key = (t, x.dtype, x.device)
        if key not in self._shifts:
            if len(self._shifts) == KEPT_TIMESTEPS:
                del self._shifts[next(iter(self._shifts))]
            self._shifts[key] = self._time(torch.full((self.count,), t, device=x.device), x.dtype)
        given = (x, *self._shifts[key])
        return self._captured(*given)[0].clone() if captured else self._predict(*given)

    # --- layers --------------------------------------------------------------------------------------------------

    def _of(self, module: nn.Module, name: str) -> Tensor:
        """A module's parameter of all networks, (K, ...)."""
        return self.weights[self.names.index(f"{self._places[id(module)]}.{name}")]

    def _linear(self, module: nn.Module, x: Tensor) -> Tensor:
        """(K, B, in) -> (K, B, out)."""
        return torch.baddbmm(self._of(module, "bias")[:, None], x, self._of(module, "weight").mT)

    def _conv(self, module: Any, x: Tensor) -> Tensor:
        """(B, K in, H, W) -> (B, K out, H, W)."""
        weight, bias = self._of(module, "weight").flatten(0, 1), self._of(module, "bias").flatten()
        return functional.conv2d(x, weight, bias, module.stride, module.padding, groups=self.count)

    def _norm(self, module: Any, x: Tensor) -> Tensor:
        weight, bias = self._of(module, "weight").flatten(), self._of(module, "bias").flatten()
        return functional.group_norm(x, self.count * module.num_groups, weight, bias, module.eps)

    def _time(self, t: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """What each residual layer adds because of the timesteps (K B,): (B, K out, 1, 1) each, in their order."""
        unet = self._one[0]
        embedding = unet.time_embedding
        h = unet.time_proj(t).to(dtype).unflatten(0, (self.count, -1))  # (K, B, D)
        h = self._linear(embedding.linear_2, functional.silu(self._linear(embedding.linear_1, h)))
        h = functional.silu(h)
        added = (self._linear(resnet.time_emb_proj, h) for resnet in _residual_layers(unet))
        return [layer.transpose(0, 1).flatten(1)[:, :, None, None] for layer in added]

    def _residual(self, resnet: Any, x: Tensor, shift: Tensor) -> Tensor:
        h = self._conv(resnet.conv1, functional.silu(self._norm(resnet.norm1, x))) + shift
        h = self._conv(resnet.conv2, functional.silu(self._norm(resnet.norm2, h)))
        return h + (x if resnet.conv_shortcut is None else self._conv(resnet.conv_shortcut, x))

    def _beside(self, a: Tensor, b: Tensor) -> Tensor:
        """Each network's channels of `a`, and then its own of `b`."""
        parts = [each.unflatten(1, (self.count, -1)) for each in (a, b)]
        return torch.cat(parts, dim=2).flatten(1, 2)

    def _predict(self, x: Tensor, *shifts: Tensor) -> Tensor:
        unet, shift = self._one[0], iter(shifts)
        h = self._conv(unet.conv_in, x.unflatten(0, (self.count, -1)).transpose(0, 1).flatten(1, 2))
        skips = [h]
        for block in unet.down_blocks:
            for resnet in block.resnets:
                h = self._residual(resnet, h, next(shift))
                skips.append(h)
            for downsample in block.downsamplers or ():
                h = self._conv(downsample.conv, h)
                skips.append(h)
        for resnet in unet.mid_block.resnets:
            h = self._residual(resnet, h, next(shift))
        for block in unet.up_blocks:
            for resnet in block.resnets:
                h = self._residual(resnet, self._beside(h, skips.pop()), next(shift))
            for upsample in block.upsamplers or ():
                h = self._conv(upsample.conv, functional.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self._conv(unet.conv_out, functional.silu(self._norm(unet.conv_norm_out, h)))
        return h.unflatten(1, (self.count, -1)).transpose(0, 1).flatten(0, 1)


def _residual_layers(unet: Any) -> list[Any]:
    """In the order of a pass."""
    return [resnet for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks) for resnet in block.resnets]


def has_attention(unet: Any) -> bool:
    """Whether a `UNet2DModel` has attention, which is not stacked."""
    blocks = (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
    return any(layer is not None for block in blocks for layer in getattr(block, "attentions", None) or ())
