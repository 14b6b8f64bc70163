"""Conditions of samples: guidance against brute force and diffusers' own pipelines, and their way through the house."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ablatable as ab
from ablatable import Condition, Execution, Sampling
from ablatable.diffusion.ensemble import Ensemble
from ablatable.diffusion.given import Given
from ablatable.diffusion.recipe import Recipe, TrainingConfig, UNetConfig
from ablatable.diffusion.sampling import Trajectories, sample
from ablatable.errors import DataError, SettingsError
from ablatable.runs.run import check_run
from text_stand_in import SCHEDULER, write_text_encoder, write_text_pipeline

HERE = Execution(workers=0, quiet=True)
FEW = Sampling("ddim", 3, clip=False)
CLASSES = ("square", "round", "long")
CODE = ab.Code(np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 1]], bool))
RECIPE = Recipe(
    component=UNetConfig(channels=(8, 8), norm_groups=4),
    training=TrainingConfig(steps=12, batch=2, learning_rate=4e-3, condition_dropout=0.4),
)
LABELS = ("square", "round", "long", "square")
CAPTIONS = ("a cat", "a dog", "a red car", "sun")


def units(**said: Any) -> ab.Units:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    return ab.Units(tuple("abcd"), images, np.arange(4), **said)


@pytest.fixture(scope="module")
def classed(tmp_path_factory: pytest.TempPathFactory) -> ab.Run:
    """A run by class, trained for a few steps."""
    out = tmp_path_factory.mktemp("classed") / "run"
    return ab.train(units(labels=LABELS), CODE, RECIPE, out=out, classes=CLASSES, execution=HERE)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_encoder(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def texted(tmp_path_factory: pytest.TempPathFactory) -> ab.Run:
    """An adopted run of four Stable-Diffusion-like pipelines, of which the first holds the text encoder."""
    folder = tmp_path_factory.mktemp("texted")
    for number in range(4):
        write_text_pipeline(folder / str(number), number, text=number == 0)
    folders = [folder / str(number) for number in range(4)]
    return ab.adopt(folders, units(captions=CAPTIONS), CODE, out=folder / "run")


# --- guidance, against brute force ---


class Linear(nn.Module):
    """A component that can be computed by hand: factor x + t + 10 class."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.batches = factor, []

    def forward(self, x: Tensor, t: Tensor | int, class_labels: Tensor) -> Tensor:
        self.batches.append(len(x))
        t = torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1, 1, 1)
        return self.factor * x + t + 10 * class_labels.reshape(-1, 1, 1, 1) * self.factor


@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.5])
def test_the_guided_mean_is_the_mean_of_the_guided(guidance: float, batch: int | None) -> None:
    """Row by row, survivor by survivor: each row has its own condition, and its own survivors."""
    rng = np.random.default_rng(1)
    components = [Linear(factor) for factor in (1.0, -2.0, 0.5)]
    alive = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 0], [1, 1, 0]], bool)
    classes, null, t = [2, 0, 2, 1], 3, [5, 0, 7, 2]
    x = torch.from_numpy(rng.standard_normal((4, 1, 2, 2)))
    distinct = torch.tensor([0, 1, 2])
    given = Given({"class_labels": distinct}, torch.tensor(classes), guidance, {"class_labels": distinct * 0 + null})
    found = Ensemble(components, alive, batch=batch, given=given)(x, torch.tensor(t))
    for row in range(4):
        guided = []
        for component in np.array(components)[alive[row]]:
            towards, away = (
                component.factor * x[row] + t[row] + 10 * c * component.factor for c in (classes[row], null)
            )
            guided.append(away + guidance * (towards - away))
        torch.testing.assert_close(found[row], sum(guided) / len(guided), rtol=1e-12, atol=1e-12)
    if batch is not None:
        assert {size for component in components for size in component.batches} == {batch}


def test_ablations_that_share_a_start_share_its_conditions() -> None:
    components = [Linear(1.0), Linear(3.0)]
    alive, x = np.repeat(np.array([[1, 1], [1, 0], [0, 1]], bool), 2, axis=0), torch.randn(2, 1, 2, 2)
    given = Given({"class_labels": torch.tensor([1, 5])}, torch.tensor([1, 0])).repeated(3)
    ensemble = Ensemble(components, alive).under(given)
    rows = torch.tensor([0, 1, 0, 1, 0, 1])
    torch.testing.assert_close(ensemble.shared(x, rows, 4), ensemble(x[rows], 4))
    with pytest.raises(ValueError, match="conditions of 6 rows given for a batch of 5"):
        ensemble(torch.zeros(5, 1, 2, 2), 0)


def test_bits_do_not_depend_on_whose_condition_is_drawn_beside(classed: ab.Run) -> None:
    from ablatable.runs.conditioning import given_of

    wanted = [Condition(label=name) for name in (*CLASSES, "round", "long")] + [Condition()]
    x, ensemble = torch.randn(6, 3, 8, 8), classed.ensemble(batch=4)
    with torch.inference_mode():
        together = ensemble.under(given_of(classed, wanted, 6, 2.0))(x, 400)
        for row in range(6):
            alone = ensemble.under(given_of(classed, wanted[row : row + 1], 1, 2.0))(x[row : row + 1], 400)
            assert torch.equal(together[row : row + 1], alone)


def test_impossible_guidance_is_refused() -> None:
    for guidance in (-1.0, float("nan"), float("inf")):
        with pytest.raises(SettingsError, match="guidance"):
            Sampling(guidance=guidance)


# --- against diffusers ---


def by_hand(run: ab.Run, seed: int, label: int, guidance: float, steps: int) -> Tensor:
    """One component's trajectory with diffusers' own model and scheduler, guided as its pipelines do it."""
    model = diffusers.UNet2DModel.from_pretrained(run.component_folder(0))
    scheduler = diffusers.DDIMScheduler(**SCHEDULER, beta_start=1e-4, beta_end=0.02, num_train_timesteps=1000)
    scheduler.set_timesteps(steps)
    x, null = Trajectories([seed], (3, 8, 8))[0], len(CLASSES)
    with torch.no_grad():
        for t in scheduler.timesteps:
            both = model(torch.cat([x, x]), t, torch.tensor([null, label])).sample
            away, towards = both.chunk(2)
            x = scheduler.step(away + guidance * (towards - away), t, x, eta=0.0).prev_sample
    return x


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_component_draws_as_diffusers_does(classed: ab.Run, guidance: float) -> None:
    expected = by_hand(classed, 7, CLASSES.index("long"), guidance, 3)
    only = np.arange(4) == 0
    from ablatable.runs.conditioning import given_of

    given = given_of(classed, [Condition(label="long")], 1, guidance)
    with torch.inference_mode():
        drawn = sample(
            classed.ensemble().ablate(only).under(given), Trajectories([7], (3, 8, 8)),
            schedule=classed.recipe.schedule, sampling=FEW,
        )  # fmt: skip
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4)
    other = by_hand(classed, 7, CLASSES.index("round"), guidance, 3)
    assert (other - expected).abs().max() > 1e-2  # a class makes a difference


@pytest.mark.parametrize(("guidance", "negative"), [(1.0, None), (3.0, None), (3.0, "a fish")])
def test_prompts_are_those_of_the_pipeline(
    texted: ab.Run, encoder: Path, guidance: float, negative: str | None
) -> None:
    """A whole trajectory of diffusers' StableDiffusionPipeline, with one component's model."""
    from transformers import CLIPTextModel, CLIPTokenizer

    from ablatable.runs.conditioning import given_of

    torch.manual_seed(0)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2),
        text_encoder=CLIPTextModel.from_pretrained(encoder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(encoder / "tokenizer"),
        unet=diffusers.UNet2DConditionModel.from_pretrained(texted.component_folder(2)),
        scheduler=diffusers.DDIMScheduler(**SCHEDULER),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.scheduler = diffusers.DDIMScheduler(**SCHEDULER)  # it had replaced the offset of its steps
    pipeline.set_progress_bar_config(disable=True)
    noise = Trajectories([3], (3, 8, 8))
    expected = pipeline(
        "a red cat", negative_prompt=negative, latents=noise[0], guidance_scale=guidance, num_inference_steps=3,
        output_type="latent",
    ).images  # fmt: skip
    given = given_of(texted, [Condition(prompt="a red cat", negative_prompt=negative)], 1, guidance)
    denoiser = texted.ensemble().ablate(np.arange(4) == 2).under(given)
    with torch.inference_mode():
        drawn = sample(denoiser, noise, schedule=texted.recipe.schedule, sampling=FEW)
    torch.testing.assert_close(drawn, expected, rtol=1e-4, atol=1e-4)


def test_classes_are_those_of_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole guided trajectory of diffusers' DiTPipeline, whose class 1000 stands for none."""
    from types import SimpleNamespace

    from diffusers.pipelines.dit import pipeline_dit

    from ablatable.runs.conditioning import given_of

    for number in range(4):
        torch.manual_seed(number)
        transformer = diffusers.DiTTransformer2DModel(
            num_attention_heads=1, attention_head_dim=8, in_channels=3, out_channels=6, num_layers=1, sample_size=8,
            norm_num_groups=1, num_embeds_ada_norm=1000,
        )  # fmt: skip
        transformer.save_pretrained(tmp_path / str(number) / "transformer")
        diffusers.DDIMScheduler(**SCHEDULER).save_pretrained(tmp_path / str(number) / "scheduler")
    run = ab.adopt([tmp_path / str(number) for number in range(4)], units(), CODE, out=tmp_path / "run")
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, scaling_factor=1.0)
    monkeypatch.setattr(vae, "decode", lambda latents: SimpleNamespace(sample=latents))
    noise = Trajectories([6], (3, 8, 8))
    monkeypatch.setattr(pipeline_dit, "randn_tensor", lambda *_, **__: noise[0])
    pipeline = diffusers.DiTPipeline(transformer.eval(), vae, diffusers.DDIMScheduler(**SCHEDULER))
    pipeline.set_progress_bar_config(disable=True)
    how: dict[str, Any] = {"guidance_scale": 4.0, "num_inference_steps": 3, "output_type": "np"}
    expected, other = (pipeline([label], **how).images for label in (207, 208))
    given = given_of(run, [Condition(label="207")], 1, 4.0)
    with torch.inference_mode():
        drawn = sample(
            run.ensemble().ablate(np.arange(4) == 3).under(given), noise, schedule=run.recipe.schedule, sampling=FEW
        )
    found = (drawn / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    # the last step divides by sqrt(abar) of a noisy timestep, and guidance multiplies: both enlarge rounding
    np.testing.assert_allclose(found, expected, atol=3e-3)
    assert np.abs(other - expected).max() > 0.03


# --- through the house ---


def drawn(run: ab.Run, seed: int, out: Path, sampling: Sampling = FEW, **asked: Any) -> np.ndarray:
    from PIL import Image

    (path,) = ab.draw_samples(run, [seed], out=out, sampling=sampling, execution=HERE, overwrite=True, **asked)
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(scope="module")
def universe(classed: ab.Run, tmp_path_factory: pytest.TempPathFactory) -> ab.Universe:
    return ab.enumerate_universe(
        classed, [4, 9], out=tmp_path_factory.mktemp("u") / "u.zarr", sampling=GUIDED, spares=2, execution=HERE,
        conditions=[Condition(label="round"), Condition(label="long")],
    )  # fmt: skip


GUIDED = Sampling("ddim", 3, guidance=2.0)


def test_a_universe_holds_each_sample_under_its_own_condition(
    classed: ab.Run, universe: ab.Universe, tmp_path: Path
) -> None:
    """Each picture is the one that is drawn alone, under its own class and no other; the counterfactual keeps it."""
    for row, (seed, label, other) in enumerate([(4, "round", "long"), (9, "long", "round")]):
        alone = drawn(classed, seed, tmp_path, GUIDED, conditions=Condition(label=label))
        assert np.array_equal(alone, universe.factual[row])
        assert not np.array_equal(alone, drawn(classed, seed, tmp_path, GUIDED, conditions=Condition(label=other)))
        without = drawn(classed, seed, tmp_path, GUIDED, conditions=Condition(label=label), without=["b"])
        assert np.array_equal(without, universe.counterfactual("b")[row])
    assert universe.settings.conditions == (Condition(label="round"), Condition(label="long"))
    assert universe.settings.guidance == universe.settings.sampling.guidance == 2
    assert ab.check(universe) == []
    assert universe.training.labels == LABELS


def test_another_condition_or_guidance_is_refused_with_both_named(
    classed: ab.Run, universe: ab.Universe, tmp_path: Path
) -> None:
    shutil.copytree(universe.url, tmp_path / "u.zarr")
    again: dict[str, Any] = {"out": tmp_path / "u.zarr", "spares": 2, "execution": HERE}
    asked = [Condition(label="round"), Condition(label="square")]
    with pytest.raises(SettingsError, match="seed 9: label long there, label square asked for"):
        ab.enumerate_universe(classed, [4, 9], sampling=GUIDED, conditions=asked, **again)
    with pytest.raises(SettingsError, match="seed 4: label round there, no condition asked for"):
        ab.enumerate_universe(classed, [4, 9], sampling=GUIDED, **again)
    asked = [Condition(label="round"), Condition(label="long")]
    with pytest.raises(SettingsError, match=r"guidance: 2\.0 there, 3\.0 asked for"):
        ab.enumerate_universe(classed, [4, 9], sampling=Sampling("ddim", 3, guidance=3.0), conditions=asked, **again)
    more = ab.enumerate_universe(
        classed, [5, 4, 9], sampling=GUIDED, conditions=[Condition(label="square"), *asked], **again
    )
    assert more.settings.conditions == (*asked, Condition(label="square")) and more.seeds == (4, 9, 5)
    assert np.array_equal(more.factual[:2], universe.factual)
    alone = drawn(classed, 5, tmp_path / "s", GUIDED, conditions=Condition(label="square"))
    assert np.array_equal(more.factual[2], alone)


def test_without_conditions_a_file_says_nothing_of_them(small_universe: ab.Universe) -> None:
    told = small_universe.settings.model_dump(mode="json")
    assert not {"conditions", "guidance"} & set(told)


def test_a_screen_draws_the_same(classed: ab.Run, universe: ab.Universe, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"share": 1.0, "sampling": GUIDED, "execution": HERE, "out": tmp_path / "s.zarr"}
    made = ab.screen_universe(classed, [9], conditions=Condition(label="long"), **asked)
    assert np.array_equal(made.factual[0], universe.factual[1])
    found = made.sample(0)
    landscape = universe.landscape(1)[np.asarray(universe.settings.ablation)[found.rows]]
    assert np.array_equal(np.moveaxis(found.pictures, 1, -1), landscape)
    with pytest.raises(SettingsError, match="seed 9: label long there, label round asked for"):
        ab.screen_universe(classed, [9], conditions=Condition(label="round"), **asked)
    more = ab.screen_universe(classed, [4], conditions=Condition(label="round"), **asked)
    assert np.array_equal(more.factual, universe.factual[::-1]) and ab.check(more) == []


def test_the_pipeline_speaks_as_diffusers_does(classed: ab.Run, universe: ab.Universe, texted: ab.Run) -> None:
    pipeline, how = ab.AblatablePipeline(classed), {"num_inference_steps": 3, "sampler": "ddim", "output_type": "np"}
    pictures: Any = pipeline([4, 9], class_labels=["round", 2], guidance_scale=2.0, **how).images
    assert np.abs(pictures.astype(int) - universe.factual).max() <= 1
    texts = ab.AblatablePipeline(texted)
    one, other, away = (
        texts(1, **asked, guidance_scale=3.0, **how).images  # pyright: ignore[reportArgumentType]
        for asked in ({"prompt": "a cat"}, {"prompt": "a dog"}, {"prompt": "a cat", "negative_prompt": "a dog"})
    )
    assert not np.array_equal(one, other) and not np.array_equal(one, away)
    with pytest.raises(SettingsError, match="2 values of prompt for 3 seeds"):
        texts([1, 2, 3], prompt=["a", "b"])
    with pytest.raises(SettingsError, match="no class number 3; there are 3"):
        pipeline(0, class_labels=3)


REFUSED: list[tuple[str, Any, float, str]] = [
    ("classed", Condition(label="squre"), 1, "know no class 'squre'; did you mean square"),
    ("classed", Condition(prompt="a cat"), 1, "take a class and no prompt"),
    ("texted", Condition(label="cat"), 1, "take a prompt and no class"),
    ("texted", Condition(prompt="a very long prompt"), 1, "is 17 tokens long, and the text encoder takes 16"),
    ("texted", Condition(prompt="a", negative_prompt="far too many letters"), 2, "the negative prompt 'far too many"),
    ("texted", Condition(prompt="a", negative_prompt="b"), 1, "counts only with guidance"),
    ("classed", [Condition(label="long")] * 2, 1, "2 conditions for 3 samples"),
    ("plain", Condition(label="long"), 1, "take neither labels nor prompts"),
    ("plain", None, 2, "take neither labels nor prompts"),
]


@pytest.mark.parametrize(("which", "condition", "guidance", "message"), REFUSED)
def test_what_cannot_be_asked_is_said(
    which: str, condition: Any, guidance: float, message: str, small: Any, tmp_path: Path, request: Any
) -> None:
    run = small.run if which == "plain" else request.getfixturevalue(which)
    for draw in (ab.draw_samples, ab.enumerate_universe):
        with pytest.raises(SettingsError, match=message):
            draw(
                run, [0, 1, 2], out=tmp_path / "out", sampling=Sampling("ddim", 2, guidance=guidance),
                conditions=condition, execution=HERE,
            )  # fmt: skip
        assert not (tmp_path / "out").exists()


def test_the_witness_test_asks_under_the_samples_condition(classed: ab.Run, universe: ab.Universe) -> None:
    """One component's word on a picture, worked out with diffusers' model under the picture's own class."""
    from ablatable._runtime.rng import generator
    from ablatable.analysis.denoised import DRAWS, denoised, level, picture_name
    from ablatable.runs.conditioning import given_of

    pictures, labels = universe.factual, [CLASSES.index("round"), CLASSES.index("long")]
    t, abar = level(classed.recipe.schedule)
    said = np.zeros((4, 2, 3 * 8 * 8))
    for component in range(4):
        model = diffusers.UNet2DModel.from_pretrained(classed.component_folder(component))
        for row, picture in enumerate(pictures):
            x0 = np.moveaxis(picture, -1, 0) / 255 * 2 - 1
            for k in range(DRAWS):
                noise = generator("witness", picture_name(picture), k).standard_normal((3, 8, 8), dtype=np.float32)
                x = torch.from_numpy(abar**0.5 * x0 + (1 - abar) ** 0.5 * noise).float()[None]
                with torch.no_grad():
                    eps = model(x, t, torch.tensor([labels[row]])).sample[0].double().numpy()
                clean = (x[0].double().numpy() - (1 - abar) ** 0.5 * eps) / abar**0.5
                said[component, row] += np.moveaxis(clean, 0, -1).ravel() / DRAWS
    found = denoised(
        (classed.load_component(number) for number in range(4)), classed.recipe.schedule, pictures,
        given=given_of(classed, universe.settings.conditions, 2),
    )  # fmt: skip
    np.testing.assert_allclose(found, said - said.mean(axis=0), atol=1e-5)
    one = ab.witness(classed, [4, 9], conditions=universe.settings.conditions, sampling=GUIDED)
    assert np.array_equal(one.factual, pictures)


def test_removing_a_unit_keeps_the_rest_with_their_labels(classed: ab.Run, tmp_path: Path) -> None:
    less, _ = ab.forget(classed, ["b"], out=tmp_path / "less")
    assert less.units().labels == ("square", "long", "square") and check_run(less.path) == []
    whole = ab.repair(less, out=tmp_path / "whole", execution=HERE)
    assert check_run(whole.path) == []
    with pytest.raises(DataError, match="the new units have no labels"):
        ab.extend(classed, ab.Units(("new",), np.zeros((1, 8, 8, 3), np.uint8), np.arange(1)), out=tmp_path / "more")


# --- units ---

HASHED = b"ablatable unit v2\0"


def test_labels_and_captions_are_part_of_the_content() -> None:
    """The digest by the docstring's recipe, written out by hand; without words it is as it was."""
    import hashlib
    import struct

    images, owner = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3), np.array([0, 0])
    order = sorted((0, 1), key=lambda k: hashlib.sha256(images[k].tobytes()).digest())
    labels, captions = ("x", "é"), ("one", "two")
    made = ab.Units(("u",), images, owner, labels=labels, captions=captions)
    texts = [column[k].encode("ascii", "backslashreplace").decode() for column in (captions, labels) for k in order]
    texts = [text.replace("\\xe9", "\\u00e9") for text in texts]  # as JSON escapes it
    words = '{"captions":["' + '","'.join(texts[:2]) + '"],"labels":["' + '","'.join(texts[2:]) + '"]}'
    pixels = b"".join(images[k].tobytes() for k in order)
    head = struct.pack("<4Q", 2, 4, 4, 3)
    assert made.digest("u") == hashlib.sha256(HASHED + head + pixels + words.encode()).hexdigest()
    plain = ab.Units(("u",), images, owner)
    assert plain.digest("u") == hashlib.sha256(b"ablatable unit v1\0" + head + pixels).hexdigest()
    other = ab.Units(("u",), images, owner, labels=labels, captions=("one", "three"))
    assert other.digest("u") != made.digest("u")
    # equal pictures are told apart by what is said of them, in whichever order they come
    twins, said = np.stack([images[0], images[0]]), ("b", "a")
    both = [ab.Units(("u",), twins, owner, captions=each).digest("u") for each in (said, said[::-1])]
    assert both[0] == both[1]


def test_words_come_from_every_source(tmp_path: Path) -> None:
    from PIL import Image

    from ablatable.data.naming import load_units

    rows = [
        ("b.png", "ann", "round", "a ball"),
        ("a.png", "bob", "long", "a stick, thin"),
        ("c.png", "ann", "long", "x"),
    ]
    for number, (name, *_) in enumerate(rows):
        Image.fromarray(np.full((4, 4, 3), 60 * number, np.uint8)).save(tmp_path / name)
    table = ["file_name;who;kind;text", *(";".join(row) for row in rows)]
    (tmp_path / "metadata.csv").write_text("\n".join(table))
    columns = {"label_column": "kind", "caption_column": "text"}
    made = ab.Units.from_folder(tmp_path, unit_column="who", **columns)
    of = {int(image.max()): (label, text) for image, label, text in zip(made.images, made.labels, made.captions)}  # noqa: B905
    assert of == {0: ("round", "a ball"), 60: ("long", "a stick, thin"), 120: ("long", "x")}
    assert made.report is not None and "labels from the column 'kind': 2 different" in made.report.lines()
    file = made.write_to(tmp_path / "units.safetensors")
    assert (file.labels, file.captions, file.digests) == (made.labels, made.captions, made.digests)
    (tmp_path / "metadata.csv").write_text(table[0] + "\nb.png;ann;;a ball\n")
    with pytest.raises(DataError, match=r"line 2 \(b.png\): column 'kind' is missing its value"):
        ab.Units.from_folder(tmp_path, **columns)
    with pytest.raises(DataError, match="has no column 'kin'"):
        ab.Units.from_folder(tmp_path, label_column="kin")
    emoji = load_units("openmoji:1", size=8, label_column="group", caption_column="annotation")
    assert "smileys-emotion" in emoji.labels and len(emoji.captions) == len(emoji.images)
    digits = load_units("digits:12", size=8, label_column="label")
    assert digits.labels == tuple(str(k % 10) for k in range(12))  # as the bundle promises
    assert digits.digests != load_units("digits:12", size=8).digests
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict(
        {"image": [[[0] * 4] * 4, [[1] * 4] * 4], "kind": [1, 0], "text": "ab"},
        features=datasets.Features(
            image=datasets.Array2D((4, 4), "uint8"), kind=datasets.ClassLabel(names=["n", "y"]),
            text=datasets.Value("string"),
        ),
    )  # fmt: skip
    found = ab.Units.from_dataset(data, **columns)
    assert (found.labels, found.captions) == (("y", "n"), ("a", "b"))


@pytest.mark.parametrize(
    ("said", "message"),
    [({"labels": ["a"]}, "1 labels for 4 images"), ({"captions": ["a", "b", " ", "d"]}, "image 2 has no caption")],
)
def test_words_that_do_not_fit_are_refused(said: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        units(**said)


# --- training ---


def test_training_needs_what_it_is_conditioned_on(tmp_path: Path) -> None:
    where: dict[str, Any] = {"out": tmp_path / "run", "execution": HERE}
    with pytest.raises(DataError, match="the units have no labels"):
        ab.train(units(), CODE, RECIPE, classes=CLASSES, **where)
    with pytest.raises(DataError, match="the label 'long' is none of the classes"):
        ab.train(units(labels=LABELS), CODE, RECIPE, classes=["square", "round"], **where)
    with pytest.raises(SettingsError, match="give every class one name"):
        ab.train(units(labels=LABELS), CODE, RECIPE, classes=["a", "a"], **where)
    with pytest.raises(SettingsError, match="kind 'ideal' are not given classes"):
        ab.train(units(labels=LABELS), CODE, "ideal", classes=CLASSES, **where)


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory: pytest.TempPathFactory) -> ab.Run:
    """Adapters on a base that attends to captions."""
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("lora")
    write_text_pipeline(folder / "base", 9)
    recipe, shared = ab.adapters(folder / "base", rank=1, steps=3, batch=2)
    assert [part.role for part in shared] == ["base model", "text encoder"]
    with pytest.raises(DataError, match="the units have no captions"):
        ab.train(units(), CODE, recipe, out=folder / "no", shared=shared)
    long = units(captions=("a caption that is too long", *CAPTIONS[1:]))
    with pytest.raises(SettingsError, match=r"the caption 'a caption that is too long' is \d+ tokens long"):
        ab.train(long, CODE, recipe, out=folder / "no", shared=shared)
    return ab.train(units(captions=CAPTIONS), CODE, recipe, out=folder / "run", shared=shared, execution=HERE)


def test_adapters_train_on_captions_and_draw_prompts(fine_tuned: ab.Run, tmp_path: Path) -> None:
    assert {part.name for part in fine_tuned.shared.records} == {"base", "text_encoder"}
    assert check_run(fine_tuned.path) == []
    one, other = (drawn(fine_tuned, 1, tmp_path, conditions=Condition(prompt=text)) for text in ("a cat", "sun"))
    assert not np.array_equal(one, other)
    again = ab.train(
        units(captions=(*CAPTIONS[:3], "moon")), CODE, fine_tuned.recipe, out=tmp_path / "again", execution=HERE,
        shared=fine_tuned.shared.parts(),
    )  # fmt: skip
    before, after = (run.manifest.weights_sha256 for run in (fine_tuned, again))
    saw = CODE.matrix[3]
    assert [a != b for a, b in zip(before, after, strict=True)] == saw.tolist()  # who saw the caption, and nobody else


def test_what_is_withheld_follows_from_the_step_alone(classed: ab.Run, tmp_path: Path) -> None:
    """The share of withheld conditions is the recipe's, whatever was drawn before."""
    from ablatable.diffusion.conditions import Classes
    from ablatable.runs.component_training import TrainTask, conditions_at, rows_at
    from ablatable.runs.conditioning import training_given

    split = classed.units()
    task = TrainTask(split, classed.recipe, 1, 0, tmp_path / "01")
    takes = classed.recipe.component.takes
    assert isinstance(takes, Classes) and takes.null == 3
    given, withheld = training_given(split, takes, task.shared), []
    for step in (5, 3, *range(400)):
        (labels,) = conditions_at(task, step, given)
        own = torch.tensor([CLASSES.index(split.labels[row]) for row in rows_at(task, step, 4)])
        assert ((labels == own) | (labels == 3)).all()
        withheld.append(labels == 3)
    assert torch.equal(withheld[0], withheld[2 + 5]) and torch.equal(withheld[1], withheld[2 + 3])
    assert abs(float(torch.stack(withheld).float().mean()) - 0.4) < 0.06  # 4 standard errors of 804 draws
