"""What a universe was made from, and how one grows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator

from .._runtime.devices import CPU
from .._runtime.provenance import compare_settings
from ..codes.code import Code
from ..diffusion.conditions import Condition
from ..diffusion.sampling_settings import BackendName, Sampling
from ..errors import SettingsError, option

FORMAT = 1
UNKNOWN = {"components": 0, "sampler": "unknown", "steps": 0, "batch": 0}  # how a file says that nobody recorded it


class UniverseSettings(BaseModel):
    """Everything that decides the bytes of a universe. It is stored in the attributes of the Zarr group.

    An imported universe (see `ctf`) has no run, and its file does not record the codewords or how it was sampled: these
    fields are None.

    Attributes:
        run_sha256: hash of the run's manifest.
        shape: (channels, height, width) of an image.
        components: how many components the run has.
        sampler, steps, precision, threshold, backend, clip, guidance: see `Sampling`.
        batch: rows that a component processes at once.
        block: (ablations, samples) per unit of work.
        seeds: one per sample.
        conditions: one per sample; None = the samples have none.
        units: unit ids.
        digests: content hash of each unit.
        words: the ablations: distinct codewords, as texts of 0 and 1.
        ablation: for each unit, its row of `words`.
        spares: rows of `words` that no unit has.
        hardware: `cpu`, or the GPU's name and the versions of its libraries: another rounds differently.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    kind: str = "ablatable universe"
    run_sha256: str | None
    shape: tuple[int, int, int]
    components: int | None
    sampler: str | None
    steps: int | None
    precision: str = "fp32"
    threshold: int | None = None
    backend: BackendName = "eager"
    clip: bool = False
    guidance: float = 1.0
    batch: int | None
    block: tuple[int, int]
    seeds: tuple[int, ...]
    conditions: tuple[Condition, ...] | None = None
    units: tuple[str, ...]
    digests: tuple[str, ...]
    words: tuple[str, ...] | None
    ablation: tuple[int, ...]
    spares: tuple[int, ...] = ()
    hardware: str = CPU

    @model_validator(mode="before")
    @classmethod
    def _read_unknown(cls, values: Any) -> Any:
        """Files write 0, "unknown" and empty codewords for what an imported universe does not know.

        They say of two backends whether it is this one, since there were no others.
        """
        if not isinstance(values, dict):
            return values
        told = {name: value for name, value in values.items() if name not in ("compiled", "stacked")}
        for name in ("compiled", "stacked"):
            if values.get(name):
                told["backend"] = name
        if told.get("components") == 0:
            return {**told, **dict.fromkeys(UNKNOWN), "words": None}
        return told

    @model_serializer(mode="wrap")
    def _write_unknown(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = handler(self)
        if self.imported:
            unknown = {**UNKNOWN, "words": [""] * self.ablations}
            values.update({name: value for name, value in unknown.items() if name in values})
        if not self.clip:  # a universe without clipping keeps the bytes that it had before there was clipping
            values.pop("clip", None)
        if self.hardware == CPU:  # likewise; universes without it on record were drawn on a CPU
            values.pop("hardware", None)
        if self.guidance == 1:
            values.pop("guidance", None)
        if self.conditions is None:
            values.pop("conditions", None)
        return dict(_as_in_files(values))

    @model_validator(mode="after")
    def _check(self) -> UniverseSettings:
        """Arrays are indexed by these values, so they must agree with one another."""
        if (
            self.format != FORMAT
            or min(*self.shape, *self.block) < 1
            or not len(self.units) == len(self.digests) == len(self.ablation)
            or not self.units
            or not self.seeds
            or (self.conditions is not None and len(self.conditions) != len(self.seeds))
            or not all(0 <= row < self.ablations for row in (*self.ablation, *self.spares))
        ):
            raise ValueError("the settings contradict one another")
        return self

    @property
    def versions(self) -> tuple[str, ...]:
        """Packages that its bytes depend on, beside those that all do."""
        return ("openvino",) if self.backend == "openvino" else ()

    @property
    def imported(self) -> bool:
        """Whether it was imported: then it has no run, no codewords, and no noise on record."""
        return self.components is None

    @property
    def ablations(self) -> int:
        """How many distinct ablations there are, spares included: rows of the arrays."""
        return len(self.words) if self.words is not None else max(self.ablation) + 1

    @property
    def at_once(self) -> int:
        """How many components compute at the same time."""
        return self.components if self.backend == "stacked" and self.components is not None else 1

    @property
    def codewords(self) -> np.ndarray:
        """The ablations, bool (ablations, components): True where a component is removed.

        Raises:
            SettingsError: the universe was imported, so its codewords are unknown.
        """
        if self.words is None:
            raise SettingsError(
                "an imported universe has no codewords, because its file does not record them; "
                "use a universe that was drawn from a run"
            )
        return Code.from_words(list(self.words), allow_dummy=True).matrix

    @property
    def sampling(self) -> Sampling:
        """How its samples were drawn.

        Raises:
            SettingsError: the universe was imported, so nobody knows.
        """
        if self.sampler is None or self.steps is None:
            raise SettingsError(
                "nobody recorded how the samples of an imported universe were drawn; "
                "use a universe that was drawn from a run"
            )
        return Sampling(
            self.sampler,
            self.steps,
            self.precision,
            self.backend,
            self.threshold,
            self.clip,
            self.guidance,
        )

    def conditions_of(self, seeds: Iterable[int]) -> tuple[Condition, ...] | None:
        """The conditions of the samples of these seeds, in that order; None if the samples have none."""
        if self.conditions is None:
            return None
        of = dict(zip(self.seeds, self.conditions, strict=True))
        return tuple(of[seed] for seed in seeds)


def _as_in_files(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings as files have them: each backend in the form that it had when it was new."""
    for name, value in values.items():
        if name != "backend":
            yield name, value
            continue
        yield "compiled", value == "compiled"
        if value == "stacked":
            yield "stacked", True
        elif value == "openvino":
            yield name, value


def told(settings: UniverseSettings, exclude: set[str]) -> dict[str, Any]:
    """The settings by their names in Python, to compare them: files leave some out, and name backends otherwise."""
    values = settings.model_dump(mode="json", exclude=exclude)
    for name in ("compiled", "stacked"):
        values.pop(name, None)
    return values | {"clip": settings.clip, "guidance": settings.guidance, "backend": settings.backend}


def extension(old: UniverseSettings, wanted: UniverseSettings, place: str | Path) -> UniverseSettings:
    """What a universe of `old` settings must become to hold everything that `wanted` asks for: `old` itself, or more.

    Seeds, units and spares may be added. The image of an ablation and a sample has the same bits in whichever universe
    it is drawn, so nothing that is there has to be drawn again.

    Other hardware is no difference as long as nothing is added.

    Raises:
        SettingsError: `wanted` lacks something that is there, or differs in anything else; both values are named.
    """
    if old.imported or wanted.imported:
        compare_settings(old.model_dump(mode="json"), wanted.model_dump(mode="json"), place)
        return old
    assert old.words is not None and wanted.words is not None  # only imported universes have none
    seeds, units, words = set(old.seeds), set(old.units), set(old.words)
    spares = {old.words[row] for row in old.spares}
    contained = {
        "seeds": seeds <= set(wanted.seeds),
        "units": units <= set(wanted.units),
        "spares": spares <= {wanted.words[row] for row in wanted.spares},
    }
    compare_settings(_compared(old, contained, seeds), _compared(wanted, contained, seeds), place)
    new_seeds = [seed for seed in wanted.seeds if seed not in seeds]
    all_words = (*old.words, *(word for word in wanted.words if word not in words))
    row = {word: number for number, word in enumerate(all_words)}
    new_units = [k for k, unit in enumerate(wanted.units) if unit not in units]
    new_spares = [word for k in wanted.spares if (word := wanted.words[k]) not in spares]
    grown = old.model_copy(
        update={
            "seeds": (*old.seeds, *new_seeds),
            "conditions": conditions_grown(old, wanted),
            "units": (*old.units, *(wanted.units[k] for k in new_units)),
            "digests": (*old.digests, *(wanted.digests[k] for k in new_units)),
            "words": all_words,
            "ablation": (*old.ablation, *(row[wanted.words[wanted.ablation[k]]] for k in new_units)),
            "spares": (*old.spares, *(row[word] for word in new_spares)),
        }
    )
    if grown != old:
        refuse_other_hardware(old.hardware, wanted.hardware, place)
    return grown


def conditions_grown(old: UniverseSettings, wanted: UniverseSettings) -> tuple[Condition, ...] | None:
    """The conditions of the seeds of `old`, then of those that only `wanted` has; None if none has any."""
    if old.conditions is None and wanted.conditions is None:
        return None
    new = [seed for seed in wanted.seeds if seed not in old.seeds]
    there, more = (settings.conditions_of(seeds) for settings, seeds in ((old, old.seeds), (wanted, new)))
    return (*(there or (Condition(),) * len(old.seeds)), *(more or (Condition(),) * len(new)))


def refuse_other_hardware(then: str, now: str, place: str | Path) -> None:
    """Raise `SettingsError` unless what is added to a universe is drawn on the hardware that it was begun on."""
    if then != now:
        raise SettingsError(
            f"{place} was drawn on {then}, and this is {now}, which rounds differently: within one universe images "
            f"must differ by the ablation alone. Draw on {then}, or choose another {option('out')}"
        )


def conditions_told(settings: UniverseSettings, seeds: Iterable[int]) -> dict[str, str]:
    """The conditions of those of these seeds that there are, in words, by seed."""
    of = dict(zip(settings.seeds, settings.conditions or (Condition(),) * len(settings.seeds), strict=True))
    return {f"condition of seed {seed}": str(of[seed]) for seed in sorted(seeds) if seed in of}


def _compared(settings: UniverseSettings, contained: dict[str, bool], seeds: set[int]) -> dict[str, Any]:
    """The settings that two universes are compared by; those that may grow count only if they did not."""
    derived = {"batch", "block", "words", "ablation", "digests", "hardware", "conditions"}
    growing = {"seeds": list(settings.seeds), "units": list(settings.units), "spares": len(settings.spares)}
    rest = told(settings, derived | growing.keys()) | conditions_told(settings, seeds)
    return {**rest, **{name: "" if contained[name] else value for name, value in growing.items()}}
