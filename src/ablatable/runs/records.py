"""What a run writes down, as types: its settings, a component's training record, the manifest, the log's events.

The JSON on disk is their canonical form, so a value that is read and written again has the same bytes and hashes.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from .._runtime.files import canonical_json, json_hash, read_json
from ..diffusion.recipe import Recipe
from ..errors import StoreError, command

FORMAT = 2

SETTINGS, MANIFEST, TRAINING, LOG = "settings.json", "ensemble.json", "training.json", "log.jsonl"

Mark = tuple[int, str, float]
"""(step, SHA-256 (hex) of the weights and their average after so many steps, that step's loss)."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    later: ClassVar[frozenset[str]] = frozenset()  # fields that came later: left out where they are None

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None or name not in self.later}

    def values(self) -> dict[str, Any]:
        """As JSON types."""
        return self.model_dump(mode="json")


class SharedRecord(_Record):
    """A frozen model that all components use, see `shared`.

    Attributes:
        role: what it is: `base model`, `codec`, `text encoder`.
        sha256: over its files and their paths.
        statement: what its giver says about what it was trained on.
    """

    name: str
    role: str
    sha256: str
    statement: str | None = None

    later: ClassVar[frozenset[str]] = frozenset({"statement"})


class RunSettings(_Record):
    """What was asked for: `settings.json`, written first.

    Attributes:
        shape: (C, H, W) of the images.
        components: how many the code has; `present`: the numbers of those that the run has.
        units: how many there are.
        seed: the ensemble seed.
        torch: its version.
        code_design: how the code was designed, if at random.
        hardware: the GPU that was trained on, see `devices.hardware`; None = a CPU.
        shared: the frozen models that all components use; None = there are none.
    """

    format: Literal[2] = FORMAT
    kind: Literal["ablatable run"] = "ablatable run"
    shape: tuple[int, int, int]
    components: int
    present: tuple[int, ...]
    units: int
    seed: int
    recipe: Recipe
    code_sha256: str
    units_sha256: str
    torch: str
    code_design: str | None = None
    hardware: str | None = None
    shared: tuple[SharedRecord, ...] | None = None

    later: ClassVar[frozenset[str]] = frozenset({"code_design", "hardware", "shared"})


class TrainingRecord(_Record):
    """How one component was made: `components/07/training.json`.

    Attributes:
        component: its number.
        units: content hash by unit id, of its split.
        images: how many its split has.
        split_commitment: the root of a Merkle tree over the split.
        device: the kind of device that it was trained on; `hardware`: which, if it was a GPU.
        loss: [last step of a stretch, mean loss] pairs; none if nothing was trained.
        marks: what training had come to at some steps; none if nothing was trained.
        shared: SHA-256 by name of the frozen models that it used; None = there were none.
        claimed: True if it was trained elsewhere: then `units` is what somebody states, and the rest says nothing of
            how it was trained.
    """

    component: int
    seed: int
    units: dict[str, str]
    images: int
    recipe: Recipe
    split_commitment: str
    device: str
    hardware: str | None = None
    loss: list[tuple[int, float]]
    marks: list[Mark]
    weights_sha256: str
    shared: dict[str, str] | None = None
    claimed: Literal[True] | None = None

    later: ClassVar[frozenset[str]] = frozenset({"hardware", "shared", "claimed"})


class Manifest(_Record):
    """What a complete run vouches for: `ensemble.json`, written last.

    Attributes:
        weights_sha256, split_commitments: one per component that is present.
        files_sha256: by path, of every file of the components and of what they share.
        environment: versions and kind of machine.
        sha256: of all the rest; it names the run.
    """

    settings: RunSettings
    settings_sha256: str
    units_table_sha256: str
    images_sha256: str
    weights_sha256: list[str]
    split_commitments: list[str]
    files_sha256: dict[str, str]
    environment: dict[str, str]
    sha256: str = ""

    def sealed(self) -> Manifest:
        """With its hash."""
        return self.model_copy(update={"sha256": json_hash(self.model_dump(mode="json", exclude={"sha256"}))})


class Event(BaseModel):
    """A line of `log.jsonl`: when it was written, and what happened."""

    model_config = ConfigDict(extra="allow", frozen=True)  # a log is read as far as it is understood

    name: ClassVar[str]
    time: str = Field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))
    event: str


class Trained(Event):
    """Components were trained."""

    name: ClassVar[str] = "trained"
    event: Literal["trained"] = "trained"  # pyright: ignore[reportIncompatibleVariableOverride]
    components: list[int]
    seconds: float
    images_per_second: float
    workers: int | str
    device: str


class UnitsLoaded(Event):
    """Units were loaded, see `LoadReport`. Runs that were trained before a setting existed had its default."""

    name: ClassVar[str] = "loaded"
    event: Literal["loaded"] = "loaded"  # pyright: ignore[reportIncompatibleVariableOverride]
    background: str = "white"
    skip_broken: bool = False
    duplicates: str = "keep"


R = TypeVar("R", bound=BaseModel)


def read_as(record: type[R], path: Path, values: Any) -> R:
    """A value that was read from a file, as a record; `StoreError` names the first field that is not as it must be."""
    try:
        return record.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StoreError(f"{path} is damaged or of another version: field '{where}': {first['msg']}") from None


def read_training(folder: Path) -> TrainingRecord:
    """A component's training record; `StoreError` if it is missing or damaged."""
    path = folder / TRAINING
    return read_as(TrainingRecord, path, read_json(path))


def read_manifest(run: Path) -> Manifest:
    """A run's manifest; `StoreError` unless its bytes are those that were written, to the last one."""
    path = run / MANIFEST
    manifest = read_json(path)
    if isinstance(manifest, dict) and canonical_json(manifest) == path.read_bytes():
        rest = {key: value for key, value in manifest.items() if key != "sha256"}
        if json_hash(rest) == manifest.get("sha256"):
            _check_format(run, manifest)
            return read_as(Manifest, path, manifest)
    raise StoreError(
        f"{path} is damaged (its hash does not match); delete it, then repeat "
        f"{command('train')}: nothing that is intact is trained again"
    )


def _check_format(run: Path, manifest: dict[str, Any]) -> None:
    settings = manifest.get("settings")
    found = settings.get("format") if isinstance(settings, dict) else None
    if found != FORMAT:
        raise StoreError(f"{run} has run format {found}, this version reads {FORMAT}; use the version that wrote it")


def log(run: Path, event: Event) -> None:
    """Append one line to the run's log."""
    with (run / LOG).open("a") as file:
        file.write(json.dumps(event.model_dump(mode="json")) + "\n")
