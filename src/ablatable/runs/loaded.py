"""A run's components in memory, as they are drawn with: on a device, in a precision, all of them or some at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .._runtime.devices import CPU, computing
from ..diffusion.ensemble import Ensemble, Streamed
from ..diffusion.given import trial_of
from ..diffusion.kinds import captured
from ..diffusion.places import refuse_unless_places_agree
from ..diffusion.stacked import StackedEnsemble, refuse_unless_alone, stacked
from ..errors import AblatableError, SettingsError, option

if TYPE_CHECKING:
    from torch import nn

    from ..diffusion.sampling_settings import BackendName
    from .run import Run

FAILED = {"compiled": "compiling the forward pass failed", "openvino": "OpenVINO cannot compute the forward pass"}


def loaded_ensemble(
    run: Run, batch: int | None, precision: str, backend: BackendName, device: str, max_resident: int | None
) -> Ensemble:
    """See `Run.ensemble`."""
    seen: set[int] = set()
    count = run.code.components
    few = max_resident is not None and max_resident < count
    if backend == "openvino" and (few or device != CPU):
        raise SettingsError(
            f"OpenVINO computes on the CPU, with all components in memory; leave {option('max_resident')} out, and "
            f"take {option('device', CPU)}, or take {option('backend', 'eager')}"
        )

    def load(index: int) -> nn.Module:
        component = run.load_component(index, verify=index not in seen).to(device)
        seen.add(index)
        component = ready(component, backend, precision)
        # recording takes longer than a few passes of a component that is then dropped
        return component if few else captured(component)

    components = Streamed(load, count, max_resident or 1) if few else [load(index) for index in range(count)]
    if batch is not None:
        with computing(device, precision):
            middle = run.recipe.schedule.train_steps // 2
            try:
                given = trial_of(run.recipe.component.takes, batch, device)
                refuse_unless_places_agree(components[0], run.noise_shape, batch, middle, device, given)
            except Exception as error:
                if backend not in FAILED or isinstance(error, AblatableError):
                    raise
                raise SettingsError(  # compilers have many kinds
                    f"{FAILED[backend]} ({' '.join(str(error).split())[:200]}); take {option('backend', 'eager')}"
                ) from error
    return Ensemble(components, batch=batch)


def ready(component: Any, backend: BackendName, precision: str) -> nn.Module:
    """A component whose forward pass is computed by that backend, if it can: one of another package may not."""
    if backend == "openvino":
        return component.by_openvino(precision)  # weights stay float32
    if backend == "compiled" and hasattr(component, "fast"):
        component = component.fast()
    return component.to(torch.bfloat16) if precision == "bf16" else component


def stacked_ensemble(
    run: Run, batch: int | None, precision: str, device: str, max_resident: int | None
) -> StackedEnsemble:
    """See `Run.ensemble`."""
    if batch is None or max_resident is not None:
        raise SettingsError(
            f"stacked components take a batch, and all of them in memory; leave {option('max_resident')} out, or "
            f"take {option('backend', 'eager')}"
        )
    count = run.code.components
    stack = captured(stacked([run.load_component(k) for k in range(count)], run.recipe.component.kind).eval())
    stack = stack.to(device)
    if precision == "bf16":
        stack = stack.to(torch.bfloat16)
    ensemble, middle = StackedEnsemble(stack, count, batch=batch), run.recipe.schedule.train_steps // 2
    with computing(device, precision), torch.inference_mode():
        refuse_unless_places_agree(ensemble.components[0], run.noise_shape, batch, middle, device)
        draws = torch.Generator().manual_seed(0)
        rows, others = torch.randn(2, count, batch, *run.noise_shape, generator=draws)
        for slot in {0, count // 2, count - 1}:
            beside = others.index_copy(0, torch.tensor([slot]), rows[slot : slot + 1])
            said = (stack(each.flatten(0, 1).to(device), middle) for each in (rows, beside))
            refuse_unless_alone([[each.unflatten(0, (count, -1))[slot].cpu()] for each in said])
    return ensemble
