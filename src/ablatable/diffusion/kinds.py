"""The kinds of component there are: what every other module asks of one, and how another package adds its own.

A kind says how a component is built, saved and loaded, and what else it can do. `unet`, `ideal`, `adopted` and
`lora` come with the package. Another package registers a kind by an entry point of the group `ablatable.kinds`, named
as the kind:

    [project.entry-points."ablatable.kinds"]
    convolution = "my_package.convolution:KIND"

A recipe names it: `Recipe(component={"kind": "convolution", ...})`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from .._runtime.files import writing
from ..errors import SettingsError, StoreError, command
from .recipe import ComponentConfig, Recipe

if TYPE_CHECKING:
    from .schedule import Schedule

GROUP = "ablatable.kinds"
BUILT_IN = {
    "unet": "ablatable.diffusion.unet",
    "ideal": "ablatable.diffusion.ideal",
    "adopted": "ablatable.diffusion.adopted",
    "lora": "ablatable.diffusion.lora",
}


def trainable(denoiser: nn.Module) -> list[nn.Parameter]:
    """The parameters that require a gradient, in their order."""
    return [parameter for parameter in denoiser.parameters() if parameter.requires_grad]


def squared_error(config: Any, predicted: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    """Mean squared error of the predicted noise."""
    return nn.functional.mse_loss(predicted, noise)


@dataclass(frozen=True)
class Kind:
    """What a kind of component is made of.

    Attributes:
        config: its settings; the class says its name, its weights file and whether it is trained.
        denoiser: the class of its denoisers.
        build: (config, the split's pixels uint8 (M, H, W, C), seed, schedule) -> a fresh denoiser. Its weights may
            depend on these alone, and of the pixels, on the split's: nothing else may reach a component.
        save: (denoiser, folder, dtype's name) writes the weights, rounded to that dtype, to `config.weights`, a
            safetensors file, and whatever else `load` needs.
        load: (folder, config, schedule) -> the denoiser that was saved, on the CPU, weights in float32. It may raise
            anything when a file is missing or unreadable.
        parameters: the parameters that training changes.
        loss: (config, predicted noise, noise, abar_t (B,)) -> the training loss, a scalar.
        stack: (components) -> one denoiser for rows that come as equal parts, part k for component k, with a method
            `write_to(components)` that copies the weights back; None = components are computed one by one. Nothing may
            reach from one component into another, forward or backward.
        shared: whether its components need frozen models that all of them use. Then `build` and `load` get one more
            argument: the folder of each, by its name.

    A denoiser may offer methods more. Without them its plain forward pass is used, and what needs them is refused:

    - `fast()` lets `torch.compile` fuse its forward pass, and returns the denoiser (backend `compiled`);
    - `by_openvino(precision)` lets OpenVINO compute its forward pass on the CPU, and returns the denoiser (backend
      `openvino`); its weights stay float32;
    - `capture()` records its forward pass as a GPU's graph, and returns the denoiser (nothing needs it);
    - `tangent(x, t, directions)` gives its prediction and its derivatives along some directions, see `tangents.push`
      (differential ablation).
    """

    config: type[ComponentConfig]
    denoiser: type[nn.Module]
    build: Callable[..., nn.Module]
    save: Callable[[Any, Path, str], None]
    load: Callable[..., nn.Module]
    parameters: Callable[[nn.Module], list[nn.Parameter]] = trainable
    loss: Callable[[Any, Tensor, Tensor, Tensor], Tensor] = squared_error
    stack: Callable[[Sequence[Any]], nn.Module] | None = None
    shared: bool = False

    def refuse_unless(self, method: str, purpose: str, remedy: str = "") -> None:
        """`SettingsError`, which says why `purpose` is impossible, unless its denoisers offer this method."""
        if not hasattr(self.denoiser, method):
            raise SettingsError(
                f"{purpose} is not possible with components of kind '{self.config.name()}': their denoiser "
                f"({self.denoiser.__name__}) has no method '{method}'{remedy and f'; {remedy}'}"
            )


@cache
def kind_named(name: str) -> Kind:
    """The kind of that name; `SettingsError` says which there are."""
    if name in BUILT_IN:
        return import_module(BUILT_IN[name]).KIND
    others = {point.name: point for point in entry_points(group=GROUP)}
    if name not in others:
        raise SettingsError(
            f"no kind of component '{name}'; there are {', '.join([*BUILT_IN, *others])}. "
            "Install the package that registers it"
        )
    return others[name].load()


def build_component(
    recipe: Recipe, pixels: np.ndarray, seed: int, shared: Mapping[str, Path] = MappingProxyType({})
) -> nn.Module:
    """A fresh component for a split's pixels, uint8 (M, H, W, C); `shared`: folders of frozen models, by name."""
    kind = kind_named(recipe.component.kind)
    more = (shared,) if kind.shared else ()
    if recipe.latent is not None:  # a kind may know the shape of what it denoises, as it knows that of pictures
        pixels = np.zeros((len(pixels), *recipe.latent.shape[1:], recipe.latent.shape[0]), np.uint8)
    return kind.build(recipe.component, pixels, seed, recipe.schedule, *more)


def save_component(denoiser: nn.Module, config: ComponentConfig, folder: Path, stored: str = "float32") -> None:
    """Write a component's weights to a folder, rounded to `stored` (a dtype's name)."""
    kind = kind_named(config.kind)
    if not isinstance(denoiser, kind.denoiser):
        wanted, given = kind.denoiser.__name__, type(denoiser).__name__
        raise TypeError(f"a component of kind '{config.kind}' is a {wanted}, not a {given}")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        kind.save(denoiser, folder, stored)


def load_component(
    folder: Path, config: ComponentConfig, schedule: Schedule, shared: Mapping[str, Path] = MappingProxyType({})
) -> nn.Module:
    """Read a component written by `save_component`, in evaluation mode, on the CPU, weights in float32.

    `shared`: folders of frozen models, by name. Raises `StoreError` when a file is missing or unreadable.
    """
    kind = kind_named(config.kind)
    more = (shared,) if kind.shared else ()
    try:
        return kind.load(folder, config, schedule, *more).eval()
    except Exception as error:  # safetensors and diffusers raise many kinds
        raise StoreError(
            f"component {folder.name}: cannot read {folder / config.weights} ({error}); give the run to "
            f"{command('audit check')}, then repeat {command('train')} to rebuild what is missing"
        ) from error


def captured(denoiser: nn.Module) -> nn.Module:
    """The denoiser with its passes recorded as a GPU's graphs, if it has a method `capture`; bits stay as they are."""
    capture: Callable[[], nn.Module] | None = getattr(denoiser, "capture", None)
    return denoiser if capture is None else capture()
