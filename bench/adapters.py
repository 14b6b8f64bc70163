"""Adapters on a frozen base against full components, on the same drawings: what they cost, and what they draw.

    python bench/adapters.py --out bench/out/adapters

The base is one network of the preset `colour`, trained on all OpenMoji drawings (16 x 16) of designers who are no
units. Units are 8 other designers with 8 drawings each; codes are random, 8 components of weight 4. Printed per
ensemble, as Markdown: seconds of training and bytes of all components, then of 96 samples the median distance to the
nearest training image (1 = a held-out image's), the share of broken ones, the Fréchet distance in EfficientNet-lite0
features to the training images, and in how many of the first 48 the witness test recognises the nearest unit.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from colour import frechet
from PIL import Image

import ablatable as ab
from ablatable._runtime.rng import generator
from ablatable.analysis.features import load_features
from ablatable.analysis.sample_quality import judge
from ablatable.analysis.witness import witness_pictures
from ablatable.report.pictures import enlarge, sprite
from ablatable.runs.component_training import TrainTask, train_component
from ablatable.universes.drawing import draw

ARTISTS, DRAWINGS, COMPONENTS, SAMPLES = 8, 8, 8, 96
HERE = ab.Execution(workers=1, device="cpu")


def data() -> tuple[ab.Units, ab.Units]:
    """The units, and everybody else's drawings."""
    every = ab.Units.openmoji(size=16)
    large = [unit for unit in every.ids if len(every.of(unit)) >= DRAWINGS]
    order = generator("adapters", 0).permutation(len(large))[:ARTISTS]
    chosen = sorted(large[k] for k in order)
    images = np.concatenate([every.of(unit)[:DRAWINGS] for unit in chosen])
    units = ab.Units(tuple(chosen), images, np.repeat(np.arange(ARTISTS), DRAWINGS))
    return units, every.select([unit for unit in every.ids if unit not in chosen])


def base(others: ab.Units, out: Path, steps: int) -> Path:
    """Train the base, once; the folder holds a model of diffusers and its scheduler's settings."""
    folder = out / "base"
    if not folder.exists():
        recipe = ab.preset("colour", steps=steps)
        began = time.monotonic()
        train_component(TrainTask(others, recipe, component=0, seed=0, folder=folder))
        print(f"base: {len(others.images)} drawings, {time.monotonic() - began:.0f} s", flush=True)
        scheduler = {"_class_name": "DDPMScheduler", "prediction_type": "v_prediction", "beta_schedule": "linear"}
        scheduler |= {"beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}
        (folder / "scheduler_config.json").write_text(json.dumps(scheduler))
        (folder / "training.json").unlink()
    return folder


def row(name: str, run: ab.Run, out: Path) -> str:
    """One row of the table, and a contact sheet."""
    ensemble, everyone = run.ensemble(batch=16), np.zeros((1, run.code.components), bool)
    drawn = draw(
        ensemble, everyone, range(SAMPLES), shape=run.shape, schedule=run.recipe.schedule, sampling=ab.Sampling()
    )
    images = np.moveaxis(drawn[0], 1, -1)
    training = run.units().images
    see = load_features("efficientnet-lite0")
    found, told = judge(images, training), witness_pictures(run, images[:48], range(48))
    Image.fromarray(sheet(images[:24])).save(out / f"{name}.png")
    events = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    seconds = sum(event["seconds"] for event in events if event["event"] == "trained")
    size = sum(path.stat().st_size for path in (run.path / "components").rglob("*.safetensors"))
    return (
        f"| {name} | {seconds:.0f} | {size / 1e6:.2f} | {np.median(found.distance):.2f} | {found.broken.mean():.0%} | "
        f"{frechet(see(images), see(training)):.0f} | {(told.nearest_p <= 0.05).sum()} of 48 |"
    )


def sheet(images: np.ndarray) -> np.ndarray:
    return enlarge(sprite(images), 500)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/out/adapters"))
    parser.add_argument("--base-steps", type=int, default=2500)
    parser.add_argument("--full-steps", type=int, default=800)
    parser.add_argument("--adapter-steps", type=int, default=300)
    args = parser.parse_args()
    units, others = data()
    code = ab.Code.random(ARTISTS, COMPONENTS, 0)
    folder = base(others, args.out, args.base_steps)
    full = ab.train(units, code, ab.preset("colour", steps=args.full_steps), out=args.out / "full", execution=HERE)
    print(row("full", full, args.out), flush=True)
    for rank in (4, 16):
        recipe, shared = ab.adapters(folder, rank=rank, steps=args.adapter_steps, batch=32, levels=(0.3, 1.4))
        run = ab.train(units, code, recipe, out=args.out / f"rank-{rank}", execution=HERE, shared=shared)
        print(row(f"rank-{rank}", run, args.out), flush=True)


if __name__ == "__main__":
    main()
