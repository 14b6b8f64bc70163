"""How the limits of `analysis.sample_quality` were set: what each measure says of images whose state is known.

    python bench/sample_quality.py

Training images are 144 drawings by 12 artists at 16 and 24 pixels, and 64 digits at 14. Judged are images that are
fine (training images, drawings of the same artists and of others that were not trained on), images spoilt by a known
amount of noise, averages of two, and images that are nothing: noise, black, white.
"""

from __future__ import annotations

import numpy as np

import ablatable as ab
from ablatable.analysis.sample_quality import judge


def conditions(training: np.ndarray, others: dict[str, np.ndarray], seed: int = 0) -> dict[str, np.ndarray]:
    """Sets of images, uint8 (N, H, W, C), by name."""
    rng = np.random.default_rng(seed)

    def spoilt(deviation: float) -> np.ndarray:
        noisy = training + rng.normal(0, deviation, training.shape)
        return np.rint(noisy.clip(0, 255)).astype(np.uint8)

    mixed = training[rng.permutation(len(training))].astype(float)
    return {
        "training images": training,
        **others,
        **{f"training + noise of {deviation}": spoilt(deviation) for deviation in (4, 8, 12, 16, 24, 32, 64)},
        "average of two": np.rint((training + mixed) / 2).astype(np.uint8),
        "pure noise": np.rint(rng.normal(128, 64, training.shape).clip(0, 255)).astype(np.uint8),
        "black": np.zeros_like(training[:8]),
        "white": np.full_like(training[:8], 255),
    }


def drawings(size: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Twelve drawings of each of twelve artists, and those that were left out."""
    everything = ab.Units.openmoji(size=size)
    sizes = np.bincount(everything.owner)
    chosen = np.argsort(-sizes, kind="stable")[4:16]
    of = [everything.images[everything.owner == k] for k in chosen]
    rest = everything.images[~np.isin(everything.owner, chosen)]
    return np.concatenate([images[:12] for images in of]), {
        "same artists, left out": np.concatenate([images[12:] for images in of]),
        "other artists": rest,
    }


def digits() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """64 digits, and 192 others."""
    images = ab.Units.digits(256, size=14).images
    return images[:64], {"other digits": images[64:]}


def main() -> None:
    """Print one line per set: shares broken by each limit, and medians of the measures."""
    for name, (training, others) in {"16 px": drawings(16), "24 px": drawings(24), "digits 14 px": digits()}.items():
        print(f"\n{name}: noisy | far | flat | broken   (median noise, distance)")
        for label, images in conditions(training, others).items():
            found = judge(images, training)
            shares = " | ".join(f"{w.mean():4.0%}" for w in (found.noisy, found.far, found.flat, found.broken))
            print(f"{label:26} {shares}   ({np.median(found.noise):5.1f}, {np.median(found.distance):.2f})", flush=True)


if __name__ == "__main__":
    main()
