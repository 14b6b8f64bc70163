"""Groups of options that several commands have, each as one value: how samples are drawn, how work is run.

A command takes a group as a parameter, a dataclass whose fields are annotated as options, and `grouped` gives the
command line every field as an option of its own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from .._runtime.execution import Execution
from ..diffusion.conditions import Condition
from ..diffusion.sampling_settings import CLIP, Sampling
from ..errors import SettingsError
from .choices import Backend as BackendName
from .common import (
    Backend,
    Clip,
    Compile,
    Device,
    Guidance,
    Labels,
    MaxResident,
    NegativePrompt,
    Precision,
    Prompts,
    Ray,
    Sampler,
    SamplingSteps,
    Stacked,
    Workers,
)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Make every field of a command's groups an option; the command is called with the groups put together again."""
    hints, parameters = get_type_hints(command, include_extras=True), inspect.signature(command).parameters
    groups = {name: hints[name] for name in parameters if is_dataclass(hints[name])}

    @functools.wraps(command)
    def called(**options: Any) -> None:
        for name, group in groups.items():
            options[name] = group(**{field.name: options.pop(field.name) for field in fields(group)})
        command(**options)

    expanded = []
    for name, parameter in parameters.items():
        if name not in groups:
            expanded.append(parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[name]))
            continue
        annotations = get_type_hints(groups[name], include_extras=True)
        expanded += [
            inspect.Parameter(
                field.name, parameter.KEYWORD_ONLY, default=field.default, annotation=annotations[field.name]
            )
            for field in fields(groups[name])
        ]
    called.__signature__ = inspect.Signature(expanded)  # pyright: ignore[reportAttributeAccessIssue]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in expanded}
    return called


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn."""

    sampler: Sampler = "ddpm"
    steps: SamplingSteps = 50
    clip: Clip = CLIP

    def sampling(self, **more: Any) -> Sampling:
        """As the library takes it, with other settings that the command has."""
        return Sampling(self.sampler, self.steps, clip=self.clip, **more)


@dataclass(frozen=True)
class FastDrawing(Drawing):
    """How many samples are drawn, at what precision, and what computes them."""

    precision: Precision = "fp32"
    backend: Backend = None
    compiled: Compile = None
    stacked: Stacked = False

    def sampling(self, **more: Any) -> Sampling:
        """As the library takes it, with other settings that the command has."""
        return super().sampling(precision=self.precision, backend=self.one_backend(), **more)

    def one_backend(self) -> BackendName | None:
        """The backend, which older commands ask for by options of their own."""
        asked: dict[str, BackendName] = {}
        if self.backend is not None:
            asked["--backend"] = self.backend
        if self.stacked:
            asked["--stacked"] = "stacked"
        if self.compiled:
            asked["--compile"] = "compiled"
        if self.compiled is False and not asked:
            return "eager"
        if len(set(asked.values())) > 1:
            raise SettingsError(f"{' and '.join(asked)} exclude each other; give --backend alone")
        return next(iter(asked.values()), None)


@dataclass(frozen=True)
class Asked:
    """What samples are to show."""

    label: Labels = None
    prompt: Prompts = None
    negative_prompt: NegativePrompt = None
    guidance: Guidance = 1.0

    def conditions(self) -> list[Condition] | None:
        """As the library takes them: one for all samples, or one for each; None if nothing is asked for."""
        columns = {
            "label": self.label or [None],
            "prompt": self.prompt or [None],
            "negative_prompt": [self.negative_prompt],
        }
        most = max(map(len, columns.values()))
        for name, column in columns.items():
            if len(column) not in (1, most):
                raise SettingsError(
                    f"--{name} is given {len(column)} times and another {most} times; give both as often"
                )
        even = {name: column * (most // len(column)) for name, column in columns.items()}
        made = [Condition(**dict(zip(even, row, strict=True))) for row in zip(*even.values(), strict=True)]
        return None if made == [Condition()] else made


@dataclass(frozen=True)
class Working:
    """Where work is done."""

    workers: Workers = None
    device: Device = "auto"

    def execution(self) -> Execution:
        """As the library takes it."""
        return Execution(self.workers, self.device)


@dataclass(frozen=True)
class FarWorking(Working):
    """Where work is done that may go to a cluster."""

    ray: Ray = None

    def execution(self) -> Execution:
        """As the library takes it."""
        return Execution(self.workers, self.device, ray=self.ray)


@dataclass(frozen=True)
class EnsembleWorking(FarWorking):
    """Where work is done that needs whole ensembles in memory."""

    max_resident: MaxResident = None

    def execution(self) -> Execution:
        """As the library takes it."""
        return Execution(self.workers, self.device, self.max_resident, self.ray)
