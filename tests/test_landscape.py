"""Enumerating a universe: equal to the plain double loop, whatever the blocks, workers, orders and interruptions."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from diffusers import DDIMScheduler, UNet2DModel

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable.analysis.nearest import nearest_units, unit_distances
from ablatable.data import load_cache
from ablatable.diffusion.unet import UNetDenoiser
from ablatable.errors import AblatableError, SettingsError, StoreError
from ablatable.universes import arrays, drawing, enumeration, reader, store
from ablatable.universes.blocks import blocks_of
from ablatable.universes.checking import check_universe
from ablatable.universes.reader import Universe
from calls import how
from prepared import Template

SEEDS, STEPS, SPARES = [5, 0, 9], 6, 3  # as the fixture `small_universe` has them
Fingerprints = Callable[[Path], dict[str, str]]


def enumerate_again(run: Path, out: Path, **options: object) -> Universe:
    settings = {"seeds": SEEDS, "steps": STEPS, "spares": SPARES, "workers": 0, "quiet": True, **options}
    return ab.enumerate_universe(run, out=out, **how(**settings))


def pictures(universe: Universe) -> np.ndarray:
    """All of them, uint8 (1 + ablations, samples, H, W, C), the factual first."""
    ablated = np.stack([universe.landscape(sample) for sample in range(len(universe.seeds))], axis=1)
    return np.concatenate([universe.factual[None], ablated])


# --- against the plain double loop ---


def plain(folder: Path, alive: np.ndarray) -> np.ndarray:
    """For each step, for each surviving component: by diffusers alone, uint8 (samples, H, W, C)."""
    survivors = [UNet2DModel.from_pretrained(folder / "components" / f"{i:02d}").eval() for i in np.flatnonzero(alive)]
    scheduler = DDIMScheduler(clip_sample=True)
    scheduler.set_timesteps(STEPS)
    noise = ab.noise_trajectory(SEEDS, STEPS, (1, 8, 8))
    x = noise[0]
    for k, t in enumerate(scheduler.timesteps, start=1):
        total = torch.zeros_like(x)
        with torch.no_grad():
            for component in survivors:
                total += component(x, t).sample
        options = {"eta": 1.0, "variance_noise": noise[k], "use_clipped_model_output": True}
        x = scheduler.step(total / len(survivors), t, x, **options).prev_sample
    levels = np.clip((x.double().numpy() + 1) * 127.5, 0, 255)
    return np.transpose(np.rint(levels), (0, 2, 3, 1)).astype(np.uint8)


def test_it_is_the_plain_double_loop(small, small_universe: Universe) -> None:
    expected = [plain(small.run.path, np.ones(6, bool))]
    expected += [plain(small.run.path, ~word) for word in small.code.matrix]
    drawn = [small_universe.factual] + [small_universe.counterfactual(unit) for unit in small.units.ids]
    difference = np.abs(np.stack(drawn).astype(int) - np.stack(expected).astype(int))
    assert (difference <= 1).mean() >= 0.999
    assert np.ptp(np.stack(expected)) > 100  # pictures, not blanks
    assert all((a != b).any() for a, b in zip(drawn[1:], drawn[:-1], strict=True))


def test_many_training_pictures_are_read_in_pieces(small_universe: Universe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a size, they are mapped from a file that has no name."""
    plain = Universe(small_universe.url).training
    monkeypatch.setattr(load_cache, "LARGE", 200)
    monkeypatch.setattr(reader, "PIECE", 3 * plain.images[0].size)
    mapped = Universe(small_universe.url).training
    assert isinstance(mapped.images.base, np.memmap) and not isinstance(plain.images.base, np.memmap)
    assert mapped.digests == plain.digests and mapped.ids == plain.ids


def test_spares_are_ablations_that_no_unit_has(small, small_universe: Universe) -> None:
    settings = small_universe.settings
    words = [settings.words[row] for row in settings.spares]
    taken = {"".join("01"[bit] for bit in row) for row in small.code.matrix.astype(int)}
    assert len(set(words)) == SPARES and not set(words) & taken and {word.count("1") for word in words} == {3}
    expected = np.stack([plain(small.run.path, np.array([bit == "0" for bit in word])) for word in words])
    drawn = np.stack([small_universe.landscape(s)[list(settings.spares)] for s in range(3)], axis=1)
    assert (np.abs(drawn.astype(int) - expected.astype(int)) <= 1).mean() >= 0.999
    gap = (drawn.astype(float) - small_universe.factual).reshape(SPARES, 3, -1) / 255
    distance = np.sqrt(np.square(gap).sum(axis=2) * 256 * 256 * 3 / gap.shape[2])
    np.testing.assert_allclose(small_universe.spare_distances(), distance, rtol=1e-5)
    np.testing.assert_allclose(small_universe.spare_distances(samples=slice(1, 3)), distance[:, 1:], rtol=1e-5)


# --- what must not matter ---


def test_workers(small, small_universe: Universe, tmp_path: Path, fingerprints: Fingerprints) -> None:
    enumerate_again(small.run.path, tmp_path / "u.zarr", workers=2)
    assert fingerprints(tmp_path / "u.zarr") == fingerprints(Path(small_universe.url))


@pytest.mark.parametrize(
    ("kind", "rows", "samples"),
    [("ideal", (1, 1), 1), ("small", (2, 5), 2), ("small", (7, 7), 16), ("small", (1000, 1000), 3)],
)
def test_blocks(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch, kind: str, rows: tuple[int, int], samples: int
) -> None:
    run, whole = request.getfixturevalue(kind).run.path, request.getfixturevalue(f"{kind}_universe")
    monkeypatch.setattr(enumeration, "BLOCK_ROWS", rows)
    monkeypatch.setattr(enumeration, "BLOCK_SAMPLES", samples)
    other = enumerate_again(run, tmp_path / "u.zarr")
    assert len(list(blocks_of(other.settings))) != len(list(blocks_of(whole.settings))) or rows[0] == 1000
    assert np.array_equal(pictures(other), pictures(whole))  # to the bit, for batches have one size
    assert np.array_equal(other.distances(), whole.distances())
    assert check_universe(tmp_path / "u.zarr") == []


def test_components_see_batches_of_one_size(small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the blocks: 15 ablations of 3 samples fill no batch evenly."""
    seen, forward = set(), UNetDenoiser.forward

    def watched(self: UNetDenoiser, x: torch.Tensor, t: torch.Tensor | int) -> torch.Tensor:
        seen.add(len(x))
        return forward(self, x, t)

    monkeypatch.setattr(UNetDenoiser, "forward", watched)
    universe = enumerate_again(small.run.path, tmp_path / "u.zarr")
    assert seen == {universe.settings.batch}


def test_order_of_units_and_of_components(
    small, small_universe: Universe, ideal, ideal_universe: Universe, tmp_path: Path
) -> None:
    order = np.random.default_rng(0).permutation(12)
    units = small.units.select([small.units.ids[k] for k in order])
    ab.train(
        units,
        small.code.select(order),
        ideal.recipe,
        out=tmp_path / "units",
        execution=Execution(workers=0, quiet=True),
    )
    reordered = enumerate_again(tmp_path / "units", tmp_path / "u.zarr", spares=0)
    for unit in units.ids:
        assert np.array_equal(reordered.counterfactual(unit), ideal_universe.counterfactual(unit))

    from ablatable.diffusion.ensemble import Ensemble

    components = small.run.ensemble().components
    columns = np.random.default_rng(1).permutation(6)
    options = {"shape": (1, 8, 8), "schedule": small.recipe.schedule, "sampling": Sampling(steps=STEPS)}
    drawn = drawing.draw(Ensemble([components[k] for k in columns]), small.code.matrix[:, columns], SEEDS, **options)
    kept = np.stack([small_universe.counterfactual(unit) for unit in small.units.ids])
    assert (np.abs(np.moveaxis(drawn, -3, -1).astype(int) - kept.astype(int)) <= 1).mean() >= 0.999


def test_units_that_share_a_codeword_share_an_ablation(small, tmp_path: Path) -> None:
    matrix = small.code.matrix.copy()
    matrix[7] = matrix[2]
    ab.train(
        small.units,
        ab.Code(matrix),
        ab.preset("ideal"),
        out=tmp_path / "run",
        execution=Execution(workers=0, quiet=True),
    )
    universe = enumerate_again(tmp_path / "run", tmp_path / "u.zarr", spares=0)
    assert len(universe.settings.words) == 11
    assert universe.ablation_of("digit-0007") == universe.ablation_of("digit-0002")
    assert np.array_equal(universe.counterfactual("digit-0007"), universe.counterfactual("digit-0002"))
    assert universe.distances().shape == (12, 3)


# --- distances ---


def test_distances_radius_and_influence(small_universe: Universe) -> None:
    def enlarged(picture: np.ndarray) -> np.ndarray:  # (8, 8, 1) -> (256, 256, 3), nearest neighbour, in [0, 1]
        return np.repeat(np.repeat(np.repeat(picture, 32, 0), 32, 1), 3, 2) / 255

    factual = small_universe.factual
    expected = np.array(
        [
            [np.linalg.norm(enlarged(there) - enlarged(here)) for there, here in zip(drawn, factual, strict=True)]
            for drawn in map(small_universe.counterfactual, small_universe.unit_ids)
        ]
    )
    assert np.allclose(small_universe.distances(), expected, rtol=1e-5)
    native = [
        [np.linalg.norm((there / 255.0 - here / 255.0).ravel()) for there, here in zip(drawn, factual, strict=True)]
        for drawn in map(small_universe.counterfactual, small_universe.unit_ids)
    ]
    assert np.allclose(small_universe.distances(scaled=False), native, rtol=1e-5)
    assert np.allclose(small_universe.radius(), expected.max(0), rtol=1e-5)
    assert small_universe.spare_distances().shape == (SPARES, 3)
    for sample in range(3):
        table = small_universe.influence(sample)
        assert table["unit"].to_list() == [small_universe.unit_ids[k] for k in np.argsort(-expected[:, sample])]
        assert table["rank"].to_list() == list(range(1, 13))
        assert np.allclose(table["distance"], np.sort(expected[:, sample])[::-1], rtol=1e-5)
    with pytest.raises(AblatableError, match="0 to 2"):
        small_universe.influence(3)
    with pytest.raises(AblatableError, match="no unit 'nobody'"):
        small_universe.counterfactual("nobody")


def test_nearest_units(small, small_universe: Universe) -> None:
    def nearest(picture: np.ndarray) -> int:
        return int(np.argmin([((picture / 255.0 - image / 255.0) ** 2).sum() for image in small.units.images]))

    told = nearest_units(small_universe)
    for sample, picture in enumerate(small_universe.factual):
        first = nearest(picture)
        assert told.unit[sample] == small.units.ids[first]
        after = nearest(small_universe.counterfactual(told.unit[sample])[sample])
        assert told.after[sample] == small.units.ids[after] and told.changed[sample] == (after != first)
        spares = small_universe.landscape(sample)[list(small_universe.settings.spares)]
        assert told.changed_spares[sample] == np.mean([nearest(spare) != first for spare in spares])
        others = [u for u in small.units.ids if u != told.unit[sample]]
        share = np.mean([nearest(small_universe.counterfactual(u)[sample]) != first for u in others])
        assert told.changed_others[sample] == pytest.approx(share)
    assert unit_distances(small.units.images, small_universe).argmin(1).tolist() == list(range(12))


# --- interruptions, damage, other settings ---

SCRIPT = """
import sys
import ablatable as ab
from ablatable.universes import enumeration as landscape
from ablatable.universes import store
landscape.BLOCK_ROWS, landscape.BLOCKS = (3, 3), 1000
ab.enumerate_universe(sys.argv[1], [5, 0, 9], out=sys.argv[2], sampling=ab.Sampling(steps=6), spares=3,
                      execution=ab.Execution(workers=int(sys.argv[3]), quiet=True))
"""


def test_killed_and_gone_on_with(
    small, tmp_path: Path, fingerprints: Fingerprints, monkeypatch, template: Template
) -> None:
    """`kill -9` of everything at several moments; then the same bytes, and nothing finished was done again."""
    monkeypatch.setattr(enumeration, "BLOCK_ROWS", (3, 3))
    monkeypatch.setattr(enumeration, "BLOCKS", 1000)
    enumerate_again(small.run.path, tmp_path / "whole")
    out, finished = tmp_path / "killed", {}
    for at_least, workers in ((1, 0), (8, 1)):
        process = template.start(SCRIPT, small.run.path, out, str(workers))
        deadline = time.monotonic() + 600
        while len(list(out.glob("done/*.json"))) < at_least and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.2)  # its worker notices
        with pytest.raises(StoreError, match="unfinished"):
            Universe.open(out)
        kept = {path: path.stat().st_mtime_ns for path in out.glob("done/*.json")}
        assert all(kept[path] == when for path, when in finished.items())
        finished = kept
    enumerate_again(small.run.path, out)
    assert len(finished) >= 8 and all(path.stat().st_mtime_ns == when for path, when in finished.items())
    assert fingerprints(out) == fingerprints(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["cut", "flipped", "deleted", "empty"])
@pytest.mark.parametrize("name", ["factual", "counterfactual", "distance/euclidean", "done"])
def test_damage_is_found_mended_and_never_served(
    ideal, ideal_universe: Universe, tmp_path: Path, fingerprints: Fingerprints, name: str, damage: str
) -> None:
    out = tmp_path / "u.zarr"
    shutil.copytree(ideal_universe.url, out)
    sound = fingerprints(out)
    paths = [p for p in (out / name).rglob("*") if p.is_file() and p.name not in ("zarr.json", "index.json")]
    path = paths[len(paths) // 2]
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 16
    new = {"cut": content[:-3], "flipped": bytes(flipped), "empty": b""}.get(damage)
    path.unlink() if new is None else path.write_bytes(new)
    assert check_universe(out)
    if name != "done":
        with pytest.raises(StoreError):
            opened = Universe.open(out)
            _ = opened.factual, opened.distances(), [opened.counterfactual(unit) for unit in opened.unit_ids]
    mended = enumerate_again(ideal.run.path, out)
    assert fingerprints(out) == sound and check_universe(out) == []
    assert np.array_equal(pictures(mended), pictures(ideal_universe))


def test_the_description_is_guarded(ideal_universe: Universe, tmp_path: Path) -> None:
    for path in Path(ideal_universe.url).rglob("zarr.json"):
        out = tmp_path / str(abs(hash(path)))
        shutil.copytree(ideal_universe.url, out)
        copy = out / path.relative_to(ideal_universe.url)
        content = bytearray(copy.read_bytes())
        content[len(content) // 2] ^= 1
        copy.write_bytes(content)
        assert check_universe(out), copy


class Killed(BaseException):
    pass


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_while_it_was_laid_out(
    ideal, ideal_universe: Universe, tmp_path: Path, fingerprints: Fingerprints, monkeypatch, overwrite: bool
) -> None:
    """After any number of its five arrays, whether there was nothing before or another universe."""
    for stop in range(5):
        out, laid = tmp_path / str(stop), []
        if overwrite:
            shutil.copytree(ideal_universe.url, out)

        def lay(*arguments: object, original=arrays.make_array, laid=laid, stop=stop, **options: object):
            laid.append(arguments)
            if len(laid) > stop:
                raise Killed
            return original(*arguments, **options)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(arrays, "make_array", lay)
            enumerate_again(ideal.run.path, out, overwrite=overwrite)
        with pytest.raises(StoreError):
            Universe.open(out)
        assert check_universe(out)
        enumerate_again(ideal.run.path, out)
        assert fingerprints(out) == fingerprints(Path(ideal_universe.url))


def test_killed_while_the_old_one_was_removed(
    ideal, ideal_universe: Universe, tmp_path: Path, fingerprints: Fingerprints
) -> None:
    out = tmp_path / "u.zarr"
    shutil.copytree(ideal_universe.url, out)
    store.clear(out)
    shutil.copytree(Path(ideal_universe.url) / "done", out / "done", dirs_exist_ok=True)  # it did not come that far
    with pytest.raises(StoreError):
        Universe.open(out)
    enumerate_again(ideal.run.path, out)
    assert fingerprints(out) == fingerprints(Path(ideal_universe.url))


def test_what_killed_writes_left_is_removed(
    ideal, ideal_universe: Universe, tmp_path: Path, fingerprints: Fingerprints
) -> None:
    """The store writes aside, to the name with a number, and renames."""
    out = tmp_path / "u.zarr"
    shutil.copytree(ideal_universe.url, out)
    marker = next(out.glob("done/0*.json"))
    marker.rename(marker.with_name(marker.name + "#1"))
    (out / "zarr.json#3").write_text("half of it")
    enumerate_again(ideal.run.path, out)
    assert fingerprints(out) == fingerprints(Path(ideal_universe.url))


def test_nothing_is_overwritten_unasked(ideal, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.txt").write_text("years of work")
    measured = tmp_path / "measured.zarr"
    zarr.open_group(measured, mode="w", attributes={"instrument": "telescope"}).create_array("stars", data=np.arange(3))
    for overwrite in (False, True):
        for place in (thesis, measured):
            with pytest.raises(SettingsError, match="holds other files and no universe"):
                enumerate_again(ideal.run.path, place, overwrite=overwrite)
    assert (thesis / "chapter.txt").read_text() == "years of work"
    assert zarr.open_array(measured / "stars", mode="r")[2] == 2


def test_what_vanishes_from_an_open_universe_is_not_drawn_black(ideal_universe: Universe, tmp_path: Path) -> None:
    out = tmp_path / "u.zarr"
    shutil.copytree(ideal_universe.url, out)
    universe = Universe.open(out)
    for name in ("factual", "counterfactual", "distance/euclidean", "training/images"):
        for path in (out / name / "c").rglob("*"):
            if path.is_file():
                path.unlink()
    reads = [
        lambda: universe.factual,
        lambda: universe.counterfactual("digit-0003"),
        lambda: universe.landscape(1),
        universe.distances,
        universe.radius,
        lambda: universe.influence(0),
        lambda: universe.training_images("digit-0003"),
    ]
    for read in reads:
        with pytest.raises(StoreError, match="cannot be read"):
            read()


def test_no_flipped_bit_is_ever_served(ideal_universe: Universe, tmp_path: Path) -> None:
    """Whatever byte it hits, in pictures, in a shard's index or in between: an error, or the right picture."""
    out = tmp_path / "u.zarr"
    shutil.copytree(ideal_universe.url, out)
    path = next(p for p in (out / "counterfactual" / "c").rglob("*") if p.is_file())
    content, expected, refused = path.read_bytes(), pictures(ideal_universe)[1:], 0
    places = np.random.default_rng(0).choice(len(content), 150, replace=False).tolist()
    for place in [*places, 0, len(content) - 1, len(content) - 5]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        universe = Universe.open(out)
        for sample in range(3):
            try:
                assert np.array_equal(universe.landscape(sample), expected[:, sample]), place
            except StoreError:
                refused += 1
    assert refused > 100


def test_other_settings_are_named(ideal, ideal_universe: Universe, tmp_path: Path) -> None:
    out = tmp_path / "u.zarr"
    shutil.copytree(ideal_universe.url, out)
    for options, words in [
        ({"steps": 7}, "steps: 6 there, 7 asked for"),
        ({"sampler": "ddim"}, "ddpm there, ddim asked"),
    ]:
        with pytest.raises(SettingsError, match=words):
            enumerate_again(ideal.run.path, out, **options)
    redone = enumerate_again(ideal.run.path, out, steps=7, overwrite=True)
    assert redone.settings.steps == 7 and check_universe(out) == []


def test_a_second_writer_is_told_who_writes(ideal, tmp_path: Path) -> None:
    from ablatable._runtime.lock import exclusive

    with exclusive(tmp_path / "u.zarr", "universe"), pytest.raises(StoreError, match=f"process {os.getpid()}"):
        enumerate_again(ideal.run.path, tmp_path / "u.zarr")


def test_in_memory(ideal, ideal_universe: Universe) -> None:
    universe = enumerate_again(ideal.run.path, "memory://somewhere")  # pyright: ignore[reportArgumentType]
    assert np.array_equal(pictures(universe), pictures(ideal_universe))
