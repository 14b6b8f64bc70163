"""What all studies share: one cell is one ensemble and its universe, made once and then measured."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from .._runtime.execution import Execution
from .._runtime.files import canonical_json, read_json, write_json
from .._runtime.outputs import OutputKind, check_folder
from .._runtime.provenance import compare_settings
from ..analysis.calibration import calibrate
from ..analysis.nearest import unit_distances
from ..analysis.statistics import STATISTICS
from ..analysis.witness import witness
from ..codes.code import Code
from ..data.units import Units
from ..diffusion.recipe import Recipe
from ..diffusion.sampling_settings import SamplerName, Sampling
from ..errors import SettingsError
from ..runs.ensemble_training import train
from ..runs.run import Run
from ..universes.enumeration import enumerate_universe
from ..universes.reader import Universe

ALPHA = 0.05  # false-positive rate at which power is stated

STUDY = OutputKind(
    what="study",
    marker="study.json",
    recognises=lambda value: bool(value.keys()),  # `open_study` compares the whole value, and nothing is ever deleted
    files=(r"study\.json", r".*"),
)

Measured = dict[str, Any]


class StudySampling(BaseModel):
    """How a study draws: the same seeds in every cell."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sampler: SamplerName = "ddpm"
    steps: int = Field(default=50, ge=1)
    samples: int = Field(default=8, ge=2)
    spares: int = Field(default=64, ge=1, description="at most; as many as the code has, if fewer")
    clip: bool = Field(default=False, description="bring every step's image into range; published results did not")

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = handler(self)
        if not self.clip:  # studies begun before there was clipping go on
            values.pop("clip", None)
        return values

    @property
    def drawing(self) -> Sampling:
        """How each sample is drawn."""
        return Sampling(self.sampler, self.steps, clip=self.clip)


Config = TypeVar("Config", bound=BaseModel)


def read_config(path: Path | None, model: type[Config]) -> Config:
    """A study's configuration from a JSON file, or its defaults; `SettingsError` names the first bad setting."""
    if path is None:
        return model()
    try:
        return model.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"{path}: setting '{where}': {first['msg']} (got {first.get('input')!r})") from None


def open_study(out: Path, config: BaseModel) -> None:
    """Make a study's folder, or resume the one that is there; `SettingsError` if it has another configuration."""
    known, settings = out / "study.json", config.model_dump(mode="json")
    check_folder(out, STUDY)
    if known.exists():
        compare_settings(read_json(known), settings, out)
    else:
        write_json(known, settings)


def make_cell(
    folder: Path,
    units: Units,
    code: Code,
    recipe: Recipe,
    sampling: StudySampling,
    measure: Callable[[Universe, Run], Measured],
    *,
    seed: int,
    only: Sequence[str] | None = None,
    execution: Execution = Execution(),
) -> Measured:
    """Train, enumerate and measure one cell; what an earlier call finished is kept.

    Args:
        folder: the cell's own; `result.json` in it says that it is finished.
        measure: what to find out about the universe and its run; plain values.
        only: the units whose ablations are drawn; None = all.

    Returns:
        What `measure` returned, and `seconds`: how long the cell took this process (an interrupted one: its last part).
    """
    result = folder / "result.json"
    if result.exists():
        return read_json(result)
    began = time.monotonic()
    run = train(units, code, recipe, out=folder / "run", seed=seed, execution=execution)
    trained = time.monotonic()
    universe = enumerate_universe(
        run.path,
        range(sampling.samples),
        out=folder / "universe.zarr",
        units=only,
        sampling=sampling.drawing,
        spares=min(sampling.spares, code.spare_capacity),
        execution=execution,
    )
    drawn = time.monotonic()
    measured = {
        **measure(universe, run),
        "training_seconds": round(trained - began, 1),
        "drawing_seconds": round(drawn - trained, 1),
    }
    write_json(result, json.loads(canonical_json(measured)))
    return read_json(result)


def radii(units: np.ndarray, spares: np.ndarray, landscape: int) -> Measured:
    """Radii and spare maxima, over all ablations and over `landscape` of each kind, one value per sample.

    From distances (units, samples) and (spares, samples).
    """
    size = min(landscape, len(units), len(spares))
    return {
        "units_drawn": len(units),
        "spares": len(spares),
        "radius": units.max(axis=0).tolist(),
        "spare_radius": spares.max(axis=0).tolist(),
        "landscape": size,
        "radius_fixed": largest_of(units, size).tolist(),
        "spare_radius_fixed": largest_of(spares, size).tolist(),
    }


def nearest_p_values(universe: Universe) -> dict[str, list[float]]:
    """By every statistic, the p-value of each sample's nearest unit; the choice of the unit looks at no ablation."""
    nearest = unit_distances(universe.factual, universe).argmin(axis=1)
    rows = np.arange(len(nearest))
    return {name: calibrate(universe, statistic=name).p[nearest, rows].tolist() for name in STATISTICS}


def witness_p_values(run: Run, samples: int, sampling: Sampling) -> Measured:
    """The witness test of the first `samples` seeds: p of each one's nearest unit, and how many units are marked."""
    found = witness(run, range(samples), sampling=sampling)
    return {"witness_p": found.nearest_p.tolist(), "marked": found.marked().sum(axis=0).tolist()}


def largest_of(distances: np.ndarray, count: int) -> np.ndarray:
    """The largest of `count` rows drawn at random, (N, samples) -> (samples,): its mean over all such draws.

    The k-th smallest of N is the largest of C(k-1, count-1) of the C(N, count) draws. This way landscapes of different
    sizes can be compared: none has an advantage from taking its maximum over more ablations.
    """
    ordered, total = np.sort(distances.astype(np.float64), axis=0), len(distances)
    # weight of rank k, from the top: N has count / N; each step down multiplies by (k - count + 1) / k
    weights = np.empty(total)
    weight = count / total
    for k in range(total, 0, -1):
        weights[k - 1] = weight
        weight *= max(0, k - count) / max(1, k - 1)
    return weights @ ordered
