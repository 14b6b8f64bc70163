"""Give a recipe a codec, so that its components denoise coefficients or latents instead of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .._runtime.files import read_json
from ..diffusion.recipe import Recipe, UNetConfig, recipe_from
from ..errors import SettingsError, option
from .model_folders import ModelFolder
from .shared import SharedPart, folder_hash

WITHOUT_DATA = ("haar", "dct")
ROLE = "codec"
Shape = tuple[int, int, int]


def with_codec(
    recipe: Recipe, codec: str | Path | None, shape: Shape, shared: Sequence[SharedPart] = ()
) -> tuple[Recipe, list[SharedPart]]:
    """The recipe with a codec, and what its components then share.

    Args:
        recipe: of components that are trained.
        codec: `haar` or `dct`, orthonormal transforms that no data made; the folder of an `AutoencoderKL` or
            `AutoencoderTiny`, which becomes a shared part; or None.
        shape: (C, H, W) of the pictures.
        shared: what components share already; an autoencoder among them, by the name `codec`, is the codec.

    Raises:
        SettingsError: components of this kind have no use for a codec, or it does not fit the pictures, or there are
            two.
        DataError: the folder holds no autoencoder.
    """
    from ..diffusion.autoencoder import PART

    there = next((part for part in shared if part.name == PART), None)
    if there is not None and codec is not None:
        raise SettingsError(
            f"components share an autoencoder already ({there.folder}), so a second codec has no place; leave "
            f"{option('codec')} out"
        )
    if there is not None and recipe.latent is None:
        return _on_latents(recipe, there.folder, shape), []
    if codec is None:
        return recipe, []
    component, without_data = recipe.component, str(codec) in WITHOUT_DATA
    if not (isinstance(component, UNetConfig) if without_data else component.trained):
        raise SettingsError(f"components of kind '{component.kind}' work on pixels alone; leave the codec out")
    if isinstance(component, UNetConfig) and without_data:
        return recipe_from({**recipe.model_dump(), "component": {**component.model_dump(), "codec": str(codec)}}), []
    folder = Path(codec)
    if not folder.is_dir():
        raise SettingsError(f"there is no codec '{codec}': give {', '.join(WITHOUT_DATA)}, or an autoencoder's folder")
    part = SharedPart(PART, ROLE, folder)
    return _on_latents(recipe, folder, shape), [part]


def with_codec_of(
    models: Sequence[ModelFolder], codec: str | Path | None, recipe: Recipe, shape: Shape
) -> tuple[Recipe, list[SharedPart]]:
    """As `with_codec`, for models that were trained elsewhere: with the autoencoder of their pipelines, or another.

    Raises:
        SettingsError: their pipelines have different autoencoders, or their latents are not what the models denoise.
        DataError: the folder holds no autoencoder.
    """
    from ..diffusion.autoencoder import PART

    folder = autoencoder_of(models, codec)
    if folder is None:
        return recipe, []
    part = SharedPart(PART, ROLE, folder)
    on_latents = _on_latents(recipe, folder, shape)
    assert on_latents.latent is not None
    if on_latents.latent.shape != models[0].shape:
        side = "x".join(map(str, picture_shape(models, codec)[1:]))
        raise SettingsError(
            f"the autoencoder makes latents of {on_latents.latent.shape} (C, H, W) of these pictures, and the models "
            f"denoise {models[0].shape}; load pictures of another {option('size')} (such as {side}), or give the "
            "autoencoder that the models were trained with"
        )
    return on_latents, [part]


def autoencoder_of(models: Sequence[ModelFolder], codec: str | Path | None = None) -> Path | None:
    """The folder of the autoencoder that models share: the one given, or their pipelines'; None = there is none.

    Raises `SettingsError` if two pipelines have different ones.
    """
    if codec is not None:
        if not Path(codec).is_dir():
            raise SettingsError(f"there is no autoencoder's folder '{codec}'; name one, or leave {option('codec')} out")
        return Path(codec)
    first = models[0].codec
    for each in models[1:]:
        if (each.codec is None) != (first is None):
            without, has = (each, models[0]) if first is not None else (models[0], each)
            raise SettingsError(
                f"{has.codec} is an autoencoder and {without.folder.parent} has none; components of one ensemble work "
                f"on the same latents, so name one autoencoder for all with {option('codec')}"
            )
        if each.codec is not None and first is not None and folder_hash(each.codec) != folder_hash(first):
            raise SettingsError(
                f"{first} and {each.codec} are different autoencoders; components of one ensemble work on the same "
                f"latents, so name one for all with {option('codec')}"
            )
    return first


def picture_shape(models: Sequence[ModelFolder], codec: str | Path | None = None) -> Shape:
    """(C, H, W) of the pictures that come of what models denoise: their autoencoder makes them larger."""
    folder, (channels, height, width) = autoencoder_of(models, codec), models[0].shape
    if folder is None:
        return channels, height, width
    config = read_json(folder / "config.json")
    levels = config.get("block_out_channels") or config.get("decoder_block_out_channels") or [0]
    times = 2 ** (len(levels) - 1)
    return config.get("in_channels", 3), height * times, width * times


def _on_latents(recipe: Recipe, folder: Path, shape: Shape) -> Recipe:
    from ..diffusion.autoencoder import latent_config

    return recipe_from({**recipe.model_dump(), "latent": latent_config(folder, shape).model_dump()})
