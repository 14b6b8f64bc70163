"""Adapters on a frozen base against full components, on the same drawings: what they cost, draw, show and lose.

    python bench/adapters.py train      train the base and three ensembles, draw universes (resumable, one process)
    python bench/adapters.py tables     print what they cost, draw and show, as Markdown
    python bench/adapters.py pictures   the same noise by each, as adapters.png in docs/results/images
    python bench/adapters.py sizes      adapters of a network of Stable Diffusion's size, counted without weights

All goes to --out (default bench/out/adapters). The base is one network of the preset `colour`, trained on all OpenMoji
drawings (16 x 16) of designers who are no units. Units are 8 other designers with 8 drawings each; the code is random,
8 components of weight 4. Full components start from random weights, adapters from the base, which no component of the
full ensemble has. Training is in bfloat16 (autocast). Costs are CPU seconds of this process, which has one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from colour import frechet

import ablatable as ab
from ablatable._runtime.rng import generator
from ablatable._runtime.stats import wilson
from ablatable.analysis.features import load_features
from ablatable.analysis.nearest import nearest_units
from ablatable.analysis.sample_quality import judge
from ablatable.analysis.witness import witness_pictures
from ablatable.diffusion.kinds import load_component
from ablatable.diffusion.lora import TARGETS, LoRAConfig
from ablatable.runs.component_training import TrainTask, train_component

ARTISTS, DRAWINGS, COMPONENTS = 8, 8, 8
SAMPLES, SPARES, SAMPLING = range(32), 6, ab.Sampling("dpmsolver++", 15)
STEPS = {"base": 2000, "rank 16": 100, "full": 300, "rank 4": 100}
LEVELS = (0.3, 1.4)  # the preset's
HERE = ab.Execution(workers=0, device="cpu")
IMAGES = Path(__file__).parents[1] / "docs" / "results" / "images"


def data() -> tuple[ab.Units, ab.Units]:
    """The units, and everybody else's drawings."""
    every = ab.Units.openmoji(size=16)
    large = [unit for unit in every.ids if len(every.of(unit)) >= DRAWINGS]
    order = generator("adapters", 0).permutation(len(large))[:ARTISTS]
    chosen = sorted(large[k] for k in order)
    images = np.concatenate([every.of(unit)[:DRAWINGS] for unit in chosen])
    units = ab.Units(tuple(chosen), images, np.repeat(np.arange(ARTISTS), DRAWINGS))
    return units, every.select([unit for unit in every.ids if unit not in chosen])


def base(others: ab.Units, out: Path) -> Path:
    """Train the base, once; the folder holds a model of diffusers and its scheduler's settings."""
    folder = out / "base"
    if not folder.exists():
        recipe = ab.preset("colour", steps=STEPS["base"], precision="bf16")
        with costs(out, "base"):
            train_component(TrainTask(others, recipe, component=0, seed=0, folder=folder))
        scheduler = {"_class_name": "DDPMScheduler", "prediction_type": "v_prediction", "beta_schedule": "linear"}
        scheduler |= {"beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}
        (folder / "scheduler_config.json").write_text(json.dumps(scheduler))
        (folder / "training.json").unlink()
    return folder


class costs:
    """Adds the CPU seconds that a block takes to those in `costs.json`, under a name."""

    def __init__(self, out: Path, name: str) -> None:
        self.place, self.name = out / "costs.json", name

    def __enter__(self) -> None:
        self.began = time.process_time()

    def __exit__(self, *_: object) -> None:
        told = json.loads(self.place.read_text()) if self.place.exists() else {}
        told[self.name] = told.get(self.name, 0.0) + time.process_time() - self.began
        self.place.write_text(json.dumps(told, indent=1))
        print(f"{self.name}: {told[self.name]:.0f} CPU seconds", flush=True)


def train(out: Path) -> None:
    """Train whatever is not there yet, and draw its universe."""
    out.mkdir(parents=True, exist_ok=True)
    units, others = data()
    code = ab.Code.random(ARTISTS, COMPONENTS, 0)
    folder = base(others, out)
    for name in list(STEPS)[1:]:
        if name == "full":
            recipe, shared = ab.preset("colour", steps=STEPS[name], precision="bf16"), []
        else:
            recipe, shared = ab.adapters(
                folder, rank=int(name.split()[1]), steps=STEPS[name], batch=32, levels=LEVELS, precision="bf16",
                statement="OpenMoji drawings by designers who are no units here",
            )  # fmt: skip
        with costs(out, name):
            run = ab.train(units, code, recipe, out=out / name / "run", execution=HERE, shared=shared)
        with costs(out, f"{name}: universe"):
            ab.enumerate_universe(
                run, SAMPLES, out=out / name / "u.zarr", sampling=SAMPLING, spares=SPARES, execution=HERE
            )


def from_the_base(out: Path) -> np.ndarray:
    """What the base draws by itself, from the same noise: uint8 (samples, H, W, C)."""
    from ablatable.data.units import to_images
    from ablatable.diffusion.sampling import Trajectories, sample

    recipe = ab.preset("colour")
    model = load_component(out / "base", recipe.component, recipe.schedule)
    with torch.inference_mode():
        return to_images(sample(model, Trajectories(SAMPLES, (3, 16, 16)), sampling=SAMPLING))


def tables(out: Path) -> None:
    """Print the comparison, as Markdown."""
    told = json.loads((out / "costs.json").read_text())
    units, _ = data()
    see = load_features("efficientnet-lite0")
    known = see(units.images)
    print(f"base: {told['base']:.0f} CPU seconds")
    drawn = {"base alone": from_the_base(out)}
    for name in sorted(set(STEPS) & {place.name for place in out.iterdir()} - {"base"}):
        run, universe = ab.Run(out / name / "run"), ab.Universe.open(out / name / "u.zarr")
        drawn[name] = universe.factual
        size = sum(path.stat().st_size for path in (run.path / "components").rglob("*.safetensors")) / COMPONENTS
        near = nearest_units(universe)
        p = witness_pictures(run, universe.factual, universe.seeds).nearest_p
        away = universe.distances(), universe.spare_distances()
        print(
            f"| {name} | {told[name] / COMPONENTS:.0f} | {size / 1e3:.0f} | {told[f'{name}: universe']:.0f} | "
            f"{share(p <= 0.05)} | {share(near.changed)} | {near.changed_spares.mean():.2f} | "
            f"{away[0].mean():.1f} | {away[1].mean():.1f} |"
        )
    for name, images in drawn.items():
        found = judge(images, units.images)
        away, broken = np.median(found.distance), found.broken.mean()
        print(f"| {name} | {away:.2f} | {broken:.0%} | {frechet(see(images), known):.0f} |")


def share(hits: np.ndarray) -> str:
    """As in `12 of 16 (.51 to .90)`, with a 95 % Wilson interval."""
    low, high = wilson(int(hits.sum()), len(hits))
    return f"{int(hits.sum())} of {len(hits)} ({low:.2f} to {high:.2f})"


def pictures(out: Path) -> None:
    """The same noise: by the base alone, by both ensembles, and by them without the designer nearest to the sample."""
    shown, rows = list(range(12)), {"base alone": from_the_base(out)}
    for name in ("full", "rank 16"):
        universe = ab.Universe.open(out / name / "u.zarr")
        near = witness_pictures(ab.Run(out / name / "run"), universe.factual, universe.seeds).nearest
        rows[name] = universe.factual
        without = [universe.counterfactual(universe.unit_ids[near[k]])[k] for k in shown]
        rows[f"{name}, without\nnearest designer"] = np.stack(without)
    mpl.rcParams["font.size"] = 8
    figure, axes = plt.subplots(len(rows), len(shown), figsize=(10, 4.4))
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for ax, k in zip(line, shown, strict=True):
            ax.imshow(images[k], interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
    figure.tight_layout(h_pad=0.4, w_pad=0.3)
    figure.savefig(IMAGES / "adapters.png", dpi=110)
    print(IMAGES / "adapters.png")


def sizes() -> None:
    """Parameters of a U-Net of Stable Diffusion's architecture, and of adapters on it: on the meta device."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from peft import LoraConfig, inject_adapter_in_model

    settings: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
    attention = ("to_q", "to_k", "to_v", "to_out.0")
    for targets, rank in ((attention, 4), (attention, 16), (LoRAConfig().targets, 4), (TARGETS, 16)):
        with torch.device("meta"):
            model = UNet2DConditionModel(block_out_channels=(320, 640, 1280, 1280), **settings)
            whole = sum(weight.numel() for weight in model.parameters())
            inject_adapter_in_model(LoraConfig(r=rank, target_modules=list(targets)), model)
        own = sum(weight.numel() for name, weight in model.named_parameters() if ".lora_" in name)
        sizes = f"{4 * own / 1e6:.1f} MB of {4 * whole / 1e9:.2f} GB"
        print(f"rank {rank} on {', '.join(targets)}: {own:,} of {whole:,} ({sizes})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "tables", "pictures", "sizes"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "adapters")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "sizes":
        sizes()
    else:
        {"train": train, "tables": tables, "pictures": pictures}[given.what](given.out)


if __name__ == "__main__":
    main()
