"""Which backend computes a run's forward passes, and whether it can."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._runtime.compiling import missing_for_compiling
from .._runtime.devices import CPU
from ..diffusion.sampling_settings import BackendName
from ..errors import SettingsError, option

if TYPE_CHECKING:
    from .run import Run


def backend_of(run: Run, asked: BackendName | None, precision: str, hardware: str) -> BackendName:
    """The backend that is asked for, or the best one if none is. Call this before anything is written.

    Args:
        run: the run that is drawn from.
        asked: see `Sampling`; None = `compiled` on a CUDA GPU, if it can, else `eager`. (On a CPU, compiling takes as
            long as many universes.)
        precision: of the forward passes.
        hardware: see `devices.hardware`.

    Raises:
        SettingsError: this kind of component, precision or hardware cannot do it, or a program or package is missing.
    """
    from ..diffusion.kinds import kind_named

    component, kind = run.recipe.component, kind_named(run.recipe.component.kind)
    eager = f"take {option('backend', 'eager')}"
    if (precision != "fp32" or asked == "compiled") and component.own_precision:
        raise SettingsError(
            f"{component.kind} components have the precision of their recipe; take {option('precision', 'fp32')} and "
            f"{option('backend', 'eager')}"
        )
    if asked is None:
        able = hasattr(kind.denoiser, "fast") and not component.own_precision
        return "compiled" if hardware != CPU and able and missing_for_compiling(hardware) is None else "eager"
    missing = None
    if asked == "stacked":
        from ..diffusion.stacked import refuse_unless_stackable

        refuse_unless_stackable(component)
    elif asked == "compiled":
        kind.refuse_unless("fast", option("backend", asked), eager)
        missing = missing_for_compiling(hardware)
    elif asked == "openvino":
        from ..diffusion.openvino_unet import missing_for_openvino

        kind.refuse_unless("by_openvino", option("backend", asked), eager)
        missing = missing_for_openvino(hardware, precision)
    if missing:
        raise SettingsError(f"{option('backend', asked)} needs {missing}, or {eager}")
    return asked
