"""The forward pass of a `UNet2DModel` when all rows of a batch share one timestep, as they do in sampling.

Same weights and, up to the rounding of reordered sums, the same numbers as `UNet2DModel.forward`, with less to do:

- What depends on t alone is computed once per timestep, not once per pass and row. A residual block adds its projection
  of the time embedding, one vector for all rows, to the output of its first convolution; here it joins that
  convolution's bias, and all of these biases are kept. Where rows have classes, each row has biases of its own.
- Activations and residual sums work in place, and nothing is divided by an output scale of one.
- Nearest upsampling followed by a 3 x 3 convolution reads every pixel of the small picture several times through the
  same weights. For each of the four phases of an output pixel the weights that meet the same small pixel are summed
  beforehand, which leaves a 2 x 2 convolution of the small picture: 4 products an output instead of 9.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from .captured import Captured

KEPT_TIMESTEPS = 128  # whose biases are kept: 5 MB of a component of preset `paper`
_AGREES: dict[str, bool] = {}  # by architecture


def agrees(unet: Any) -> bool:
    """Whether this forward pass computes what `UNet2DModel.forward` does for a model of this architecture.

    The pass rests on the inside of diffusers' blocks, so other options of theirs, or another version, may make it
    wrong. Both are compared on one small input per architecture and process; if they differ, a warning says so.
    """
    architecture = json.dumps(dict(unet.config), sort_keys=True, default=str)
    if architecture not in _AGREES:
        _AGREES[architecture] = _same_predictions(unet)
        if not _AGREES[architecture]:
            warnings.warn(
                "the fast forward pass does not compute what diffusers' UNet2DModel does for this architecture, so the "
                "plain one is used: the same results, more slowly",
                stacklevel=2,
            )
    return _AGREES[architecture]


@torch.no_grad()
def _same_predictions(unet: Any) -> bool:
    weight, side = unet.conv_in.weight, unet.config.sample_size
    if weight.is_meta:  # nothing is computed there
        return True
    sides = (side, side) if isinstance(side, int) else tuple(side)
    noise = torch.randn((2, unet.config.in_channels, *sides), generator=torch.Generator().manual_seed(0))
    x, training = noise.to(weight), unet.training
    classes = None if unet.class_embedding is None else torch.tensor([0, unet.config.num_class_embeds - 1])
    unet.eval()
    try:
        for t in (3, 500):
            expected = unet(x, t, classes, return_dict=False)[0].float()
            error = (SharedTimestepUNet(unet)(x, t, classes).float() - expected).abs().max()
            # sums in another order change fp32 by some 1e-6 of the largest value, and bf16 by some 1e-2
            if not error <= (1e-4 if weight.dtype == torch.float32 else 5e-2) * expected.abs().max():
                return False
    except (AttributeError, TypeError, ValueError, IndexError, RuntimeError):  # blocks of another kind
        return False
    finally:
        unet.train(training)
    return True


class PlainUpsample(nn.Module):
    """Nearest upsampling by two and a 3 x 3 convolution, as they stand."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, 2 H, 2 W)."""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class PhasedUpsample(nn.Module):
    """Nearest upsampling by two and a 3 x 3 convolution (padding 1), as four 2 x 2 convolutions of the small picture.

    Along one axis, output 2i + 0 reads big pixels 2i-1, 2i, 2i+1, that is small pixels i-1, i, i: weights w0 | w1 + w2.
    Output 2i + 1 reads 2i, 2i+1, 2i+2, that is i, i, i+1: weights w0 + w1 | w2.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        # which small pixel (y) of a phase (a) a weight (k) of the big picture's kernel meets
        fold = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]]).to(conv.weight)
        self.weights: Tensor  # (2, 2, out, in, 2, 2)
        summed = torch.einsum("ayk, bxl, oikl -> aboiyx", fold, fold, conv.weight.detach())
        self.register_buffer("weights", summed.contiguous(), persistent=False)
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, 2 H, 2 W)."""
        batch, _, height, width = x.shape
        padded = functional.pad(x, (1, 1, 1, 1))
        big = x.new_empty(batch, self.weights.shape[2], height, 2, width, 2)
        for a in range(2):
            for b in range(2):
                window = padded[:, :, a : a + height + 1, b : b + width + 1]
                big[:, :, :, a, :, b] = functional.conv2d(window, self.weights[a, b], self.bias)
        return big.view(batch, -1, 2 * height, 2 * width)


class SharedTimestepUNet(nn.Module):
    """Inference only: the gradient and the training mode of the model it reads from are not its business.

    Sub-classes let something else compute `predict`.
    """

    upsampling: ClassVar[type[PlainUpsample | PhasedUpsample]] = PhasedUpsample

    def __init__(self, unet: Any, captured: bool = False) -> None:
        """Read from a model.

        Args:
            unet: a `UNet2DModel` as `unet.build` makes them; its weights are shared, not copied.
            captured: launch a whole pass at once, see `Captured`.
        """
        super().__init__()
        self.unet = unet
        self.upsamplers = nn.ModuleList(
            self.upsampling(block.upsamplers[0].conv) if block.upsamplers else nn.Identity() for block in unet.up_blocks
        )
        self._biases: dict[tuple[float, torch.dtype, torch.device], list[Tensor]] = {}
        self._captured = Captured(lambda *given: (self._whole_pass(*given),)) if captured else None

    def forward(self, x: Tensor, t: float, class_labels: Tensor | None = None) -> Tensor:
        """Predicted noise (B, C, H, W) at timestep `t` of every row of `x`, of the rows' classes (B,) if it has any."""
        biases = self.biases(t, x) if class_labels is None else self._row_biases(t, x, class_labels)
        if self._captured is None:
            return self._whole_pass(x, *biases)
        return self._captured(x, *biases)[0].clone()  # copied, as the next pass overwrites what a recording gives

    def _whole_pass(self, x: Tensor, *biases: Tensor) -> Tensor:
        return self.predict(x, biases)

    def biases(self, t: float, like: Tensor) -> list[Tensor]:
        """All that depends on the timestep: the bias of each residual layer's first convolution, (channels,) each.

        They are computed once for each timestep, by the device and in the dtype of `like`.
        """
        key = (t, like.dtype, like.device)
        if key not in self._biases:
            time = functional.silu(self._time(t, like))
            if len(self._biases) == KEPT_TIMESTEPS:
                del self._biases[next(iter(self._biases))]
            self._biases[key] = [r.conv1.bias + r.time_emb_proj(time)[0] for r in _residual_layers(self.unet)]
        return self._biases[key]

    def _row_biases(self, t: float, like: Tensor, class_labels: Tensor) -> list[Tensor]:
        """As `biases`, for rows of these classes: (B, channels) each."""
        time = functional.silu(self._time(t, like) + self.unet.class_embedding(class_labels).to(like.dtype))  # (B, D)
        return [r.conv1.bias + r.time_emb_proj(time) for r in _residual_layers(self.unet)]

    def _time(self, t: float, like: Tensor) -> Tensor:
        """The timestep's embedding, (1, D)."""
        features = self.unet.time_proj(torch.full((1,), t, device=like.device)).to(like.dtype)
        return self.unet.time_embedding(features)

    def predict(self, x: Tensor, biases: Sequence[Tensor]) -> Tensor:
        """The same, from what `biases` gives, for all rows or row by row."""
        unet, bias = self.unet, iter(biases)
        h = unet.conv_in(x)
        skips = [h]
        for block in unet.down_blocks:
            for resnet, attention in _layers(block):
                h = attention(_residual(resnet, h, next(bias)))
                skips.append(h)
            for downsample in block.downsamplers or ():
                h = downsample(h)
                skips.append(h)
        middle = unet.mid_block
        h = _residual(middle.resnets[0], h, next(bias))
        for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
            h = _residual(resnet, h if attention is None else attention(h), next(bias))
        for block, upsample in zip(unet.up_blocks, self.upsamplers, strict=True):
            for resnet, attention in _layers(block):
                h = attention(_residual(resnet, torch.cat([h, skips.pop()], dim=1), next(bias)))
            h = upsample(h)
        return unet.conv_out(functional.silu(unet.conv_norm_out(h), inplace=True))


class CompiledUNet(SharedTimestepUNet):
    """Fused by `torch.compile`; the weights should be channels-last.

    All models of one architecture share what is compiled, which happens at the first forward pass of a batch size.
    """

    upsampling = PlainUpsample  # the compiler does best with it

    def _whole_pass(self, x: Tensor, *biases: Tensor) -> Tensor:
        return _compiled()(self, x.to(memory_format=torch.channels_last), biases)


@lru_cache(maxsize=1)
def _compiled() -> Callable[[SharedTimestepUNet, Tensor, Sequence[Tensor]], Tensor]:
    """`predict`, compiled for whatever model it is given; batch sizes are fixed, so shapes need not be dynamic."""
    return torch.compile(SharedTimestepUNet.predict, dynamic=False)


class PlainUNet(nn.Module):
    """`UNet2DModel.forward` itself, for architectures that the faster pass is not right for."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: float, class_labels: Tensor | None = None) -> Tensor:
        """Predicted noise (B, C, H, W) at timestep `t` of every row of `x`, of the rows' classes (B,) if it has any."""
        time = torch.tensor([t], device=x.device)  # as a number it is cut to int
        return self.unet(x, time, class_labels, return_dict=False)[0]


def _layers(block: Any) -> list[tuple[Any, Any]]:
    """A block's residual layers, each with the attention after it, or with what does nothing."""
    attentions = getattr(block, "attentions", None) or [_same] * len(block.resnets)
    return list(zip(block.resnets, attentions, strict=True))


def _same(h: Tensor) -> Tensor:
    return h


def _residual_layers(unet: Any) -> list[Any]:
    """In the order in which `predict` comes to them."""
    blocks = (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
    return [resnet for block in blocks for resnet in block.resnets]


def _residual(resnet: Any, x: Tensor, bias: Tensor) -> Tensor:
    h = functional.silu(resnet.norm1(x), inplace=True)
    conv = resnet.conv1
    if bias.ndim == 1:
        h = functional.conv2d(h, conv.weight, bias, conv.stride, conv.padding)
    else:  # each row's own
        h = functional.conv2d(h, conv.weight, None, conv.stride, conv.padding).add_(bias[:, :, None, None])
    h = functional.silu(resnet.norm2(h), inplace=True)
    return resnet.conv2(h).add_(x if resnet.conv_shortcut is None else resnet.conv_shortcut(x))
