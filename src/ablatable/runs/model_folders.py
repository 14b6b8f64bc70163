"""Folders of models that were trained elsewhere, in diffusers' format: found, read and compared before use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._runtime.files import read_json
from ..diffusion.adopted import ARCHITECTURES, AdoptedConfig, model_class
from ..diffusion.conditions import Takes
from ..diffusion.recipe import Recipe, recipe_from
from ..errors import AblatableError, DataError, SettingsError, option

WEIGHTS, CONFIG, SCHEDULER = "diffusion_pytorch_model.safetensors", "config.json", "scheduler_config.json"
PARTS = ("unet", "transformer")  # where a pipeline's folder has its denoiser
AUTOENCODER = "vae"  # and its autoencoder, if it works on latents
PREDICTIONS = ("epsilon", "v_prediction", "sample")
CURVES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
NOTES = {"_diffusers_version", "_name_or_path"}  # of a config, which say nothing about the model


@dataclass(frozen=True)
class ModelFolder:
    """A model of diffusers.

    Attributes:
        folder: where its config and weights are.
        config: `config.json`.
        scheduler: `scheduler_config.json`.
        codec: the folder of the autoencoder whose latents it denoises, if it is a pipeline's and that has one.
    """

    folder: Path
    config: dict[str, Any]
    scheduler: dict[str, Any]
    codec: Path | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what it denoises."""
        side: Any = self.config.get("sample_size")
        height, width = side if isinstance(side, (list, tuple)) else (side, side)
        return int(self.config["in_channels"]), int(height), int(width)


def read_folders(folders: Sequence[str | Path], scheduler: str | Path | None = None) -> list[ModelFolder]:
    """Read the models' configs, and make sure that they belong together and that all weights fit.

    Args:
        folders: each a model's folder, or a pipeline's, whose denoiser is taken.
        scheduler: a `scheduler_config.json`, or a folder with one, for models that have none beside them.

    Raises:
        DataError: a file is missing or unreadable, weights are pickled, split over files, or do not fit the config.
        SettingsError: an architecture that cannot be used, or two models or schedulers that differ.
    """
    read = [_read(Path(folder), scheduler) for folder in folders]
    for each in read[1:]:
        for what in ("config", "scheduler"):
            _same(what, read[0], each)
    if read[0].config.get("sample_size") is None:
        raise SettingsError(f"{read[0].folder / CONFIG} has no sample_size; add the side of the model's samples")
    for each in read:
        _check_weights(each)
    return read


def recipe_of(model: ModelFolder, claim: str, label: int | None = None, condition: Takes | None = None) -> Recipe:
    """What a model and its scheduler say, as a recipe.

    Raises `SettingsError` for schedulers that add noise in another way, with the reason.
    """
    config, name = model.scheduler, model.scheduler.get("_class_name", "the scheduler")
    if "beta_schedule" not in config and not config.get("trained_betas"):
        raise SettingsError(
            f"{name} of {model.folder} has no betas: components must predict noise that is added in steps of some "
            "variance beta_t (as with DDPM and DDIM), not along a flow or by sigmas"
        )
    if config.get("rescale_betas_zero_snr"):
        raise SettingsError(
            f"{name} of {model.folder} has rescale_betas_zero_snr: at its last step nothing of the picture is left "
            "(abar = 0), so the noise there is x_t itself and what the network knows is lost; train without it"
        )
    prediction, curve = config.get("prediction_type", "epsilon"), config.get("beta_schedule", "linear")
    if prediction not in PREDICTIONS:
        raise SettingsError(f"{name} has prediction_type '{prediction}'; there are {', '.join(PREDICTIONS)}")
    betas = config.get("trained_betas")
    if betas is None and curve not in CURVES:
        raise SettingsError(f"{name} has beta_schedule '{curve}'; there are {', '.join(CURVES)}, and trained_betas")
    clips = bool(config.get("clip_sample", False))
    if clips and config.get("clip_sample_range", 1.0) != 1.0:
        raise SettingsError(
            f"{name} clips samples to +-{config['clip_sample_range']}; pictures have the range -1 to 1, so set "
            "clip_sample to false and draw without clipping"
        )
    schedule = {
        "train_steps": len(betas) if betas is not None else config.get("num_train_timesteps", 1000),
        **({"trained_betas": betas} if betas is not None else {"curve": curve}),
        **{key: config[key] for key in ("beta_start", "beta_end") if key in config},
    }
    component = {
        "kind": "adopted",
        "architecture": model.config["_class_name"],
        "prediction": prediction,
        "clip_sample": clips,
        "label": label,
        "condition": None if condition is None else condition.model_dump(),
        "claim": claim,
    }
    return recipe_from({"component": component, "schedule": schedule})


def try_it(model: ModelFolder, recipe: Recipe, embedding: Any) -> None:
    """Predict once; `SettingsError` if the model needs something that it is not given, or predicts no numbers."""
    import torch

    from ..diffusion.adopted import AdoptedDenoiser, model_of
    from ..diffusion.given import trial_of

    assert isinstance(recipe.component, AdoptedConfig)
    denoiser = AdoptedDenoiser(
        model_of(model.config, model.folder / WEIGHTS), recipe.component, recipe.schedule, embedding
    )
    x = torch.zeros(2, *model.shape)
    try:
        with torch.no_grad():
            noise = denoiser.eval()(x, recipe.schedule.train_steps // 2, **trial_of(recipe.component.takes, len(x)))
    except Exception as error:  # whatever a model raises when a condition is missing or of another shape
        raise SettingsError(
            f"{model.folder}: the model cannot predict ({' '.join(str(error).split())[:200]}). If it takes a class, "
            f"give {option('label')}; if it takes a prompt, give {option('text_encoder')}, or {option('embedding')}"
        ) from error
    if noise.shape != x.shape or not math.isfinite(float(noise.abs().sum())):
        raise SettingsError(f"{model.folder}: the model predicts no finite numbers of the shape {tuple(x.shape[1:])}")


def _read(given: Path, scheduler: str | Path | None) -> ModelFolder:
    if not given.is_dir():
        raise DataError(f"there is no folder {given}; name the folders of the components, in the code's order")
    places = [given, *(given / part for part in PARTS)]
    folder = next((place for place in places if (place / CONFIG).is_file()), None)
    if folder is None:
        raise DataError(f"{given} holds no model of diffusers: no {CONFIG} in it, in unet/ or in transformer/")
    config = _json(folder / CONFIG)
    if config.get("_class_name") not in ARCHITECTURES:
        raise SettingsError(
            f"{folder / CONFIG}: the architecture {config.get('_class_name')} cannot be used as a component; there are "
            f"{', '.join(ARCHITECTURES)}"
        )
    _check_files(folder)
    codec = given / AUTOENCODER
    found = codec if folder != given and (codec / CONFIG).is_file() else None
    return ModelFolder(folder, config, _json(_scheduler(given, folder, scheduler)), found)


def _check_files(folder: Path) -> None:
    if (folder / WEIGHTS).is_file():
        return
    if pickled := sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt")):
        raise DataError(
            f"{folder} has its weights in a pickle ({pickled[0]}), which can run code when it is opened and is never "
            "read here; open it where you trust it, and save it with save_pretrained(..., safe_serialization=True)"
        )
    if (folder / f"{WEIGHTS}.index.json").is_file():
        raise DataError(
            f"{folder} has its weights in several files; save it with save_pretrained(max_shard_size='1TB')"
        )
    raise DataError(f"{folder} has no {WEIGHTS}; copy the model's weights there, or give the whole folder")


def _scheduler(given: Path, folder: Path, scheduler: str | Path | None) -> Path:
    if scheduler is not None:
        path = Path(scheduler)
        found = [path / SCHEDULER if path.is_dir() else path]
    else:
        found = [place / SCHEDULER for place in (folder, given, given / "scheduler", folder.parent / "scheduler")]
    there = next((path for path in found if path.is_file()), None)
    if there is None:
        raise DataError(
            f"{given} has no {SCHEDULER}, which says how noise was added in training; name one with "
            f"{option('scheduler', 'FILE')}"
        )
    return there


def _json(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except AblatableError as error:
        raise DataError(error.marked) from error
    if not isinstance(values, dict):
        raise DataError(f"{path} is no JSON object")
    return values


def _same(what: str, first: ModelFolder, other: ModelFolder) -> None:
    """`SettingsError` names the first setting in which two models differ."""
    one, two = getattr(first, what), getattr(other, what)
    for key in sorted({*one, *two} - NOTES):
        if one.get(key) != two.get(key):
            raise SettingsError(
                f"the components' {what}s differ in {key}: {one.get(key)!r} in {first.folder}, {two.get(key)!r} in "
                f"{other.folder}; components of one ensemble are of one architecture and one noise schedule"
            )


def _check_weights(model: ModelFolder) -> None:
    """`DataError` unless the file holds exactly the weights that the config names; only the file's header is read."""
    import torch
    from safetensors import safe_open

    place = model.folder / WEIGHTS
    try:
        with safe_open(place, "pt") as file:
            held = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises errors of its own
        raise DataError(f"{place} cannot be read as safetensors ({error}); it is damaged") from error
    try:
        with torch.device("meta"):
            wanted = model_class(model.config["_class_name"]).from_config(model.config).state_dict()
    except Exception as error:  # diffusers raises many kinds
        raise DataError(f"{model.folder / CONFIG} makes no model ({' '.join(str(error).split())[:200]})") from error
    for name in sorted({*held, *wanted}):
        if name not in held or name not in wanted or held[name] != tuple(wanted[name].shape):
            there = f"of shape {held[name]}" if name in held else "missing"
            asked = f"of shape {tuple(wanted[name].shape)}" if name in wanted else "not in it"
            raise DataError(
                f"{place} holds the weights of another architecture: '{name}' is {there}, and by {CONFIG} it is {asked}"
            )
