"""How samples are drawn, as one value that travels from the command line to the denoiser."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from .._runtime.devices import PRECISIONS
from ..data.images import check_threshold
from ..errors import SettingsError
from .schedule import Schedule

SamplerName = Literal["ddpm", "ddim", "dpmsolver++", "heun"]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
BackendName = Literal["eager", "compiled", "stacked", "openvino"]
BACKENDS: tuple[BackendName, ...] = get_args(BackendName)
CLIP = True  # unless said otherwise; universes without the setting on record were drawn without (docs/colour.md)


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn: everything but the model and the noise.

    Attributes:
        sampler: `ddpm` (ancestral, fixed-small variance; with fewer steps than the schedule, its strided form
            t = k T/steps), `ddim` (deterministic), `dpmsolver++` (second order, multistep), or `heun` (second order,
            two passes per step).
        steps: sampling steps; each is one forward pass of every component, two with `heun` (the last one is one).
        precision: `fp32`; `tf32`, where a CUDA GPU may round the factors of products to 10 bits; or `bf16` for forward
            passes in bfloat16 (sums and samplers stay in float32).
        backend: what computes the forward passes. Bits differ from one to another by rounding.
            `eager`: torch, one operation after the other.
            `compiled`: `torch.compile`, which needs a C++ compiler for a CPU, and Triton and a C compiler for a CUDA
            GPU.
            `stacked`: torch, all components as one network, for a GPU that small components leave idle.
            `openvino`: OpenVINO, on a CPU (extra `openvino`).
            None: `compiled` on a CUDA GPU, if it can; else `eager`.
        threshold: deliver images in pure black and white: 8-bit levels from this one (1 to 255) up become white.
        clip: at every step, bring the image that the prediction implies into the range of images; see
            `clipping.clip_noise`.
        guidance: how far a sample's condition is followed, see `given`: 1 takes the prediction under the condition as
            it is, 0 ignores the condition, more than 1 exaggerates what it changes. All but 0 and 1 take two passes.

    Raises:
        SettingsError: there is no such sampler, precision or backend, or a number is out of range.
    """

    sampler: str = "ddpm"
    steps: int = 50
    precision: str = "fp32"
    backend: BackendName | None = None
    threshold: int | None = None
    clip: bool = CLIP
    guidance: float = 1.0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise SettingsError(f"no sampler '{self.sampler}'; there are {', '.join(SAMPLERS)}")
        if self.precision not in PRECISIONS:
            raise SettingsError(f"no precision '{self.precision}'; there are {', '.join(PRECISIONS)}")
        if self.backend is not None and self.backend not in BACKENDS:
            raise SettingsError(f"no backend '{self.backend}'; there are {', '.join(BACKENDS)}")
        if self.steps < 1:
            raise SettingsError(f"{self.steps} sampling steps; give 1 or more")
        if not (math.isfinite(self.guidance) and self.guidance >= 0):
            raise SettingsError(f"guidance {self.guidance:g}; give 1 for none, or more, such as 3")
        check_threshold(self.threshold)

    @property
    def passes(self) -> int:
        """Forward passes of every component."""
        return 2 * self.steps - 1 if self.sampler == "heun" else self.steps

    def finished(self, passes: int) -> int:
        """The number of the step that ends with this many passes; 0 if none does."""
        if self.sampler != "heun" or passes == self.passes:
            return min(passes, self.steps)
        return passes // 2 if passes % 2 == 0 else 0

    def check(self, schedule: Schedule) -> None:
        """Raise `SettingsError` unless the sampler can take so many steps with this noise schedule."""
        # dpmsolver++ spreads its steps over 0 .. T-1 with both ends, so T of them would visit a timestep twice
        most = max(1, schedule.train_steps - 1) if self.sampler == "dpmsolver++" else schedule.train_steps
        if self.steps > most:
            raise SettingsError(f"{self.steps} sampling steps; with this schedule {self.sampler} takes 1 to {most}")
