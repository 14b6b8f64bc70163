"""Screening, against brute force: enumerated universes, landscapes known in full, conditioning by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ablatable as ab
from ablatable.analysis import calibration
from ablatable.codes.code import weight_change
from ablatable.errors import DataError, SettingsError, StoreError
from ablatable.universes.checking import check_screen
from ablatable.universes.reader import Universe
from ablatable.universes.screening import screening_run as screening
from ablatable.universes.screening.screen import Screen
from ablatable.universes.screening.screening_run import screen_universe
from ablatable.universes.screening.search import Found, most_drawn, search
from ablatable.universes.screening.surrogate import JITTER, Surrogate, beyond
from calls import how

SMALL = {"steps": 6, "spares": 3, "workers": 0, "quiet": True}


def words_of(count: int, components: int, seed: int = 0) -> np.ndarray:
    return ab.Code.balanced(count, components, seed).matrix


# --- the surrogate ------------------------------------------------------------------------------------------------


def kernel_by_hand(words: np.ndarray, v: np.ndarray) -> np.ndarray:
    """K between all pairs of ablations, one by one; a survivor's weight in the mean goes from 1/n to 1/m."""
    n = words.shape[1]
    change = np.array([[(0 if gone else 1 / (n - sum(word))) - 1 / n for gone in word] for word in words.tolist()])
    change = change / np.sqrt((change**2).sum() / len(change))
    table = np.zeros((len(words), len(words)))
    for i, a in enumerate(change):
        for j, b in enumerate(change):
            r = float(sum(a * b))
            table[i, j] = v[0] * r + v[1] * r * r + v[2] * r * r * r + (v[3] if i == j else 0)
    return table


def test_it_predicts_as_conditioning_says() -> None:
    """The mean and variance of squared distances, from the pixels' conditional distribution and a Monte Carlo of it."""
    rng = np.random.default_rng(0)
    words, rows, pixels = words_of(40, 10), np.arange(25), 5
    changes = weight_change(words) @ rng.normal(size=(10, pixels)) + 0.05 * rng.normal(size=(40, pixels))
    fitted = Surrogate(words).fit(rows, changes[:25] @ changes[:25].T)
    whole = kernel_by_hand(words, fitted.v)
    known = whole[:25, :25] + JITTER * fitted.v.sum() * np.eye(25)

    errors = np.zeros((25, pixels))  # each drawn ablation left out and predicted from the 24 others
    deviations, squares = np.zeros(25), np.zeros((25, 2))
    for i in range(25):
        others = [k for k in range(25) if k != i]
        gain = np.linalg.solve(known[np.ix_(others, others)], known[others, i])
        errors[i] = changes[i] - gain @ changes[others]
        deviations[i] = np.sqrt(known[i, i] - gain @ known[others, i])
    sigma = (errors / deviations[:, None]).T @ (errors / deviations[:, None]) / 25

    def moments(mean: np.ndarray, variance: float) -> tuple[float, float]:
        drawn = rng.multivariate_normal(mean, variance * sigma, size=200_000)
        lengths = (drawn**2).sum(1)
        return lengths.mean(), lengths.var()

    for i in range(25):
        squares[i] = moments(changes[i] - errors[i], deviations[i] ** 2)
    spread = np.mean(((changes[:25] ** 2).sum(1) - squares[:, 0]) ** 2 / squares[:, 1])
    assert fitted.spread == pytest.approx(spread, rel=0.02)

    mean, variance = fitted.squares(np.arange(25, 40))
    for k, i in enumerate(range(25, 40)):
        gain = np.linalg.solve(known, whole[:25, i])
        expected = moments(gain @ changes[:25], whole[i, i] - gain @ whole[:25, i])
        assert mean[k] == pytest.approx(expected[0], rel=0.01)
        assert variance[k] == pytest.approx(fitted.spread * expected[1], rel=0.05)


def test_it_finds_what_the_changes_are_made_of() -> None:
    """Linear changes need no other order, noise no order at all; the likelihood says which it is."""
    rng, words, rows = np.random.default_rng(1), words_of(120, 10), np.arange(60)
    dw = weight_change(words)
    straight = dw @ rng.normal(size=(10, 30))
    square = np.stack([((dw @ m) * dw).sum(1) for m in rng.normal(size=(30, 10, 10))], axis=1)
    noise = rng.normal(size=(120, 30))
    shares = {}
    for name, changes in {"straight": straight, "square": square, "noise": noise}.items():
        fitted = Surrogate(words).fit(rows, changes[:60] @ changes[:60].T)
        shares[name] = fitted.v
        rest = np.arange(60, 120)
        truth, (mean, _) = (changes[rest] ** 2).sum(1), fitted.squares(rest)
        if name != "noise":
            assert np.corrcoef(truth, mean)[0, 1] > 0.99
    assert shares["straight"][1:].max() < 1e-2
    assert shares["square"][1] > 10 and shares["square"][3] < 1e-2 * shares["square"][1]
    assert shares["noise"][3] > 10


def test_beyond_is_a_t_distribution() -> None:
    drawn = np.random.default_rng(0).standard_t(5, size=2_000_000) * np.sqrt(3 / 5)
    assert drawn.var() == pytest.approx(1, rel=0.02)
    for z in (-3.0, -1.0, 0.0, 0.5, 2.0, 4.0):
        assert beyond(np.array(z)) == pytest.approx((drawn > z).mean(), abs=1.5e-3)
    assert 0 <= beyond(np.array(1e6)) < 1e-9 and beyond(np.array(-1e6)) == 1


# --- the search ---------------------------------------------------------------------------------------------------


def landscape(words: np.ndarray, rng: np.random.Generator, curved: float, rough: float) -> np.ndarray:
    """Pictures under every ablation, uint8 (ablations, 1, 6, 6): changes linear in dw, curved, and rough."""
    dw = weight_change(words) * np.sqrt(words.shape[1])
    changes = dw @ rng.normal(size=(words.shape[1], 36))
    changes += curved * np.stack([((dw @ m) * dw).sum(1) for m in rng.normal(size=(36, *2 * words.shape[1:]))], 1)
    changes += rough * rng.normal(size=changes.shape) * np.linalg.norm(dw, axis=1, keepdims=True)
    return np.clip(np.rint(128 + 12 * changes), 0, 255).astype(np.uint8).reshape(-1, 1, 6, 6)


def look(pictures: np.ndarray, words: np.ndarray, seed: int = 0, spares: int = 0, **options) -> tuple[Found, list]:
    drawn: list[int] = []

    def draw(rows: np.ndarray) -> np.ndarray:
        drawn.extend(rows.tolist())
        return pictures[rows]

    candidates, factual = np.arange(len(words) - spares), np.full((1, 6, 6), 128, np.uint8)
    given = np.arange(len(words) - spares, len(words))
    return search(draw, factual, words, candidates, given, seed=seed, **options), drawn


def distances(pictures: np.ndarray) -> np.ndarray:
    return np.sqrt(((pictures.astype(float) - 128) ** 2).sum((1, 2, 3)))


@pytest.mark.parametrize("top", [1, 5])
@pytest.mark.parametrize("spares", [0, 30])
def test_the_farthest_are_found_at_a_tenth_of_the_cost(top: int, spares: int) -> None:
    words, costs = words_of(1000 + spares, 14, 3)[np.random.default_rng(5).permutation(1000 + spares)], []
    for k in range(8):
        pictures = landscape(words, np.random.default_rng(k), curved=0.2, rough=0.02)
        found, drawn = look(pictures, words, seed=k, spares=spares, most=100, top=top)
        farthest = np.argsort(-distances(pictures)[:1000])[:top]
        assert found.drawn[farthest].all()
        assert sorted(drawn) == sorted(set(drawn)) == np.flatnonzero(found.drawn).tolist()  # each is drawn once
        assert found.chance(np.arange(1000), top) >= 0.99
        assert found.drawn[1000:].all()
        costs.append(len(drawn) - spares)
    assert max(costs) <= 100 and np.mean(costs) < 80


def test_more_units_cost_hardly_more() -> None:
    words = words_of(3000, 14, 1)
    costs = {}
    for units in (300, 3000):
        runs = [
            look(landscape(words, np.random.default_rng(k), 0.2, 0.02)[:units], words[:units], k, most=units // 2)
            for k in range(6)
        ]
        costs[units] = np.mean([len(drawn) for _, drawn in runs])
    assert costs[3000] < 2 * costs[300]


def test_the_chance_is_right() -> None:
    """Landscapes of the kind that the surrogate assumes, stopped anywhere: as often found as it says, or more often."""
    words, said, true = words_of(150, 10, 2), [], []
    for k in range(150):
        pictures = landscape(words, np.random.default_rng(k), curved=0.3, rough=0.15)
        for most in (16, 24, 32, 48):
            found, _ = look(pictures, words, seed=k, most=most, sure=2.0)
            said.append(found.chance(np.arange(150)))
            true.append(bool(found.drawn[distances(pictures).argmax()]))
    said, true = np.array(said), np.array(true)
    for low, high in ((0, 0.5), (0.5, 0.9), (0.9, 1.01)):
        inside = (said >= low) & (said < high)
        assert inside.sum() > 20
        error = 3 * np.sqrt(0.25 / inside.sum())
        assert true[inside].mean() > said[inside].mean() - error, (low, inside.sum())
    assert np.mean((said - true) ** 2) < 0.8 * true.mean() * (1 - true.mean())  # and it tells one from the other


def test_all_drawn_is_certain() -> None:
    words = words_of(40, 8)
    pictures = landscape(words, np.random.default_rng(0), 0.3, 0.5)
    found, drawn = look(pictures, words, most=40, sure=2.0)
    assert sorted(drawn) == list(range(40)) and found.chance(np.arange(40), 10) == 1.0 and not found.variance.any()
    np.testing.assert_allclose(found.distances, distances(pictures) / 255 * np.sqrt(196608 / 36), rtol=1e-6)
    assert found.chance(np.arange(40), 50) == 1.0  # more than there are


def test_nothing_moves() -> None:
    """Where no ablation changes anything, nothing can be learnt, and nothing is claimed until all are drawn."""
    words, still = words_of(60, 8), np.full((60, 1, 6, 6), 128, np.uint8)
    found, _ = look(still, words, most=30)
    assert found.chance(np.arange(60)) < 1e-6
    found, _ = look(still, words, most=60)
    assert found.chance(np.arange(60)) == 1 and not found.distances.any()


def test_a_unit_that_no_component_saw_moves_nothing() -> None:
    """However rough the landscape, there is nothing to guess."""
    words = np.concatenate([words_of(60, 8), np.zeros((1, 8), bool)])
    pictures = landscape(words, np.random.default_rng(0), 0.2, 0.5)
    pictures[-1] = 128
    rows = np.arange(40)
    changes = (pictures[rows].astype(float) - 128).reshape(40, -1) / 255
    mean, variance = Surrogate(words).fit(rows, changes @ changes.T).squares(np.array([59, 60]))
    assert mean[1] < 1e-4 * mean[0] and variance[1] < 1e-4 * variance[0]


@pytest.mark.parametrize("top", [1, 2, 4])
def test_the_chance_by_simulation(top: int) -> None:
    """Draw what the guesses say many times, and count how often no guess beats the `top`-th of those drawn."""
    rng = np.random.default_rng(top)
    mean, variance = np.array([3.0, 2.5, 2.2, 1.9, 1.2, 1.5, 0.7, 9.0]), np.array([0, 0, 0, 0, 0.5, 0.2, 0.8, 0.1])
    picture = np.zeros((1, 2, 2), np.uint8)
    found = Found(picture, np.arange(4), np.repeat(picture[None], 4, 0), mean, variance)
    candidates = np.arange(7)  # the last is none: a spare, say
    draws = mean[4:7] + np.sqrt(variance[4:7]) * np.sqrt(3 / 5) * rng.standard_t(5, size=(400_000, 3))
    bar = sorted(mean[:4])[-top]
    assert found.chance(candidates, top) == pytest.approx((draws <= bar).all(axis=1).mean(), abs=3e-3)
    assert found.chance(candidates, 5) == 0  # four are drawn


@pytest.mark.parametrize(
    ("share", "candidates", "spares", "most"),
    [(0.1, 200, 0, 20), (1, 12, 0, 12), (0.05, 1000, 0, 50), (0.01, 200, 30, 2), (0.101, 200, 0, 21)],
)
def test_how_many_may_be_drawn(share: float, candidates: int, spares: int, most: int) -> None:
    assert most_drawn(share, candidates, spares, 10) == most


@pytest.mark.parametrize("share", [0, -0.5, 1.01, 0.05, float("nan")])
def test_shares_that_teach_nothing(share: float) -> None:
    with pytest.raises(SettingsError, match="share"):
        most_drawn(share, 200, 0, 10)


# --- screened universes -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def screened(small, tmp_path_factory: pytest.TempPathFactory) -> Screen:
    """Three samples of which at most 9 of 12 units are drawn; copy its folder before changing it."""
    out = tmp_path_factory.mktemp("screen") / "s"
    return screen_universe(small.run.path, [5, 0, 9], **how(out=out, share=0.75, sure=1, **SMALL))


def test_what_is_drawn_is_what_enumerating_draws(screened: Screen, small_universe: Universe) -> None:
    drawn, whole = screened.drawn(), small_universe.distances()
    assert (~drawn).sum() > 0 and drawn.any(axis=0).all()
    for sample in range(3):
        found = screened.sample(sample)
        pictures = np.moveaxis(small_universe.landscape(sample), -1, 1)
        assert found.pictures.tobytes() == pictures[found.rows].tobytes()
    assert screened.factual.tobytes() == small_universe.factual.tobytes()
    np.testing.assert_array_equal(screened.distances()[drawn], whole[drawn])
    np.testing.assert_array_equal(screened.spare_distances(), small_universe.spare_distances())
    assert np.isnan(screened.distances()[~drawn]).all()
    np.testing.assert_array_equal(
        screened.distances(scaled=False)[drawn], small_universe.distances(scaled=False)[drawn]
    )


def test_influence_of_what_was_drawn(screened: Screen, small_universe: Universe) -> None:
    for sample in range(3):
        table, exact = screened.influence(sample), small_universe.influence(sample)
        sure = table.filter(table["drawn"]).sort("unit")
        mates = exact.filter(exact["unit"].is_in(sure["unit"].to_list())).sort("unit")
        assert sure["distance"].to_list() == mates["distance"].to_list()
        assert len(table) == 12 and sorted(table["unit"]) == sorted(screened.unit_ids)


@pytest.mark.parametrize("statistic", ["plain", "likeness", "both"])
def test_p_values_are_those_of_the_universe(screened: Screen, small_universe: Universe, statistic: str) -> None:
    ours, whole = (
        calibration.calibrate(screened, statistic=statistic),
        calibration.calibrate(small_universe, statistic=statistic),
    )
    drawn = screened.drawn()
    np.testing.assert_array_equal(ours.p[drawn], whole.p[drawn])
    assert (ours.p[~drawn] == 1).all()
    assert (ours.q >= whole.q - 1e-12).all()
    one = calibration.calibrate(screened, samples=[1], statistic=statistic)
    np.testing.assert_array_equal(one.p[:, 0], ours.p[:, 1])


def test_all_of_it_is_the_universe(small, small_universe: Universe, tmp_path: Path) -> None:
    whole = screen_universe(small.run.path, [5, 0, 9], **how(out=tmp_path / "s", share=1, top=12, sure=1, **SMALL))
    assert whole.drawn().all() and (whole.chance(top=12) == 1).all()
    np.testing.assert_array_equal(whole.distances(), small_universe.distances())
    np.testing.assert_array_equal(whole.radius(), small_universe.radius())
    made, of_all = whole.passes()
    survivors = sum(word.count("0") for word in small_universe.settings.words or ())
    assert made == of_all == (survivors + 6) * 3 * 6
    for sample in range(3):
        assert whole.landscape(sample).tobytes() == small_universe.landscape(sample).tobytes()
        assert whole.influence(sample)["unit"].to_list() == small_universe.influence(sample)["unit"].to_list()


def test_same_bytes_however_it_is_made(
    small, screened: Screen, tmp_path: Path, fingerprints: Callable[[Path], dict[str, str]]
) -> None:
    expected = fingerprints(Path(screened.url))
    options = {"share": 0.75, "sure": 1, **SMALL}
    screen_universe(small.run.path, [5, 0, 9], **how(out=tmp_path / "two", **{**options, "workers": 2}))
    screen_universe(small.run.path, [5], **how(out=tmp_path / "grown", **options))
    screen_universe(small.run.path, [9, 0], **how(out=tmp_path / "grown", **options))
    screen_universe(small.run.path, [5, 0, 9], **how(out=tmp_path / "grown", **options))
    for name in ("two", "grown"):
        found = fingerprints(tmp_path / name)
        if name == "grown":  # in another order, which only the description tells
            assert Screen.open(tmp_path / name).seeds == (5, 9, 0)
            found["screen.json"] = expected["screen.json"]
        assert found == expected


@pytest.mark.parametrize("samples", [2, 3])
def test_samples_in_lockstep_fill_batches(
    small, screened: Screen, tmp_path: Path, fingerprints: Callable[[Path], dict[str, str]], monkeypatch, samples: int
) -> None:
    """Several samples' rounds share batches; what is found, and each byte of it, is what one sample by itself gives."""
    from ablatable.universes.drawing import Drawing

    asked = []
    rows = Drawing.rows
    monkeypatch.setattr(Drawing, "rows", lambda self, words, *rest: asked.append(words) or rows(self, words, *rest))
    monkeypatch.setattr(screening, "_tasks", lambda found, source, place, seeds, workers: [
        screening.ScreenTask(source, place, tuple(seeds), samples)
    ])  # fmt: skip
    screen_universe(small.run.path, [5, 0, 9], **how(out=tmp_path / "s", share=0.75, sure=1, **SMALL))
    assert fingerprints(tmp_path / "s") == fingerprints(Path(screened.url))
    drawn = [len(screened.sample(number).rows) for number in range(3)]
    assert sum(map(len, asked)) == sum(drawn)
    assert len(asked[0]) >= samples * (3 + 6 + 4 - 3), "the first round of each of them: spares and some units, at once"


def test_so_many_go_in_lockstep_that_a_batch_is_filled(small, screened: Screen) -> None:
    """Rounds of 16 ablations in which half of the components survive: 32 samples of a GPU's batch of 256."""
    settings = screened.settings.model_copy(update={"batch": 256, "words": ("111000", "000111")})
    gpu: Any = SimpleNamespace(settings=settings)
    source: Any = None
    tasks = screening._tasks(gpu, source, "s", list(range(300)), 2)
    assert [task.lockstep for task in tasks] == [32] * 3 and [len(task.seeds) for task in tasks] == [128, 128, 44]
    few = screening._tasks(gpu, source, "s", list(range(10)), 2)
    assert [(task.lockstep, len(task.seeds)) for task in few] == [(5, 5), (5, 5)], "both workers have work"
    cpu: Any = SimpleNamespace(settings=settings.model_copy(update={"batch": 8}))
    assert {(task.lockstep, len(task.seeds)) for task in screening._tasks(cpu, source, "s", [1, 2, 3], 2)} == {(1, 1)}


def test_it_goes_on_after_an_interruption(
    small, screened: Screen, tmp_path: Path, fingerprints: Callable[[Path], dict[str, str]], monkeypatch
) -> None:
    options, out, searched = {"share": 0.75, "sure": 1, **SMALL}, tmp_path / "s", []

    def stop(*arguments, original=screening.searching, **named):
        searched.append(named["seed"])
        if len(searched) == 2:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    monkeypatch.setattr(screening, "searching", stop)
    with pytest.raises(KeyboardInterrupt):
        screen_universe(small.run.path, [5, 0, 9], **how(out=out, **options))
    with pytest.raises(StoreError, match="2 of 3 samples"):
        Screen.open(out)
    screen_universe(small.run.path, [5, 0, 9], **how(out=out, **options))
    assert searched == [5, 0, 0, 9]
    assert fingerprints(out) == fingerprints(Path(screened.url))


def test_damage_is_found_and_mended(
    small, screened: Screen, tmp_path: Path, fingerprints: Callable[[Path], dict[str, str]]
) -> None:
    rng, folder = np.random.default_rng(0), Path(screened.url)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    assert len(files) == 5 and check_screen(folder) == []
    for path in files:
        for cut in (False, True) * 10:
            out = tmp_path / "s"
            shutil.copytree(folder, out)
            victim = out / path.relative_to(folder)
            data = bytearray(victim.read_bytes())
            place = int(rng.integers(len(data)))
            if cut:
                del data[place:]
            else:
                data[place] ^= 1 << int(rng.integers(8))
            victim.write_bytes(data)
            assert check_screen(out), (path.name, place, cut)
            if path.parent.name == "samples":
                with pytest.raises(StoreError, match=r"1 of 3 samples"):
                    Screen.open(out)
            shutil.rmtree(out)
    shutil.copytree(folder, tmp_path / "s")
    (tmp_path / "s/samples/0.safetensors").unlink()
    (tmp_path / "s/training.safetensors").write_bytes(b"")
    screen_universe(small.run.path, [5, 0, 9], **how(out=tmp_path / "s", share=0.75, sure=1, **SMALL))
    assert fingerprints(tmp_path / "s") == fingerprints(folder)


def test_another_screens_sample_is_not_taken_for_its_own(small, screened: Screen, tmp_path: Path) -> None:
    shutil.copytree(screened.url, tmp_path / "s")
    for name, change in {"steps": {"steps": 5}, "sampler": {"sampler": "ddim"}, "share": {"share": 0.8}}.items():
        options = {"share": 0.75, "sure": 1, **SMALL, **change}
        other = screen_universe(small.run.path, [0], **how(out=tmp_path / name, **options))
        shutil.copy(Path(other.url, "samples/0.safetensors"), tmp_path / "s/samples/0.safetensors")
        assert check_screen(tmp_path / "s") == [f"{tmp_path / 's'}: seed 0 is missing or damaged"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"share": 0.8}, "share: 0.75 there, 0.8 asked for"),
        ({"top": 2}, "top: 1 there, 2 asked for"),
        ({"steps": 5}, "steps: 6 there, 5 asked for"),
        ({"spares": 2}, "spares"),
        ({"units": ["digit-0001", "digit-0002"], "share": 1}, "units"),
    ],
)
def test_other_settings_stop(small, screened: Screen, tmp_path: Path, change: dict, named: str) -> None:
    shutil.copytree(screened.url, tmp_path / "s")
    options = {"share": 0.75, "sure": 1, **SMALL}
    with pytest.raises(SettingsError, match=named):
        screen_universe(small.run.path, [5, 0, 9], **how(out=tmp_path / "s", **{**options, **change}))
    again = screen_universe(small.run.path, [5], **how(out=tmp_path / "s", **{**options, **change}, overwrite=True))
    assert again.seeds == (5,) and check_screen(again.url) == []


def test_neither_takes_the_others_place(small, screened: Screen, small_universe: Universe, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no screened universe"):
        screen_universe(small.run.path, [5], **how(out=small_universe.url, share=1, **SMALL))
    with pytest.raises(SettingsError, match="universe"):
        ab.enumerate_universe(small.run.path, [5], out=screened.url, **how(**SMALL))
    with pytest.raises(StoreError, match="is a screened universe"):
        Universe.open(screened.url)
    with pytest.raises(StoreError, match="no readable screened universe"):
        Screen.open(small_universe.url)
    with pytest.raises(DataError, match="0 to 2"):
        screened.sample(3)
    for bad in ({"top": 0}, {"sure": 0.0}, {"sure": 1.5}):
        with pytest.raises(SettingsError, match="must be"):
            screen_universe(small.run.path, [5], **how(out=tmp_path / "s", share=1, **bad, **SMALL))
    assert not (tmp_path / "s").exists()


# --- the command line ---------------------------------------------------------------------------------------------


def test_commands(small, tmp_path: Path, call, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    screen = ("universe", "screen", small.run.path, "--steps", 6, "--workers", 0)
    made = (*screen, "--seeds", "5,0,9", "--out", tmp_path / "s")
    code, out, err = call(*made, "--spares", 3, "--share", 0.75)
    assert code == 0, err
    drawn = Screen.open(tmp_path / "s").drawn().sum(axis=0)
    assert f"3 samples, 12 units, of which {drawn.min()} to {drawn.max()} were drawn" in out.replace("\n", " ")
    code, out, err = call("universe", "radius", tmp_path / "s")
    assert code == 0 and "chance" in out and "spare radius" in out, err
    code, out, err = call("universe", "influence", tmp_path / "s", "--sample", 1, "--top", 3)
    assert code == 0 and "drawn" in out and "likeness" in out, err
    code, out, err = call("audit", "check", tmp_path / "s")
    assert code == 0 and "intact" in out
    code, out, err = call("report", tmp_path / "s", "--out", tmp_path / "page")
    assert code == 1 and "is a screened universe" in err.replace("\n", " ")
    code, out, err = call(*made, "--spares", 3, "--threshold", 128)
    assert code == 2 and "--threshold" in err
    code, out, err = call(*made, "--share", 0.1, "--overwrite")
    assert code == 2 and "draw a share of 0.67" in err
    (tmp_path / "s/samples/0.safetensors").write_bytes(b"x")
    code, out, err = call("audit", "check", tmp_path / "s")
    assert code == 1 and "seed 0 is missing or damaged" in out


def test_a_screen_that_is_not_kept(small, small_universe: Universe, call, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    screen = ("universe", "screen", small.run.path, "--seeds", 9, "--steps", 6, "--share", 1)
    code, out, err = call(*screen, "--top", 3, "--json")
    assert code == 0, err
    table = json.loads(out)["top"]["9"]
    exact = small_universe.influence(2).head(3)
    assert [row["unit"] for row in table] == exact["unit"].to_list()
    assert [row["distance"] for row in table] == pytest.approx(exact["distance"].to_list())
    code, out, err = call(*screen, "--top", 2, "--spares", 3)
    assert code == 0 and " p " in out and "drawn" in out and "--out" in out, err
