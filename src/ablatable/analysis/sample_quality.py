"""Are a model's samples pictures, or noise? Judged against the training images, without any trained judge.

Three measures of a sample, each compared with what the training images themselves measure:

- *noise*: the standard deviation of additive noise, estimated from second differences (Immerkaer 1996), here from the
  calmest quarter of an image, as small drawings are full of lines that would pass for noise;
- *distance* to the nearest training image, in units of what a held-out image has: each training image is held out in
  turn and its nearest other is looked for. A copy has about 0, a held-out image 1 by definition (at the median), an
  image of another kind more;
- *spread* of levels: an image of one colour has none.

A sample is *broken* when it is noisier, much farther, or flatter than training images are. docs/colour.md has the
experiment that set the limits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..data.distance import pairwise

NOISE = 15.0  # levels of 255, beyond what the noisiest twentieth of the training images has
FAR = 1.35  # times the distance within which 95 % of the training images have their nearest neighbour
FLAT = 3.0  # levels of 255: the standard deviation of what looks like one colour
TOLERATED = 0.25  # share of broken samples above which a model is said to draw noise
MOST = 2048  # training images compared, evenly spaced over them


@dataclass(frozen=True)
class SampleQuality:
    """What was found; arrays are (samples,).

    Attributes:
        noise: estimated standard deviation of additive noise, in levels of 255.
        distance: distance to the nearest training image, relative to the median over training images.
        nearest: index of that image.
        noisy, far, flat: bool, which limit a sample exceeds.
        typical_noise: median noise of the training images.
    """

    noise: np.ndarray
    distance: np.ndarray
    nearest: np.ndarray
    noisy: np.ndarray
    far: np.ndarray
    flat: np.ndarray
    typical_noise: float

    @property
    def broken(self) -> np.ndarray:
        """Whether each sample exceeds any limit, bool (samples,)."""
        return self.noisy | self.far | self.flat

    @property
    def sound(self) -> bool:
        """Whether the model may be used: few enough samples are broken."""
        return float(self.broken.mean()) <= TOLERATED

    def sentences(self) -> list[str]:
        """The verdict."""
        count, broken = len(self.noise), int(self.broken.sum())
        if self.sound:
            median = float(np.median(self.distance))
            kind = "copies or near-copies" if median < 0.5 else "images of the same kind"
            return [
                f"samples: {count - broken} of {count} look like the training images ({kind}; their nearest training "
                f"image is {median:.1f} times as far as a held-out image's is)"
            ]
        found = [
            f"{int(which.sum())} {what}"
            for which, what in (
                (self.noisy, "are noisy"),
                (self.far, "are like no training image"),
                (self.flat, "are of one colour"),
            )
            if which.any()
        ]
        return [
            f"samples: {broken} of {count} are broken ({', '.join(found)}): the components are not trained well enough"
        ]


def judge(samples: np.ndarray, training: np.ndarray) -> SampleQuality:
    """Judge samples, uint8 (N, H, W, C), against at least two training images, uint8 (M, H, W, C)."""
    picked = np.linspace(0, len(training) - 1, min(MOST, len(training))).round().astype(int)
    reference = training[picked]
    apart = _nearest_other(reference)
    unit = max(float(np.median(apart)), 1e-6)
    between = pairwise(samples, reference)
    nearest = between.argmin(axis=1)
    distance = between[np.arange(len(samples)), nearest]
    usual, noise = noise_level(reference), noise_level(samples)
    spread, least = samples.reshape(len(samples), -1).std(axis=1), reference.reshape(len(reference), -1).std(axis=1)
    return SampleQuality(
        noise=noise,
        distance=distance / unit,
        nearest=picked[nearest],
        noisy=noise > np.quantile(usual, 0.95) + NOISE,
        far=distance > FAR * np.quantile(apart, 0.95),
        flat=(spread < FLAT) & (spread < least.min()),
        typical_noise=float(np.median(usual)),
    )


def noise_level(images: np.ndarray) -> np.ndarray:
    """Estimated standard deviation of additive Gaussian noise, float64 (N,), in levels of 255.

    With the mask M = [1 -2 1; -2 4 -2; 1 -2 1], which is blind to planes and edges along the axes, white noise of
    deviation s gives values of deviation 6 s (Immerkaer 1996, "Fast noise variance estimation", equation 1), whose
    absolute value has the lower quartile 0.3186 * 6 s.
    """
    pixels = images.astype(np.float64)
    rows = pixels[:, :-2] - 2 * pixels[:, 1:-1] + pixels[:, 2:]
    both = rows[:, :, :-2] - 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    return np.quantile(np.abs(both).reshape(len(images), -1), 0.25, axis=1) / (6 * 0.3186)


def _nearest_other(images: np.ndarray) -> np.ndarray:
    """How far each image is from its nearest other, (M,)."""
    between = pairwise(images, images)
    np.fill_diagonal(between, np.inf)
    return between.min(axis=1)
