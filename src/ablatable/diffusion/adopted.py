"""The kind `adopted`: a model that was trained elsewhere, in diffusers' format. It is used, and never trained here.

What the network predicts becomes noise at this boundary. With a = abar_t, x_t = sqrt(a) x_0 + sqrt(1-a) eps:

- `epsilon` is the noise already;
- `v_prediction`, v = sqrt(a) eps - sqrt(1-a) x_0 (Salimans & Ho 2022), gives eps = sqrt(a) v + sqrt(1-a) x_t;
- `sample`, x_0, gives eps = (x_t - sqrt(a) x_0) / sqrt(1-a).

At one x_t each is affine in what is predicted, so the mean over components is the same before and after.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import SerializerFunctionWrapHandler, model_serializer
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import SettingsError, command
from .conditions import Takes
from .kinds import Kind
from .recipe import ComponentConfig
from .schedule import Schedule

ARCHITECTURES = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel")
CONDITION = "condition"  # the shared part that holds a fixed text embedding
EMBEDDING = "embedding.safetensors"


class AdoptedConfig(ComponentConfig):
    """A model of diffusers that was trained elsewhere.

    Attributes:
        architecture: the model's class in diffusers.
        prediction: what the network predicts, in diffusers' words (`prediction_type`).
        clip_sample: whether the scheduler that came with it brings predicted images into [-1, 1].
        label: the class that every sample is drawn of, for models that take one.
        condition: what each sample may be asked for instead.
        claim: what the giver says about who saw what.
    """

    weights: ClassVar[str] = "diffusion_pytorch_model.safetensors"
    trained: ClassVar[bool] = False
    claimed: ClassVar[bool] = True

    kind: Literal["adopted"] = "adopted"  # pyright: ignore[reportIncompatibleVariableOverride]
    architecture: Literal["UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel"]
    prediction: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    clip_sample: bool = False
    label: int | None = None
    condition: Takes | None = None
    claim: str

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if name != "condition" or value is not None}

    @property
    def takes(self) -> Takes | None:
        """The conditions that its components take."""
        return self.condition


class Asked(Protocol):
    """How a model of diffusers is asked."""

    @property
    def label(self) -> int | None:
        """The class that every sample is drawn of."""
        ...

    @property
    def prediction(self) -> str:
        """What the network predicts."""
        ...


class AdoptedDenoiser(nn.Module):
    """A diffusers model as a denoiser: (x_t, t) -> predicted noise; conditions are those of the model's own words."""

    def __init__(self, model: nn.Module, config: Asked, schedule: Schedule, embedding: Tensor | None) -> None:
        """`embedding`: what a text encoder would give, float (L, D), for models that attend to one."""
        super().__init__()
        self.model, self.config = model, config
        self.abar = schedule.alphas_cumprod().float()  # no buffers: they stay float32 when weights are bfloat16
        self.embedding = embedding

    def forward(
        self,
        x: Tensor,
        t: Tensor | int,
        class_labels: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
    ) -> Tensor:
        """Predicted noise, same shape and dtype as `x` (B, C, H, W).

        Args:
            x: x_t.
            t: timesteps.
            class_labels: each row's class, int64 (B,); None = the one in the settings, if there is one.
            encoder_hidden_states: each row's prompt, as the text encoder gives it, float (B, tokens, width); None = the
                fixed one, if there is one.
        """
        dtype = next(self.model.parameters()).dtype
        steps = torch.as_tensor(t, device=x.device).reshape(-1).expand(len(x))
        given = self._condition(x, dtype, class_labels, encoder_hidden_states)
        predicted = self.model(x.to(dtype), steps, **given, return_dict=False)[0]
        # models that learn a variance predict twice as many channels, the noise first
        return self._noise(predicted[:, : x.shape[1]].to(x.dtype), x, t)

    def _condition(
        self, x: Tensor, dtype: torch.dtype, labels: Tensor | None, states: Tensor | None
    ) -> dict[str, Tensor]:
        given: dict[str, Tensor] = {}
        if labels is not None:
            given["class_labels"] = labels
        elif self.config.label is not None:
            given["class_labels"] = torch.full((len(x),), self.config.label, device=x.device)
        if states is not None:
            given["encoder_hidden_states"] = states.to(dtype)
        elif self.embedding is not None:
            given["encoder_hidden_states"] = self.embedding.to(x.device, dtype).expand(len(x), -1, -1)
        return given

    def _noise(self, predicted: Tensor, x: Tensor, t: Tensor | int) -> Tensor:
        if self.config.prediction == "epsilon":
            return predicted
        if self.abar.device != x.device:
            self.abar = self.abar.to(x.device)
        a = self.abar[t].to(x.dtype).reshape(-1, 1, 1, 1)
        if self.config.prediction == "v_prediction":
            return a.sqrt() * predicted + (1 - a).sqrt() * x
        return (x - a.sqrt() * predicted) / (1 - a).sqrt()


def model_class(name: str) -> Any:
    """One of `ARCHITECTURES`."""
    import diffusers

    return getattr(diffusers, name)


def model_of(config: dict[str, Any], weights: Path) -> nn.Module:
    """A model from its config and its safetensors file, on the CPU in float32; raises anything if they do not fit."""
    made = model_class(config["_class_name"]).from_config(config)
    state = load_file(weights)
    made.load_state_dict({name: weight.float() for name, weight in state.items()})
    return made.eval()


def _build(*_: Any) -> nn.Module:
    raise SettingsError(
        "components that somebody else trained cannot be trained here; adopt them as they are: "
        f"{command('run adopt', 'FOLDERS')}"
    )


def _save(denoiser: nn.Module, folder: Path, stored: str) -> None:
    _build()


def _load(folder: Path, config: AdoptedConfig, schedule: Schedule, shared: Mapping[str, Path]) -> AdoptedDenoiser:
    architecture = model_class(config.architecture).load_config(folder, local_files_only=True)
    model = model_of({**architecture, "_class_name": config.architecture}, folder / config.weights)
    embedding = load_file(shared[CONDITION] / EMBEDDING)["embedding"] if CONDITION in shared else None
    return AdoptedDenoiser(model, config, schedule, embedding)


KIND = Kind(AdoptedConfig, AdoptedDenoiser, build=_build, save=_save, load=_load, shared=True)
