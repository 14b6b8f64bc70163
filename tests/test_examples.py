"""The examples: the method in plain PyTorch draws what the library draws."""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ablatable import Code, Run, Sampling, Units, noise_trajectory, sample
from ablatable.diffusion.ensemble import Ensemble

if TYPE_CHECKING:
    from conftest import Small

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(scope="module")
def minimal() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minimal", EXAMPLES / "minimal.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("steps", [1, 8, 50])
def test_the_library_draws_the_same_with_the_examples_weights(minimal: ModuleType, steps: int) -> None:
    """In double precision, so that what differs is abar alone, which diffusers keeps in float32.

    At t = 0, 1 - abar is 1e-4, so a rounding error of 6e-8 in abar is one of 6e-4 in it. That bounds the difference of
    samples, which are about [-1, 1]. One wrong survivor moves them by more (the last line).
    """
    torch.manual_seed(0)
    components = [minimal.Denoiser().double() for _ in range(4)]
    survivors = torch.tensor([True, False, True, True])
    noise = torch.randn(steps + 1, 2, 1, minimal.SIDE, minimal.SIDE, dtype=torch.float64)
    ours = minimal.draw(components, survivors, noise)
    with torch.no_grad():
        ensemble = Ensemble(components, survivors.numpy())
        theirs = sample(ensemble, noise, sampling=Sampling("ddpm", steps=steps, clip=False))
    tolerance = 6e-4
    assert float((ours - theirs).abs().max()) < tolerance
    assert float((minimal.draw(components, torch.ones(4, dtype=torch.bool), noise) - theirs).abs().max()) > tolerance


def test_the_example_draws_the_librarys_samples_with_the_librarys_weights(minimal: ModuleType, small: Small) -> None:
    """A run that the library trained, one unit ablated, all steps in float32: equal to 1e-4, a hundredth of a level."""
    run = Run(small.run.path)
    components = [run.load_component(i) for i in range(run.code.components)]
    survivors = run.code.survivors([4])
    noise = noise_trajectory([5, 0, 9], 8, (1, 8, 8))
    ours = minimal.draw(components, torch.from_numpy(survivors), noise)
    with torch.no_grad():
        theirs = sample(run.ensemble().ablate(survivors), noise, sampling=Sampling("ddpm", steps=8, clip=False))
    assert float((ours - theirs).abs().max()) < 1e-4 * max(1.0, float(theirs.abs().max()))


def test_codewords_are_distinct_and_ablate_what_the_library_ablates(minimal: ModuleType) -> None:
    code, spares = minimal.codewords()
    library = Code(code.numpy())
    assert len({tuple(word) for word in torch.cat([code, spares]).tolist()}) == len(code) + len(spares)
    assert library.weight == minimal.WEIGHT
    assert all(np.array_equal(library.survivors(row), ~code[row].numpy()) for row in range(minimal.UNITS))


def test_the_example_reads_the_librarys_digits(minimal: ModuleType) -> None:
    units = Units.digits(minimal.UNITS, size=minimal.SIDE)
    pixels = (minimal.load_digits(minimal.UNITS) + 1) * 127.5
    # the library rounds block means to whole levels
    assert np.abs(pixels.permute(0, 2, 3, 1).numpy() - units.images).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_run(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell runs, in a kernel of its own; a failing cell raises."""
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("MPLBACKEND", "agg")
    read = nbformat.read(notebook, as_version=4)
    NotebookClient(read, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()


def test_notebooks_are_stored_without_outputs() -> None:
    """Outputs would go stale unseen; the test runs the cells."""
    import nbformat

    books = [nbformat.read(path, as_version=4) for path in EXAMPLES.glob("*.ipynb")]
    assert len(books) == 2
    assert [cell for book in books for cell in book.cells if cell.get("outputs")] == []


@pytest.mark.slow
def test_the_small_pipeline_is_one_that_adapters_sit_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of each training; what is saved opens in diffusers, and its parts come along."""
    pytest.importorskip("peft")
    pytest.importorskip("transformers")
    from diffusers import StableDiffusionPipeline

    import ablatable as ab

    monkeypatch.setattr(
        sys, "argv", ["small_pipeline.py", str(tmp_path / "p"), "--steps", "1", "--autoencoder-steps", "1"]
    )
    runpy.run_path(str(EXAMPLES / "small_pipeline.py"), run_name="__main__")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "p")
    drawn = pipeline("red car", num_inference_steps=2, height=32, width=32, output_type="np").images
    assert drawn.shape == (1, 32, 32, 3)
    _, shared = ab.adapters(tmp_path / "p")
    assert [part.name for part in shared] == ["base", "codec", "text_encoder"]
