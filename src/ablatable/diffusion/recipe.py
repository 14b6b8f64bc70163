"""Every setting that decides what a component becomes, in one place, and the presets."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from .._runtime.devices import PrecisionName
from ..errors import SettingsError
from .conditions import Classes, Takes, check_classes
from .schedule import Schedule


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _without_defaults(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Leave out settings that came later, where they are as if they were not there: records keep their hashes."""
    return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}


class ComponentConfig(_Config):
    """The settings of one kind of component; `kind` names it (see `kinds`).

    Attributes:
        weights: the name of the file with its weights.
        trained: whether its weights are trained, or follow from its split and seed as soon as it is built.
        own_precision: whether its settings say in which precision it computes, so that sampling cannot choose one.
        claimed: whether it was trained elsewhere, so that who saw what is somebody's claim, its setting `claim`.
    """

    weights: ClassVar[str]
    trained: ClassVar[bool] = True
    own_precision: ClassVar[bool] = False
    claimed: ClassVar[bool] = False

    kind: str

    @classmethod
    def name(cls) -> str:
        """The kind's name."""
        return cls.model_fields["kind"].default

    @property
    def takes(self) -> Takes | None:
        """The conditions that its components take; None = none."""
        return None


class UNetConfig(ComponentConfig):
    """A diffusers `UNet2DModel`. One entry of `channels` a resolution level; each further level halves the side."""

    weights: ClassVar[str] = "diffusion_pytorch_model.safetensors"

    kind: Literal["unet"] = "unet"  # pyright: ignore[reportIncompatibleVariableOverride]
    channels: tuple[int, ...] = (16, 32)
    layers: int = Field(default=1, ge=1, description="residual layers a block")
    attention: tuple[int, ...] = Field(default=(), description="levels (from 0) that attend")
    middle_attention: bool = False
    norm_groups: int = Field(default=8, ge=1)
    prediction: Literal["noise", "velocity", "edm"] = Field(
        default="noise", description="what the network computes; the component gives noise in any case"
    )
    sigma_data: float = Field(default=0.5, gt=0, description="for edm: root mean square of the images, in [-1, 1]")
    codec: Literal["haar", "dct"] | None = Field(
        default=None, description="compute on coefficients of blocks of the picture, see `transforms`; None = on pixels"
    )
    block: int = Field(default=2, ge=2, description="with a codec: side of a block in pixels, a power of two for haar")
    classes: tuple[str, ...] = Field(default=(), description="names of the classes that it takes, fixed beforehand")

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        later = {"prediction": "noise", "sigma_data": 0.5, "codec": None, "block": 2}
        values = _without_defaults(handler(self), later)
        return values if self.classes else {name: value for name, value in values.items() if name != "classes"}

    @model_validator(mode="after")
    def _check(self) -> UNetConfig:
        if not self.channels or any(c % self.norm_groups for c in self.channels):
            raise ValueError(f"each of channels={self.channels} must be a multiple of norm_groups={self.norm_groups}")
        if self.codec == "haar" and self.block & (self.block - 1):
            raise ValueError(f"block={self.block} must be a power of two for the codec haar")
        if any(not 0 <= level < len(self.channels) for level in self.attention):
            raise ValueError(f"attention={self.attention} names a level outside 0..{len(self.channels) - 1}")
        check_classes(self.classes)
        return self

    @property
    def takes(self) -> Takes | None:
        """Its classes, and after them one that stands for none."""
        return Classes(names=self.classes, null=len(self.classes)) if self.classes else None

    @property
    def multiple(self) -> int:
        """Sides are padded to a multiple of this, so that every level halves evenly."""
        return 2 ** (len(self.channels) - 1)


class IdealConfig(ComponentConfig):
    """The closed-form optimal denoiser of the split; nothing is trained."""

    weights: ClassVar[str] = "images.safetensors"
    trained: ClassVar[bool] = False
    own_precision: ClassVar[bool] = True

    kind: Literal["ideal"] = "ideal"  # pyright: ignore[reportIncompatibleVariableOverride]
    dtype: Literal["float32", "float64"] = "float32"


class TrainingConfig(_Config):
    """How one component is trained. All of it is a fixed number of steps: no stopping rule looks at shared data."""

    steps: int = Field(default=1000, ge=1)
    batch: int = Field(default=32, ge=1, description="images per step; a smaller split is taken whole at each step")
    learning_rate: float = Field(default=2e-3, gt=0)
    decay: Literal["constant", "cosine"] = "cosine"
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    optimizer: Literal["adam", "adamw"] = "adamw"
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, gt=0, description="largest gradient norm")
    ema: float = Field(default=0.99, ge=0, lt=1, description="decay of the averaged weights, which are what is kept")
    flips: bool = Field(default=False, description="mirror each image left to right with probability one half")
    precision: PrecisionName = "fp32"
    levels: tuple[float, float] | None = Field(
        default=None,
        description="mean and standard deviation of ln sigma over training, sigma^2 = (1 - abar_t) / abar_t (Karras et "
        "al. 2022, section 5); without it timesteps are uniform",
    )

    condition_dropout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="share of the images whose condition is withheld in a step, so that guidance has something to lead "
        "away from",
    )
    stored: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="what the finished weights are rounded to in the file; they compute in float32"
    )

    stacked: int = Field(
        default=1, ge=1, description="components that are trained as one computation; bits depend on it"
    )

    @model_validator(mode="after")
    def _check_levels(self) -> TrainingConfig:
        if self.levels is not None and not self.levels[1] > 0:
            raise ValueError(f"levels={self.levels}: the standard deviation must be above 0")
        return self

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        later = {"levels": None, "stored": "float32", "condition_dropout": 0.1, "stacked": 1}
        return _without_defaults(handler(self), later)


def _of_its_kind(value: Any) -> Any:
    """A component's settings, from plain values, as those of the kind that they name."""
    if not isinstance(value, dict):
        return value
    name = value.get("kind", "unet")
    if name in _CONFIGS:
        return _CONFIGS[name].model_validate(value)
    from .kinds import kind_named  # imports torch, which the built-in kinds' settings do without

    return kind_named(str(name)).config.model_validate(value)


_CONFIGS: dict[str, type[ComponentConfig]] = {"unet": UNetConfig, "ideal": IdealConfig}


class LatentConfig(_Config):
    """What components see of a picture: (z - shift) scale, with z the autoencoder's latents.

    Attributes:
        architecture: the autoencoder's class in diffusers.
        scale, shift: `scaling_factor` and `shift_factor` of its config.
        shape: (C, H, W) of the latents.
    """

    architecture: Literal["AutoencoderKL", "AutoencoderTiny"]
    scale: float = 1.0
    shift: float = 0.0
    shape: tuple[int, int, int]


class Recipe(_Config):
    """What to build and how to train it: the same for every component of an ensemble.

    `latent`: components denoise latents of a shared autoencoder; None = pictures themselves.
    """

    component: Annotated[SerializeAsAny[ComponentConfig], BeforeValidator(_of_its_kind)] = UNetConfig()
    schedule: Schedule = Schedule()
    training: TrainingConfig = TrainingConfig()
    latent: LatentConfig | None = None

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_defaults(handler(self), {"latent": None})

    @property
    def training_steps(self) -> int:
        """Steps that training one component takes: 0 if its kind needs no training."""
        return self.training.steps if self.component.trained else 0

    def replace(self, **training: Any) -> Recipe:
        """The same recipe with other training settings, e.g. `replace(steps=500)`; None leaves a setting alone."""
        changes = {name: value for name, value in training.items() if value is not None}
        return recipe_from({**self.model_dump(), "training": {**self.training.model_dump(), **changes}})


PRESETS: dict[str, Recipe] = {
    # the demo's: about 160 thousand parameters, any side from 8, trains in about a minute a core on a few dozen digits
    "tiny": Recipe(training=TrainingConfig(steps=1200, batch=32, learning_rate=3e-3, ema=0.99)),
    # about 1.5 million parameters, for sides of 28 and 32
    "small": Recipe(
        component=UNetConfig(channels=(32, 64, 64), layers=2),
        training=TrainingConfig(steps=4000, batch=32, learning_rate=1e-3, ema=0.995),
    ),
    # for small drawings in colour, about 420 thousand parameters (docs/colour.md says what was tried)
    "colour": Recipe(
        component=UNetConfig(channels=(16, 32, 48), prediction="velocity"),
        training=TrainingConfig(steps=2500, batch=32, learning_rate=3e-3, ema=0.99, levels=(0.3, 1.4)),
    ),
    # for drawings in colour above 20 pixels, a million parameters: on Haar coefficients, at half the side
    "colour32": Recipe(
        component=UNetConfig(channels=(32, 64, 64), prediction="velocity", codec="haar"),
        training=TrainingConfig(steps=3000, batch=16, learning_rate=3e-3, ema=0.99, levels=(0.3, 1.4)),
    ),
    # the published architecture and optimiser; needs a GPU
    "paper": Recipe(
        component=UNetConfig(
            channels=(128, 256, 512, 512), layers=2, attention=(1,), middle_attention=True, norm_groups=32
        ),
        training=TrainingConfig(
            steps=100_000,
            batch=128,
            learning_rate=1e-4,
            decay="constant",
            warmup=0,
            optimizer="adam",
            weight_decay=0,
            ema=0.999,
        ),
    ),
    # nothing to train: for studies of large data sets, and as an exact reference
    "ideal": Recipe(component=IdealConfig()),
}


def preset(name: str, **training: Any) -> Recipe:
    """A recipe by its name, a key of `PRESETS` such as `colour`, its training settings replaced by those given.

    Raises `SettingsError` for an unknown name or an impossible setting.
    """
    if name not in PRESETS:
        raise SettingsError(f"no preset '{name}'; there are {', '.join(PRESETS)}")
    return PRESETS[name].replace(**training)


def recipe_from(values: dict[str, Any]) -> Recipe:
    """A recipe from plain values, as read from a manifest; `SettingsError` names the first bad one."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"setting '{where}': {first['msg']} (got {first.get('input')!r})") from None
