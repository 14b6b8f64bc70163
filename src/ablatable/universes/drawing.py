"""Draw the same noise trajectories under several ablations: what enumerating and screening have in common.

The bits of an image are the same whichever images are drawn beside it, because components always process batches of
one fixed size (see `Ensemble`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .._runtime.devices import computing, hardware
from .._runtime.execution import Execution
from ..diffusion.sampling_settings import BackendName, Sampling
from ..errors import SettingsError
from ..runs.conditioning import given_of
from ..runs.run import Run
from .settings import UniverseSettings, refuse_other_hardware

if TYPE_CHECKING:
    from torch import Tensor

    from ..diffusion.autoencoder import Codec
    from ..diffusion.ensemble import Ensemble
    from ..diffusion.given import Given
    from ..diffusion.schedule import Schedule


def draw(
    ensemble: Ensemble,
    ablations: np.ndarray,
    seeds: Sequence[int],
    *,
    shape: tuple[int, int, int],
    schedule: Schedule,
    sampling: Sampling,
    device: str = "cpu",
    on_step: Callable[[int], None] = lambda step: None,
    codec: Codec | None = None,
    given: Given | None = None,
) -> np.ndarray:
    """Draw the same noise trajectories under several ablations.

    Args:
        ensemble: all components.
        ablations: bool (ablations, components), True where a component is removed; a row of False is factual.
        seeds: one per sample.
        shape: (C, H, W) of the noise, which is an image's unless there is a codec.
        schedule: the components' noise schedule.
        sampling: how to draw.
        device: where the components are.
        on_step: called with the number of steps done.
        codec: the autoencoder between latents and images, if components denoise latents.
        given: the samples' conditions, one row per seed; every ablation of a sample has its own.

    Returns:
        uint8 (ablations, samples, C, H, W).
    """
    of_seed = np.tile(np.arange(len(seeds)), len(ablations))  # row (a, s) at a * samples + s
    drawn = draw_rows(
        ensemble,
        np.repeat(ablations, len(seeds), axis=0),
        of_seed,
        seeds,
        shape=shape,
        schedule=schedule,
        sampling=sampling,
        device=device,
        on_step=on_step,
        codec=codec,
        given=given,
    )
    return drawn.reshape(len(ablations), len(seeds), *drawn.shape[1:])


def draw_rows(
    ensemble: Ensemble,
    ablations: np.ndarray,
    of_seed: np.ndarray,
    seeds: Sequence[int],
    *,
    shape: tuple[int, int, int],
    schedule: Schedule,
    sampling: Sampling,
    device: str = "cpu",
    on_step: Callable[[int], None] = lambda step: None,
    codec: Codec | None = None,
    given: Given | None = None,
) -> np.ndarray:
    """Draw rows, each an ablation and a sample of its own: uint8 (rows, C, H, W), the same bits as `draw` gives.

    Args:
        ablations: bool (rows, components).
        of_seed: int (rows,), the place of each row's seed among `seeds`; each seed has a row.
        ensemble, seeds, shape, schedule, sampling, device, on_step, codec, given: see `draw`.
    """
    import torch

    from ..data.units import to_images
    from ..diffusion.sampling import Trajectories, sample

    noise = Trajectories(seeds, shape, rows=of_seed, device=device)
    assert noise.rows is not None
    rows, firsts = noise.rows, torch.from_numpy(np.unique(of_seed, return_index=True)[1]).to(device)
    ablated, started = ensemble.ablate(~ablations).under(None if given is None else given[rows]), False

    def denoiser(x: Tensor, t: Tensor | int) -> Tensor:
        nonlocal started
        if started:
            return ablated(x, t)
        started = True  # all ablations of a sample start from the same noise, so each component sees it once
        return ablated.shared(x[firsts], rows, int(t))

    with torch.inference_mode():
        x = sample(denoiser, noise, schedule=schedule, sampling=sampling, on_step=on_step, codec=codec)
    return np.moveaxis(to_images(x.cpu()), -1, -3)


@dataclass(frozen=True)
class Source:
    """The run that samples are drawn from, as a task carries it to a worker.

    Attributes:
        run: the run's folder.
        run_sha256: hash of its manifest: the run must not change while work is under way.
        device: where the components are put.
        max_resident: how many components are kept in memory; None = all.
    """

    run: str
    run_sha256: str
    device: str
    max_resident: int | None = None

    @classmethod
    def of(cls, run: Run, execution: Execution) -> Source:
        """A run that is open; `execution` must have been resolved."""
        return cls(str(run.path.resolve()), run.digest, execution.device, execution.max_resident)

    def load(self, settings: UniverseSettings) -> Drawing:
        """Load the components as these settings need them; a worker loads them once."""
        refuse_other_hardware(settings.hardware, hardware(self.device), "this universe")
        run, ensemble = loaded(self, settings.batch, settings.precision, settings.backend)
        return Drawing(run, ensemble, settings, self.device)


@lru_cache(maxsize=1)
def loaded(
    source: Source,
    batch: int | None = None,
    precision: str = "fp32",
    backend: BackendName = "eager",
) -> tuple[Run, Ensemble]:
    """A run and its components; `SettingsError` if it is not the run it was."""
    opened = Run(source.run)
    if opened.digest != source.run_sha256:
        raise SettingsError(f"{source.run} changed while it was being used; give the same command again")
    return opened, opened.ensemble(
        batch=batch,
        precision=precision,
        backend=backend,
        device=source.device,
        max_resident=source.max_resident,
    )


@dataclass(frozen=True)
class Drawing:
    """A run that is ready to draw samples of a universe."""

    run: Run
    ensemble: Ensemble
    settings: UniverseSettings
    device: str

    def __call__(
        self,
        ablations: np.ndarray,
        seeds: Sequence[int],
        *,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> np.ndarray:
        """Samples of these seeds under some ablations, bool (rows, n): uint8 (rows, samples, C, H, W)."""
        return self._drawn(draw, seeds, ablations, seeds, on_step=on_step)

    def rows(self, ablations: np.ndarray, of_seed: np.ndarray, seeds: Sequence[int]) -> np.ndarray:
        """As `draw_rows`: uint8 (rows, C, H, W)."""
        return self._drawn(draw_rows, seeds, ablations, of_seed, seeds)

    def _drawn(self, function: Callable[..., np.ndarray], seeds: Sequence[int], *what: Any, **how: Any) -> np.ndarray:
        settings = self.settings
        given = given_of(self.run, settings.conditions_of(seeds), len(seeds), settings.sampling.guidance, self.device)
        with computing(self.device, settings.precision):
            return function(
                self.ensemble,
                *what,
                shape=self.run.noise_shape,
                schedule=self.run.recipe.schedule,
                sampling=settings.sampling,
                device=self.device,
                codec=self.run.codec,
                given=given,
                **how,
            )
