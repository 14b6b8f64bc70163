"""A first look at a trained run: samples beside the training images nearest to them, and how the loss fell.

The files lie in the run's folder, `first_look.png` and `loss.png`. They are not part of the run: no manifest names
them, no hash covers them, and they may be deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._runtime.files import write_atomic
from .._runtime.plotting import contact_sheet, figure_png, png
from ..diffusion.advice import remedy
from ..diffusion.sampling_settings import Sampling
from ..errors import Message
from ..runs.conditioning import given_of, some_conditions
from ..runs.records import read_training
from ..runs.run import Run
from .sample_quality import SampleQuality, judge

LOOK, LOSS = "first_look.png", "loss.png"
SAMPLES = 12


@dataclass(frozen=True)
class FirstLook:
    """What was drawn, and the verdict.

    Attributes:
        sheet: the contact sheet's path.
        loss: the loss figure's path; None if nothing was trained.
        quality: the samples judged against the training images.
        remedies: what to change, where too many of them are broken.
    """

    sheet: Path
    loss: Path | None
    quality: SampleQuality
    remedies: tuple[Message, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same for programs."""
        broken = self.quality.broken
        return {
            "sheet": str(self.sheet),
            "drawn": len(broken),
            "broken": int(broken.sum()),
            "sound": self.quality.sound,
            "remedies": list(self.remedies),
        }

    def sentences(self) -> list[str]:
        """The verdict, and where to look."""
        return [*self.quality.sentences(), *self.remedies, f"samples above their nearest training images: {self.sheet}"]


def first_look(
    run: Run | str | Path, *, samples: int = SAMPLES, sampling: Sampling = Sampling(), device: str = "cpu"
) -> FirstLook:
    """Draw the samples of seeds 0, 1, .., judge them, and write both files into the run's folder.

    Args:
        run: a complete run.
        samples: how many to draw; where components take classes, of every class in turn, or by the first captions.
        sampling: how.
        device: where, as `cpu` or `cuda:0`.
    """
    import torch

    from .._runtime.devices import computing
    from ..data.units import to_images
    from ..diffusion.sampling import Trajectories, sample

    opened = run if isinstance(run, Run) else Run(run)
    units = opened.units()
    training = units.images
    with computing(device, sampling.precision), torch.inference_mode():
        noise = Trajectories(range(samples), opened.noise_shape, device=device)
        schedule = opened.recipe.schedule
        given = given_of(opened, some_conditions(opened, samples), samples, sampling.guidance, device=device)
        ensemble = opened.ensemble(device=device).under(given)
        drawn = sample(ensemble, noise, schedule=schedule, sampling=sampling, codec=opened.codec)
    images = to_images(drawn.cpu())
    quality = judge(images, training)
    sheet = opened.path / LOOK
    write_atomic(sheet, png(contact_sheet(images, training[quality.nearest])))
    curves = [read_training(opened.component_folder(i)).loss for i in range(opened.code.components)]
    loss = opened.path / LOSS if any(curves) else None
    if loss is not None:
        write_atomic(loss, loss_figure(curves))
    images = int((np.bincount(units.owner) @ opened.code.matrix).max())  # of the largest split
    remedies = () if quality.sound else (remedy(opened.recipe, opened.shape, images),)
    return FirstLook(sheet, loss, quality, remedies)


def loss_figure(curves: list[list[tuple[int, float]]]) -> bytes:
    """Every component's loss history, (step, mean loss) pairs, as a PNG file."""

    def draw(axes: Any) -> None:
        for number, curve in enumerate(curves):
            steps, losses = np.array(curve).T
            axes.plot(steps, losses, linewidth=0.8, alpha=0.8, label=f"component {number:02d}")
        axes.set_yscale("log")
        axes.set_xlabel("training step")
        axes.set_ylabel("mean loss")
        if len(curves) <= 12:
            axes.legend(fontsize=6, frameon=False, ncols=2)

    return figure_png(draw)
