"""Judging samples against training images, on images whose state is known; and the first look at a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ablatable as ab
from ablatable.analysis.first_look import LOOK, LOSS, contact_sheet, first_look, loss_figure
from ablatable.analysis.sample_quality import judge, noise_level
from ablatable.diffusion.advice import (
    ENOUGH,
    LEAST,
    PASSES,
    chosen,
    concerns,
    duration,
    minutes,
    passes,
    remedy,
    steps_for,
)
from ablatable.diffusion.recipe import preset
from ablatable.runs.run import check_run

RNG = np.random.default_rng(0)


def shapes(count: int, channels: int = 3, side: int = 20) -> np.ndarray:
    """Discs and bars in random places and colours on white: crisp, and no two alike."""
    y, x = np.mgrid[:side, :side]
    images = np.full((count, side, side, channels), 255, np.uint8)
    for image in images:
        cy, cx, r = [*RNG.uniform(5, side - 5, 2).tolist(), RNG.uniform(3, 6)]
        image[(y - cy) ** 2 + (x - cx) ** 2 < r**2] = RNG.integers(0, 200, channels)
        image[int(cy) : int(cy) + 2, :] = RNG.integers(0, 200, channels)
    return images


def spoilt(images: np.ndarray, deviation: float) -> np.ndarray:
    return np.rint((images + RNG.normal(0, deviation, images.shape)).clip(0, 255)).astype(np.uint8)


# --- the measures ---


@pytest.mark.parametrize("deviation", [4.0, 12.0, 30.0])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_noise_of_a_flat_image_is_what_was_added(deviation: float, channels: int) -> None:
    images = spoilt(np.full((6, 64, 64, channels), 128), deviation)
    np.testing.assert_allclose(noise_level(images), deviation, rtol=0.1)


def test_ramps_have_no_noise() -> None:
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8)[None, :, None, None] * 4, (2, 32, 32, 3))
    assert (noise_level(ramp) == 0).all()


def test_distance_is_relative_to_that_between_training_images() -> None:
    """Four images on a line, at levels 0, 10, 20, 30: each 10 from its nearest other."""
    training = np.stack([np.full((8, 8, 1), level, np.uint8) for level in (0, 10, 20, 30)])
    found = judge(np.stack([np.full((8, 8, 1), level, np.uint8) for level in (20, 25, 60)]), training)
    np.testing.assert_allclose(found.distance, [0, 0.5, 3], atol=1e-6)
    assert found.nearest[0] == 2 and found.nearest[2] == 3
    assert found.far.tolist() == [False, False, True]


# --- the verdict ---


def test_images_that_are_fine() -> None:
    everything = shapes(60)
    training, others = everything[:40], everything[40:]
    for samples in (training[:12], others, spoilt(training[:12], 4)):
        found = judge(samples, training)
        assert found.sound and found.broken.mean() <= 0.1
    assert "copies or near-copies" in judge(training[:12], training).sentences()[0]
    assert "of the same kind" in judge(others, training).sentences()[0]


def test_images_that_are_not() -> None:
    training = shapes(40)
    pure = np.rint(RNG.normal(128, 64, (12, *training.shape[1:])).clip(0, 255)).astype(np.uint8)
    for samples, which, told in (
        (pure, "noisy", "12 are noisy"),
        (spoilt(training[:12], 40), "noisy", "are noisy"),
        (np.zeros_like(training[:12]), "flat", "12 are of one colour"),
        (np.full_like(training[:12], 255), "flat", "12 are of one colour"),
        (255 - training[:12], "far", "12 are like no training image"),
    ):
        found = judge(samples, training)
        assert getattr(found, which).mean() >= 0.9 and not found.sound
        (said,) = found.sentences()
        assert told in said


def test_a_few_broken_samples_are_tolerated() -> None:
    training = shapes(40)
    samples = training[:12].copy()
    samples[:3] = 0
    assert judge(samples, training).sound
    samples[:4] = 0
    assert not judge(samples, training).sound


# --- the first look ---


def test_first_look(small, tmp_path: Path, fingerprints) -> None:
    path = tmp_path / "run"
    small.run.copy_to(path)
    before = fingerprints(path)
    looked = first_look(path, samples=5, sampling=ab.Sampling(steps=4))
    after = fingerprints(path)
    assert after.keys() - before.keys() == {LOOK, LOSS} and {name: after[name] for name in before} == before
    assert check_run(path) == []
    again = first_look(path, samples=5, sampling=ab.Sampling(steps=4))
    assert fingerprints(path) == after and again.quality.sound == looked.quality.sound

    sheet = np.asarray(Image.open(looked.sheet))
    expected = ab.AblatablePipeline.from_pretrained(path)(range(5), num_inference_steps=4, output_type="np").images
    side, factor = 4 + 8 * 12, 12
    for k in range(5):
        shown = sheet[4:side:factor, 4 + k * side : (k + 1) * side : factor]
        assert np.array_equal(shown, expected[k, ..., 0])
        nearest = sheet[4 + side : 2 * side : factor, 4 + k * side : (k + 1) * side : factor]
        assert np.array_equal(nearest, small.run.units().images[looked.quality.nearest[k], ..., 0])
    assert Image.open(looked.loss).size[0] > 300  # pyright: ignore[reportArgumentType]
    assert not looked.quality.sound and str(looked.sheet) in looked.sentences()[-1]  # 40 training steps draw noise


def test_contact_sheet_and_loss() -> None:
    images = shapes(3, side=24)
    sheet = contact_sheet(images, images[::-1])
    assert sheet.shape == (2 * (96 + 4) + 4, 3 * (96 + 4) + 4, 3) and (sheet[:4] == sheet[0, 0]).all()
    assert loss_figure([[[1, 0.5], [2, 0.25]]] * 14).startswith(b"\x89PNG")


def test_train_tells(call, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train = ("train", "digits:6", "--size", "8", "--components", "4", "--steps", "3", "--out", run, "--workers", "0")
    code, text, _ = call(*train)
    told = " ".join(text.split())
    assert code == 0, told
    assert "preset tiny, 3 steps: chosen from the images" in told
    assert "each image is seen 3 times, which leaves noise or blur: take --steps 1000" in told
    assert "are broken" in told and "what helps: --steps 1200 (each image was seen 3 times in 3 steps" in told
    assert (run / LOOK).exists() and (run / LOSS).exists()
    code, text, _ = call(*train, "--json")
    found = json.loads(text)
    assert code == 0 and found["samples"]["sound"] is False and found["preset"] == "tiny" and len(found["notes"]) == 1
    assert call("audit", "run", run)[0] in (0, 2)


# --- before training ---


def test_how_often_an_image_is_seen() -> None:
    training = preset("tiny", steps=100, batch=32).training
    assert passes(training, 64) == 50 and passes(training, 8) == 100  # a batch is at most the split
    assert steps_for(training, 640) * 32 / 640 >= PASSES > (steps_for(training, 640) - 100) * 32 / 640
    assert steps_for(training, 8) == LEAST


def test_a_preset_is_chosen_from_the_images() -> None:
    assert chosen(None, (3, 16, 16), 100)[0] == "colour"
    assert chosen(None, (1, 14, 14), 24) == ("tiny", preset("tiny"))
    assert chosen(None, (1, 28, 28), 24)[0] == "small"
    name, recipe = chosen(None, (3, 16, 16), 1000)
    assert name == "colour" and recipe.training.steps == 12_500  # 400 times a thousand images in batches of 32
    assert chosen(None, (3, 20, 16), 100)[0] == chosen(None, (3, 33, 32), 100)[0] == "colour"
    assert chosen(None, (3, 24, 24), 100)[0] == chosen(None, (3, 16, 26), 100)[0] == "colour32"
    assert chosen(None, (3, 32, 32), 100, codec=False)[0] == "colour"
    assert chosen(None, (3, 16, 16), 1000, steps=7)[1].training.steps == 7
    assert chosen("tiny", (3, 16, 16), 1000, steps=None, batch=8) == ("tiny", preset("tiny", batch=8))


@pytest.mark.parametrize(("steps", "batch", "images"), [(40, 8, 24), (900, 32, 1000), (6000, 16, 100)])
def test_after_training_the_remedy_says_how_many_steps(steps: int, batch: int, images: int) -> None:
    """At least twice as many as there were, and enough to see each image as often as is advised."""
    told = remedy(preset("tiny", steps=steps, batch=batch), (1, 14, 14), images)
    (more,) = re.findall(r"--steps (\d+)", told.shell)
    assert int(more) >= 2 * steps and int(more) * batch / images >= PASSES
    assert f"{steps * batch / images:.0f} times in {steps} steps" in told and "preset" not in told
    assert "--preset colour" in remedy(preset("tiny", steps=steps), (3, 16, 16), images).shell
    assert "steps" not in remedy(preset("ideal"), (3, 16, 16), images)


def test_plan_advises_on_training(call) -> None:
    asked = ("plan", "--units", "32", "--components", "8", "--images", "640", "--size", "16", "--channels", "3")
    code, text, _ = call(*asked)
    told = " ".join(text.split())
    assert code == 0 and "training: --preset colour --steps 4000, for about 320 images per component" in told
    code, text, _ = call(*asked, "--json")
    found = json.loads(text)["training"]
    assert code == 0 and found["steps"] * 32 / 320 >= PASSES and found["doubts"] == []
    assert found["minutes"] > 0 and "of one core per component" in told
    code, text, _ = call("plan", "--units", "32", "--components", "8", "--images", "640", "--size", "256")
    assert code == 0 and "take --size 128" in text
    assert "training" not in json.loads(call("plan", "--units", "32", "--components", "8", "--json")[1])


def test_doubts() -> None:
    assert concerns(preset("colour"), (3, 16, 16), 100) == [] == concerns(preset("ideal"), (3, 32, 32), 9999)
    assert concerns(preset("tiny"), (1, 14, 14), 24) == []
    (few,) = concerns(preset("tiny", steps=ENOUGH - 1, batch=24), (1, 14, 14), 24)
    assert "seen 199 times" in few and "steps=1000" in few
    (short,) = concerns(preset("tiny", steps=LEAST - 1), (1, 14, 14), 24)
    assert "999 steps leave blur" in short and "steps=2000" in short
    (colour,) = concerns(preset("tiny", steps=5000), (3, 16, 16), 100)
    assert "colour" in colour
    (large,) = concerns(preset("colour", steps=9000), (3, 96, 96), 100)
    assert "size=64" in large
    (large,) = concerns(preset("colour32", steps=9000), (3, 192, 192), 100)
    assert "size=128" in large


def test_the_time_that_training_takes() -> None:
    """In proportion to the pixels that are processed; a batch is at most the split."""
    training = preset("colour").training
    once = minutes("colour", training, (3, 16, 16), 100)
    assert minutes("colour", training.model_copy(update={"steps": 2 * training.steps}), (3, 32, 16), 100) == 4 * once
    assert minutes("colour", training, (3, 16, 16), training.batch // 2) == once / 2
    assert [duration(m) for m in (0.2, 1, 7.3, 119.5, 181)] == [
        "1 minute",
        "1 minute",
        "8 minutes",
        "120 minutes",
        "3 hours",
    ]
