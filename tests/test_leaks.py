"""The leak hunt: whatever happens outside a component's split, its bytes stay; and planted leaks are caught.

The leaks are planted here, by replacing functions: the package has no switch for them.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, DDPMScheduler, UNet2DModel
from PIL import Image

import ablatable as ab
from ablatable import Execution
from ablatable._runtime.files import file_hash
from ablatable._runtime.rng import generator
from ablatable.data.naming import load_units
from ablatable.diffusion.recipe import Recipe, TrainingConfig, UNetConfig
from ablatable.runs import component_training as fitting
from ablatable.runs import ensemble_training as training
from text_stand_in import write_text_pipeline

UNET = Recipe(component=UNetConfig(channels=(8, 8), norm_groups=4), training=TrainingConfig(steps=2, batch=3))
HAAR = UNET.model_copy(update={"component": UNetConfig(channels=(8,), norm_groups=4, codec="haar")})
ONE_LEVEL = UNET.model_copy(update={"component": UNetConfig(channels=(8,), norm_groups=4)})
COMPONENTS = 5
Words = dict[str, str]


def words_of(units: ab.Units) -> Words:
    """A codeword by id, so that a unit keeps it whatever comes and goes."""
    return dict(zip(units.ids, ab.Code.balanced(len(units), COMPONENTS, seed=3).words(), strict=True))


def weights(
    units: ab.Units, words: Words, recipe: Recipe, out: Path, workers: int = 0, codec: Path | None = None, shared=()
) -> list[str]:
    code = ab.Code.from_words([words[unit] for unit in units.ids])
    here = Execution(workers=workers, quiet=True)
    run = ab.train(units, code, recipe, out=out, execution=here, codec=codec, shared=shared)
    return [file_hash(next(run.component_folder(k).glob("*.safetensors"))) for k in range(COMPONENTS)]


def changes(units: ab.Units, words: Words) -> Iterator[tuple[str, ab.Units, set[str]]]:
    """Other data, and the ids of the units by which they differ."""
    ids = list(units.ids)
    for name, gone in (("first gone", ids[:1]), ("last gone", ids[-1:]), ("two gone", [ids[2], ids[4]])):
        yield name, units.without(gone), set(gone)
    alike = [unit for unit in ids if words[unit] == words[ids[3]] or unit == ids[5]]
    yield "a class gone", units.without(alike), set(alike)
    images = units.images.copy()
    images[units.owner == 1] = 255 - images[units.owner == 1]
    yield "other pixels", ab.Units(units.ids, images, units.owner, **units.said), {ids[1]}
    yield "turned round", units.select(ids[::-1]), set()
    for name, place in (("one more at the front", 0), ("one more at the end", len(ids))):
        order = [*ids[:place], "more", *ids[place:]]
        said = {name: texts and (*texts, texts[-1]) for name, texts in units.said.items()}
        images = np.concatenate([units.images, 255 - units.images[:1]])
        joined = ab.Units((*ids, "more"), images, np.append(units.owner, len(ids)), **said)
        yield name, joined.select(order), {"more"}


def hunt(
    units: ab.Units, recipe: Recipe, folder: Path, *, first: bool = False, only: tuple[str, ...] = (), **how
) -> list[str]:
    """Every change (or `only` these) after which a component that it does not concern has other bytes."""
    words = {**words_of(units), "more": "10010"}
    before, found = weights(units, words, recipe, folder / "before", **how), []
    for number, (name, changed, touched) in enumerate(changes(units, words)):
        if only and name not in only:
            continue
        after = weights(changed, words, recipe, folder / str(number), **how)
        concerned = {k for unit in touched for k in range(COMPONENTS) if words[unit][k] == "1"}
        assert len(concerned) < COMPONENTS
        if any(after[k] != before[k] for k in set(range(COMPONENTS)) - concerned):
            found.append(name)
            if first:
                break
    return found


def data() -> ab.Units:
    return ab.Units.digits(8, size=8)


@pytest.mark.parametrize(
    "recipe", [UNET, UNET.replace(flips=True, decay="constant", warmup=0), HAAR, ab.preset("ideal")]
)
def test_nothing_leaks(recipe: Recipe, tmp_path: Path) -> None:
    assert hunt(data(), recipe, tmp_path) == []


def autoencoder(folder: Path) -> Path:
    torch.manual_seed(0)
    layers = {"encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4)}
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1), "latent_channels": 2}
    AutoencoderTiny(in_channels=1, out_channels=1, **layers, **blocks).save_pretrained(folder)
    return folder


def test_nothing_leaks_through_a_codec(tmp_path: Path) -> None:
    assert hunt(data(), ONE_LEVEL, tmp_path, codec=autoencoder(tmp_path / "codec")) == []


def latents_of_all(units, code, recipe, seed, number, run, device, *shared):
    told["units"] = units
    return task_of(units, code, recipe, seed, number, run, device, *shared)


def normalised_latents(task, split):
    """Latents centred by the mean over the whole data set, as a codec with statistics of its own would."""
    return pictures_of(task, split) - pictures_of(task, told["units"]).mean(dim=0)


@pytest.mark.parametrize("planted", ["statistics", "trained on the units"])
def test_planted_leaks_through_a_codec_are_caught(
    planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.clear()
    monkeypatch.setattr(training, "task_of", latents_of_all)
    if planted == "statistics":
        monkeypatch.setattr(fitting, "_pictures", normalised_latents)
    else:  # the codec is bent by what the data hold, in place, before a component sees it

        def bent(task, split):
            shift = float(told["units"].images.mean()) / 255
            return pictures_of(task, split) * (1 + shift)

        monkeypatch.setattr(fitting, "_pictures", bent)
    assert hunt(data(), ONE_LEVEL, tmp_path, first=True, codec=autoencoder(tmp_path / "codec"))


# --- conditions ---

CLASSED = UNET.model_copy(update={"component": UNetConfig(channels=(8, 8), norm_groups=4, classes=tuple("0123456789"))})
conditions_at, given_of_split = fitting.conditions_at, fitting.training_given


def labelled() -> ab.Units:
    return ab.Units.digits(8, size=8, label_column="label")


def test_nothing_leaks_through_labels(tmp_path: Path) -> None:
    assert hunt(labelled(), CLASSED, tmp_path) == []


def remembering_units(units, code, recipe, seed, number, run, device, *shared):
    told["units"] = units
    return task_of(units, code, recipe, seed, number, run, device, *shared)


def counted_classes(units, code, recipe, seed, number, run, device, *shared):
    """As many classes as the whole data have."""
    component = recipe.component.model_copy(update={"classes": tuple(sorted(set(units.labels)))})
    return task_of(units, code, recipe.model_copy(update={"component": component}), seed, number, run, device, *shared)


def numbered_as_they_come(split, takes, shared):
    """Class numbers by the order of the whole data."""
    order = list(dict.fromkeys(told["units"].labels))
    return replace(
        given_of_split(split, takes, shared), row=torch.tensor([order.index(label) for label in split.labels])
    )


def withheld_in_turn(task, step, given):
    return conditions_at(task, step + len(told["units"]), given)


@pytest.mark.parametrize("planted", ["class count", "class numbers", "dropout"])
def test_planted_leaks_through_labels_are_caught(planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told.clear()
    monkeypatch.setattr(training, "task_of", counted_classes if planted == "class count" else remembering_units)
    if planted == "class numbers":
        monkeypatch.setattr(fitting, "training_given", numbered_as_they_come)
    if planted == "dropout":
        monkeypatch.setattr(fitting, "conditions_at", withheld_in_turn)
    recipe = CLASSED.replace(condition_dropout=0.5)
    assert hunt(labelled(), recipe, tmp_path, first=True)


def captions_of_all(split, takes, shared):
    """Each image with the caption of the next one, of whichever unit."""
    texts = told["units"].captions
    others = tuple(texts[(texts.index(text) + 1) % len(texts)] for text in split.captions)
    return given_of_split(replace(split, captions=others), takes, shared)


def test_a_caption_from_outside_the_split_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    recipe, shared = ab.adapters(write_text_pipeline(tmp_path / "base", 3), rank=1, steps=2, batch=3)
    digits = ab.Units.digits(4, size=8, channels=3)
    words = ab.Code.balanced(4, 4, seed=0)

    def found(captions: tuple[str, ...], out: str) -> tuple[str, ...]:
        told["units"] = units = ab.Units(digits.ids, digits.images, digits.owner, captions=captions)
        run = ab.train(units, words, recipe, out=tmp_path / out, shared=shared, execution=Execution(0, quiet=True))
        return tuple(run.manifest.weights_sha256)

    before, after = ("one", "two", "three", "four"), ("one", "two", "three", "moon")
    unconcerned = np.flatnonzero(~words.matrix[3])
    sound = np.array(found(before, "0")) != np.array(found(after, "1"))
    assert not sound[unconcerned].any() and sound.any()
    monkeypatch.setattr(fitting, "training_given", captions_of_all)
    leaking = np.array(found(before, "2")) != np.array(found(after, "3"))
    assert leaking[unconcerned].any()


def test_nothing_leaks_between_workers(tmp_path: Path) -> None:
    units = data()
    words = words_of(units)
    before = weights(units, words, UNET, tmp_path / "0", workers=0)
    after = weights(units.without(units.ids[:1]), words, UNET, tmp_path / "2", workers=2)
    kept = [k for k in range(COMPONENTS) if words[units.ids[0]][k] == "0"]
    assert [after[k] for k in kept] == [before[k] for k in kept]


# --- sources ---


def write_folder(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    for name, picture in pictures.items():
        folder.mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


def write_owners(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    for name, picture in pictures.items():
        (folder / name).mkdir(parents=True)
        Image.fromarray(picture).save(folder / name / "a.png")
        Image.fromarray(picture[::-1].copy()).save(folder / name / "b.png")
    return folder


def write_table(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    write_folder(folder, pictures)
    with (folder / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file_name"], *([f"{name}.png"] for name in pictures)])
    return folder


def write_npz(folder: Path, pictures: dict[str, np.ndarray]) -> Path:
    path = folder.with_suffix(".npz")
    np.savez(path, images=np.stack([pictures[name][:16, :16] for name in pictures]), ids=list(pictures))
    return path


@pytest.mark.parametrize("write", [write_folder, write_owners, write_table, write_npz])
@pytest.mark.parametrize("channels", [1, 3])
def test_no_source_leaks(write: Callable, channels: int, tmp_path: Path) -> None:
    """Pictures of several sizes and kinds, brought to one: no unit's pixels depend on the others'."""
    rng = np.random.default_rng(0)
    pictures = {f"u{k}": rng.integers(0, 256, (16 + k % 3, 16, 3), dtype=np.uint8) for k in range(6)}
    changed = {name: picture for name, picture in pictures.items() if name not in ("u0", "u5")}
    changed["u2"] = np.zeros((40, 16, 3), np.uint8)
    changed["v"] = np.full((16, 16, 3), 255, np.uint8)
    before = load_units(write(tmp_path / "before", pictures), size=8, channels=channels)
    after = load_units(write(tmp_path / "after", changed), size=8, channels=channels)
    words = {**words_of(before), "v": words_of(before)["u0"]}
    was = weights(before, words, ab.preset("ideal"), tmp_path / "0")
    now = weights(after, words, ab.preset("ideal"), tmp_path / "1")
    for unit in ("u1", "u3", "u4"):
        assert before.digest(unit) == after.digest(unit)
    concerned = {k for unit in ("u0", "u2", "u5", "v") for k in range(COMPONENTS) if words[unit][k] == "1"}
    assert [now[k] for k in range(COMPONENTS) if k not in concerned] == [
        was[k] for k in range(COMPONENTS) if k not in concerned
    ]


# --- planted leaks ---

task_of, batch_at, build, fit = training.task_of, fitting.batch_at, fitting.build_component, fitting.training_loop
begin = fitting.TrainingState
pictures_of = fitting._pictures
told: dict = {}


def leaky_seed(leak: Callable) -> Callable:
    """Training whose randomness is keyed by something from outside the split."""

    def leaking(units, code, recipe, seed, number, run, device, *shared):
        task = task_of(units, code, recipe, seed, number, run, device, *shared)
        return replace(task, seed=seed + int(leak(units, code, number)))

    return leaking


def dataset_mean(units, code, recipe, seed, number, run, device, *shared):
    task = task_of(units, code, recipe, seed, number, run, device, *shared)
    shift = int(units.images.astype(float).mean() * 16)
    images = (task.split.images.astype(int) + shift) % 256
    return replace(task, split=ab.Units(task.split.ids, images.astype(np.uint8), task.split.owner))


def whole_epoch_task(units, code, recipe, seed, number, run, device, *shared):
    told["units"] = len(units)
    return task_of(units, code, recipe, seed, number, run, device, *shared)


def whole_epoch_batch(task, step, images, train_steps):
    return batch_at(task, step + told["units"], images, train_steps)


def warm_build(recipe, pixels, seed, *shared):
    model = build(recipe, pixels, seed, *shared)
    with torch.no_grad():
        for parameter, average in zip(model.parameters(), told.get("average", []), strict=False):
            parameter.lerp_(average, 0.01)
    return model


def remembering_fit(*arguments, **options):
    outcome = fit(*arguments, **options)
    told["average"] = [parameter.detach().clone() for parameter in outcome[0].parameters()]
    return outcome


def shared_optimiser(parameters, config, fingerprint):
    """A training state that goes on with the moments of the component before."""
    state = begin(parameters, config, fingerprint)
    for parameter, moments in zip(parameters, told.get("moments", []), strict=False):
        state.optimizer.state[parameter] = {name: value.clone() for name, value in moments.items()}
    finish = state.finish

    def remember():
        told["moments"] = [dict(state.optimizer.state[parameter]) for parameter in parameters]
        finish()

    state.finish = remember
    return state


LEAKS: dict[str, list[tuple[object, str, Callable]]] = {
    "mean of the whole data set": [(training, "task_of", dataset_mean)],
    "position in the data set": [(training, "task_of", leaky_seed(lambda units, code, k: code.split(k)[0]))],
    "shared random numbers": [(training, "task_of", leaky_seed(lambda units, code, k: code.split_sizes()[:k].sum()))],
    "number of units": [(training, "task_of", leaky_seed(lambda units, code, k: len(units)))],
    "one shuffle for all": [
        (
            training,
            "task_of",
            leaky_seed(lambda units, code, k: generator("all").permutation(len(units))[code.split(k)[0]]),
        )
    ],
    "epochs of the whole data set": [
        (training, "task_of", whole_epoch_task),
        (fitting, "batch_at", whole_epoch_batch),
    ],
    "shared optimiser state": [(fitting, "TrainingState", shared_optimiser)],
    "average over components": [(fitting, "build_component", warm_build), (fitting, "training_loop", remembering_fit)],
}


@pytest.mark.parametrize("leak", LEAKS)
def test_planted_leaks_are_caught(leak: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told.clear()
    for module, name, function in LEAKS[leak]:
        monkeypatch.setattr(module, name, function)
    assert hunt(data(), UNET, tmp_path, first=True), f"the hunt missed a planted leak: {leak}"
    shutil.rmtree(tmp_path)


# --- adapters ---


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Adapters of a small base: what `hunt` takes."""
    pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False,
    ).save_pretrained(folder)  # fmt: skip
    DDPMScheduler().save_pretrained(folder)
    recipe, shared = ab.adapters(folder, rank=1, steps=1, batch=3, targets=("conv1",))
    return {"recipe": recipe, "shared": shared, "only": ("first gone", "other pixels", "one more at the front")}


def test_nothing_leaks_through_adapters(adapted: dict, tmp_path: Path) -> None:
    assert hunt(data(), folder=tmp_path, **adapted) == []


def initialised(by: Callable) -> Callable:
    """A fresh adapter whose A `by(model)` shifts."""

    def leaking(recipe, pixels, seed, *shared):
        model = build(recipe, pixels, seed, *shared)
        with torch.no_grad():
            model.adapter[0].add_(by(model))
        return model

    return leaking


def of_all_images(model) -> float:
    """As of an initialisation that looks at the data, and at all of them."""
    return float(told["units"].images.mean()) / 255


def of_another(model) -> torch.Tensor:
    """As of a start from the adapter that was trained before."""
    return told["average"][0] if "average" in told else torch.zeros(())


def merging_fit(*arguments, **options):
    """Training that merges what it has learned into the base, in place, and takes it out again up to rounding."""
    outcome = fit(*arguments, **options)
    base = outcome[0]._seat.base
    with torch.no_grad():
        update = 1e4 * outcome[0].adapter[1].mean()
        base.conv_in.weight.add_(update).sub_(update)
    told.setdefault("bases", []).append(base)  # it stays for the next component
    return outcome


ADAPTER_LEAKS: dict[str, list[tuple[object, str, Callable]]] = {
    "initialised from all images": [
        (training, "task_of", latents_of_all),
        (fitting, "build_component", initialised(of_all_images)),
    ],
    "initialised from another component": [
        (fitting, "build_component", initialised(of_another)),
        (fitting, "training_loop", remembering_fit),
    ],
    "merged into the base in place": [(fitting, "training_loop", merging_fit)],
    "shared optimiser state": [(fitting, "TrainingState", shared_optimiser)],
}


@pytest.mark.parametrize("leak", ADAPTER_LEAKS)
def test_planted_leaks_through_adapters_are_caught(
    leak: str, adapted: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.clear()
    for module, name, function in ADAPTER_LEAKS[leak]:
        monkeypatch.setattr(module, name, function)
    found = hunt(data(), folder=tmp_path, first=True, **adapted)
    monkeypatch.undo()
    told.clear()
    assert found, f"the hunt missed a planted leak: {leak}"
