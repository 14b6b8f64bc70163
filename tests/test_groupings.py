"""Groups of very unequal size: codes that even out their images, groupings compared, members of a group."""

from __future__ import annotations

from itertools import combinations
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ablatable as ab
from ablatable.errors import CodeError

# --- codes that even out images ---


@st.composite
def groups(draw):
    """Components, weight, and each unit's number of images: 1 to 130, often nearly as many units as words."""
    n = draw(st.integers(2, 8))
    w = draw(st.integers(1, n - 1))
    most = min(comb(n, w), 60)
    units = draw(st.integers(1, most) | st.integers(max(1, most - 2), most))
    return n, w, draw(st.lists(st.sampled_from([1, 2, 3, 10, 60, 130]), min_size=units, max_size=units))


@settings(deadline=None, max_examples=150)
@given(groups(), st.integers(0, 10**6))
def test_units_differ_by_one_and_images_by_the_largest_unit(group, seed):
    n, w, images = group
    code = ab.Code.balanced(len(images), n, seed, weight=w, images=images)
    words = [tuple(row) for row in code.matrix.tolist()]
    assert len(set(words)) == len(images) and {sum(word) for word in words} == {w}
    units = [sum(word[i] for word in words) for i in range(n)]
    load = [sum(m for word, m in zip(words, images, strict=True) if word[i]) for i in range(n)]
    assert max(units) - min(units) <= 1
    assert max(load) - min(load) <= max(images)


def test_images_come_out_more_even_than_words_dealt_at_random():
    for seed in range(20):
        images = np.random.default_rng(seed).integers(1, 131, 6)
        # with C(4, 2) = 6 words all are in use: only the dealing is free
        code = ab.Code.balanced(6, 4, seed, weight=2, images=images)
        load = images @ code.matrix
        words = [tuple(i in pair for i in range(4)) for pair in combinations(range(4), 2)]
        rng = np.random.default_rng(1)
        dealt = [np.array(words)[rng.permutation(6)] for _ in range(200)]
        spreads = [np.ptp(images @ words) for words in dealt]
        assert np.ptp(load) <= np.median(spreads)


def test_equal_units_keep_their_code():
    plain = ab.Code.balanced(30, 8, 3)
    assert ab.Code.balanced(30, 8, 3, images=[7] * 30) == plain


def test_artists_of_one_to_a_hundred_drawings():
    units = ab.Units.openmoji(size=16)
    images = np.bincount(units.owner)
    assert images.min() == 1 and images.max() > 100
    random = images @ ab.Code.random(len(units), 12).matrix
    even = images @ ab.Code.balanced(len(units), 12, images=images).matrix
    assert np.ptp(even) <= images.max() and np.ptp(even) < np.ptp(random) / 5


@pytest.mark.parametrize("images", [[1, 2], [1, 0, 3], [1.5, 2, 3], [[1, 2, 3]]])
def test_impossible_images(images):
    with pytest.raises(CodeError, match="a positive whole number for each of 3 units"):
        ab.Code.balanced(3, 4, images=images)


# --- groupings compared ---


def test_groupings_of_one_data_set():
    by = {name: ab.Units.openmoji(8, by=name, size=16) for name in ("artist", "subgroup")}
    artist, subgroup = ab.compare_groupings(by, components=10)
    assert artist.units == 8 and subgroup.units == len(by["subgroup"])
    assert artist.images == subgroup.images == len(by["artist"].images)
    for found, units in ((artist, by["artist"]), (subgroup, by["subgroup"])):
        sizes = [len(units.of(unit)) for unit in units.ids]
        code = ab.Code.random(len(units), 10, 0)
        load = [sum(m for m, word in zip(sizes, code.matrix, strict=True) if word[i]) for i in range(10)]
        spread = found.spread
        assert (spread.unit_least, spread.unit_most) == (min(sizes), max(sizes))
        assert (spread.split_least, spread.split_most) == (min(load), max(load))
        assert spread.even_most - spread.even_least <= max(sizes)
        assert found.spares == comb(10, 5) - len(units)


def test_plan_of_a_data_set(call, tmp_path: Path):
    code, said, told = call("plan", "openmoji:8", "--size", "16")
    assert code == 0, told
    assert "images per unit" in said and "images per component" in said and "evened out" in said
    code, said, told = call("plan", "openmoji:8", "--unit-column", "artist", "--compare", "subgroup")
    assert code == 0, told
    assert "artist" in said and "subgroup" in said and "2 groupings" in said
    for words in ((), ("openmoji:8", "--units", "8")):
        code, _, told = call("plan", *words)
        assert code == 2 and "either DATA, or" in told


def test_training_with_even_splits(call, tmp_path: Path):
    words = ("train", "openmoji:12", "--size", "8", "--preset", "ideal", "--components", "6", "--out", tmp_path / "run")
    assert call(*words, "--even", "--no-look", "--workers", "0")[0] == 0
    run = ab.Run(tmp_path / "run")
    images = np.bincount(run.units().owner)
    load = images @ run.code.matrix
    assert np.ptp(load) <= images.max() and np.ptp(load) < np.ptp(images @ ab.Code.random(12, 6).matrix)
    assert run.design.design == "given"  # tests on it are called approximate
    code, _, told = call(*words, "--even", "--removals", "2", "--overwrite")
    assert code == 2 and "--even" in told and "exclude each other" in told


# --- members of a group ---


@pytest.fixture(scope="module")
def groups_run(tmp_path_factory: pytest.TempPathFactory) -> ab.Run:
    units = ab.Units.openmoji(8, size=8)
    kept = [units.of(unit)[: 3 + k] for k, unit in enumerate(units.ids)]
    owner = np.repeat(np.arange(8), [len(some) for some in kept])
    units = ab.Units(units.ids, np.concatenate(kept), owner)
    out = tmp_path_factory.mktemp("groups") / "run"
    code, here = ab.Code.random(8, 6, 0), ab.Execution(workers=0, quiet=True)
    return ab.train(units, code, ab.preset("ideal"), out=out, execution=here)


def test_members_are_listed_by_distance_and_the_nearest_speaks_for_the_unit(groups_run: ab.Run):
    sampling = ab.Sampling(steps=10)
    tested = ab.witness(groups_run, [3], sampling=sampling)
    for row, unit in enumerate(groups_run.units().ids):
        found = ab.members(groups_run, unit, 3, sampling=sampling)
        images = groups_run.units().of(unit)
        assert sorted(found.number.tolist()) == list(range(len(images)))
        assert np.array_equal(found.images, images[found.number])
        squares = [((image / 255.0 - found.factual / 255.0) ** 2).mean() for image in found.images]
        away = np.sqrt(np.array(squares) * 256 * 256 * 3).tolist()
        assert np.allclose(found.distance, away, rtol=1e-4) and away == sorted(away)
        # the unit's own test is that of its nearest member
        assert np.isclose(found.score[0], tested.score[row, 0]) and found.p[0] == tested.p[row, 0]
        assert (found.p > 0).all() and (found.p <= 1).all()


def test_the_contact_sheet_shows_the_sample_and_every_member(groups_run: ab.Run, call, tmp_path: Path):
    unit = groups_run.units().ids[4]
    place = tmp_path / "sheet.png"
    words = ("run", "members", groups_run.path, "--unit", unit, "--seed", "1", "--steps", "10", "--sheet", place)
    code, said, told = call(*words)
    assert code == 0, told
    found = ab.members(groups_run, unit, 1, sampling=ab.Sampling(steps=10))
    sheet, factor = found.sheet(), 96 // 8
    tiles = [found.factual, *found.images]
    places = [(4, 4), *((104, 4 + 100 * k) for k in range(len(found.images)))]
    for (top, left), tile in zip(places, tiles, strict=True):
        assert np.array_equal(sheet[top : top + 96 : factor, left : left + 96 : factor], tile)
    from PIL import Image

    assert np.array_equal(np.asarray(Image.open(place)), sheet)
    assert "one alone cannot be removed" in " ".join(said.split())
    code, _, told = call(*words)
    assert code == 2 and "--overwrite" in told
