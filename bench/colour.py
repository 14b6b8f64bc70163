"""What one small component draws in colour after so much training: the comparison of docs/colour.md.

    python bench/colour.py --variant noise velocity colour --steps 2500 --out /tmp/colour
    python bench/colour.py --variant colour edm min-snr flips --drawings 10 --batch 16 --steps 1500 --out /tmp/colour

Each variant is trained once on 20 drawings by each of five artists, at 16 pixels unless told otherwise, and draws the
same 100 noise trajectories with each sampler. A variant that is trained already is only drawn from. Printed per
sampler: the median distance to the nearest training image (1 = as far as training images are from each other), the
share of broken samples, how many training images are nearest to some sample, and the Fréchet distance in EfficientNet-
lite0 features to the training images and to 100 drawings by the same artists that were left out.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import ablatable as ab
from ablatable.analysis.features import load_features
from ablatable.analysis.first_look import contact_sheet
from ablatable.analysis.sample_quality import judge
from ablatable.data.units import to_images
from ablatable.diffusion import unet
from ablatable.diffusion.kinds import load_component
from ablatable.diffusion.recipe import Recipe, preset
from ablatable.diffusion.sampling import Trajectories, sample
from ablatable.report.pictures import png
from ablatable.runs.component_training import TrainTask, train_component

ARTISTS = ("Emily Jäger", "Laura Humpfer", "Sina Schulz", "Sofie Ascherl", "Vanessa Boutzikoudi")
SAMPLES = 100
SAMPLERS = (
    ab.Sampling("ddpm", 50, clip=False),
    ab.Sampling("ddpm", 50),
    ab.Sampling("dpmsolver++", 15),
    ab.Sampling("heun", 10),
    ab.Sampling("heun", 18),
)
LARGEST_SNR = 5.0


def variant(name: str, **training: object) -> Recipe:
    """`colour` is the preset, and the others are that with other settings.

    `velocity` is without its noise levels, `noise` predicts noise as well, and `min-snr` is `velocity` with the loss
    below; `flips` mirrors; `edm` is as published (sigma_data 0.5, ln sigma of mean -1.2 and deviation 1.2), and
    `edm-levels` its network with the preset's noise levels. `haar` computes on coefficients of 2 x 2 pixels, with more
    channels at half the side (the preset `colour32`), and `haar-high` has noise levels of mean 1.0.
    """
    recipe = preset("colour", **training)
    uniform: dict[str, object] = {"levels": None}
    high: dict[str, object] = {"levels": (1.0, 1.4)}
    haar: dict[str, object] = {"channels": (32, 64, 64), "codec": "haar"}
    trained, component = {
        "colour": ({}, {}),
        "velocity": (uniform, {}),
        "noise": (uniform, {"prediction": "noise"}),
        "min-snr": (uniform, {}),
        "flips": ({"flips": True}, {}),
        "edm": ({"levels": (-1.2, 1.2)}, {"prediction": "edm", "sigma_data": 0.5}),
        "edm-levels": ({}, {"prediction": "edm", "sigma_data": 0.5}),
        "haar": ({}, haar),
        "haar-high": (high, haar),
    }[name]
    return recipe.model_copy(
        update={
            "training": recipe.training.model_copy(update=trained),
            "component": recipe.component.model_copy(update=component),
        }
    )


def min_snr(config: object, predicted: torch.Tensor, noise: torch.Tensor, abar: torch.Tensor) -> torch.Tensor:
    """Min-SNR weighting of the velocity's loss, min(SNR, 5) / (SNR + 1) with SNR = abar / (1 - abar).

    Hang et al. 2023, section 3.3. An error of the noise is one of 1 / sqrt(abar) times that of the velocity.
    """
    snr = abar / (1 - abar)
    weight = (snr.clamp(max=LARGEST_SNR) / (snr + 1) / abar).reshape(-1, 1, 1, 1)
    return (weight * (predicted - noise).square()).mean()


def trained(name: str, task: TrainTask) -> None:
    """Train one component, with the loss that belongs to the variant."""
    kind = unet.KIND
    if name == "min-snr":
        unet.KIND = replace(kind, loss=min_snr)
    try:
        train_component(task)
    finally:
        unet.KIND = kind


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of the normal distributions of features (N, D) and (M, D): |mean|^2 + tr(A + B - 2 sqrt(AB)).

    With A = X^T X and B = Y^T Y of centred, scaled features, tr sqrt(AB) is the sum of the singular values of X Y^T.
    """
    x, y = ((f - f.mean(0)) / len(f) ** 0.5 for f in (a.astype(np.float64), b.astype(np.float64)))
    shared = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.square(x).sum() + np.square(y).sum() - 2 * shared)


def main() -> None:
    """Train and measure the variants that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", nargs="+", default=["noise", "velocity", "colour"])
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--drawings", type=int, default=20, help="by each artist")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--quick", action="store_true", help="only ddpm with 50 steps and dpmsolver++ with 15")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)

    everything = ab.Units.openmoji(ARTISTS, size=args.size)
    chosen = [everything.of(artist)[: args.drawings] for artist in everything.ids]
    left = np.concatenate([everything.of(artist)[args.drawings :] for artist in everything.ids])
    units = ab.Units(everything.ids, np.concatenate(chosen), np.repeat(np.arange(len(chosen)), args.drawings))
    training = units.images
    held_out = left[np.random.default_rng(0).permutation(len(left))[:SAMPLES]]
    features = load_features("efficientnet-lite0")
    known, other = features(training), features(held_out)
    print(f"training images to held-out drawings: {frechet(known, other):.0f}", flush=True)
    for name in args.variant:
        recipe = variant(name, steps=args.steps, batch=args.batch, precision=args.precision)
        folder = args.out / f"{name}-{args.size}-{args.steps}-{args.drawings}-{args.batch}-{args.precision}"
        began = time.process_time()
        trained(name, TrainTask(units, recipe, 0, 0, folder))
        print(f"\n{folder.name}: {time.process_time() - began:.0f} CPU seconds")
        component = load_component(folder, recipe.component, recipe.schedule)
        for sampling in SAMPLERS[1:3] if args.quick else SAMPLERS:
            with torch.inference_mode():
                x = sample(component, Trajectories(range(SAMPLES), units.shape), sampling=sampling)
            images = to_images(x)
            found, drawn = judge(images, training), features(images)
            how = f"{sampling.sampler}-{sampling.steps}{'' if sampling.clip else '-unclipped'}"
            print(
                f"{how:24} nearest {np.median(found.distance):.2f}, broken {found.broken.mean():.0%}, "
                f"{len(set(found.nearest.tolist()))} training images; to training {frechet(drawn, known):.0f}, "
                f"to held-out {frechet(drawn, other):.0f}",
                flush=True,
            )
            sheet = contact_sheet(images[:12], training[found.nearest[:12]])
            (args.out / f"{folder.name}-{how}.png").write_bytes(png(sheet))


if __name__ == "__main__":
    main()
