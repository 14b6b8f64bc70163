"""A class-conditional ensemble on real drawings: what a label does, what guidance does, what a removal does.

    python bench/conditional.py train     train the ensemble (resumable)
    python bench/conditional.py draw      every figure of docs/results/conditional.md, and its picture

All goes to --out (default bench/out/conditional). Units are 16 subgroups of OpenMoji, four of each of four groups, at
16 x 16; labels are the groups. Components are of the preset `colour` with classes, trained in bfloat16 (autocast).
"""

from __future__ import annotations

import argparse
import resource
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import ablatable as ab
from ablatable._runtime.plotting import contact_sheet
from ablatable.data.distance import pairwise

UNITS = {
    "smileys-emotion": ("face-smiling", "cat-face", "face-unwell", "heart"),
    "animals-nature": ("plant-flower", "animal-bug", "animal-bird", "animal-marine"),
    "food-drink": ("food-sweet", "food-fruit", "food-vegetable", "drink"),
    "travel-places": ("transport-air", "transport-water", "place-building", "place-geographic"),
}
COMPONENTS = 6
SEEDS = range(4)
GUIDANCE = (1.0, 3.0)
STEPS = 12
SHOWN = 3  # seeds in the picture


def units() -> ab.Units:
    names = sorted(name for group in UNITS.values() for name in group)
    return ab.Units.openmoji(by="subgroup", label_column="group", size=16).select(names)


def execution(workers: int) -> ab.Execution:
    return ab.Execution(workers=workers, quiet=True)


def train(out: Path, steps: int, workers: int) -> None:
    recipe = ab.preset("colour", steps=steps, precision="bf16")
    code = ab.Code.random(16, COMPONENTS, 0)
    ab.train(units(), code, recipe, out=out / "run", classes=list(UNITS), execution=execution(workers))
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(f"CPU seconds of this call: {sum(each.ru_utime + each.ru_stime for each in spent):.0f}")


def drawn(model: ab.AblatablePipeline, guidance: float, without: str | None = None) -> np.ndarray:
    """Every label's samples: uint8 (labels, seeds, H, W, C)."""
    seeds, labels = [*SEEDS] * len(UNITS), [label for label in UNITS for _ in SEEDS]
    how = {"sampler": "dpmsolver++", "num_inference_steps": STEPS, "output_type": "np", "guidance_scale": guidance}
    images: Any = model(seeds, class_labels=labels, without=without, **how).images
    return images.reshape(len(UNITS), len(SEEDS), *images.shape[1:])


def draw(out: Path, target: Path) -> None:
    """The picture, and every figure of the page."""
    data, model = units(), ab.AblatablePipeline.from_pretrained(out / "run")
    of_image, labels = np.array(data.labels), list(UNITS)
    factual = {guidance: drawn(model, guidance) for guidance in GUIDANCE}
    first = {label: names[0] for label, names in UNITS.items()}
    without = np.stack(
        [drawn(model, GUIDANCE[-1], first[label]) for label in labels]
    )  # (unit's label, label, seeds, ..)
    rows = [
        np.stack(
            [
                cell
                for seed in range(SHOWN)
                for cell in (*(factual[g][row, seed] for g in GUIDANCE), without[row, row, seed])
            ]
        )
        for row in range(len(labels))
    ]
    Image.fromarray(contact_sheet(*rows)).save(target, optimize=True)
    for guidance, images in factual.items():
        flat = images.reshape(-1, *images.shape[2:])
        near = of_image[pairwise(flat, data.images).argmin(axis=1)] == np.repeat(labels, len(SEEDS))
        apart = [ab.euclidean(images[a], images[b]) for a in range(len(labels)) for b in range(a)]
        print(f"guidance {guidance:g}: nearest drawing of the label {near.sum()} of {near.size}; ", end="")
        print(f"same noise, two labels: median distance {np.median(apart):.1f}")
    moved = np.stack(
        [[ab.euclidean(w, f) for w, f in zip(each, factual[GUIDANCE[-1]], strict=True)] for each in without]
    )
    own = np.eye(len(labels), dtype=bool)
    print(f"without the first unit of the label: median distance {np.median(moved[own]):.1f}, ", end="")
    print(f"of another label: {np.median(moved[~own]):.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "draw"])
    parser.add_argument("--out", type=Path, default=Path("bench/out/conditional"))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    if given.what == "train":
        train(given.out, given.steps, given.workers)
    else:
        draw(given.out, Path("docs/results/images/conditional.png"))


if __name__ == "__main__":
    main()
