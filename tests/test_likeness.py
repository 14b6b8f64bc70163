"""Near-duplicates: against edges computed by SciPy, on changed copies, and on drawings that only share a background."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

import ablatable as ab
from ablatable.data.likeness import NEAR, likeness, near_duplicates, told


def edges(picture: np.ndarray) -> np.ndarray:
    """Of a picture (16, 16): means of 2 x 2 pixels, less the mean of four neighbours, of length one."""
    mosaic = ndimage.uniform_filter(picture.astype(float), 2, origin=-1)[::2, ::2].round()
    cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) / 4
    difference = mosaic - ndimage.convolve(mosaic, cross, mode="nearest")
    return difference / np.linalg.norm(difference)


def test_the_cosine_of_edges_at_the_best_shift() -> None:
    rng = np.random.default_rng(1)
    smooth = [ndimage.gaussian_filter(rng.normal(size=(16, 16)), 2) for _ in range(6)]
    pictures = np.stack([np.clip(128 + 400 * one, 0, 255).astype(np.uint8) for one in smooth])
    a, b = pictures[:3], pictures[3:]
    expected = [
        [
            max(
                (edges(x) * edges(ndimage.shift(variant, move, order=0, mode="nearest"))).sum()
                for variant in (y, y[:, ::-1])
                for move in [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            )
            for y in b
        ]
        for x in a
    ]
    np.testing.assert_allclose(likeness(a[..., None], b[..., None]), expected, atol=0.02)  # a level of rounding
    assert likeness(np.zeros((1, 16, 16, 1), np.uint8), a[..., None]).tolist() == [[0, 0, 0]]


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "dimmer": lambda picture: picture * 0.7 + 20,
    "less contrast": lambda picture: (picture - 128) * 0.6 + 128,
    "mirrored": lambda picture: picture[:, ::-1],
    "shifted": lambda picture: np.roll(picture, 1, axis=1),
    "noisy": lambda picture: picture + np.random.default_rng(0).normal(0, 8, picture.shape),
    "other colours": lambda picture: picture[..., ::-1] * 0.9,
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found(change: str) -> None:
    pictures = ab.Units.openmoji(12, size=16).images[::9][:24]
    copies = np.clip(np.stack([CHANGES[change](picture.astype(float)) for picture in pictures]), 0, 255)
    found = np.diag(likeness(pictures, copies.round().astype(np.uint8))) >= NEAR
    assert found.mean() >= 0.85, found


def drawn(inside: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """A black shape on white, in the middle of 16 x 16 pixels."""
    y, x = np.mgrid[:16, :16] - 7.5
    return np.where(inside(y, x), 0, 255).astype(np.uint8)[..., None]


def test_drawings_on_white_are_not_all_alike() -> None:
    """A disc, a square, a diamond and a ring: the brightness correlates, but nobody would take one for the other."""
    shapes = np.stack(
        [
            drawn(lambda y, x: y**2 + x**2 < 30),
            drawn(lambda y, x: np.maximum(abs(y), abs(x)) < 5),
            drawn(lambda y, x: abs(y) + abs(x) < 8),
            drawn(lambda y, x: (y**2 + x**2 < 36) & (y**2 + x**2 > 4)),
        ]
    )
    coarse = shapes.reshape(4, 8, 2, 8, 2).mean(axis=(2, 4)).reshape(4, -1)
    assert np.corrcoef(coarse)[np.triu_indices(4, 1)].max() > NEAR  # as two of them are by brightness alone
    assert near_duplicates(shapes, np.arange(4)) == []
    assert "No near-duplicates" in told([], [], [])[0]


def test_pairs_are_counted_and_named() -> None:
    """Copies within a unit and equal pictures are no near-duplicates; the others are found once each."""
    base = ab.Units.openmoji(3, size=16).images[[0, 20, 40]]
    dimmer = (base * 0.8).astype(np.uint8)
    images = np.concatenate([base, dimmer, base[:1], dimmer[:1]])
    owner = np.array([0, 1, 2, 3, 3, 2, 4, 0])  # 5: a dim copy within its unit; 6: equal to 0; 7: equal to 3
    pairs = near_duplicates(images, owner)
    assert {(pair.first, pair.second) for pair in pairs} == {(0, 3), (1, 4), (3, 6), (6, 7)}
    assert all(NEAR <= pair.likeness <= 1 for pair in pairs)
    lines = told(pairs, [f"{k}.png" for k in range(8)], [f"unit {owner[k]}" for k in range(8)], shown=3)
    assert lines[0].startswith("4 pairs of images of different units look the same (4 units; 1 between")
    assert len(lines) == 5 and lines[1].startswith("0.png and 3.png") and lines[-1] == "and 1 more"
