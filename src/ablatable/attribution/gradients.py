"""Attribution by gradients of the diffusion loss, through dattri: TracIn, TRAK and D-TRAK on an ensemble.

Every component is a model with its own training data, its split. So a method is applied to each component and its
split, and a unit's score is the mean over all components, zero from those that never saw it. The output function of a
picture is the mean, over timesteps and noises, of

    |eps - eps_theta(x_t, t)|^2   (the loss: TracIn, TRAK)    or    |eps_theta(x_t, t)|^2   (D-TRAK, Zheng et al. 2024).

Runs keep the final weights only, so TracIn's sum over checkpoints has one term, the dot product of final gradients.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from .._runtime.devices import CPU
from .._runtime.rng import generator
from ..data.units import Units, to_model
from ..diffusion.recipe import IdealConfig
from ..errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..diffusion.autoencoder import Codec
    from ..diffusion.schedule import Schedule
    from ..runs.run import Run

NOISES = 10  # timesteps a picture is noised to, evenly spaced, each with its own noise
PROJECTION = 256  # dimensions of TRAK's random projection
PROJECTION_TYPE = "normal"
DAMPING = 0.1  # added to TRAK's kernel, in mean squared (projected) gradients: splits may be smaller than PROJECTION
BATCH = 64  # pictures whose gradients are held at once

Score = Callable[[np.ndarray], np.ndarray]
"""Pictures, uint8 (N, H, W, C) -> scores of the training images, float64 (N, images)."""


@dataclass(frozen=True)
class Gradient:
    """One method.

    Attributes:
        output: `loss` or `norm`, the output function.
        kernel: whether gradients are projected and decorrelated over the split (TRAK), or only multiplied (TracIn).
        normalised: whether gradients are divided by their lengths (TracIn only).
    """

    output: str
    kernel: bool
    normalised: bool = False


METHODS = {
    "tracin": Gradient("loss", kernel=False),
    "grad-cos": Gradient("loss", kernel=False, normalised=True),
    "trak": Gradient("loss", kernel=True),
    "d-trak": Gradient("norm", kernel=True),
}


def prepare_gradient(name: str, training: Units, run: Run, device: str = CPU) -> Score:
    """Make a method of `METHODS` ready: TRAK's kernels are computed here, on a device as resolved.

    Raises:
        SettingsError: the extra `dattri` is not installed, or the components have no weights to differentiate by.
    """
    if isinstance(run.recipe.component, IdealConfig):
        raise SettingsError(f"'{name}' needs gradients, and components of kind ideal have no weights")
    if run.recipe.component.takes is not None:
        raise SettingsError(
            f"'{name}' differentiates a loss without conditions, and the components of {run.path} take them; leave the "
            "method out"
        )
    _dattri("task")
    method = METHODS[name]
    parts = []
    for component in range(run.code.components):
        rows = np.flatnonzero(np.isin(training.owner, run.code.split(component)))
        if len(rows):
            model = run.load_component(component).to(device)
            images, schedule = training.images[rows], run.recipe.schedule
            parts.append((rows, _Part(method, model, schedule, images, run.codec, device)))

    def score(pictures: np.ndarray) -> np.ndarray:
        total = np.zeros((len(pictures), len(training.images)))
        for rows, part in parts:
            total[:, rows] += part.score(pictures) / run.code.components
        return total

    return score


class _Part:
    """One component with its split."""

    def __init__(
        self,
        method: Gradient,
        model: nn.Module,
        schedule: Schedule,
        images: np.ndarray,
        codec: Codec | None,
        device: str,
    ) -> None:
        self.device = device
        self.method, self.schedule, self.images, self.codec = method, schedule, images, codec
        self.task = self._task(model)
        projection = {"proj_dim": PROJECTION, "proj_max_batch_size": BATCH, "proj_seed": 0, "device": device} | {
            "proj_type": PROJECTION_TYPE
        }
        if method.kernel:
            self.attributor = _dattri("algorithm.trak").TRAKAttributor(
                self.task,
                correct_probability_func=lambda parameters, data: data[0].sum() * 0,  # Q = 1: a loss has no classes
                projector_kwargs=projection,
                regularization=DAMPING * self._mean_square(),
                device=device,
            )
            with _quiet():
                self.attributor.cache(self._data(images))
        else:
            import torch

            self.attributor = _dattri("algorithm.tracin").TracInAttributor(
                self.task,
                weight_list=torch.ones(1),
                normalized_grad=method.normalised,
                projector_kwargs=projection,
                device=device,
            )
            self.attributor.projector_kwargs = None  # else it projects, whatever it is given

    def score(self, pictures: np.ndarray) -> np.ndarray:
        """Float64 (N, images of the split)."""
        with _quiet():
            if self.method.kernel:
                scores = self.attributor.attribute(self._data(pictures))
            else:
                scores = self.attributor.attribute(self._data(self.images), self._data(pictures))
        return scores.T.double().cpu().numpy()

    def _task(self, model: nn.Module) -> Any:
        import torch
        from torch.func import functional_call

        from ..diffusion.schedule import add_noise

        abar = self.schedule.alphas_cumprod().float().to(self.device)
        output = self.method.output

        def function(parameters: dict[str, Tensor], data: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            x0, t, eps = data  # (C, H, W), (K,), (K, C, H, W)
            predicted = functional_call(model, parameters, (add_noise(x0, eps, abar[t]), t))
            return ((predicted - eps) if output == "loss" else predicted).square().mean()

        for parameter in model.parameters():
            parameter.requires_grad_(True)
        checkpoint = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        with torch.no_grad():
            return _dattri("task").AttributionTask(loss_func=function, model=model, checkpoints=[checkpoint])

    def _data(self, pictures: np.ndarray) -> Any:
        """Pictures, and timesteps and noises that are the same for all of them, as dattri wants them."""
        import torch
        from torch.utils.data import DataLoader, TensorDataset

        x0 = to_model(pictures) if self.codec is None else self.codec.encode(pictures)
        steps = np.floor((np.arange(NOISES) + 0.5) / NOISES * self.schedule.train_steps).astype(np.int64)
        noise = generator("gradient").standard_normal((NOISES, *x0.shape[1:]), dtype=np.float32)
        t, eps = (torch.from_numpy(values).expand(len(x0), *values.shape).contiguous() for values in (steps, noise))
        return DataLoader(TensorDataset(x0, t, eps), batch_size=BATCH)

    def _mean_square(self) -> float:
        """Mean squared length of the split's gradients, scaled as TRAK scales them (a projection keeps lengths)."""
        parameters, _ = self.task.get_param(ckpt_idx=0)
        gradient = self.task.get_grad_loss_func(in_dims=(None, 0))
        batches = (tuple(each.to(self.device) for each in batch) for batch in self._data(self.images))
        lengths = [gradient(parameters, batch).detach().square().sum() for batch in batches]
        return sum(map(float, lengths)) / len(self.images) / parameters.numel()


def _dattri(module: str) -> Any:
    try:
        with _quiet():
            return import_module(f"dattri.{module}")
    except ImportError as error:
        raise SettingsError(
            f"attribution by gradients needs the extra 'dattri' ({error}): pip install 'ablatable[dattri]'"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without dattri's progress bars and warnings: the caller shows progress."""
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # noqa: PTH123
        warnings.simplefilter("ignore")
        yield
