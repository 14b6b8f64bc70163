"""Give a recipe a codec, so that its components denoise coefficients or latents instead of pixels."""

from __future__ import annotations

from pathlib import Path

from ..diffusion.recipe import Recipe, UNetConfig, recipe_from
from ..errors import SettingsError
from .shared import SharedPart

WITHOUT_DATA = ("haar", "dct")
ROLE = "codec"


def with_codec(
    recipe: Recipe, codec: str | Path | None, shape: tuple[int, int, int]
) -> tuple[Recipe, list[SharedPart]]:
    """The recipe with a codec, and what its components then share.

    Args:
        recipe: of components that are trained.
        codec: `haar` or `dct`, orthonormal transforms that no data made; the folder of an `AutoencoderKL` or
            `AutoencoderTiny`, which becomes a shared part; or None.
        shape: (C, H, W) of the pictures.

    Raises:
        SettingsError: components of this kind have no use for a codec, or it does not fit the pictures.
        DataError: the folder holds no autoencoder.
    """
    if codec is None:
        return recipe, []
    component, without_data = recipe.component, str(codec) in WITHOUT_DATA
    if not (isinstance(component, UNetConfig) if without_data else component.trained):
        raise SettingsError(f"components of kind '{component.kind}' work on pixels alone; leave the codec out")
    if isinstance(component, UNetConfig) and without_data:
        return recipe_from({**recipe.model_dump(), "component": {**component.model_dump(), "codec": str(codec)}}), []
    from ..diffusion.autoencoder import PART, latent_config

    folder = Path(codec)
    if not folder.is_dir():
        raise SettingsError(f"there is no codec '{codec}': give {', '.join(WITHOUT_DATA)}, or an autoencoder's folder")
    part = SharedPart(PART, ROLE, folder)
    return recipe_from({**recipe.model_dump(), "latent": latent_config(folder, shape).model_dump()}), [part]
