"""The explorer's JavaScript against this library: numbers made here and now, compared by Node."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ablatable._runtime.rng import generator
from ablatable.analysis.calibration import q_values
from ablatable.data.images import delivered
from ablatable.data.units import to_images
from ablatable.diffusion.ensemble import Ensemble
from ablatable.diffusion.ideal import IdealDenoiser
from ablatable.diffusion.sampling import noise_trajectory, sample
from ablatable.diffusion.sampling_settings import SAMPLERS, Sampling
from ablatable.diffusion.schedule import Schedule

ROOT = Path(__file__).resolve().parent.parent


def node() -> str:
    """A Node that can test; without one, the test is skipped."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("needs node (version 20 or newer): apt-get install nodejs")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.lstrip("v").split(".")[0]) < 20:
        pytest.skip(f"needs node of version 20 or newer, this is {version.strip()}")
    return found


def test_the_page_computes_as_the_library_does(tmp_path: Path) -> None:
    (tmp_path / "expected.json").write_text(json.dumps(expected()))
    outcome = subprocess.run(
        [node(), "--test", "web/test/"],
        cwd=ROOT,
        env={**os.environ, "EXPECTED": str(tmp_path / "expected.json")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "# skipped 0" in outcome.stdout or "skipped 0" in outcome.stdout, outcome.stdout


def expected() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "digests": [digest(key) for key in [("noise", 0, 0), ("noise", 2**53 - 1, 1000), ("x" * 100, 7)]],
        "noise": [noise(0, 0, 196), noise(7, 3, 40_001), noise(987_654_321, 50, 3072)],
        "schedules": [abar(Schedule()), abar(Schedule(train_steps=10, beta_start=0.01, beta_end=0.3))],
        "levels": levels(),
        "trajectories": [
            trajectory(Sampling(sampler, steps, clip=clip), schedule)
            for clip in (False, True)
            for sampler in SAMPLERS
            for steps, schedule in ((25, Schedule()), (7, Schedule()), (30, Schedule()), (9, Schedule(train_steps=50)))
        ],
        "ideal": [ideal(rng, t) for t in (0, 40, 500, 999)],
        "q": q(rng.integers(1, 21, 30) / 20),
    }


def digest(key: tuple) -> dict[str, Any]:
    return {"key": repr(key), "digest": hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()}


def noise(seed: int, step: int, size: int) -> dict[str, Any]:
    values = generator("noise", seed, step).standard_normal(size, dtype=np.float32)
    return {"seed": seed, "step": step, "values": values.astype(float).tolist()}


def abar(schedule: Schedule) -> dict[str, Any]:
    return {"schedule": schedule.model_dump(), "abar": schedule.alphas_cumprod().tolist()}


def levels() -> dict[str, Any]:
    """Values between levels, on them, halfway between, and beyond the range."""
    halves = (np.arange(0, 255) + 0.5) / 127.5 - 1
    values = np.concatenate([np.linspace(-1.3, 1.3, 401), halves]).astype(np.float32)
    pixels = to_images(torch.from_numpy(values).reshape(1, 1, -1))
    told = {"values": values.astype(float).tolist(), "levels": pixels.ravel().tolist(), "threshold": 140}
    return {**told, "black_or_white": delivered(pixels, 140).ravel().tolist()}


def trajectory(sampling: Sampling, schedule: Schedule) -> dict[str, Any]:
    seeds, shape, weight = [3, 11], (1, 4, 5), 0.6
    final = sample(
        lambda x, t: torch.tanh(x) * weight + t / 4000,
        noise_trajectory(seeds, sampling.steps, shape),
        schedule=schedule,
        sampling=sampling,
    )
    pixels = np.moveaxis(to_images(final), -1, 1)
    told = {"sampler": sampling.sampler, "steps": sampling.steps, "clip": sampling.clip, "seeds": seeds}
    return {
        **told,
        "schedule": schedule.model_dump(),
        "weight": weight,
        "size": int(np.prod(shape)),
        "final": pixels.ravel().tolist(),
    }


def ideal(rng: np.random.Generator, t: int) -> dict[str, Any]:
    pictures, schedule = rng.integers(0, 256, (7, 3, 2, 2), dtype=np.uint8), Schedule()
    splits = [[0, 1, 2, 6], [2, 3, 4], [5, 6]]
    alive = np.array([[True, True, True], [False, True, False], [True, False, True]])
    components = [IdealDenoiser(torch.from_numpy(pictures[split]), schedule, torch.float64) for split in splits]
    x = rng.standard_normal((3, 3, 2, 2)).astype(np.float32)
    predicted = Ensemble(components, alive)(torch.from_numpy(x), t)
    return {
        "pictures": pictures.ravel().tolist(),
        "size": 12,
        "splits": splits,
        "schedule": schedule.model_dump(),
        "x": x.ravel().astype(float).tolist(),
        "t": t,
        "alive": alive.tolist(),
        "noise": predicted.numpy().ravel().astype(float).tolist(),
    }


def q(p: np.ndarray) -> dict[str, Any]:
    return {"p": p.tolist(), "q": q_values(p).tolist()}
