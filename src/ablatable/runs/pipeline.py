"""The ensemble as a diffusers pipeline: draw with all components, or without some units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor, nn

from .._runtime.devices import CPU, computing, kind_of, memory
from .._runtime.hub import is_hub_name
from ..codes.code import Code
from ..data.units import to_images
from ..diffusion.conditions import Classes, Condition
from ..diffusion.ensemble import Ensemble
from ..diffusion.sampling import Trajectories, sample
from ..diffusion.sampling_settings import CLIP, Sampling
from ..errors import SettingsError
from .batches import batch_alone
from .bundled import located
from .conditioning import asked, given_of
from .publishing import fetch_run, push_run
from .run import Run


class AblatablePipeline(DiffusionPipeline):
    """An ablatable ensemble that draws pictures.

    ```python
    model = AblatablePipeline.from_pretrained("runs/digits")
    factual = model(seeds=range(4)).images
    without = model(seeds=range(4), without=["digit-0017"]).images  # same noise, that unit never seen
    ```

    Attributes:
        run: the run it was read from.
        code: the run's code.
        unit_ids: the names of the run's units.
        removed: units whose components were not even loaded.
        denoisers: the denoisers of the components that are loaded, in the order of the code's columns.
    """

    def __init__(self, run: Run, *, without: Sequence[str] | None = None) -> None:
        """Load the components of an open run, or those that survive `without` some units, which stay removed."""
        super().__init__()
        self.run = run
        self.removed = _names(without)
        self._loaded = np.flatnonzero(run.survivors(self.removed))
        self._ensemble = Ensemble([run.load_component(int(index)) for index in self._loaded])

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        without: Sequence[str] | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> AblatablePipeline:
        """Open a run by its folder, by `user/name` on the Hugging Face Hub, or as `bundled`.

        Args:
            pretrained_model_name_or_path: where the run is.
            without: units to remove for good: components that saw one of them are not loaded, and not fetched.
            revision: a branch, tag or commit on the Hub.

        Raises:
            StoreError: the run is not complete, its weights are damaged, or the Hub has no such run.
            DataError, CodeError: as `__call__`.
        """
        if kwargs:
            raise SettingsError(
                f"a run, without and revision are all there is to give, not {', '.join(kwargs)}; move the pipeline "
                "with .to(device)"
            )
        place = pretrained_model_name_or_path
        if is_hub_name(place):
            return cls(fetch_run(str(place), revision=revision, without=_names(without)), without=without)
        if revision is not None:
            raise SettingsError(f"{place} is a folder, and only runs on the Hub have revisions; leave revision out")
        return cls(Run(located(Path(place))), without=without)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Copy the run to a new or empty folder; `SettingsError` if units were removed when it was loaded."""
        if self.removed:
            raise SettingsError(
                f"this pipeline was loaded without {', '.join(self.removed)}, so it is no whole run; load it again "
                "without that argument, or make a run without these units with ablatable.forget"
            )
        self.run.copy_to(save_directory)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Publish the run with a model card, see `push_run` for `options`; returns the commit's address."""
        return push_run(self.run, repo_id, **options)

    @property
    def code(self) -> Code:
        """Codewords, one row per unit."""
        return self.run.code

    @property
    def unit_ids(self) -> tuple[str, ...]:
        """The units' names, in the code's order."""
        return self.run.unit_ids

    @property
    def denoisers(self) -> list[nn.Module]:
        """The denoisers, each a map (x_t, t) -> predicted noise."""
        return list(self._ensemble.components)

    @property
    def components(self) -> dict[str, Any]:
        """As in diffusers, the modules by name: `component_07` is the component of that number."""
        numbers = [self.run.present[index] for index in self._loaded]
        return {f"component_{number:02d}": part for number, part in zip(numbers, self.denoisers, strict=True)}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(
            (tensor.device for c in self.denoisers for tensor in (*c.parameters(), *c.buffers())), torch.device("cpu")
        )

    def to(self, *args: Any, **kwargs: Any) -> AblatablePipeline:
        """Move all components, as `torch.nn.Module.to`."""
        for component in self.denoisers:
            component.to(*args, **kwargs)
        return self

    def denoiser(self, without: Sequence[str] | None = None) -> Ensemble:
        """The ensemble's survivors without some units, as a denoiser."""
        return self._ensemble.ablate(self.run.survivors([*self.removed, *_names(without)])[self._loaded])

    @torch.inference_mode()
    def draw(
        self,
        seeds: Iterable[int],
        *,
        without: Sequence[str] | None = None,
        conditions: Condition | Sequence[Condition] | None = None,
        sampling: Sampling = Sampling(),
        on_step: Callable[[int], None] = lambda step: None,
    ) -> Tensor:
        """Draw one sample per seed: float32 (B, C, H, W), about [-1, 1], not clipped to it. Errors as `__call__`.

        On a GPU, components process batches of the size that `ablatable run sample` takes there, so its bits are these.
        """
        device = str(self.device)
        noise = Trajectories(seeds, self.run.noise_shape, device=device)
        each = asked(self.run, conditions, rows := len(noise.seeds), sampling.guidance)
        denoiser = self.denoiser(without).under(given_of(self.run, each, rows, sampling.guidance, device))
        if kind_of(device) != CPU:
            denoiser.batch = batch_alone(self.run, sampling.precision, device, memory(device))
        with computing(device, sampling.precision) if kind_of(device) != CPU else nullcontext():
            return sample(
                denoiser,
                noise,
                schedule=self.run.recipe.schedule,
                sampling=sampling,
                on_step=on_step,
                codec=self.run.codec,
            )

    @torch.inference_mode()
    def __call__(
        self,
        seeds: int | Iterable[int] = (0,),
        *,
        without: str | Sequence[str] | None = None,
        num_inference_steps: int = 50,
        sampler: str = "ddpm",
        clip: bool = CLIP,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        class_labels: str | int | Sequence[str | int] | None = None,
        guidance_scale: float | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback: Callable[[int], None] = lambda step: None,
    ) -> ImagePipelineOutput | tuple:
        """Draw one image per seed.

        Args:
            seeds: one or several; each fixes one image's noise trajectory, whatever else is drawn with it.
            without: units to remove, or the name of one; every component that saw one of them is ablated. None removes
                nothing.
            num_inference_steps: sampling steps.
            sampler: `ddpm`, `ddim`, `dpmsolver++` or `heun`.
            clip: bring the image that every step's prediction implies into the range of images.
            prompt, negative_prompt: texts to draw, and to lead away from, for components that take a prompt; one for
                all images, or one each.
            class_labels: names of classes, or their numbers, for components that take a class; likewise.
            guidance_scale: see `Sampling.guidance`; 1 if not given.
            output_type: `pil`; `np`, uint8 (B, H, W, C); or `pt`, float32 (B, C, H, W) about [-1, 1].
            return_dict: False returns a tuple, as in diffusers.
            callback: called with the number of steps done.

        Raises:
            DataError: a unit the run does not know.
            CodeError: no component survives; says how many of the units can go together.
            SettingsError: the components take no such condition, or a prompt is too long.
        """
        if output_type not in ("pil", "np", "pt"):
            raise SettingsError(f"no output_type '{output_type}'; there are pil, np and pt")
        if isinstance(seeds, int):
            seeds = [seeds]
        seeds = list(seeds)
        conditions = self._conditions(len(seeds), prompt, negative_prompt, class_labels)
        sampling = Sampling(
            sampler, num_inference_steps, clip=clip, guidance=1.0 if guidance_scale is None else guidance_scale
        )
        images: Any = self.draw(seeds, without=without, conditions=conditions, sampling=sampling, on_step=callback)
        if output_type != "pt":
            images = to_images(images)
        if output_type == "pil":
            images = as_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _conditions(
        self, rows: int, prompt: Any, negative_prompt: Any, class_labels: Any
    ) -> tuple[Condition, ...] | None:
        """One condition per row, from diffusers' arguments."""
        takes = self.run.recipe.component.takes

        def named(label: str | int | None) -> str | None:
            if isinstance(label, str) or label is None:
                return label
            known = takes.names if isinstance(takes, Classes) else ()
            if not 0 <= label < len(known):
                raise SettingsError(f"there is no class number {label}; there are {len(known)}, from 0")
            return known[label]

        given = {"prompt": prompt, "negative_prompt": negative_prompt, "label": class_labels}
        if all(value is None for value in given.values()):
            return None
        columns: dict[str, list[Any]] = {}
        for name, value in given.items():
            each = [value] if isinstance(value, str | int) or value is None else list(value)
            columns[name] = each * rows if len(each) == 1 else each
            if len(columns[name]) != rows:
                raise SettingsError(f"{len(each)} values of {name} for {rows} seeds; give one, or one for each")
        return tuple(
            Condition(prompt=text, negative_prompt=away, label=named(label))
            for text, away, label in zip(*columns.values(), strict=True)
        )


def _names(without: Sequence[str] | None) -> tuple[str, ...]:
    """Unit ids from what a caller gives: none, one, or several."""
    return (without,) if isinstance(without, str) else tuple(without or ())


def as_pil(images: np.ndarray) -> list[Any]:
    """PIL images from uint8 (B, H, W, C), C = 1 or 3."""
    from PIL import Image

    return [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in images]
