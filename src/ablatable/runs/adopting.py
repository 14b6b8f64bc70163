"""Adopt components that somebody trained elsewhere: a run of them, whose training is recorded as claimed.

Nothing here can show what they saw. A user states it (a code), the run records the statement, and everything that is
derived from the run says that it is claimed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from .._runtime.files import file_hash, move_folder_into_place, write_json
from .._runtime.merkle import commit
from .._runtime.outputs import output_folder
from ..codes.code import Code
from ..data.units import Units
from ..diffusion.recipe import ComponentConfig, Recipe
from ..errors import DataError, SettingsError, command, option
from .codecs import with_codec_of
from .model_conditions import Asking, condition_of
from .model_folders import CONFIG, WEIGHTS, ModelFolder, read_folders, recipe_of, try_it
from .records import TRAINING, RunSettings, TrainingRecord, UnitsLoaded, log
from .run import RUN, Run, component_folder
from .shared import FOLDER, Shared, SharedPart, copy_parts, records_of
from .splits_table import read_splits
from .writing import begin_run, manifest_of

UNKNOWN = "unknown"
CLAIM = "no more than the table of who saw what"


def adopt(
    folders: Sequence[str | Path],
    units: Units,
    code: Code | str | Path,
    *,
    out: str | Path,
    scheduler: str | Path | None = None,
    label: int | None = None,
    embedding: str | Path | None = None,
    codec: str | Path | None = None,
    text_encoder: str | Path | None = None,
    classes: Sequence[str] | None = None,
    null_class: int | None = None,
    claim: str = CLAIM,
    overwrite: bool = False,
) -> Run:
    """Make a run of components that were trained elsewhere, in diffusers' format.

    Args:
        folders: one per component, in the code's order; each a model's folder, or a pipeline's with one in it.
        units: the training data, at the size of the models' samples (of their autoencoder's, if they have one).
        code: who saw what, as the giver states it: a code, or a table, see `read_splits`.
        out: the run's folder.
        scheduler: a `scheduler_config.json` for models that have none beside them.
        label: the class that every sample is drawn of, for models that take one; None = each sample may have its own.
        embedding: a safetensors file with one tensor, float (L, D) or (1, L, D): what the text encoder gave for the
            prompt that every sample is drawn of. It is kept as a shared part.
        codec: the folder of the autoencoder whose latents the models denoise; None = that of their pipelines (`vae/`),
            if there is one. It is kept as a shared part.
        text_encoder: a folder with a `CLIPTextModel` and its tokenizer, for models that attend to a prompt: each sample
            may have its own. None = the one in the first pipeline's folder, if there is one. It becomes a shared part.
        classes: names of the models' classes, by their numbers; None = the numbers.
        null_class: the class number that stands for no class, which guidance leads away from.
        claim: what the giver says about the training, in words; it is shown wherever the run is spoken of.
        overwrite: replace the run at `out`.

    Returns:
        The run. It draws, and forgets units. It cannot be repaired, extended or verified by training.

    Raises:
        DataError, SettingsError: see `read_folders` and `recipe_of`; or the numbers of folders, units and codewords do
            not fit each other. Nothing is written then.
    """
    if not folders:
        raise SettingsError("name the folders of the components, one each")
    models, out = read_folders(folders, scheduler), Path(out)
    if not isinstance(code, Code):
        code = read_splits(code, units.ids, len(models))
    if (code.units, code.components) != (len(units), len(models)):
        raise SettingsError(
            f"the code is of {code.units} units and {code.components} components; there are {len(units)} units and "
            f"{len(models)} folders"
        )
    asking = Asking(label, embedding is not None, classes, null_class, Path(text_encoder) if text_encoder else None)
    condition, parts = condition_of(models[0], asking)
    plain = recipe_of(models[0], claim, label, condition)
    recipe, encoding = with_codec_of(models, codec, plain, units.shape)
    if recipe.latent is None and models[0].shape != units.shape:
        channels, *side = models[0].shape
        raise DataError(
            f"the models' samples are {models[0].shape} (C, H, W), the units' pictures {units.shape}; load the units "
            f"with {option('size', 'x'.join(map(str, side)))} and {option('channels', channels)}"
        )
    with tempfile.TemporaryDirectory() as scratch:
        if embedding is not None:
            parts = [_fixed(Path(embedding), Path(scratch))]
        try_it(models[0], recipe, None if embedding is None else _embedding(Path(embedding)))
        return _write(models, units, code, recipe, [*parts, *encoding], out, overwrite)


def refuse_claimed(component: ComponentConfig, what: str) -> None:
    """`SettingsError` if components were trained elsewhere, so that `what`, which trains, is impossible."""
    if component.claimed:
        raise SettingsError(
            f"{what} trains components, and those of this run were trained elsewhere: nobody here knows how, so their "
            f"training can be neither repeated nor continued. Their giver's claim stands alone: "
            f"{getattr(component, 'claim', '')}"
        )


def claimed(component: ComponentConfig) -> list[str]:
    """What is to be said of components whose training is a claim; empty for all others."""
    if not component.claimed:
        return []
    return [
        "Claimed: these components were trained elsewhere, and which units each of them saw is their giver's statement "
        f"({getattr(component, 'claim', '')}). Nothing here can show that it is true."
    ]


def _write(
    models: Sequence[ModelFolder],
    units: Units,
    code: Code,
    recipe: Recipe,
    shared: Sequence[SharedPart],
    out: Path,
    overwrite: bool,
) -> Run:
    settings = RunSettings(
        shape=units.shape,
        components=code.components,
        present=tuple(range(code.components)),
        units=len(units),
        seed=0,
        recipe=recipe,
        code_sha256=code.digest(),
        units_sha256=units.fingerprint(),
        torch=version("torch"),
        shared=records_of(shared),
    )
    with output_folder(out, RUN, overwrite=overwrite):
        begin_run(out, settings, units, code)
        if units.report is not None:
            log(out, UnitsLoaded(**units.report.as_dict()))
        copy_parts(shared, out)
        parts = Shared(settings.shared or (), out / FOLDER)
        parts.check()
        for number, model in enumerate(models):
            _take(model, component_folder(out, number), number, units, code, recipe, parts)
        if not (out / "ensemble.json").exists():
            write_json(out / "ensemble.json", manifest_of(out, settings).values())
    return Run(out)


def _take(
    model: ModelFolder, folder: Path, number: int, units: Units, code: Code, recipe: Recipe, shared: Shared
) -> None:
    """Copy a model's files, byte for byte, with the record of what is claimed of it."""
    weights = file_hash(model.folder / WEIGHTS)
    if folder.exists():
        if file_hash(folder / WEIGHTS) != weights:
            raise SettingsError(
                f"{folder} holds other weights than {model.folder}; choose another {option('out')}, or "
                f"{option('overwrite', True)}"
            )
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(model.folder / name, partial / name)
    split = [units.ids[row] for row in code.split(number)]
    record = TrainingRecord(
        component=number,
        seed=0,
        units={unit: units.digest(unit) for unit in sorted(split)},
        images=sum(len(units.of(unit)) for unit in split),
        recipe=recipe,
        split_commitment=commit([units.digest(unit) for unit in split]),
        device=UNKNOWN,
        loss=[],
        marks=[],
        weights_sha256=weights,
        shared=shared.digests or None,
        claimed=True,
    )
    write_json(partial / TRAINING, record.values())
    move_folder_into_place(partial, folder)


def _embedding(path: Path):
    """Float32 (L, D); `DataError` if the file is not as it must be."""
    from safetensors.torch import load_file

    try:
        tensors = list(load_file(path).values())
    except Exception as error:  # safetensors raises errors of its own
        raise DataError(f"{path} cannot be read as safetensors ({error})") from error
    if len(tensors) != 1 or tensors[0].squeeze(0).ndim != 2:
        raise DataError(f"{path} must hold one tensor, (L, D): the embedding of one prompt; see {command('run adopt')}")
    return tensors[0].squeeze(0).float()


def _fixed(path: Path, scratch: Path) -> SharedPart:
    """The embedding as a shared part: every component is asked for the same."""
    from safetensors.torch import save_file

    from ..diffusion.adopted import CONDITION, EMBEDDING

    folder = scratch / CONDITION
    folder.mkdir()
    save_file({"embedding": _embedding(path).contiguous()}, folder / EMBEDDING)
    return SharedPart(CONDITION, "condition", folder)
