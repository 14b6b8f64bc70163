"""A universe that grows, in bfloat16, or with few components in memory: the same pictures, and only what is missing."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel

import ablatable as ab
from ablatable import Execution
from ablatable.errors import AblatableError, SettingsError, StoreError
from ablatable.universes import arrays, blocks, drawing, enumeration, writer
from ablatable.universes.checking import check_universe
from ablatable.universes.reader import Universe
from calls import how

SEEDS, STEPS, SPARES = [5, 0, 9], 6, 3  # as the fixture `small_universe` has them


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, tuple[int, ...]]]:
    """What was drawn from now on: (how many ablations, of which seeds) a call."""
    calls, draw = [], drawing.draw

    def watched(ensemble, ablations, seeds, **options):
        calls.append((len(ablations), tuple(seeds)))
        return draw(ensemble, ablations, seeds, **options)

    monkeypatch.setattr(drawing, "draw", watched)
    return calls


def grow(run: ab.Run, out: Path, **options: object) -> Universe:
    settings = {"seeds": SEEDS, "steps": STEPS, "spares": SPARES, "workers": 0, "quiet": True, **options}
    return ab.enumerate_universe(run.path, out=out, **how(**settings))


def same(grown: Universe, whole: Universe) -> None:
    """Every picture and distance of `whole`, found in `grown` by unit, seed and word."""
    columns = [grown.seeds.index(seed) for seed in whole.seeds]
    assert sorted(grown.unit_ids) == sorted(whole.unit_ids) and sorted(grown.seeds) == sorted(whole.seeds)
    assert np.array_equal(grown.factual[columns], whole.factual)
    for unit in whole.unit_ids:
        assert np.array_equal(grown.counterfactual(unit)[columns], whole.counterfactual(unit))
        here, there = grown.unit_ids.index(unit), whole.unit_ids.index(unit)
        assert np.array_equal(grown.distances()[here, columns], whole.distances()[there])
        assert np.array_equal(grown.training_images(unit), whole.training_images(unit))
    words = [grown.settings.words[row] for row in grown.settings.spares]
    order = [words.index(whole.settings.words[row]) for row in whole.settings.spares]
    assert np.array_equal(grown.spare_distances()[order][:, columns], whole.spare_distances())
    assert check_universe(grown.url) == []


# What is drawn and what is stored does not depend on the kind of components: these are ideal ones, which draw quickly.
FIRST = {
    "seeds": {"seeds": [5, 0]},
    "one seed": {"seeds": [9]},
    "units": {"units": [f"digit-{k:04d}" for k in (7, 2, 3, 11, 0)]},
    "spares": {"spares": 1},
    "no spares": {"spares": 0},
    "all of it": {"seeds": [0], "units": ["digit-0004"], "spares": 0},
}


@pytest.mark.parametrize("first", FIRST)
def test_only_what_is_missing_is_drawn(
    ideal, ideal_universe: Universe, tmp_path: Path, drawn: list, monkeypatch, first: str
) -> None:
    monkeypatch.setattr(enumeration, "BLOCK_ROWS", (4, 4))
    before = grow(ideal.run, tmp_path / "u.zarr", **FIRST[first])
    pictures = (1 + before.settings.ablations) * len(before.seeds)
    assert sum(count * len(seeds) for count, seeds in drawn) == pictures
    drawn.clear()
    after = grow(ideal.run, tmp_path / "u.zarr")
    assert sum(count * len(seeds) for count, seeds in drawn) == 16 * 3 - pictures
    same(after, ideal_universe)
    drawn.clear()
    grow(ideal.run, tmp_path / "u.zarr")
    assert not drawn


@pytest.mark.parametrize(
    "first",
    [
        {"seeds": [5, 0, 9]},
        {"units": [f"digit-{k:04d}" for k in (7, 2, 3, 11, 0)]},
        {"seeds": [5, 0, 9], "units": [f"digit-{k:04d}" for k in range(5)]},
    ],
)
@pytest.mark.parametrize("damaged", [False, True])
def test_a_block_that_was_not_full(
    ideal, tmp_path: Path, drawn: list, monkeypatch, first: dict[str, object], damaged: bool
) -> None:
    """Blocks of 2 samples (and of 3 ablations, where units are missing at first): growth fills up the last ones."""
    seeds = [5, 0, 9, 1]
    whole = grow(ideal.run, tmp_path / "whole", seeds=seeds)
    monkeypatch.setattr(enumeration, "BLOCK_SAMPLES", 2)
    monkeypatch.setattr(enumeration, "BLOCK_ROWS", (6, 6))
    before = grow(ideal.run, tmp_path / "u.zarr", **{"seeds": seeds, **first})
    # which of its blocks will hold more; a torn one must be drawn anew, and not be filled up
    open_ended = [
        block
        for block in blocks.blocks_of(before.settings)
        if (block.samples[1] == 3) or (block.ablations and block.ablations[1] % before.settings.block[0])
    ]
    assert open_ended
    lost = 0
    if damaged:
        victim = open_ended[-1]
        path = Path(before.url) / victim.keys(before.settings)[0]
        path.write_bytes(path.read_bytes()[:-1])
        lost = victim.rows
    pictures = (1 + before.settings.ablations) * len(before.seeds)
    drawn.clear()
    after = grow(ideal.run, tmp_path / "u.zarr", seeds=seeds)
    assert sum(count * len(seeds) for count, seeds in drawn) == 16 * 4 - pictures + lost
    same(after, whole)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", [0, 1, 2, 3, 4, "before", "block", "marker"])
def test_killed_while_it_grew(ideal, ideal_universe: Universe, tmp_path: Path, monkeypatch, moment: int | str) -> None:
    out = tmp_path / "u.zarr"
    monkeypatch.setattr(enumeration, "BLOCK_ROWS", (4, 4))
    begun = {"seeds": [5, 0], "units": [f"digit-{k:04d}" for k in range(7)], "spares": 1}
    grow(ideal.run, out, **begun)
    shutil.copytree(out, tmp_path / "before")
    count = 0

    def kill(*arguments: object, **options: object) -> None:
        raise Killed

    def array(*arguments: object, original=arrays.make_array, **options: object):
        nonlocal count
        made, count = original(*arguments, **options), count + 1
        if count == moment + 1:
            raise Killed
        return made

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if isinstance(moment, int):
            patch.setattr(arrays, "make_array", array)
        elif moment == "before":
            patch.setattr(writer, "environment", kill)
        elif moment == "block":
            patch.setattr(drawing, "draw", kill)
        else:  # the objects are written, the marker still is the old one
            patch.setattr(blocks, "asdict", kill)
        grow(ideal.run, out)
    if moment != "before":
        with pytest.raises(StoreError, match="give th"):
            Universe.open(out)
        assert check_universe(out)
    back = grow(ideal.run, tmp_path / "again", **begun)
    if isinstance(moment, int) or moment == "before":  # its settings are still the old ones: so can the rest be
        again = grow(ideal.run, shutil.copytree(out, tmp_path / "copy"), **begun)
        same(again, back)
    same(grow(ideal.run, out), ideal_universe)


def test_what_would_shrink_or_change_is_refused(small, small_universe: Universe, tmp_path: Path) -> None:
    out = tmp_path / "u.zarr"
    shutil.copytree(small_universe.url, out)
    for options, words in [
        ({"seeds": [5, 1]}, r"seeds: \[5, 0, 9\] there, \[5, 1\] asked for"),
        ({"units": ["digit-0003"]}, "units: .* there, .'digit-0003'. asked for"),
        ({"spares": 2}, "spares: 3 there, 2 asked for"),
        ({"seeds": [5, 0, 9, 1], "steps": 7}, "steps: 6 there, 7 asked for"),
        ({"precision": "bf16"}, "precision: fp32 there, bf16 asked for"),
    ]:
        with pytest.raises(SettingsError, match=words):
            grow(small.run, out, **options)
    same(grow(small.run, out, seeds=[9, 5, 0]), small_universe)  # the same in another order


def test_units_that_are_not_there(ideal, tmp_path: Path) -> None:
    with pytest.raises(AblatableError, match="no unit 'digit-0099'"):
        grow(ideal.run, tmp_path / "u.zarr", units=["digit-0099"])
    with pytest.raises(SettingsError, match="list of units is empty"):
        grow(ideal.run, tmp_path / "u.zarr", units=[])


# --- few components in memory ---


@pytest.mark.parametrize(
    ("kind", "resident"), [("small", 2), ("ideal", 1), ("ideal", 2), ("ideal", 5), ("ideal", 6), ("ideal", 50)]
)
def test_streamed_components(
    request: pytest.FixtureRequest, tmp_path: Path, fingerprints: Callable, monkeypatch, kind: str, resident: int
) -> None:
    run, whole = request.getfixturevalue(kind).run, request.getfixturevalue(f"{kind}_universe")
    alive, most, load = weakref.WeakSet(), 0, ab.Run.load_component

    def watched(self: ab.Run, index: int, **options):
        nonlocal most
        component = load(self, index, **options)
        alive.add(component)
        if len(alive) > most:  # so many, or some wait for the collector, which is too slow to run at each load
            gc.collect()
            most = max(most, len(alive))
        return component

    monkeypatch.setattr(ab.Run, "load_component", watched)
    drawing.loaded.cache_clear()
    grow(run, tmp_path / "u.zarr", max_resident=resident)
    drawing.loaded.cache_clear()
    assert fingerprints(tmp_path / "u.zarr") == fingerprints(Path(whole.url))
    assert most == min(resident, 6)


def test_none_in_memory_is_refused(small, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="at least 1"):
        grow(small.run, tmp_path / "u.zarr", max_resident=0)


# --- bfloat16 ---


def test_bf16_is_the_plain_loop_in_bf16(small, small_universe: Universe, tmp_path: Path) -> None:
    universe = grow(small.run, tmp_path / "u.zarr", precision="bf16")
    unit = universe.unit_ids[4]
    survivors = [
        UNet2DModel.from_pretrained(small.run.component_folder(i)).to(torch.bfloat16).eval()
        for i in np.flatnonzero(~small.code.matrix[4])
    ]
    scheduler = DDIMScheduler(clip_sample=True)
    scheduler.set_timesteps(STEPS)
    noise = ab.noise_trajectory(SEEDS, STEPS, (1, 8, 8))
    x = noise[0]
    for k, t in enumerate(scheduler.timesteps, start=1):
        with torch.no_grad():
            predicted = torch.stack([component(x.bfloat16(), t).sample.float() for component in survivors]).mean(0)
        options = {"eta": 1.0, "variance_noise": noise[k], "use_clipped_model_output": True}
        x = scheduler.step(predicted, t, x, **options).prev_sample
    expected = np.rint(np.clip((x.numpy() + 1) * 127.5, 0, 255)).transpose(0, 2, 3, 1)

    def off(pictures: np.ndarray) -> float:
        return float(np.abs(pictures.astype(float) - expected).mean())

    drawn, single = universe.counterfactual(unit), small_universe.counterfactual(unit)
    assert universe.settings.precision == "bf16" and not np.array_equal(drawn, single)
    assert off(drawn) < 2 and np.ptp(expected) > 100


def test_what_bf16_changes_by_hand() -> None:
    """Two samples, three ablations, one pixel a picture: distances are differences of levels."""
    from ablatable.universes.precision import compare

    exact = np.array([[10, 10], [20, 10], [40, 11], [30, 13]], np.uint8).reshape(4, 2, 1, 1, 1)
    other = np.array([[10, 10], [20, 10], [30, 13], [40, 11]], np.uint8).reshape(4, 2, 1, 1, 1)
    told = compare(other, exact)
    assert (told.samples, told.ablations) == (2, 3)
    assert told.grey_levels == pytest.approx((10 + 10 + 2 + 2) / 8) and told.within_one_level == 0.5
    assert told.radius == 0 and told.rank == pytest.approx((1 + 1 + 0 + 1 + 1 + 0) / 6)
    assert compare(exact, exact).grey_levels == 0 == compare(exact, exact).rank
    nudged = exact.copy()
    nudged[1, 1] += 1  # one level is within one, two are not
    nudged[2, 1] += 2
    assert compare(nudged, exact).within_one_level == 7 / 8
    shifted = exact.copy()
    shifted[2, 0] = 55  # the first sample's radius, from 30 to 45
    assert compare(shifted, exact).radius == pytest.approx(0.25)


def test_what_bf16_changes(small, small_universe: Universe, tmp_path: Path) -> None:
    from ablatable.universes.precision import precision_error

    same_one = precision_error(small_universe, small.run.path)
    assert same_one.grey_levels == same_one.radius == same_one.rank == 0 and same_one.within_one_level == 1
    told = precision_error(grow(small.run, tmp_path / "u.zarr", precision="bf16"), small.run.path)
    assert 0 < told.grey_levels < 5 and (told.samples, told.ablations) == (2, 15)


def test_precision_is_checked(small, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no precision 'fp8'"):
        grow(small.run, tmp_path / "u.zarr", precision="fp8")
    ab.train(
        small.units, small.code, ab.preset("ideal"), out=tmp_path / "run", execution=Execution(workers=0, quiet=True)
    )
    with pytest.raises(SettingsError, match="ideal components"):
        grow(ab.Run(tmp_path / "run"), tmp_path / "u.zarr", precision="bf16")


@pytest.mark.slow
def test_compiled(small, small_universe: Universe, tmp_path: Path, fingerprints: Callable) -> None:
    """Within a grey level of the same universe not compiled; and the same bytes with another number of workers."""
    compiled = grow(small.run, tmp_path / "u.zarr", backend="compiled", workers=1)
    for unit in compiled.unit_ids:
        difference = compiled.counterfactual(unit).astype(int) - small_universe.counterfactual(unit).astype(int)
        assert np.abs(difference).max() <= 1
    grow(small.run, tmp_path / "two.zarr", backend="compiled", workers=2)
    assert fingerprints(tmp_path / "two.zarr") == fingerprints(tmp_path / "u.zarr")
    with pytest.raises(SettingsError, match="backend: eager there, compiled asked for"):
        grow(small.run, Path(shutil.copytree(small_universe.url, tmp_path / "copy")), backend="compiled")


def test_compiling_needs_a_compiler(small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(SettingsError, match="needs a C\\+\\+ compiler"):
        grow(small.run, tmp_path / "u.zarr", backend="compiled")
