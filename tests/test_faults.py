"""What may go wrong with a universe: killed at any moment, flipped anywhere; and a store that is not a folder."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable.runs.run import check_run
from ablatable.universes import enumeration as landscape
from ablatable.universes.blocks import blocks_of
from ablatable.universes.checking import check_universe
from ablatable.universes.reader import Universe
from calls import how

SEEDS, STEPS, SPARES = [5, 0, 9], 6, 3  # as the fixture `small_universe` has them
KILLS = 50
Fingerprints = Callable[[Path], dict[str, str]]

DRIVER = """
import os, sys
import ablatable as ab
import diffusers.models.unets.unet_2d, diffusers.schedulers.scheduling_ddim, polars
from ablatable.diffusion import ideal, unet
from ablatable.diffusion import ensemble
from ablatable.runs import component_training as fitting
from ablatable.universes import enumeration as landscape
from ablatable.diffusion import sampling
landscape.BLOCK_ROWS, landscape.BLOCKS = (3, 3), 1000
while True:  # a fresh process for each try, without importing everything again
    line = sys.stdin.readline()
    if not line:
        break
    child = os.fork()
    if child == 0:
        landscape.enumerate_universe(sys.argv[1], [5, 0, 9], out=line.strip(), sampling=ab.Sampling(steps=6), spares=3,
                                    execution=ab.Execution(workers=0, quiet=True))
        os._exit(0)
    print(child, flush=True)
    status = os.waitpid(child, 0)[1]
    print(status, flush=True)
"""


@pytest.mark.slow
def test_killed_at_fifty_random_moments(small, tmp_path: Path, fingerprints: Fingerprints, monkeypatch) -> None:
    """Each time the same command goes on; finished blocks stay; in the end the bytes are an undisturbed run's."""
    monkeypatch.setattr(landscape, "BLOCK_ROWS", (3, 3))
    monkeypatch.setattr(landscape, "BLOCKS", 1000)
    whole, chance = tmp_path / "whole", random.Random(0)
    began = time.monotonic()
    ab.enumerate_universe(
        small.run.path,
        SEEDS,
        out=whole,
        sampling=Sampling(steps=STEPS),
        spares=SPARES,
        execution=Execution(workers=0, quiet=True),
    )
    span = time.monotonic() - began
    expected = fingerprints(whole)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(small.run.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert driver.stdin is not None and driver.stdout is not None

    def attempt(out: Path, after: float | None) -> bool:
        """Whether it was killed: `after` seconds, if it was not done by then."""
        assert driver.stdin is not None and driver.stdout is not None
        driver.stdin.write(f"{out}\n")
        driver.stdin.flush()
        child = int(driver.stdout.readline())
        if after is not None:
            time.sleep(after)
            with suppress(ProcessLookupError):  # it was done by then
                os.kill(child, signal.SIGKILL)
        return int(driver.stdout.readline()) != 0

    kills, out = 0, tmp_path / "0"
    deadline = time.monotonic() + 900
    while kills < KILLS:
        assert time.monotonic() < deadline
        markers = {path: path.stat().st_mtime_ns for path in out.glob("done/*.json")}
        killed = attempt(out, chance.uniform(0, 1.2 * span))
        kills += killed
        assert all(path.stat().st_mtime_ns == when for path, when in markers.items())  # nothing was done again
        if not killed or chance.random() < 0.2:  # let this one finish, and begin another
            assert not attempt(out, None)
            assert fingerprints(out) == expected and check_universe(out) == []
            out = tmp_path / str(kills)
    assert not attempt(out, None)
    assert fingerprints(out) == expected
    driver.stdin.close()
    driver.wait()


def files_of(place: Path) -> list[Path]:
    return sorted(p for p in place.rglob("*") if p.is_file() and p.name != "log.jsonl" and not p.name.startswith("."))


@pytest.mark.parametrize("kind", ["run", "universe"])
def test_every_damage_is_found(small, small_universe: Universe, tmp_path: Path, kind: str) -> None:
    """Hundreds of single flipped bits and truncations, wherever chance puts them."""
    place, chance = tmp_path / kind, np.random.default_rng(0)
    shutil.copytree(small.run.path if kind == "run" else small_universe.url, place)
    check = check_run if kind == "run" else check_universe
    assert check(place) == []
    files = files_of(place)
    weights = np.array([max(1, path.stat().st_size) ** 0.5 for path in files])  # small files too
    for number in range(200):
        path = files[chance.choice(len(files), p=weights / weights.sum())]
        content = path.read_bytes()
        if number % 4 == 3:
            damaged = content[: chance.integers(len(content))]
        else:
            flipped = bytearray(content)
            flipped[chance.integers(len(content))] ^= 1 << int(chance.integers(8))
            damaged = bytes(flipped)
        path.write_bytes(damaged)
        assert check(place), (path, number)
        path.write_bytes(content)
    assert check(place) == []


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of an S3-compatible server on the loopback address."""
    server_module = pytest.importorskip("moto.server", reason="needs moto: pip install 'moto[server]'")
    boto3 = pytest.importorskip("boto3")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="universes")
    yield "s3://universes"
    server.stop()


def test_an_object_store(small, small_universe: Universe, s3: str, monkeypatch) -> None:
    """Workers write to it directly; it resumes and grows there."""
    url = f"{s3}/small.zarr"
    options = {"out": url, "steps": STEPS, "spares": SPARES, "quiet": True}  # written flat, see `how`
    monkeypatch.setattr(landscape, "BLOCK_ROWS", (4, 4))
    ab.enumerate_universe(small.run.path, SEEDS[:2], **how(workers=0, **options))
    opened = Universe.open(url)
    victim = next(path for path in blocks_of(opened.settings) if path.ablations)
    opened.store.delete(f"done/{victim.name}.json")
    assert check_universe(url)
    made = ab.enumerate_universe(small.run.path, SEEDS, **how(workers=1, **options))
    assert check_universe(url) == []
    assert np.array_equal(made.factual, small_universe.factual)
    assert np.array_equal(made.distances(), small_universe.distances())
    for unit in made.unit_ids:
        assert np.array_equal(made.counterfactual(unit), small_universe.counterfactual(unit))
