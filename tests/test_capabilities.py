"""The table of kinds and capabilities in the documentation: each "yes" is done, each "no" is refused with a reason."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable.analysis.calibration import calibrate
from ablatable.diffusion.kinds import kind_named
from ablatable.diffusion.recipe import Recipe, TrainingConfig, UNetConfig, recipe_from
from ablatable.errors import AblatableError, SettingsError
from ablatable.explorer.server import Steps
from ablatable.runs.run import check_run
from ablatable.unlearning.verification import audit, repeat
from test_kinds import SOURCE
from text_stand_in import write_text_pipeline

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "kinds.md"
HERE = Execution(workers=0, quiet=True)
FEW = Sampling("ddim", 2)
CODE = ab.Code(np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]], bool))
CLASSES, CAPTIONS = ("round", "long"), ("a cat", "a dog", "sun", "moon")
UNET = Recipe(component=UNetConfig(channels=(4, 4), norm_groups=2), training=TrainingConfig(steps=1, batch=2))


def table() -> dict[tuple[str, str], bool]:
    """(kind, capability) -> whether the page says yes."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in PAGE.read_text().split("## What works with which kind")[1].splitlines()
        if line.startswith("|")
    ]
    kinds = rows[0][1:]
    assert all(cell in ("yes", "no") for row in rows[2:] for cell in row[1:])
    return {(kind, row[0]): cell == "yes" for row in rows[2:] for kind, cell in zip(kinds, row[1:], strict=True)}


TABLE = table()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


@pytest.fixture(scope="module", autouse=True)
def other_package(places: Path) -> Any:
    """A kind of another package, installed where worker processes find it too."""
    place = places / "site-packages"
    about = place / "convolution_kind-1.0.dist-info"
    about.mkdir(parents=True)
    (place / "convolution_kind.py").write_text(SOURCE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: convolution-kind\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[ablatable.kinds]\nconvolution = convolution_kind:KIND\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        patch.delitem(sys.modules, "convolution_kind", raising=False)
        kind_named.cache_clear()
        yield
    kind_named.cache_clear()


def units(kind: str) -> ab.Units:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    labels, captions = CLASSES * 2 if "classes" in kind else None, CAPTIONS if "text" in kind else None
    return ab.Units(tuple("abcd"), images, np.arange(4), labels=labels, captions=captions)


def asked(run: ab.Run) -> list[ab.Condition] | None:
    """Conditions of two samples, for components that take any."""
    takes = run.recipe.component.takes
    if takes is None:
        return None
    texts = takes.kind == "text"
    return [ab.Condition(prompt=text) for text in CAPTIONS[:2]] if texts else [ab.Condition(label=n) for n in CLASSES]


def asked_as_diffusers_does(run: ab.Run) -> dict[str, Any]:
    """The second of them."""
    conditions = asked(run)
    return {} if conditions is None else {"prompt": conditions[1].prompt, "class_labels": conditions[1].label}


def autoencoder(folder: Path) -> Path:
    torch.manual_seed(0)
    diffusers.AutoencoderTiny(
        encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=2,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def pipeline(folder: Path, seed: int, latent: bool) -> Path:
    """A pipeline's folder as diffusers lays it out, with an autoencoder or without."""
    torch.manual_seed(seed)
    channels, side = (2, 4) if latent else (3, 8)
    diffusers.UNet2DModel(
        sample_size=side, in_channels=channels, out_channels=channels, block_out_channels=(8, 8), norm_num_groups=2,
        layers_per_block=1, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    ).save_pretrained(folder / "unet")  # fmt: skip
    diffusers.DDPMScheduler().save_pretrained(folder / "scheduler")
    if latent:
        autoencoder(folder / "vae")
    return folder


def made(kind: str, folder: Path) -> ab.Run:
    run, given, latent = folder / "run", units(kind), "autoencoder" in kind
    if kind.startswith(("adopted", "lora")):
        make = write_text_pipeline if "text" in kind else partial(pipeline, latent=latent)
    if kind.startswith("adopted"):
        places = [make(folder / str(number), number) for number in range(4)]
        return ab.adopt(places, given, CODE, out=run)
    if kind.startswith("lora"):
        pytest.importorskip("peft")
        recipe, shared = ab.adapters(make(folder / "base", 0), rank=1, steps=1, batch=2)
        return ab.train(given, CODE, recipe, out=run, execution=HERE, shared=shared)
    if latent:
        return ab.train(given, CODE, UNET, out=run, execution=HERE, codec=autoencoder(folder / "codec"))
    other = {"component": {"kind": "convolution"}, "training": {"steps": 1, "batch": 2}}
    recipes = {"ideal": ab.preset("ideal"), "other": recipe_from(other) if kind == "other" else None}
    recipe = recipes.get(kind) or UNET
    more = {"codec": "haar" if "haar" in kind else None, "classes": CLASSES if "classes" in kind else None}
    return ab.train(given, CODE, recipe, out=run, execution=HERE, **more)


_RUNS: dict[str, ab.Run] = {}
_UNIVERSES: dict[Path, ab.Universe] = {}


def run_of(kind: str, places: Path) -> ab.Run:
    if kind not in _RUNS:
        folder = places / re.sub(r"\W+", "-", kind)
        folder.mkdir()
        _RUNS[kind] = made(kind, folder)
    return _RUNS[kind]


def universe_of(run: ab.Run) -> ab.Universe:
    if run.path not in _UNIVERSES:
        at, how = run.path.parent / "u.zarr", {"sampling": FEW, "spares": 2, "conditions": asked(run)}
        _UNIVERSES[run.path] = ab.enumerate_universe(run, [0, 1], out=at, execution=HERE, **how)
    return _UNIVERSES[run.path]


# --- what each capability is ---


def forgotten(run: ab.Run, out: Path) -> ab.Run:
    less = ab.forget(run, ["b"], out=out / "less")[0]
    assert check_run(less.path) == [] and less.present == (1, 3)
    return less


def repaired(run: ab.Run, out: Path) -> None:
    whole = ab.repair(forgotten(run, out), out=out / "whole", execution=HERE)
    assert check_run(whole.path) == [] and len(whole.present) == 4


def extended(run: ab.Run, out: Path) -> None:
    said = {name: texts and texts[:1] for name, texts in run.units().said.items()}
    new = ab.Units(("new",), np.full((1, 8, 8, 3), 77, np.uint8), np.arange(1), **said)
    assert check_run(ab.extend(run, new, out=out / "more", execution=HERE).path) == []


def verified(run: ab.Run, out: Path) -> None:
    found = audit(run, "a")
    assert found.wrong == () and found.saw == (0, 1) and found.clean == (2, 3)


def trained_again(run: ab.Run, out: Path) -> None:
    assert repeat(run, ["b"], [1], execution=HERE).holds


def evaluated(run: ab.Run, out: Path) -> None:
    found = ab.evaluate(universe_of(run), ["euclidean"], out=out / "scores", run=run, execution=HERE)
    assert found is not None and (out / "scores" / "results.csv").is_file()


def exported(run: ab.Run, out: Path) -> None:
    universe, back = universe_of(run), None
    ab.export_ctf(universe, out / "u.ctf", quiet=True)
    back = ab.import_ctf(out / "u.ctf", out / "back.zarr")
    assert np.array_equal(back.factual, universe.factual)


def reported(run: ab.Run, out: Path) -> None:
    assert ab.write_report(universe_of(run), out / "report", run=run).exists()


def served(run: ab.Run, out: Path) -> None:
    """The last picture that the server streams is the universe's, up to the batch's rounding."""
    import base64

    universe = universe_of(run)
    sampling = universe.settings.sampling
    conditions = dict(enumerate(asked(run) or ()))
    last = list(Steps(run, run.ensemble(), sampling, conditions).draw([1], np.ones((1, 4), bool)))[-1]
    picture = np.frombuffer(base64.b64decode(last["levels"]), np.uint8).reshape(3, 8, 8)
    assert np.abs(np.moveaxis(picture, 0, -1).astype(int) - universe.factual[1]).max() <= 1


def differentiated(run: ab.Run, out: Path) -> None:
    shutil.copytree(universe_of(run).url, out / "u.zarr")
    ab.differentiate(run, out / "u.zarr", execution=HERE)


def in_workers(run: ab.Run, out: Path) -> None:
    """Two processes make the bytes that one does, of training (where there is any) and of drawing."""
    if not run.recipe.component.claimed:
        execution, shared = Execution(workers=2, quiet=True), run.shared.parts()
        again = ab.train(run.units(), CODE, run.recipe, out=out / "again", execution=execution, shared=shared)
        assert again.manifest.weights_sha256 == run.manifest.weights_sha256
    two = ab.enumerate_universe(
        run, [0, 1], out=out / "two.zarr", sampling=FEW, spares=2, conditions=asked(run),
        execution=Execution(workers=2, quiet=True),
    )  # fmt: skip
    one = universe_of(run)
    assert np.array_equal(two.landscape(1), one.landscape(1))


def drawn(run: ab.Run, out: Path) -> None:
    how: dict[str, Any] = {"num_inference_steps": 2, "sampler": "ddim", "output_type": "np"}
    pictures: Any = ab.AblatablePipeline(run)(seeds=[1], **how, **asked_as_diffusers_does(run)).images
    assert np.abs(pictures[0].astype(int) - universe_of(run).factual[1]).max() <= 1
    conditions = asked(run) and asked(run)[1:]
    assert len(ab.draw_samples(run, [1], out=out / "images", sampling=FEW, conditions=conditions, execution=HERE)) == 1


def enumerated(run: ab.Run, out: Path) -> None:
    """Survivors differ, so do pictures; each is drawn by its survivors alone."""
    universe = universe_of(run)
    alone = ab.AblatablePipeline(run, without=["b"])
    how: dict[str, Any] = {"num_inference_steps": 2, "sampler": "ddim", "output_type": "np"}
    pictures: Any = alone(seeds=[1], **how, **asked_as_diffusers_does(run)).images
    drawn = universe.landscape(1)[universe.settings.ablation[1]]
    assert np.abs(pictures[0].astype(int) - drawn).max() <= 1


def screened(run: ab.Run, out: Path) -> None:
    conditions = asked(run) and asked(run)[:1]
    how: dict[str, Any] = {"sampling": FEW, "conditions": conditions, "execution": HERE}
    assert ab.screen_universe(run, [0], out=out / "s.zarr", share=1.0, **how) is not None


def calibrated(run: ab.Run, out: Path) -> None:
    assert calibrate(universe_of(run)) is not None


def witnessed(run: ab.Run, out: Path) -> None:
    found = ab.witness(run, [0, 1], sampling=FEW, conditions=asked(run))
    assert found.p.shape == (4, 2) and ((found.p > 0) & (found.p <= 1)).all()


def drawn_by(backend: Any, run: ab.Run, out: Path) -> None:
    """Other backends give the universe's pictures, but for rounding."""
    sampling, how = replace(FEW, backend=backend), {"spares": 2, "conditions": asked(run), "execution": HERE}
    other = ab.enumerate_universe(run, [0, 1], out=out / "other.zarr", sampling=sampling, **how)
    assert other.settings.backend == backend
    apart = other.landscape(1).astype(int) - universe_of(run).landscape(1)
    assert np.abs(apart).max() <= 1


def drawn_by_openvino(run: ab.Run, out: Path) -> None:
    if find_spec("openvino") is None:
        pytest.skip("needs OpenVINO: pip install 'ablatable[openvino]'")
    drawn_by("openvino", run, out)


def trained_stacked(run: ab.Run, out: Path) -> None:
    recipe = run.recipe.replace(stacked=2)
    run = ab.train(run.units(), CODE, recipe, out=out / "run", shared=run.shared.parts(), execution=HERE)
    assert check_run(run.path) == [] and run.recipe.training.stacked == 2


CAPABILITIES: dict[str, Callable[[ab.Run, Path], Any]] = {
    "draw samples": drawn,
    "universe": enumerated,
    "screening": screened,
    "calibration": calibrated,
    "witness test": witnessed,
    "forget": forgotten,
    "repair": repaired,
    "extend": extended,
    "verify": verified,
    "verify by training": trained_again,
    "evaluate": evaluated,
    "CTF": exported,
    "report": reported,
    "explorer's server": served,
    "differential ablation": differentiated,
    "several workers": in_workers,
    "draw stacked": partial(drawn_by, "stacked"),
    "train stacked": trained_stacked,
    "draw with OpenVINO": drawn_by_openvino,
}


def test_the_table_is_of_these() -> None:
    assert {capability for _, capability in TABLE} == set(CAPABILITIES)


SLOW = {"several workers"}  # starting processes takes ten seconds and more
CELLS = [pytest.param(*cell, marks=[pytest.mark.slow] if cell[1] in SLOW else []) for cell in TABLE]


@pytest.mark.parametrize(("kind", "capability"), CELLS)
def test_it_is_as_the_table_says(
    kind: str, capability: str, places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind != "unet":  # drawing figures of numbers takes most of the time, and no figure knows of kinds
        monkeypatch.setattr("ablatable.attribution.evaluation.figure", lambda found: b"")
        monkeypatch.setattr("ablatable.report.figures.contact_sheet", lambda content, sample: b"")
        monkeypatch.setattr("ablatable.report.figures.radii_plot", lambda content: b"")
        monkeypatch.setattr("ablatable.report.figures.Story.png", lambda story: b"")
    run = run_of(kind, places)
    if TABLE[kind, capability]:
        CAPABILITIES[capability](run, tmp_path)
        return
    with pytest.raises(SettingsError, match=r"trained elsewhere|not possible with|cannot be stacked") as refusal:
        CAPABILITIES[capability](run, tmp_path)
    assert isinstance(refusal.value, AblatableError)
