"""Attribution methods, stored scores, the gradient adapter against gradients by hand, and evaluation end to end."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

import ablatable as ab
import oracles
from ablatable import Execution, Sampling
from ablatable.attribution import evaluation as evaluate
from ablatable.attribution import methods as attribution
from ablatable.attribution import pieces, truth
from ablatable.attribution.bundle import export_benchmark
from ablatable.attribution.methods import FACTUAL, Method, Pictures
from ablatable.attribution.scores import read_scores, write_scores
from ablatable.data.grouping import per_unit
from ablatable.diffusion.ideal import IdealDenoiser
from ablatable.diffusion.recipe import IdealConfig, Recipe, TrainingConfig, UNetConfig
from ablatable.errors import DataError, SettingsError


def asked(images: np.ndarray) -> Pictures:
    count = len(images)
    return Pictures(images, np.arange(count), np.full(count, FACTUAL), None)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def ideal(tmp_path_factory: pytest.TempPathFactory) -> ab.Universe:
    """10 digits, exact memorisation; 4 samples, 10 spares."""
    out = tmp_path_factory.mktemp("ideal")
    run = ab.train(
        ab.Units.digits(10, size=8),
        ab.Code.balanced(10, 6, seed=0),
        Recipe(component=IdealConfig()),
        out=out / "run",
        execution=Execution(workers=0, quiet=True),
    )
    return ab.enumerate_universe(
        run.path,
        range(4),
        out=out / "u.zarr",
        sampling=Sampling(steps=8),
        spares=10,
        execution=Execution(workers=0, quiet=True),
    )


def run_of(universe: ab.Universe) -> Path:
    return Path(universe.url).parent / "run"


# --- methods ---


def test_nearest_neighbours() -> None:
    images = noise(4, 6, 5, 3)
    units = ab.Units.from_arrays(images)
    copies = np.concatenate([images[2:3], images[1:2, :, ::-1]])  # as it is, and mirrored
    plain = attribution.euclidean(units)(asked(copies))
    by_hand = [[-np.sqrt((((a / 255.0) - b / 255.0) ** 2).sum()) for b in images] for a in copies]
    scale = np.sqrt(256 * 256 * 3 / (6 * 5 * 3))
    np.testing.assert_allclose(plain, np.array(by_hand) * scale, rtol=1e-5)
    flips = attribution.euclidean_flips(units)(asked(copies))
    assert flips.argmax(axis=1).tolist() == [2, 1] and flips[1, 1] == 0 and plain[1, 1] < 0
    np.testing.assert_array_equal(flips >= plain, np.ones((2, 4), bool))


def test_features_are_any_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brightness alone as the feature: the unit that is as bright is named, whatever it shows."""

    def brightness(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).mean(1, keepdims=True)

    monkeypatch.setattr(attribution, "load_features", lambda name, device: brightness)
    units = ab.Units.from_arrays(np.stack([np.full((4, 4), value, np.uint8) for value in (10, 60, 200)]))
    bright = np.zeros((1, 4, 4, 1), np.uint8)
    bright[0, :2] = 128  # mean 64
    scores = attribution.by_features("x").prepare(units, None)(asked(bright))
    np.testing.assert_allclose(scores, [[-54, -4, -136]])


def test_random_is_another_one_for_every_picture_and_the_same_every_time() -> None:
    units = ab.Units.digits(5, size=8)
    pictures = Pictures(noise(3, 8, 8, 1), np.array([0, 0, 1]), np.array([FACTUAL, 2, FACTUAL]), None)
    first, second = (attribution.random(units)(pictures) for _ in range(2))
    assert first.shape == (3, 5) and len(np.unique(first)) == 15
    np.testing.assert_array_equal(first, second)


def test_groups_are_aggregated_by_a_named_rule() -> None:
    images = noise(6, 4, 4, 1)
    units = ab.Units.from_arrays(images, ids=["a", "b", "b", "b", "c", "c"], group=True)
    scores = np.array([[5.0, 1, 2, 6, -1, -3]])
    for rule, expected in (("max", [5, 6, -1]), ("sum", [5, 9, -4]), ("mean", [5, 3, -2])):
        np.testing.assert_array_equal(per_unit(scores, units, rule), [expected])
    np.testing.assert_array_equal(per_unit(scores[:, :3], units, "sum"), scores[:, :3])
    with pytest.raises(SettingsError, match="max, sum, mean"):
        per_unit(scores, units, "median")
    with pytest.raises(DataError, match="6 images or 3 units"):
        per_unit(scores[:, :4], units)


def test_pictures_of_a_universe(ideal: ab.Universe) -> None:
    pictures = attribution.pictures_of(ideal, [2, 0, 2], [FACTUAL, 3, 7])
    np.testing.assert_array_equal(pictures.images[0], ideal.factual[2])
    np.testing.assert_array_equal(pictures.images[1], ideal.counterfactual(ideal.unit_ids[3])[0])
    np.testing.assert_array_equal(pictures.images[2], ideal.counterfactual(ideal.unit_ids[7])[2])
    told = pictures.trajectories
    assert told is not None and told.seeds.tolist() == [2, 0, 2] and told.steps == 8
    code = ab.Code.balanced(10, 6, seed=0)
    np.testing.assert_array_equal(told.ablated, [np.zeros(6), code.matrix[3], code.matrix[7]])


# --- gradients ---


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ab.Universe:
    """6 digits, 4 components, few steps, so that gradients are not small."""
    out = tmp_path_factory.mktemp("tiny")
    recipe = Recipe(
        component=UNetConfig(channels=(4,), norm_groups=2),
        training=TrainingConfig(steps=20, batch=3, learning_rate=4e-3),
    )
    run = ab.train(
        ab.Units.digits(6, size=8),
        ab.Code.balanced(6, 4, seed=0),
        recipe,
        out=out / "run",
        execution=Execution(workers=0, quiet=True),
    )
    return ab.enumerate_universe(
        run.path, [0, 1], out=out / "u.zarr", sampling=Sampling(steps=3), execution=Execution(workers=0, quiet=True)
    )


def gradients_by_hand(run: ab.Run, component: int, images: np.ndarray, output: str) -> np.ndarray:
    """d output / d weights of each image, plain autograd, one image at a time."""
    from ablatable._runtime.rng import generator
    from ablatable.attribution import gradients

    model, a = run.load_component(component), oracles.abar()
    eps = torch.from_numpy(generator("gradient").standard_normal((gradients.NOISES, 1, 8, 8), dtype=np.float32))
    rows = []
    for x0 in torch.from_numpy(oracles.data_of(images)).float():
        total = torch.zeros(())
        for k in range(gradients.NOISES):
            t = int((k + 0.5) / gradients.NOISES * 1000)
            x = a[t] ** 0.5 * x0 + (1 - a[t]) ** 0.5 * eps[k]
            predicted = model(x[None], torch.tensor([t]))[0]
            total = total + ((predicted - eps[k]) if output == "loss" else predicted).square().mean()
        parameters = list(model.parameters())
        found = torch.autograd.grad(total / gradients.NOISES, parameters)
        rows.append(torch.cat([g.flatten() for g in found]).numpy())
    return np.array(rows, dtype=np.float64)


@pytest.mark.parametrize("name", ["tracin", "grad-cos", "trak", "d-trak"])
def test_gradient_methods(tiny: ab.Universe, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against gradients taken one by one. A kernel method without projection is x' (X'X + l)^-1 X', solved directly."""
    from ablatable.attribution import gradients

    run = ab.Run(run_of(tiny))
    if "trak" in name:  # as many dimensions as parameters cannot be had; the identity takes the projection's place
        monkeypatch.setattr(gradients, "PROJECTION_TYPE", "identity")
    training, pictures = run.units(), tiny.factual
    found = attribution.METHODS[name].prepare(training, run)(asked(pictures))
    output = "norm" if name == "d-trak" else "loss"
    expected = np.zeros((2, 6))
    for component in range(4):
        split = run.code.split(component)
        known = gradients_by_hand(run, component, training.images[split], output)
        new = gradients_by_hand(run, component, pictures, output)
        if name == "grad-cos":
            known, new = (g / np.linalg.norm(g, axis=1, keepdims=True) for g in (known, new))
        if "trak" in name:
            known, new = known / np.sqrt(known.shape[1]), new / np.sqrt(known.shape[1])
            ridge = gradients.DAMPING * np.square(known).sum(1).mean()
            # (X'X + l)^-1 X' = X' (XX' + l)^-1
            expected[:, split] += new @ known.T @ np.linalg.inv(known @ known.T + ridge * np.eye(len(split))) / 4
        else:
            expected[:, split] += new @ known.T / 4
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_gradients_need_the_run_and_weights(tiny: ab.Universe, ideal: ab.Universe, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="`run`"):
        evaluate.evaluate(tiny, ["trak"], out=tmp_path / "a", execution=Execution(workers=0, quiet=True))
    with pytest.raises(SettingsError, match="not a universe of"):
        evaluate.evaluate(
            tiny, ["trak"], out=tmp_path / "b", run=run_of(ideal), execution=Execution(workers=0, quiet=True)
        )
    with pytest.raises(SettingsError, match="no weights"):
        evaluate.evaluate(
            ideal, ["tracin"], out=tmp_path / "c", run=run_of(ideal), execution=Execution(workers=0, quiet=True)
        )


# --- scores in files ---

UNITS = ("a", "b", "c")
MATRIX = np.array([[1.0, 2, 3], [6, 5, 4]])


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npy", ".safetensors"])
@pytest.mark.parametrize("orientation", ["quanda", "dattri"])
def test_scores_go_and_come_back(suffix: str, orientation: str, tmp_path: Path) -> None:
    path = write_scores(tmp_path / f"s{suffix}", MATRIX, units=UNITS, orientation=orientation)
    np.testing.assert_array_equal(read_scores(path, samples=2, units=UNITS).factual, MATRIX)
    np.testing.assert_array_equal(read_scores(path, samples=2, units=("c", "a", "b")).factual, MATRIX[:, [2, 0, 1]])
    if suffix == ".npy":
        expected = MATRIX if orientation == "quanda" else MATRIX.T  # test x train; train x test
        np.testing.assert_array_equal(np.load(path), expected)
        assert json.loads(path.with_suffix(".json").read_text())["units"] == list(UNITS)
    with pytest.raises(SettingsError, match="overwrite"):
        write_scores(path, MATRIX, units=UNITS)


def test_counterfactual_scores(tmp_path: Path) -> None:
    table = {"sample": [0, 0, 0, 1, 1, 1, 1, 1, 1], "unit": list("abc") * 3}
    table |= {"score": [*MATRIX.ravel(), 7.0, 8.0, 9.0], "removed": [None] * 6 + ["b"] * 3}
    pl.DataFrame(table).write_parquet(tmp_path / "s.parquet")
    read = read_scores(tmp_path / "s.parquet", samples=2, units=UNITS)
    assert list(read.removed) == [(1, 1)] and read.removed[1, 1].tolist() == [7, 8, 9]
    cube = np.full((3, 2, 3), np.nan)
    cube[1, 1] = [7, 8, 9]
    save_file({"scores": MATRIX, "counterfactual": cube}, tmp_path / "s.safetensors")
    again = read_scores(tmp_path / "s.safetensors", samples=2, units=UNITS)
    assert list(again.removed) == [(1, 1)] and again.removed[1, 1].tolist() == [7, 8, 9]
    scorer = attribution.stored(read).prepare(ab.Units.digits(3, size=8), None)
    one = noise(1, 8, 8, 1)
    assert scorer(Pictures(one, np.array([1]), np.array([1]), None)).tolist() == [[7, 8, 9]]
    with pytest.raises(DataError, match="no scores of sample 0 without unit 1"):
        scorer(Pictures(one, np.array([0]), np.array([1]), None))


def test_scores_that_do_not_fit(tmp_path: Path) -> None:
    def refused(reason: str, **columns: list) -> None:
        pl.DataFrame(columns).write_csv(tmp_path / "s.csv")
        with pytest.raises(DataError, match=reason):
            read_scores(tmp_path / "s.csv", samples=1, units=UNITS)

    refused("no column score", sample=[0], unit=["a"], value=[1.0])
    refused("1 scores are missing", sample=[0, 0], unit=["a", "b"], score=[1.0, 2.0])
    refused("two scores", sample=[0, 0], unit=["a", "a"], score=[1.0, 2.0])
    refused("no unit 'z'", sample=[0], unit=["z"], score=[1.0])
    refused("no sample 1", sample=[1], unit=["a"], score=[1.0])
    refused("no sample -1", sample=[0, -1], unit=["a", "b"], score=[1.0, 2.0])
    refused("no sample 0.5", sample=[0.5], unit=["a"], score=[1.0])
    refused("no unit 'q'", sample=[0], unit=["a"], score=[1.0], removed=["q"])
    refused("sample 0 has two scores for 'b'", sample=[0] * 4, unit=list("abcb"), score=[1.0, 2, 3, 4])
    np.save(tmp_path / "s.npy", MATRIX.T)
    with pytest.raises(DataError, match="transpose it"):
        read_scores(tmp_path / "s.npy", samples=2, units=UNITS)
    np.save(tmp_path / "s.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        read_scores(tmp_path / "s.npy", samples=2, units=UNITS)


# --- evaluation ---


def test_false_attribution_by_hand(ideal: ab.Universe, tmp_path: Path) -> None:
    """The nearest unit of the sample, without it, and without each of the others: of all, or of one at random."""

    def nearest(picture: np.ndarray) -> int:
        images = ideal.training.images.astype(float)
        return int(np.argmin([((picture.astype(float) - image) ** 2).sum() for image in images]))

    def always_the_third(training: ab.Units, run: ab.Run | None) -> attribution.Attributor:
        return lambda pictures: np.eye(10)[np.full(len(pictures.images), 3)]

    def third_if_even(training: ab.Units, run: ab.Run | None) -> attribution.Attributor:
        """Names unit 3 in factual samples and without an even unit, else unit 4."""
        return lambda pictures: np.eye(10)[np.where((pictures.removed == FACTUAL) | (pictures.removed % 2 == 0), 3, 4)]

    slow = Method(attribution.euclidean)
    methods = {"euclidean": attribution.METHODS["euclidean"], "slow": slow, "third": Method(always_the_third)}
    methods["even"] = Method(third_if_even, quick=True)
    found = evaluate.evaluate(ideal, methods, out=tmp_path / "e", execution=Execution(workers=0, quiet=True))
    p, q, one = 0, 0.0, 0
    for sample in range(4):
        named = nearest(ideal.factual[sample])
        again = [nearest(ideal.counterfactual(unit)[sample]) == named for unit in ideal.unit_ids]
        p += again[named]
        q += (sum(again) - again[named]) / 9
        other = pieces.another_unit(ideal, sample, named)
        assert other != named
        one += again[other]
    far, slowly = found.scored["euclidean"].far, found.scored["slow"].far
    assert far is not None and slowly is not None and far.counts == (p, pytest.approx(q), 4)
    assert slowly.counts == (p, one, 4)
    even = found.scored["even"].far
    assert even is not None and even.counts == (0, pytest.approx(4 * 5 / 9), 4)  # 0, 2, 4, 6, 8 of 9 others
    stubborn = found.scored["third"].far
    assert stubborn is not None and stubborn.counts == (4, 4, 4) and stubborn.rate().value == 1


def test_stored_scores_of_every_counterfactual_give_the_exact_rate(ideal: ab.Universe, tmp_path: Path) -> None:
    """A file that covers all pictures is asked about all of them, one that covers some about one at random."""
    images = ideal.training.images.reshape(10, -1).astype(float)

    def score(picture: np.ndarray) -> np.ndarray:
        return -np.square(images - picture.reshape(-1)).sum(axis=1)

    rows = [(s, None, score(ideal.factual[s])) for s in range(4)]
    rows += [(s, unit, score(ideal.counterfactual(unit)[s])) for s in range(4) for unit in ideal.unit_ids]
    table = pl.DataFrame(
        [
            {"sample": s, "removed": removed, "unit": unit, "score": value}
            for s, removed, values in rows
            for unit, value in zip(ideal.unit_ids, values, strict=True)
        ],
        infer_schema_length=None,
    )
    table.write_parquet(tmp_path / "mine.parquet")
    here = Execution(workers=0, quiet=True)
    found = evaluate.evaluate(ideal, ["euclidean", str(tmp_path / "mine.parquet")], out=tmp_path / "e", execution=here)
    mine, euclidean = (found.scored[name].far for name in ("mine", "euclidean"))
    assert mine is not None and euclidean is not None
    np.testing.assert_array_equal(mine.without_other, euclidean.without_other)


def test_a_matrix_and_a_function_are_methods(ideal: ab.Universe, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).random((4, 10))
    methods = {"matrix": matrix, "list": matrix.tolist(), "function": lambda pictures: matrix[pictures.sample]}
    found = evaluate.evaluate(ideal, methods, out=tmp_path / "e", execution=Execution(quiet=True))
    for name in methods:
        np.testing.assert_array_equal(found.scored[name].scores, matrix)
    function = found.scored["function"].far
    assert found.scored["matrix"].far is None and function is not None and function.counts == (4, 4, 4)
    for wrong, reason in ((matrix.T, r"\(10, 4\).*\(4, 10\)"), (matrix * np.nan, "finite"), (object(), "a matrix")):
        with pytest.raises(ab.AblatableError, match=reason):
            evaluate.evaluate(ideal, {"mine": wrong}, out=tmp_path / "x", execution=Execution(quiet=True))


def test_one_unit_and_a_universe_that_says_nothing(tmp_path: Path) -> None:
    """An imported universe of one unit is refused; one in which nothing moves is measured as far as it goes."""
    from ablatable.universes import ctf

    def imported(units: int) -> ab.Universe:
        """Every picture is the same, with or without any unit."""
        path, tile = tmp_path / f"{units}.ctf", noise(4, 4)
        config = {"Format": "ONEFILE", "TrainingUnits": units, "NumberGenerated": 2}
        config |= {f"{kind}{what}": size for kind in ("Train", "Gen") for what, size in SIZES.items()}
        files = {"training_set.png": noise(4 * units, 4), "factual.png": np.concatenate([tile, tile])}
        files |= {f"leave_{unit + 1}_out.png": np.concatenate([tile, tile]) for unit in range(units)}
        with tarfile.open(path, "w") as archive:
            for name, content in {"config.json": config, **files}.items():
                data = json.dumps(content).encode() if isinstance(content, dict) else png(content)
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        return ctf.import_ctf(path, tmp_path / f"{units}.zarr", quiet=True)

    here = Execution(workers=0, quiet=True)
    with pytest.raises(SettingsError, match="one unit"):
        evaluate.evaluate(imported(1), ["euclidean"], out=tmp_path / "one", execution=here)
    assert not (tmp_path / "one").exists()
    found = evaluate.evaluate(imported(2), ["euclidean"], out=tmp_path / "two", execution=here)
    assert found.results["euclidean"]["far"].value == 1  # type: ignore[union-attr]
    assert np.isnan(found.results["euclidean"]["rank_distance"].value)  # type: ignore[union-attr]
    matrix = evaluate.evaluate(imported(2), {"none": np.ones((2, 2))}, out=tmp_path / "none", execution=here)
    assert np.isnan(matrix.results["none"]["removal"].value)  # type: ignore[union-attr]
    assert (tmp_path / "none" / "results.png").read_bytes().startswith(b"\x89PNG")  # without a panel


SIZES = {"Height": 4, "Width": 4, "Channel": 1}


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_scores_that_are_the_truth_are_the_best(ideal: ab.Universe, tmp_path: Path) -> None:
    path = tmp_path / "oracle.parquet"
    write_scores(path, ideal.distances().T, units=ideal.unit_ids)
    write_scores(tmp_path / "upside_down.csv", -ideal.distances().T, units=ideal.unit_ids)
    names = [str(path), str(tmp_path / "upside_down.csv")]
    found = evaluate.evaluate(
        ideal, names, out=tmp_path / "e", run=run_of(ideal), execution=Execution(workers=0, quiet=True)
    )
    for label, sign in (("oracle", 1), ("upside_down", -1)):
        one = found.results[label]["rank_distance"]
        assert one is not None and one.value == pytest.approx(sign)
        area = found.results[label]["removal"]
        assert area is not None and area.value == pytest.approx((1 + sign) / 2)
        assert found.results[label]["far"] is None  # nobody scored counterfactuals
    ask = pl.read_csv(tmp_path / "e" / "scores" / "oracle.ask.csv")
    assert len(ask) == 8 and set(ask.columns) == {"sample", "removed"}
    told = json.loads((tmp_path / "e" / "results.json").read_text())
    assert told["samples"] == 4 and told["not_measured"] == {}
    back = read_scores(tmp_path / "e" / "scores" / "oracle.parquet", samples=4, units=ideal.unit_ids)
    np.testing.assert_array_equal(back.factual, ideal.distances().T.astype(float))
    assert (tmp_path / "e" / "results.png").read_bytes().startswith(b"\x89PNG")
    assert "\\begin{tabular}" in (tmp_path / "e" / "results.tex").read_text()


def test_samples_are_compared_in_pieces(ideal: ab.Universe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few samples at a time give what all give at once, and no more of them are in memory."""
    run, asked = run_of(ideal), []
    whole = evaluate.evaluate(ideal, ["euclidean", "random"], out=tmp_path / "whole", run=run, execution=HERE)
    inner = ab.Universe.distances

    def spy(self: ab.Universe, *, scaled: bool = True, samples: slice = slice(None)) -> np.ndarray:
        found = inner(self, scaled=scaled, samples=samples)
        asked.append(found.shape[1])
        return found

    monkeypatch.setattr(ab.Universe, "distances", spy)
    monkeypatch.setattr(evaluate, "PIECE", 3)
    parts = evaluate.evaluate(ideal, ["euclidean", "random"], out=tmp_path / "parts", run=run, execution=HERE)
    assert asked == [3, 1] and list(parts.results) == list(whole.results)
    for label, metrics in whole.results.items():
        for metric, one in metrics.items():
            other = parts.results[label][metric]
            assert one is not None and other is not None, metric
            np.testing.assert_allclose(list(vars(one).values()), list(vars(other).values()), rtol=1e-6)
        np.testing.assert_array_equal(parts.scored[label].scores, whole.scored[label].scores)
        files = [read_scores(tmp_path / k / "scores" / f"{label}.parquet", samples=4, units=ideal.unit_ids) for k in K]
        np.testing.assert_array_equal(files[0].factual, whole.scored[label].scores)
        np.testing.assert_array_equal(files[1].factual, whole.scored[label].scores)


HERE, K = Execution(workers=0, quiet=True), ("whole", "parts")


def test_some_samples_are_those_rows_of_the_whole(
    ideal: ab.Universe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen, inner = run_of(ideal), list[int](), truth.spared_scores
    asked, pictures = set[int](), pieces.pictures_of
    alone = [
        evaluate.evaluate(ideal, ["euclidean"], out=tmp_path / f"{k}", run=run, samples=[k], execution=HERE)
        for k in range(4)
    ]
    whole = evaluate.evaluate(ideal, ["euclidean"], out=tmp_path / "whole", run=run, execution=HERE)
    monkeypatch.setattr(truth, "spared_scores", lambda see, of, how: seen.extend(of) or inner(see, of, how))
    monkeypatch.setattr(pieces, "pictures_of", lambda u, of, removed: asked.update(of) or pictures(u, of, removed))
    some = evaluate.evaluate(ideal, ["euclidean"], out=tmp_path / "some", run=run, samples=[3, 0, 1], execution=HERE)
    assert seen == [0, 1, 3] and asked == {0, 1, 3}, "no other sample is looked at"
    assert (some.samples, some.units) == (3, 10)
    mine, all_of_them = some.scored["euclidean"], whole.scored["euclidean"]
    np.testing.assert_array_equal(mine.scores, all_of_them.scores[[0, 1, 3]])
    np.testing.assert_array_equal(mine.named, all_of_them.named[[0, 1, 3]])
    assert mine.far is not None and all_of_them.far is not None
    np.testing.assert_array_equal(mine.far.without_named, all_of_them.far.without_named[[0, 1, 3]])
    np.testing.assert_array_equal(mine.far.without_other, all_of_them.far.without_other[[0, 1, 3]])
    for metric, found in some.results["euclidean"].items():
        if metric == "far":
            continue
        each = [one.results["euclidean"][metric] for one in alone]
        assert found is not None and None not in each, metric
        for chosen, value in (([0, 1, 3], found), ([0, 1, 2, 3], whole.results["euclidean"][metric])):
            known = [each[k].value for k in chosen if not np.isnan(each[k].value)]  # type: ignore[union-attr]
            assert value is not None and value.samples == len(known), metric
            assert not known or value.value == pytest.approx(np.mean(known), rel=1e-5), metric
    stored = pl.read_parquet(tmp_path / "some" / "scores" / "euclidean.parquet")
    rows = {(sample, unit): score for sample, unit, score in stored.rows()}
    assert len(rows) == len(stored) == 30
    for (sample, unit), score in rows.items():
        assert sample != 2 and score == all_of_them.scores[sample, ideal.unit_ids.index(unit)]


def test_scores_of_some_samples(ideal: ab.Universe, tmp_path: Path) -> None:
    """A matrix of them or of all samples, a file that has them or more. Another choice there is refused."""
    scores, out = np.random.default_rng(0).random((4, 10)), tmp_path / "e"
    options: dict[str, Any] = {"samples": [2, 3], "execution": HERE}
    found = evaluate.evaluate(ideal, {"some": scores[2:], "all": scores}, out=out, **options)
    table = pl.read_csv(out / "scores" / "some.ask.csv")
    assert table["sample"].to_list() == [2, 2, 3, 3]
    for name in ("some", "all"):
        np.testing.assert_array_equal(found.scored[name].scores, scores[2:])
    for suffix in ("parquet", "npy"):
        write_scores(path := tmp_path / f"file.{suffix}", scores, units=ideal.unit_ids)
        read = evaluate.evaluate(ideal, [str(path)], out=tmp_path / suffix, **options)
        np.testing.assert_array_equal(read.scored["file"].scores, scores[2:])
    pl.read_parquet(tmp_path / "file.parquet").filter(pl.col("sample") > 1).write_parquet(tmp_path / "few.parquet")
    read = evaluate.evaluate(ideal, [str(tmp_path / "few.parquet")], out=tmp_path / "few", **options)
    np.testing.assert_array_equal(read.scored["few"].scores, scores[2:])

    def refused(reason: str, methods: Any, out: str = "x", samples: list[int] | None = None) -> None:
        with pytest.raises((SettingsError, DataError), match=reason):
            evaluate.evaluate(ideal, methods, out=tmp_path / out, samples=samples, execution=HERE)

    refused(
        r"shape \(3, 10\).*\(2, 10\) for the samples that are evaluated, or \(4, 10\)",
        {"a": scores[1:]},
        samples=[2, 3],
    )
    refused(r"shape \(2, 10\).*expected \(4, 10\) scores", {"a": scores[2:]})
    refused("10 scores are missing .* sample 1 and", [str(tmp_path / "few.parquet")], samples=[1, 2])
    refused("20 scores are missing", [str(tmp_path / "few.parquet")])
    refused("no sample 4", {"a": scores}, samples=[4])
    refused("no sample is given", {"a": scores}, samples=[])
    refused("samples: 2-3 there, 1-2 asked for", {"all": scores}, "e", [1, 2])
    refused("samples: 2-3 there, absent asked for", {"all": scores}, "e")
    whole = evaluate.evaluate(ideal, {"all": scores}, out=tmp_path / "w", samples=[3, 2, 1, 0], execution=HERE)
    assert evaluate.evaluate(ideal, {"all": scores}, out=tmp_path / "w", execution=HERE).samples == whole.samples == 4
    with pytest.raises(SettingsError, match="compared samples 2-3 alone"):
        export_benchmark(ideal, tmp_path / "bundle", evaluation=out)


def test_losses_of_some_samples_at_a_time(ideal: ab.Universe, monkeypatch: pytest.MonkeyPatch) -> None:
    run, sets, batches = ab.Run(run_of(ideal)), truth.component_sets(6), []
    losses = truth.diffusion_loss(ideal, run, sets)
    monkeypatch.setattr(truth, "ERRORS", 2 * 6 * 64)
    monkeypatch.setattr(IdealDenoiser, "forward", counted(IdealDenoiser.forward, batches))
    np.testing.assert_allclose(truth.diffusion_loss(ideal, run, sets), losses, rtol=1e-3)  # float32
    assert max(batches) == 2


def counted(forward: Any, batches: list[int]) -> Any:
    """A forward pass that also says how many rows it gets."""
    return lambda self, x, t: batches.append(len(x)) or forward(self, x, t)


def test_losses_of_sets_of_components(ideal: ab.Universe) -> None:
    """Against the ideal denoiser written out plainly, one sample, one set."""
    run = ab.Run(run_of(ideal))
    sets = np.zeros((2, 6), bool)
    sets[0, [1, 4]] = sets[1, [0, 2, 3]] = True
    found = truth.diffusion_loss(ideal, run, sets)
    from ablatable._runtime.rng import generator

    a, sample = oracles.abar(), 1
    x0 = oracles.data_of(ideal.factual[sample : sample + 1])[0]
    for row, members in enumerate(([1, 4], [0, 2, 3])):
        predictors = [oracles.ideal(oracles.data_of(ideal.training.images[run.code.split(i)]), a) for i in members]
        loss = 0.0
        for k in range(truth.NOISES):
            t = int((k + 0.5) / truth.NOISES * 1000)
            eps = generator("loss", ideal.seeds[sample], t).standard_normal((1, 8, 8), dtype=np.float32)
            x = a[t] ** 0.5 * x0 + (1 - a[t]) ** 0.5 * eps
            predicted = oracles.mean_of(predictors)(x[None], t)[0]
            loss += np.square(predicted - eps).mean() / truth.NOISES
        assert found[sample, row] == pytest.approx(loss, rel=1e-3)


def test_presence_and_sets() -> None:
    trained = np.array([[1, 1, 0, 0], [0, 1, 1, 0]], bool)
    alive = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1]], bool)
    np.testing.assert_allclose(truth.present(alive, trained), [[1, 0.5], [0, 0.5], [0.5, 0]])
    sets = truth.component_sets(6)
    assert (sets.sum(axis=1) == 3).all() and len(np.unique(sets, axis=0)) == len(sets) == 20


def test_an_evaluation_goes_on_and_grows(ideal: ab.Universe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "PIECE", 2)
    calls = []

    def counting(name: str) -> Method:
        def score(pictures: Pictures) -> np.ndarray:
            calls.append((name, pictures.sample.tolist()))
            if name == "b" and 2 in pictures.sample and stop:
                raise KeyboardInterrupt
            return attribution.euclidean(ideal.training)(pictures)

        return Method(lambda training, run: score)

    stop, out = True, tmp_path / "e"
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(ideal, {"a": counting("a"), "b": counting("b")}, out=out, execution=Execution(quiet=True))
    calls.clear()
    stop = False
    found = evaluate.evaluate(ideal, {"a": counting("a"), "b": counting("b")}, out=out, execution=Execution(quiet=True))
    assert {(name, *samples) for name, samples in calls} == {("b", 2, 3)}
    slow = {"euclidean": Method(attribution.euclidean)}
    whole = evaluate.evaluate(ideal, slow, out=tmp_path / "w", execution=Execution(workers=0, quiet=True))
    assert found.results["a"]["far"] == found.results["b"]["far"] == whole.results["euclidean"]["far"]

    calls.clear()
    piece = next((out / "pieces" / "a").glob("*.parquet"))
    table = pl.read_parquet(piece)
    assert table["scores"].to_numpy().shape == (2, len(ideal.unit_ids)), "a row per sample, and no text"
    table.with_columns(seconds=pl.lit(3.0)).write_parquet(piece)  # changed: not believed
    evaluate.evaluate(ideal, {"a": counting("a")}, out=out, execution=Execution(quiet=True))
    assert calls
    with pytest.raises(SettingsError, match="rule: max there, mean asked for"):
        evaluate.evaluate(ideal, {"a": counting("a")}, out=out, rule="mean", execution=Execution(quiet=True))


def test_workers_give_the_same(ideal: ab.Universe, tmp_path: Path) -> None:
    here = evaluate.evaluate(
        ideal, ["random", "euclidean"], out=tmp_path / "a", execution=Execution(workers=0, quiet=True)
    )
    there = evaluate.evaluate(
        ideal, ["random", "euclidean"], out=tmp_path / "b", execution=Execution(workers=1, quiet=True)
    )
    tables = [found.table().drop("seconds", "seconds_once") for found in (here, there)]
    assert tables[0].equals(tables[1])


def test_groups_of_images(tmp_path: Path) -> None:
    """Units of 3 to 10 images: scores of images and of units, every rule, through to the metrics."""
    sizes = [3, 4, 5, 6, 7, 10]
    digits = ab.Units.digits(sum(sizes), size=8)
    owner = np.repeat([f"owner-{k}" for k in range(6)], sizes)
    units = ab.Units.from_arrays(digits.images, ids=list(owner), group=True)
    recipe, code = Recipe(component=IdealConfig()), ab.Code.balanced(6, 4, seed=0)
    run = ab.train(units, code, recipe, out=tmp_path / "run", execution=Execution(workers=0, quiet=True))
    universe = ab.enumerate_universe(
        run.path, [0, 1], out=tmp_path / "u", sampling=Sampling(steps=5), execution=Execution(workers=0, quiet=True)
    )
    named = {}
    for rule in ("max", "mean"):
        found = evaluate.evaluate(
            universe,
            ["euclidean", "random"],
            out=tmp_path / rule,
            rule=rule,
            execution=Execution(workers=0, quiet=True),
        )
        scores = found.scored["euclidean"].scores
        assert scores.shape == (2, 6)
        picture = universe.factual[0].astype(float)
        gaps = [[((picture - i) ** 2).sum() ** 0.5 for i in units.of(unit)] for unit in units.ids]
        per = [-min(gap) if rule == "max" else -float(np.mean(gap)) for gap in gaps]
        np.testing.assert_allclose(scores[0] / scores[0, 0], np.array(per) / per[0], rtol=1e-5)
        named[rule] = scores
        assert found.results["euclidean"]["precision"] is None  # no spares, so nothing is known to be significant
        assert "no spare" in found.why["precision"]
    assert not np.allclose(named["max"], named["mean"])


def test_an_imported_universe_is_evaluated(ideal: ab.Universe, tmp_path: Path) -> None:
    from ablatable.universes import ctf

    back = ctf.import_ctf(ctf.export_ctf(ideal, tmp_path / "a.ctf", quiet=True), tmp_path / "u", quiet=True)
    found = evaluate.evaluate(back, ["euclidean"], out=tmp_path / "e", execution=Execution(workers=0, quiet=True))
    whole = evaluate.evaluate(ideal, ["euclidean"], out=tmp_path / "w", execution=Execution(workers=0, quiet=True))
    assert found.results["euclidean"]["rank_distance"] == whole.results["euclidean"]["rank_distance"]
    assert found.results["euclidean"]["far"] == whole.results["euclidean"]["far"]
    assert found.results["euclidean"]["lds_loss"] is None and "no run" in found.why["lds_loss"]
    follows = Method(lambda training, run: lambda pictures: np.zeros((1, 10)), frozenset({"trajectory"}))
    with pytest.raises(SettingsError, match="none on record"):
        evaluate.evaluate(back, {"journey": follows}, out=tmp_path / "x", execution=Execution(quiet=True))


def test_mistakes(ideal: ab.Universe, tmp_path: Path) -> None:
    def refused(names: list[str], reason: str, out: str = "e", **options: str) -> None:
        with pytest.raises((SettingsError, DataError), match=reason):
            evaluate.evaluate(ideal, names, out=tmp_path / out, execution=Execution(workers=0, quiet=True), **options)  # type: ignore[arg-type]

    refused(["nearest"], "no attribution method 'nearest'")
    refused(["features:nothing"], "no features")
    refused([], "no attribution method is given")
    refused(["euclidean"], "no rule", rule="most")
    refused([str(tmp_path / "nowhere.csv")], "nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    refused(["euclidean"], "other files", out="full")
    short = Method(lambda training, run: lambda pictures: np.zeros((len(pictures.images), 7)))
    with pytest.raises(DataError, match="10 images or 10 units"):
        evaluate.evaluate(ideal, {"short": short}, out=tmp_path / "s", execution=Execution(quiet=True))
