"""The witness test on influence that was planted: copies, watermarks of graded strength, and units without data.

python bench/witness_planted.py copies        power against the number of units that hold the same image
python bench/witness_planted.py watermarks    p-value and rank of a watermarked unit against the watermark's strength
python bench/witness_planted.py discoveries   false discovery rate of both procedures, half of the units without data

All components are ideal (closed form), 12 of weight 6, digits at 14 x 14, codes by `Code.random`: a few minutes of
one core each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import false_discovery_control, spearmanr

import ablatable as ab
from ablatable._runtime.rng import generator
from ablatable._runtime.stats import wilson
from ablatable.analysis.denoised import denoised
from ablatable.analysis.exchangeable import Reference
from ablatable.analysis.witness import unit_evidence
from ablatable.data.units import to_images
from ablatable.diffusion.ensemble import Ensemble
from ablatable.diffusion.ideal import IdealDenoiser
from ablatable.diffusion.sampling import Trajectories, sample
from ablatable.diffusion.schedule import Schedule

COMPONENTS, SIDE, SCHEDULE = 12, 14, Schedule()
STRENGTHS = (0, 16, 32, 64, 96, 128, 192)  # grey levels of the watermark


def ideal_components(images: np.ndarray, code: ab.Code) -> list[IdealDenoiser]:
    """Components of image k = unit k; a unit beyond the images has a codeword and no data."""
    splits = [[row for row in code.split(i) if row < len(images)] for i in range(code.components)]
    return [IdealDenoiser(torch.from_numpy(np.moveaxis(images[split], -1, 1).copy()), SCHEDULE) for split in splits]


def drawn(components: list[IdealDenoiser], seeds: range) -> np.ndarray:
    """The ensemble's samples, uint8 (samples, H, W, C)."""
    with torch.inference_mode():
        noise = Trajectories(seeds, (1, SIDE, SIDE))
        return to_images(sample(Ensemble(components), noise, schedule=SCHEDULE, sampling=ab.Sampling(steps=25)))


def tested(
    components: list[IdealDenoiser], code: ab.Code, images: np.ndarray, pictures: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """p-values of every unit at every picture, (units, samples), and the units' distances, (units, samples)."""
    units = ab.Units.from_arrays(images, duplicates="keep")
    evidence, distance = unit_evidence(denoised(components, SCHEDULE, pictures), units, pictures)
    reference, rows = Reference(code), np.arange(len(images))
    columns = [reference.p_values(evidence[:, :, k], rows, ("planted", k)) for k in range(len(pictures))]
    return np.stack(columns, axis=1), distance


def copies() -> None:
    """48 units, of which so many hold the same image: the nearest unit is one of them."""
    digits = ab.Units.digits(48, size=SIDE).images
    print("| units with the same image | p <= 0.05 | p <= 0.01 | all of them p <= 0.05 |\n| --- | --- | --- | --- |")
    for count in (1, 2, 4, 8):
        images = np.repeat(digits[: 48 // count], count, axis=0)
        p, every = [], []
        for seed in range(4):
            code = ab.Code.random(48, COMPONENTS, seed)
            components = ideal_components(images, code)
            pictures = drawn(components, range(12 * seed, 12 * seed + 12))
            values, distance = tested(components, code, images, pictures)
            for k, nearest in enumerate(distance.argmin(axis=0) // count):
                group = values[nearest * count : (nearest + 1) * count, k]
                p.append(group[generator("planted", seed, k).integers(count)])
                every.append(group.max())
        print(f"| {count} | {share(p, 0.05)} | {share(p, 0.01)} | {share(every, 0.05)} |", flush=True)


def watermarks() -> None:
    """All units show one digit, each with noise of its own; one has a watermark, and so has the picture that is tested.

    The picture is the digit with other noise, so nothing but the watermark brings it nearer to that unit.
    """
    digit = ab.Units.digits(1, size=SIDE).images[0].astype(float)
    pattern = np.zeros((SIDE, SIDE, 1))
    pattern[1:4, 1:4, 0] = generator("watermark").choice([0.5, 1.0], (3, 3))
    found: dict[int, list[tuple[float, int]]] = {strength: [] for strength in STRENGTHS}
    for trial in range(96):
        code = ab.Code.random(48, COMPONENTS, 100 + trial)
        noise = generator("watermarked", trial).normal(0, 24, (49, SIDE, SIDE, 1))
        for strength in STRENGTHS:
            images = np.clip(digit + noise, 0, 255)
            images[[0, 48]] = np.clip(digit + noise[[0, 48]] + strength * pattern, 0, 255)
            images = images.astype(np.uint8)
            p, _ = tested(ideal_components(images[:48], code), code, images[:48], images[48:])
            found[strength].append((p[0, 0], 1 + int((p[:, 0] < p[0, 0]).sum())))
    print("| strength, grey levels | p <= 0.05 | p <= 0.01 | median rank among 48 |\n| --- | --- | --- | --- |")
    for strength, rows in found.items():
        p, rank = np.array(rows).T
        print(f"| {strength} | {share(p, 0.05)} | {share(p, 0.01)} | {np.median(rank):g} |")
    strength = np.repeat(STRENGTHS, 96)
    correlation = spearmanr(strength, [-p for rows in found.values() for p, _ in rows]).statistic
    print(f"\nrank correlation of strength and -p: {correlation:.2f}")


def null_images(kind: str, digits: np.ndarray, count: int) -> np.ndarray:
    """Images of units without data: other digits, near-duplicates of a trained one, or such and their negatives."""
    if kind == "digits":
        return digits[24 : 24 + count]
    noise = generator("null", kind).normal(0, 8, (count, SIDE, SIDE, 1))
    near = np.clip(digits[:1] + noise, 0, 255)
    if kind == "opposed":
        near[count // 2 :] = 255 - near[count // 2 :]
    return near.astype(np.uint8)


def discoveries() -> None:
    """24 digits, and 24 units without data or those alone: the share of false ones among the marked, at 0.1."""
    digits = ab.Units.digits(48, size=SIDE).images
    print("| code | units without data | tested with them | BH: false discovery rate | BY | BH: found | BY: found |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for components, weight in ((12, 6), (12, 3), (16, 8)):
        for kind in ("digits", "near-duplicates", "opposed"):
            images = np.concatenate([digits[:24], null_images(kind, digits, 24)])
            for real in (24, 0):
                rates, found = _rates(images, components, weight, real)
                print(f"| {components} of weight {weight} | {kind} | {real} | {rates} | {found} |", flush=True)


def _rates(images: np.ndarray, components: int, weight: int, real: int) -> tuple[str, str]:
    """False discovery rates with 95 % intervals, and units with data marked per sample, of both procedures."""
    rates: dict[str, list[float]] = {"bh": [], "by": []}
    found: dict[str, list[float]] = {"bh": [], "by": []}
    for trial in range(250):
        code = ab.Code.random(48, components, 1000 + trial, weight=weight)
        denoisers = ideal_components(images[:24], code)
        p, _ = tested(denoisers, code, images, drawn(denoisers, range(4 * trial, 4 * trial + 4)))
        for method in ("bh", "by"):
            marked = false_discovery_control(p[24 - real :], axis=0, method=method) <= 0.1
            false = marked[real:].sum(axis=0)
            rates[method].append(float((false / np.maximum(1, marked.sum(axis=0))).mean()))
            found[method].append(float(marked[:real].sum(axis=0).mean()))
    errors = {method: 1.96 * np.std(values, ddof=1) / len(values) ** 0.5 for method, values in rates.items()}
    rate = " | ".join(f"{np.mean(values):.3f} +- {errors[method]:.3f}" for method, values in rates.items())
    return rate, " | ".join(f"{np.mean(values):.2f}" for values in found.values())


def share(p: list[float] | np.ndarray, level: float) -> str:
    hits = int((np.asarray(p) <= level).sum())
    low, high = wilson(hits, len(p))
    return f"{hits / len(p):.2f} ({low:.2f} to {high:.2f})"


STAGES: dict[str, Callable[[], None]] = {"copies": copies, "watermarks": watermarks, "discoveries": discoveries}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=list(STAGES))
    torch.set_num_threads(1)
    STAGES[parser.parse_args().stage]()
