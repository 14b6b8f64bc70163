"""The kind `lora`: each component is a small adapter on one frozen base model (Hu et al. 2021, by the package peft).

A layer of the base with weight W computes W x + (alpha / r) B A x. Only A (r rows) and B (r columns) are a component's:
they are what it trains and what it keeps, a file that peft and diffusers read. The base is a shared part of the run. In
memory there is one base per device and precision, and every component's adapter sits beside the others in its layers.
Drawing switches which of them is added. Nothing is ever merged into W, so no bit of the base changes.
"""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .._runtime.files import read_json
from ..errors import SettingsError, option
from .adopted import CONDITION, EMBEDDING, AdoptedDenoiser, model_of
from .conditions import Takes
from .kinds import Kind
from .recipe import ComponentConfig
from .schedule import Schedule

BASE = "base"  # the shared part that holds the base model, in diffusers' format
BASE_WEIGHTS = "diffusion_pytorch_model.safetensors"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2")  # attention, and the residual blocks' convolutions
_PREFIX = "base_model.model."  # of a layer's name, in peft's files


class LoRAConfig(ComponentConfig):
    """An adapter on a frozen base model.

    Attributes:
        rank: r, of the update of each layer's weight.
        alpha: the update is multiplied by alpha / r.
        targets: which layers are adapted, by the ends of their names in the base.
        prediction: what the base predicts, in diffusers' words (`prediction_type`).
        label: the class that every sample is drawn of, for bases that take one.
        condition: what each image is, and each sample may be asked for, instead.
    """

    weights: ClassVar[str] = "adapter_model.safetensors"

    kind: Literal["lora"] = "lora"  # pyright: ignore[reportIncompatibleVariableOverride]
    rank: int = Field(default=4, ge=1)
    alpha: int = Field(default=4, ge=1)
    targets: tuple[str, ...] = TARGETS
    prediction: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    label: int | None = None
    condition: Takes | None = None

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if name != "condition" or value is not None}

    @property
    def takes(self) -> Takes | None:
        """The conditions that its components take."""
        return self.condition


_residents: weakref.WeakValueDictionary[tuple[Path, torch.device, torch.dtype], nn.Module] = (
    weakref.WeakValueDictionary()
)
_numbers = itertools.count()


def _resident(folder: Path, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The base model on a device in a precision: the one that is there, or one read from its folder."""
    key = (folder.resolve(), device, dtype)
    base = _residents.get(key)
    if base is None:
        base = model_of(read_json(folder / "config.json"), folder / BASE_WEIGHTS)
        base = nn.Module.to(base, device, dtype).eval().requires_grad_(False)
        _residents[key] = base
    return base


class LoRADenoiser(nn.Module):
    """A base model with one adapter as a denoiser: (x_t, t) -> predicted noise. Its parameters are the adapter's."""

    _seat: _Seat
    _whole: AdoptedDenoiser

    def __init__(
        self, folder: Path, config: LoRAConfig, schedule: Schedule, embedding: Tensor | None, seed: int = 0
    ) -> None:
        """Put an adapter on the base model in `folder`: A is random by `seed`, B is 0, so at first nothing is added.

        `embedding`: what a text encoder would give, float (L, D), for bases that attend to one.

        Raises:
            SettingsError: peft is not installed, or no layer of the base has such a name.
        """
        super().__init__()
        self.folder, self.config, self._name = folder, config, f"component_{next(_numbers)}"
        base = _resident(folder, torch.device("cpu"), torch.float32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._sit(base)
        layers = self._seat.layers
        self.layers = list(layers)
        self.adapter = nn.ParameterList(
            part[self._name].weight for layer in layers.values() for part in (layer.lora_A, layer.lora_B)
        )
        # not as a submodule: the base belongs to all components, and moving one of them must not move it
        self.__dict__["_whole"] = AdoptedDenoiser(base, config, schedule, embedding)

    def forward(self, x: Tensor, t: Tensor | int, **given: Tensor) -> Tensor:
        """Predicted noise, same shape and dtype as `x` (B, C, H, W); the base computes in the adapter's dtype.

        `given`: the rows' conditions, see `AdoptedDenoiser.forward`.
        """
        self._follow()
        for layer in self._seat.layers.values():
            # not set_adapter, which goes through all parameters of all adapters, every time
            layer._active_adapter = self._name
        return self._whole(x, t, **given)

    def _sit(self, base: nn.Module) -> None:
        """Add an adapter to a base; it leaves when this denoiser does."""
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise SettingsError(
                f"components of kind 'lora' need the package peft ({error}); pip install 'ablatable[lora]'"
            ) from None
        config = self.config
        adapter = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(config.targets))
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")  # it is meant to hold many
                inject_adapter_in_model(adapter, base, self._name)
        except ValueError as error:
            raise SettingsError(
                f"the base model in {self.folder} has no layer whose name ends in one of {', '.join(config.targets)}; "
                "name others in `targets`"
            ) from error
        base.requires_grad_(False)
        self.__dict__["_seat"] = _Seat(base, _adapted(base, self._name))
        self._leave = weakref.finalize(self, _remove, weakref.ref(base), self._name)

    def _follow(self) -> None:
        """Where the adapter was moved or converted, go on with a base that is there, in that precision."""
        own, seat = self.adapter[0], self._seat
        if next(iter(seat.layers.values())).lora_A[self._name].weight is own and seat.place == (own.device, own.dtype):
            return
        base = _resident(self.folder, own.device, own.dtype)
        if base is not seat.base:
            self._leave()
            self._sit(base)
            self._whole.model = base
        for k, layer in enumerate(self._seat.layers.values()):
            layer.lora_A[self._name].weight = self.adapter[2 * k]
            layer.lora_B[self._name].weight = self.adapter[2 * k + 1]

    def matrices(self) -> dict[str, Tensor]:
        """A and B of every layer, under the names that peft gives them in files."""
        ends = ("lora_A", "lora_B")
        names = [f"{_PREFIX}{layer}.{end}.weight" for layer in self.layers for end in ends]
        return {name: matrix.detach() for name, matrix in zip(names, self.adapter, strict=True)}


class _Seat:
    """A base, its device and precision, and its layers that have a denoiser's adapter, by their names."""

    def __init__(self, base: nn.Module, layers: dict[str, Any]) -> None:
        weight = next(parameter for name, parameter in base.named_parameters() if ".lora_" not in name)
        self.base, self.layers, self.place = base, layers, (weight.device, weight.dtype)


def _adapted(base: nn.Module, name: str) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {
        place: layer for place, layer in base.named_modules() if isinstance(layer, LoraLayer) and name in layer.lora_A
    }


def _remove(base: weakref.ref[nn.Module], name: str) -> None:
    """Take an adapter out of a base that may be gone."""
    there = base()
    for layer in _adapted(there, name).values() if there is not None else ():
        for held in (layer.lora_A, layer.lora_B, layer.lora_dropout, layer.r, layer.lora_alpha, layer.scaling):
            del held[name]


def _build(
    config: LoRAConfig, pixels: np.ndarray, seed: int, schedule: Schedule, shared: Mapping[str, Path]
) -> LoRADenoiser:
    if BASE not in shared:
        raise SettingsError(
            f"components of kind 'lora' need a base model; give train the shared part '{BASE}' that adapters(...) makes"
        )
    config_of, given, sides = read_json(shared[BASE] / "config.json"), pixels.shape[3], pixels.shape[1:3]
    channels, halved = config_of.get("in_channels"), 2 ** (len(config_of.get("block_out_channels", [0])) - 1)
    if channels != given:
        raise SettingsError(
            f"the base model takes {channels} channels and the images have {given}; load them with as many"
        )
    if any(side % halved for side in sides):
        raise SettingsError(
            f"the base model halves the sides of what it denoises until they are a {halved}th, and {sides[0]} x "
            f"{sides[1]} are no multiples of {halved}; choose another {option('size')}"
        )
    return LoRADenoiser(shared[BASE], config, schedule, _embedding(shared), seed)


def _embedding(shared: Mapping[str, Path]) -> Tensor | None:
    return load_file(shared[CONDITION] / EMBEDDING)["embedding"] if CONDITION in shared else None


def _save(denoiser: LoRADenoiser, folder: Path, stored: str) -> None:
    from peft import LoraConfig

    config, dtype = denoiser.config, getattr(torch, stored)
    state = {name: matrix.to("cpu", dtype).contiguous() for name, matrix in denoiser.matrices().items()}
    save_file(state, folder / config.weights)
    adapter = LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=sorted(config.targets), inference_mode=True
    )
    adapter.save_pretrained(str(folder))


def _load(folder: Path, config: LoRAConfig, schedule: Schedule, shared: Mapping[str, Path]) -> LoRADenoiser:
    made = LoRADenoiser(shared[BASE], config, schedule, _embedding(shared))
    state, wanted = load_file(folder / config.weights), made.matrices()
    for name in sorted({*state, *wanted}):
        if name not in state or name not in wanted:
            raise ValueError(
                f"{folder / config.weights} holds an adapter of another base or other layers: "
                f"{name} is {'missing' if name in wanted else 'no layer of this base'}"
            )
        if state[name].shape != wanted[name].shape:
            raise ValueError(
                f"{folder / config.weights} holds an adapter of another base or rank: {name} is "
                f"{tuple(state[name].shape)}, and by this base and rank {config.rank} it is {tuple(wanted[name].shape)}"
            )
    for name, matrix in wanted.items():
        matrix.copy_(state[name])
    return made


def _loss(config: LoRAConfig, predicted: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    """Mean squared error of what the base predicts, from that of the noise (see `adopted`)."""
    a = abar.reshape(-1, 1, 1, 1)
    factor = {"epsilon": torch.ones_like(a), "v_prediction": 1 / a, "sample": (1 - a) / a}[config.prediction]
    return ((predicted - noise).square() * factor).mean()


def _parameters(denoiser: LoRADenoiser) -> list[nn.Parameter]:
    return [parameter.requires_grad_() for parameter in denoiser.adapter]


KIND = Kind(
    LoRAConfig,
    LoRADenoiser,
    build=_build,
    save=_save,
    load=_load,
    parameters=_parameters,  # pyright: ignore[reportArgumentType]
    loss=_loss,
    shared=True,
)
