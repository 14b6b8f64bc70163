"""What is asked of a store: how many objects to open a universe, how many at once, what a resume downloads."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any
from uuid import uuid4

import pytest

from ablatable import Execution, Sampling, Universe, check, enumerate_universe
from ablatable.errors import StoreError
from ablatable.universes import enumeration, store, writer
from ablatable.universes.blocks import INDEX
from ablatable.universes.enumeration import plan_universe
from ablatable.universes.writer import UniverseWriter
from conftest import Small

HERE, QUICK = Execution(0, "cpu", quiet=True), Sampling("ddim", 1)


class Counting:
    """A store that counts what is asked of it, and answers slowly: `latency` is in seconds."""

    def __init__(self, inner: Any, latency: float = 0.0) -> None:
        self.inner, self.latency = inner, latency
        self.asked, self.keys = Counter[str](), set[str]()
        self.busy, self.at_once, self.lock = 0, 0, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name not in ("get", "head", "list"):
            return found

        def ask(*arguments: Any, **options: Any) -> Any:
            with self.lock:
                self.asked[name] += 1
                self.busy += 1
                self.at_once = max(self.at_once, self.busy)
            time.sleep(self.latency)
            if name == "get":
                self.keys.add(arguments[0])
            answer = found(*arguments, **options)
            with self.lock:
                self.busy -= 1
            return answer

        return ask


@pytest.fixture
def many_blocks(small: Small, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function: a universe in memory of that many seeds, one block per seed and ablation."""
    monkeypatch.setattr(enumeration, "BLOCK_ROWS", (1, 1))
    monkeypatch.setattr(enumeration, "BLOCKS", 10_000)
    monkeypatch.setattr(enumeration, "BLOCK_SAMPLES", 1)

    def make(seeds: int, url: str | None = None) -> str:
        url = url or f"memory://{uuid4()}"
        units = small.run.unit_ids[:3]
        enumerate_universe(small.run, range(seeds), out=url, units=units, sampling=QUICK, execution=HERE)
        return url

    return make


def counting(url: str, monkeypatch: pytest.MonkeyPatch, latency: float = 0.0) -> Counting:
    counted = Counting(store.open_store(url), latency)
    for module in ("reader", "writer", "checking", "store"):
        monkeypatch.setattr(f"ablatable.universes.{module}.open_store", lambda url, create=True: counted)
    return counted


def test_opening_asks_for_as_many_objects_however_large_it_is(
    many_blocks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    for seeds in (1, 4):
        with monkeypatch.context() as patch:
            counted = counting(url := many_blocks(seeds), patch)
            assert len(Universe(url).seeds) == seeds
            asked.append(sum(counted.asked.values()))
    assert asked[0] == asked[1] <= 12


def test_without_an_index_markers_are_asked_for_at_once(many_blocks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A universe from before there was an index opens, and its requests wait together."""
    url = many_blocks(3)
    store.delete(store.open_store(url), INDEX)
    counted = counting(url, monkeypatch, latency=0.005)
    assert len(Universe(url).seeds) == 3
    assert counted.at_once >= 6


def test_what_is_read_is_compared_at_once(many_blocks: Any) -> None:
    """A landscape is in many objects, and each is hashed: their requests wait together."""
    universe = Universe(many_blocks(1))
    counted = universe._arrays.store = Counting(universe._arrays.store, latency=0.05)
    keys = universe._keys("counterfactual", slice(None), 0)
    universe._arrays._compare(keys)
    assert counted.at_once >= len(keys) - 1 >= 2 and counted.keys == set(keys)


def test_a_resume_downloads_nothing_that_is_there(many_blocks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url = many_blocks(3)
    counted = counting(url, monkeypatch)
    many_blocks(3, url)
    assert len(counted.keys) > 10
    assert not [key for key in counted.keys if "/c/" in key and not key.startswith("training/")]


def test_the_description_is_read_once_for_all_blocks(many_blocks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many units it has megabytes, and a universe has many blocks."""
    read, description = [], writer.read_description
    monkeypatch.setattr(writer, "read_description", lambda *place: read.append(place) or description(*place))
    counts = []
    for seeds in (1, 4):
        many_blocks(seeds)
        counts.append(len(read))
        read.clear()
    assert counts[0] == counts[1] < 4


def test_a_universe_that_grew_is_read_again(many_blocks: Any) -> None:
    """What a process has kept of its description is not what it is now."""
    url = many_blocks(1)
    before = UniverseWriter.again(url)
    assert UniverseWriter.again(url) is before
    many_blocks(2, url)
    assert len(UniverseWriter.again(url).settings.seeds) == 2 and check(url) == []


def test_damage_in_a_store_is_drawn_again(many_blocks: Any) -> None:
    """It is found when it is read, `check` names it, and with `repair` the same command draws it again."""
    url = many_blocks(2)
    there = store.open_store(url)
    key = next(path for path in store.paths(there) if path.startswith("counterfactual/c/1/"))
    sound = store.read(there, key)
    there.put(key, sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(StoreError, match="cannot be read"):
        _ = Universe(url).landscape(0), Universe(url).landscape(1)
    assert check(url)
    assert check(url, repair=True)
    many_blocks(2, url)
    assert store.read(there, key) == sound and check(url) == []


def test_a_damaged_index_is_not_used(many_blocks: Any) -> None:
    url = many_blocks(2)
    there = store.open_store(url)
    sound = store.read(there, INDEX)
    there.put(INDEX, sound.replace(b"0", b"1", 1))
    assert len(Universe(url).seeds) == 2
    assert [wrong for wrong in check(url) if INDEX in wrong]
    many_blocks(2, url)
    assert store.read(there, INDEX) == sound and check(url) == []


def test_blocks_of_large_pictures_are_small(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that little is lost when drawing stops: here 32 MiB at 256 x 256 in colour, instead of 1024 pictures."""

    monkeypatch.setattr(small.run, "shape", (3, 256, 256))
    settings = plan_universe(small.run, list(range(1600)), sampling=QUICK)
    rows, samples = settings.block
    assert rows * samples * 3 * 256 * 256 <= 32 * 2**20
