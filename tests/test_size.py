"""What grows with units and samples: time linearly, memory not at all, and nothing is a Python list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

import ablatable as ab
from ablatable.analysis import nearest, seen
from ablatable.analysis.calibration import calibrate
from ablatable.data import distance
from ablatable.data.distance import nearest_images, squares_between
from ablatable.errors import StoreError
from ablatable.universes import enumeration
from ablatable.universes.reader import Universe
from ablatable.universes.screening import search as searching
from ablatable.universes.screening.surrogate import Surrogate
from pretended import NAME, Pretended

HERE = ab.Execution(0, "cpu", quiet=True)


@pytest.fixture(scope="module")
def universe(tmp_path_factory: pytest.TempPathFactory) -> ab.Universe:
    folder = tmp_path_factory.mktemp("size")
    images = np.random.default_rng(0).integers(0, 256, (14, 4, 4, 1), dtype=np.uint8)
    units = ab.Units.from_arrays(images, [f"u{k // 2}" for k in range(4)] + [f"v{k}" for k in range(10)], group=True)
    code = ab.Code.random(units=12, components=7, seed=0)
    run = ab.train(units, code, "ideal", out=folder / "run", execution=HERE)
    return ab.enumerate_universe(
        run, range(3), out=folder / "u.zarr", sampling=ab.Sampling("ddim", 3), spares=5, execution=HERE
    )


def squares(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whole numbers, one pair at a time."""
    return np.array([[int(((x.astype(np.int64) - y) ** 2).sum()) for y in b] for x in a])


def extremes() -> tuple[np.ndarray, np.ndarray]:
    """Sums of products beyond 2^24, most of them odd: float32 alone cannot hold them."""
    rng = np.random.default_rng(1)
    a = rng.integers(0, 256, (5, 30, 30, 3), dtype=np.uint8)
    b = np.concatenate([rng.integers(250, 256, (6, 30, 30, 3), dtype=np.uint8), a[:1] ^ 1])
    return a, b


def test_distances_are_exact_in_float32() -> None:
    a, b = extremes()
    assert np.array_equal(squares_between(a, b), squares(a, b))
    x, y = (each.reshape(len(each), -1).astype(np.float32) for each in (a, b))
    plain = np.square(x).sum(1)[:, None] - 2 * x @ y.T + np.square(y).sum(1)
    assert not np.array_equal(plain, squares(a, b)), "the case is hard enough"


def test_distances_are_exact_on_a_device() -> None:
    a, b = extremes()
    with Pretended() as device:
        assert np.array_equal(squares_between(a, b, NAME), squares(a, b))
        assert device.copies.count("out") == 1 and device.copies.count("item") == 0


def test_the_nearest_image_is_found_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (23, 3, 3, 1), dtype=np.uint8)
    images[20] = images[4]  # of equally near ones the first counts
    pictures = np.concatenate([images[[20, 7]], rng.integers(0, 256, (9, 3, 3, 1), dtype=np.uint8)])
    monkeypatch.setattr(distance, "PIECE", 40)
    between, sizes = squares_between, []
    monkeypatch.setattr(distance, "squares_between", lambda a, b, d: sizes.append(len(b)) or between(a, b, d))
    found, square = nearest_images(pictures, images)
    expected = squares(pictures, images)
    assert np.array_equal(found, expected.argmin(1)) and np.array_equal(square, expected.min(1))
    assert found[0] == 4 and max(sizes) == 4


def test_a_few_hundred_others_are_enough(universe: ab.Universe, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_of, read = Universe.counterfactuals, []

    def spy(self: Universe, sample: int, rows: Any) -> np.ndarray:
        read.append(len(rows))
        return rows_of(self, sample, rows)

    everything = nearest.nearest_units(universe)
    monkeypatch.setattr(Universe, "counterfactuals", spy)
    monkeypatch.setattr(Universe, "landscape", None)
    monkeypatch.setattr(nearest, "OTHERS", 3)
    few = nearest.nearest_units(universe, closely=[1])
    assert read[0] == read[2] == 1 and read[1] <= 1 + 3 + 3
    assert (few.unit, few.after) == (everything.unit, everything.after)
    assert np.isnan(few.changed_others).tolist() == [True, False, True]
    assert few.changed_others[1] * 3 == pytest.approx(round(few.changed_others[1] * 3))


def test_pictures_of_many_samples_pass_over_the_training_data_together(
    universe: ab.Universe, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, one = [], nearest.nearest_images
    monkeypatch.setattr(nearest, "nearest_images", lambda *given: passes.append(len(given[0])) or one(*given))
    together = nearest.nearest_units(universe)
    assert len(passes) == 2, "of all factual samples, and of all counterfactuals"
    monkeypatch.setattr(nearest, "ROWS", 4)
    apart = nearest.nearest_units(universe)
    assert len(passes) > 5 and max(passes[2:]) <= 4
    assert (together.unit, together.after) == (apart.unit, apart.after)
    assert np.array_equal(together.changed_others, apart.changed_others)
    assert np.array_equal(together.changed_spares, apart.changed_spares)


def test_distances_in_many_objects_are_those_that_zarr_reads(
    universe: ab.Universe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of 5 x 2 do not divide 17 ablations of 5 samples."""
    monkeypatch.setattr(enumeration, "BLOCK_ROWS", (10, 10))
    monkeypatch.setattr(enumeration, "BLOCK_SAMPLES", 2)
    run, place = Path(universe.url).parent / "run", tmp_path / "u.zarr"
    made = ab.enumerate_universe(
        ab.Run(run), range(5), out=place, sampling=ab.Sampling("ddim", 3), spares=5, execution=HERE
    )
    assert made.settings.block == (5, 2)
    expected = np.asarray(zarr.open_group(place, mode="r")["distance/euclidean"])
    assert expected.shape == (17, 5) and len(np.unique(expected)) > 40, "rows and columns differ"
    of_units, of_spares = expected[list(made.settings.ablation)], expected[list(made.settings.spares)]
    for part in (slice(None), slice(1, 4), slice(4, 5), slice(2, 2), slice(3), slice(-1, None)):
        assert np.array_equal(made.distances(samples=part), of_units[:, part])
        assert np.array_equal(made.spare_distances(samples=part), of_spares[:, part])
    one = place / "distance/euclidean/c/1/1"
    one.write_bytes((place / "distance/euclidean/c/2/1").read_bytes())  # sound, and not in its place
    assert np.array_equal(ab.Universe.open(place).distances(samples=slice(2)), of_units[:, :2])
    with pytest.raises(StoreError, match=r"distance/euclidean/c/1/1 is not the object"):
        ab.Universe.open(place).distances(samples=slice(2, 3))


@pytest.mark.parametrize("statistic", ["regressed", "likeness", "both", "directional", "residual", "plain"])
def test_calibration_in_pieces(universe: ab.Universe, statistic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = calibrate(universe, statistic=statistic)
    counted, rows_of = [], Universe.counterfactuals

    def spy(self: Universe, sample: int, rows: Any) -> np.ndarray:
        counted.append(len(rows))
        return rows_of(self, sample, rows)

    monkeypatch.setattr(Universe, "landscape", None)
    monkeypatch.setattr(Universe, "counterfactuals", spy)
    monkeypatch.setattr(seen, "PIECE", 1)
    original = seen.Seen.__init__

    def few(self: seen.Seen, *arguments: Any) -> None:
        original(self, *arguments)
        self.at_once = 3

    monkeypatch.setattr(seen.Seen, "__init__", few)
    pieces = calibrate(universe, statistic=statistic)
    assert np.array_equal(pieces.p, whole.p) and np.allclose(pieces.score, whole.score, atol=1e-9)
    assert max(counted) <= 5, "the spares at once, and units three at a time"


def test_fits_become_rarer_than_their_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing twice as much may not take twice as many fits."""
    rng = np.random.default_rng(3)
    words = np.unique(rng.random((900, 11)) < 0.5, axis=0)
    words = words[(words.sum(1) > 0) & (words.sum(1) < 11)]
    pictures, fits = rng.integers(0, 256, (len(words), 1, 3, 3), dtype=np.uint8), []
    monkeypatch.setattr(Surrogate, "fit", lambda self, rows, gram: fits.append((rows, gram)) or self)
    monkeypatch.setattr(Surrogate, "squares", lambda self, rows: (np.ones(len(rows)), np.ones(len(rows))))
    factual = pictures[0]

    def drawn(most: int) -> int:
        fits.clear()
        candidates = np.arange(len(words))
        searching.search(
            lambda rows: pictures[rows], factual, words, candidates, candidates[:0], seed=0, most=most, sure=1.1
        )
        return len(fits)

    assert drawn(600) < 1.5 * drawn(300) < 1.5 * 300 / searching.ROUND
    rows, gram = fits[-1]
    moved = (pictures[rows].astype(np.float64) - factual).reshape(len(rows), -1) / 255
    assert np.allclose(gram, moved @ moved.T, rtol=1e-12, atol=1e-12)


def test_training_tasks_are_told_how_much_room_they_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with two GPUs two components train at once, however many cores there are."""
    from ablatable.diffusion.recipe import Recipe, TrainingConfig, UNetConfig
    from ablatable.runs.disk_room import training_bytes

    units = ab.Units.digits(6, size=8)
    recipe = Recipe(component=UNetConfig(channels=(8,), norm_groups=4), training=TrainingConfig(steps=1))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    one = training_bytes(recipe, units, 1, 3, ab.Execution(1, "cuda"))
    weights = (one - 3 * 64) // 5  # the weights, and a checkpoint of four times as much
    assert one == 5 * weights + 3 * 64
    assert training_bytes(recipe, units, 8, 3, ab.Execution(None, "cuda")) == 8 * weights + 2 * (4 * weights + 3 * 64)
    ideal = training_bytes(ab.preset("ideal"), units, 4, 3, ab.Execution(0, "cpu"))
    assert ideal == 4 * 3 * 64 + 3 * 64, "its weights are the images"
