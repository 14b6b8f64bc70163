"""A run: a trained ensemble as a folder, opened for reading, and checked.

run/
  settings.json       what was asked for; written first, compared on every reopening
  units.parquet       unit id, content sha256, number of images, codeword, ablation index
  images.safetensors  the units' images, so that a run explains itself
  shared/base/        a frozen model that all components use, if there is one
  components/07/      a plain diffusers model folder and training.json, complete as soon as it is there
  ensemble.json       settings, every file's hash, each split's commitment, versions; written last: a run that has it
                      is complete
  log.jsonl           when, where and how fast; the one file whose bytes differ from run to run

Removing units leaves a run of its surviving components alone: `present` lists them by their number, which they keep, as
all of a component's randomness is keyed by it. To all rooms below, a run's components are those that are present.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._runtime.files import file_hash, read_json
from .._runtime.merkle import commit
from .._runtime.outputs import OutputKind
from ..codes.code import RANDOM, Code
from ..data.units import Units
from ..errors import AblatableError, CodeError, DataError, SettingsError, StoreError, command, option
from .records import read_manifest, read_training
from .shared import FOLDER, Shared, folder_hash

if TYPE_CHECKING:
    import polars as pl
    from torch import nn

    from ..diffusion.autoencoder import Codec
    from ..diffusion.ensemble import Ensemble
    from ..diffusion.sampling_settings import BackendName

IMAGES = "images.safetensors"

RUN = OutputKind(
    what="run",
    marker="settings.json",
    recognises=lambda value: value["kind"] == "ablatable run",
    files=(
        r"settings\.json|units\.parquet|images\.safetensors|ensemble\.json|log\.jsonl|certificate\.json",
        r"components/\d+(\.partial)?/([\w.-]+\.(json|safetensors)|checkpoint)",  # a kind names its own
        r"shared/[a-z][a-z0-9_-]*(\.partial)?/.+",
    ),
    finished="ensemble.json",
    closed=("components",),
)
"""What a run's folder holds."""


class Run:
    """A complete run, opened for reading.

    Attributes:
        path: its folder.
        manifest: `ensemble.json`.
        recipe: the components' recipe.
        design: codewords over all components that the run was designed with, one row per unit.
        present: the numbers of the components that there are, ascending; all of them unless units were forgotten.
        code: the design's columns of the components present: codewords, one row per unit.
        unit_ids: the units' names, one per row.
        digests: the units' content hashes, one per row.
        shared: the frozen models that all components use; usually none.
    """

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Open a run, as `Run(path)` does and as a universe is opened."""
        return cls(path)

    def __repr__(self) -> str:
        """What it is and where, in one line."""
        left = f"{len(self.present)} of {self.design.components}"
        return f"Run({str(self.path)!r}: {len(self.unit_ids)} units, {left} components, {self.recipe.component.kind})"

    def _repr_html_(self) -> str:
        """For notebooks: key figures, and images of the first units."""
        from .._runtime.notebook import figures_html

        channels, height, width = self.shape
        figures = {
            "units": len(self.unit_ids),
            "components": f"{len(self.present)} of {self.design.components}",
            "images": f"{height} x {width}, {'grey' if channels == 1 else 'colour'}",
            "component": self.recipe.component.kind,
            "training steps": self.recipe.training_steps or "none",
            "seed": self.seed,
            "digest": self.digest[:16],
        }
        return figures_html(f"Run {self.path}", figures) + self.units()._repr_html_()

    def __init__(self, path: str | Path) -> None:
        """Open a run; `StoreError` if there is none, it is unfinished, or its tables do not match its manifest."""
        self.path = Path(path)
        if not (self.path / "ensemble.json").exists():
            raise StoreError(_why_not_a_run(self.path))
        self.manifest = read_manifest(self.path)
        settings = self.manifest.settings
        self.recipe, self.shape = settings.recipe, settings.shape
        self.shared = Shared(settings.shared or (), self.path / FOLDER)
        place = self.path / "units.parquet"
        if not place.is_file() or file_hash(place) != self.manifest.units_table_sha256:
            raise StoreError(f"{place} is missing or damaged (its hash does not match); restore it from a copy")
        table = read_units_table(self.path)
        self.unit_ids: tuple[str, ...] = tuple(table["unit"])
        self.digests: tuple[str, ...] = tuple(table["sha256"])
        design = Code.from_words(table["codeword"].to_list(), allow_dummy=True)
        self.design = design.as_random() if settings.code_design == RANDOM else design
        self.present = settings.present
        self.code = self.design.columns(self.present)
        if self.design.digest() != settings.code_sha256:
            raise StoreError(
                f"{self.path / 'units.parquet'} does not hold the code that the run was trained with; "
                f"see {command('audit check', self.path)}"
            )

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest: it names the run, weights and all."""
        return self.manifest.sha256

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what components denoise: of latents where there is a codec, else of pictures."""
        return self.shape if self.recipe.latent is None else self.recipe.latent.shape

    @cached_property
    def codec(self) -> Codec | None:
        """The autoencoder between pictures and latents; `StoreError` if it is damaged."""
        if self.recipe.latent is None:
            return None
        from ..diffusion.autoencoder import PART, load_codec

        self.shared.check()
        return load_codec(self.shared.folders[PART], self.recipe.latent)

    @property
    def seed(self) -> int:
        """The ensemble seed."""
        return self.manifest.settings.seed

    def units(self) -> Units:
        """The training data the run was given, read from the run; `StoreError` if it is damaged."""
        units = _read_images(self.path, self.unit_ids)
        if units.digests != self.digests:
            raise StoreError(
                f"{self.path / 'images.safetensors'} is damaged: it does not hold the units of units.parquet; "
                "restore it from a copy"
            )
        return units

    def component_folder(self, index: int) -> Path:
        """Where the component of the code's column `index` is."""
        return component_folder(self.path, self.present[index])

    def load_component(self, index: int, *, verify: bool = True) -> nn.Module:
        """Component `index`, ready to predict; `StoreError` if a file of it is missing or (`verify`) damaged."""
        from ..diffusion.kinds import load_component

        folder = self.component_folder(index)
        for name, digest in self.manifest.files_sha256.items() if verify else ():
            path = self.path / name
            if path.parent == folder and (not path.exists() or file_hash(path) != digest):
                raise StoreError(
                    f"{path} is missing or damaged; delete {folder} and {self.path / 'ensemble.json'}, "
                    f"then repeat {command('train')}: only that component is trained"
                )
        if verify:
            self.shared.check()
        return load_component(folder, self.recipe.component, self.recipe.schedule, self.shared.folders)

    def ensemble(
        self,
        *,
        batch: int | None = None,
        precision: str = "fp32",
        backend: BackendName = "eager",
        device: str = "cpu",
        max_resident: int | None = None,
    ) -> Ensemble:
        """All components that are present, as one denoiser.

        Args:
            batch: see `Ensemble`.
            precision: `fp32`, or `bf16` for weights and forward passes in bfloat16; sums and samplers stay in float32.
            backend: what computes the forward passes, see `Sampling`; `stacked` takes a `batch`.
            device: where the components are put.
            max_resident: how many components are kept in memory at once; None = all.

        Raises:
            SettingsError: on this device a row's bits depend on its place in a batch of `batch`.
        """
        from .loaded import loaded_ensemble, stacked_ensemble

        if backend == "stacked":
            return stacked_ensemble(self, batch, precision, device, max_resident)
        return loaded_ensemble(self, batch, precision, backend, device, max_resident)

    def copy_to(self, folder: str | Path) -> None:
        """Copy the run to a new or empty folder; `SettingsError` if something is there."""
        import shutil

        target = Path(folder)
        if target.exists() and any(target.iterdir()):
            raise SettingsError(f"{target} is not empty; choose another place")
        shutil.copytree(self.path, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))

    def rows(self, ids: Sequence[str]) -> list[int]:
        """Code rows of some units; `DataError` names one that is unknown."""
        position = {unit: row for row, unit in enumerate(self.unit_ids)}
        for unit in ids:
            if unit not in position:
                part = [known for known in self.unit_ids if unit and unit.casefold() in known.casefold()]
                close = get_close_matches(unit, self.unit_ids, n=3) or part[:3]
                hint = (
                    f"did you mean {' or '.join(close)}?"
                    if close
                    else f"its units are {self.unit_ids[0]} .. {self.unit_ids[-1]}"
                )
                raise DataError(f"no unit '{unit}' in {self.path}; {hint}")
        return [position[unit] for unit in ids]

    def survivors(self, without: Sequence[str]) -> np.ndarray:
        """Components that saw none of these units, bool (components,); `CodeError` if there is none."""
        return surviving(self.code, self.rows(without), list(without))


def as_run(run: str | Path | Run) -> Run:
    """A run that is open already, or the one at a path."""
    return run if isinstance(run, Run) else Run(run)


def recorded_code(path: str | Path) -> str | None:
    """The digest of the code that the run at `path` was begun with, finished or not; None if there is no run."""
    known = Path(path) / "settings.json"
    return read_json(known).get("code_sha256") if known.exists() else None


def component_folder(run: Path, number: int) -> Path:
    """Where a run keeps the component of that number."""
    return run / "components" / f"{number:02d}"


def surviving(code: Code, rows: Sequence[int], names: Sequence[str]) -> np.ndarray:
    """`code.survivors`, with an error that says how many of these units can go together."""
    alive = code.survivors(rows)
    if not alive.any():
        longest = max(k for k in range(len(rows)) if code.survivors(rows[:k]).any())
        raise CodeError(
            f"no component survives without {', '.join(names)}: each of the {code.components} saw one of them or more. "
            f"The first {longest} of them can be removed together; "
            f"a lower {option('weight')} when training leaves room for more"
        )
    return alive


def check_run(path: str | Path) -> list[str]:
    """Compare every hash of a run with what is on disk. Returns what is wrong, one sentence each; empty = intact."""
    path = Path(path)
    if not (path / "ensemble.json").exists():
        return [_why_not_a_run(path)]
    try:
        manifest = read_manifest(path)
        expected = {
            "settings.json": manifest.settings_sha256,
            "units.parquet": manifest.units_table_sha256,
            "images.safetensors": manifest.images_sha256,
            **manifest.files_sha256,
        }
        settings = manifest.settings
    except AblatableError as error:
        return [error.message]
    wrong = [
        f"{path / name}: {'missing' if not (path / name).exists() else 'does not have the hash in ensemble.json'}"
        for name, digest in expected.items()
        if not (path / name).exists() or file_hash(path / name) != digest
    ]
    wrong += [
        f"{path / FOLDER / part.name}: the {part.role} does not have the hash in ensemble.json"
        for part in settings.shared or ()
        if not wrong and folder_hash(path / FOLDER / part.name) != part.sha256
    ]
    if not wrong:
        try:
            run = Run(path)
            if read_json(path / "settings.json") != settings.values():
                wrong.append(f"{path / 'ensemble.json'}: its settings are not those of settings.json")
            units = run.units()
            if (
                units.fingerprint() != settings.units_sha256
                or list(units.digests) != read_units_table(path)["sha256"].to_list()
            ):
                wrong.append(f"{path / 'images.safetensors'}: not the units of units.parquet")
            for i, number in enumerate(run.present):
                record = read_training(run.component_folder(i))
                split = {run.unit_ids[row]: units.digests[row] for row in run.code.split(i)}
                if record.units != split:
                    wrong.append(f"component {number:02d}: its training record lists other units than its split")
                if not record.split_commitment == manifest.split_commitments[i] == commit(split.values()):
                    wrong.append(f"component {number:02d}: what is committed to is not its split")
                if (record.shared or {}) != run.shared.digests:
                    wrong.append(f"component {number:02d}: it was made with other shared parts than the run's")
                if record.weights_sha256 != manifest.weights_sha256[i]:
                    wrong.append(f"component {number:02d}: its training record names other weights than ensemble.json")
        except AblatableError as error:
            wrong.append(error.message)
    return wrong


def read_units_table(path: Path) -> pl.DataFrame:
    """The run's units.parquet: unit, sha256, images, codeword, ablation."""
    import polars as pl

    try:
        return pl.read_parquet(path / "units.parquet")
    except Exception as error:
        raise StoreError(f"cannot read {path / 'units.parquet'} ({error}); it is missing or damaged") from error


def _read_images(path: Path, ids: tuple[str, ...]) -> Units:
    try:
        return Units.mapped(path / IMAGES, ids)
    except DataError as error:
        raise StoreError(f"cannot read {path / 'images.safetensors'} ({error}); it is missing or damaged") from error


def _why_not_a_run(path: Path) -> str:
    if not path.exists():
        return f"there is no run at {path}; make one with {command('train', 'DATA', option('out', path))}"
    if (path / "settings.json").exists():
        settings = read_json(path / "settings.json")
        present = settings.get("present", range(settings["components"]))
        done = sum(1 for number in present if component_folder(path, number).exists())
        return (
            f"{path} is an unfinished run: {done} of {len(present)} components are trained; "
            f"repeat {command('train')} to finish it"
        )
    return f"{path} is not a run (no ensemble.json in it)"
