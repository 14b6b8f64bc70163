"""Files and locks under `kill -9`: what is there is whole, and what is held is freed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import ablatable as ab
from ablatable import Execution
from ablatable._runtime.files import (
    canonical_json,
    file_hash,
    json_hash,
    move_folder_into_place,
    read_json,
    sweep,
    write_atomic,
    write_json,
    writing,
)
from ablatable._runtime.lock import exclusive
from ablatable.errors import StoreError

SIZE = 8_000_000

WRITER = f"""
import sys
from pathlib import Path
from ablatable._runtime.files import write_atomic
print("here", flush=True)
while True:
    for letter in (b"a", b"b"):
        write_atomic(Path(sys.argv[1]), letter * {SIZE})
"""


TEXTS = st.text(alphabet='aé"\\\n\u2028', max_size=4)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(TEXTS, inner, max_size=4)
        | st.dictionaries(st.integers(), inner, max_size=2)
    ),
    max_leaves=12,
)


@given(VALUES)
@settings(max_examples=150, deadline=None)
def test_canonical_json_is_what_python_writes(value: Any) -> None:
    assert canonical_json(value).decode() == json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def test_a_killed_write_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"a" * SIZE)
    for number in range(12):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.02 + 0.003 * number)
            process.kill()
        content = path.read_bytes()
        assert content in (b"a" * SIZE, b"b" * SIZE), f"torn: {len(content)} bytes"
    (tmp_path / ".hidden").touch()
    sweep(tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", ".hidden"}


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomic(path, b"old")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match=r"cannot write .*folder"):
        write_atomic(tmp_path / "folder", b"a folder is in the way")
    with pytest.raises(StoreError, match="cannot write"):
        write_atomic(path / "beneath a file", b"")
    assert path.read_bytes() == b"old"
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["deep", "file", "folder"]


def test_json(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, "é"], "a": {"z": True, "y": False}}
    write_json(tmp_path / "v.json", value)
    data = (tmp_path / "v.json").read_bytes()
    assert json.loads(data) == read_json(tmp_path / "v.json") == value
    turned = {"a": {"y": False, "z": True}, "b": [1, 2.5, None, "é"]}
    assert data == canonical_json(turned)  # one way to write it, whatever the order of keys
    digest = hashlib.sha256(data).hexdigest()
    assert json_hash(turned) == file_hash(tmp_path / "v.json") == digest
    assert json_hash({**value, "b": [1]}) != digest
    with pytest.raises(StoreError, match=r"nothing\.json is missing"):
        read_json(tmp_path / "nothing.json")
    (tmp_path / "v.json").write_bytes(data[:-5])
    with pytest.raises(StoreError, match="not valid JSON"):
        read_json(tmp_path / "v.json")


def test_a_folder_appears_at_once_and_replaces(tmp_path: Path) -> None:
    for content in ("one", "two"):
        partial = tmp_path / "x.partial"
        (partial / "in").mkdir(parents=True)
        (partial / "in" / "file").write_text(content)
        move_folder_into_place(partial, tmp_path / "x")
        assert (tmp_path / "x" / "in" / "file").read_text() == content
        assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_a_full_disk_says_how_much_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=3 * 2**20)
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    wanted = r"disk is full: 3\.0 MiB are free, 4\.5 MiB more are needed.*make room"
    with pytest.raises(StoreError, match=wanted), writing(tmp_path / "new" / "file", needs=int(7.5 * 2**20)):
        raise full
    with pytest.raises(StoreError, match=r"disk is full: 3\.0 MiB are free; make room"), writing("s3://bucket/u.zarr"):
        raise RuntimeError("Generic error: No space left on device (os error 28)")


def test_room_is_looked_at_before_long_work(small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and drawing stop before they begin if the disk is too small, and say how much is missing."""
    quiet = Execution(workers=0, quiet=True)
    weights = sum(
        tensor.nbytes
        for path in small.run.path.glob("components/*/*.safetensors")
        for tensor in load_file(path).values()
    )
    split = int(small.code.split_sizes().max()) * 64  # images of 8 x 8
    least, usage = weights + 4 * weights // 6 + split, shutil.disk_usage(tmp_path)  # one checkpoint: four times a sixth
    disk = {"free": least - 1}
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage._replace(free=disk["free"]))
    missing = r"training 6 components takes .* MiB, and the disk has .* MiB free: 0\.0 MiB more are needed; make room"
    with pytest.raises(StoreError, match=missing):
        ab.train(small.units, small.code, small.recipe, out=tmp_path / "run", execution=quiet)
    assert not list(tmp_path.glob("run/components/*"))
    disk["free"] = least
    ab.train(small.units, small.code, small.recipe, out=tmp_path / "run", execution=quiet)

    disk["free"] = 13 * 2 * 64 // 4 - 1  # 13 pictures of two samples, at a quarter
    with pytest.raises(StoreError, match=r"drawing 26 images.*more are needed"):
        ab.enumerate_universe(
            small.run, [0, 1], out=tmp_path / "u.zarr", sampling=ab.Sampling(steps=1), execution=quiet
        )
    disk["free"] += 1
    ab.enumerate_universe(small.run, [0, 1], out=tmp_path / "u.zarr", sampling=ab.Sampling(steps=1), execution=quiet)


def test_whoever_holds_a_folder_is_named(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with exclusive(tmp_path, "run"):
        ours = rf"process {os.getpid()} on .*, since 20.*kill {os.getpid()}"
        with pytest.raises(StoreError, match=ours), exclusive(tmp_path, "run"):
            pass
        told = {"host": platform.node(), "since": "2026-01-01 00:00:00"}
        for holder, remedy in (
            ({**told, "pid": ended.pid}, rf"which is gone; delete {tmp_path / '.lock'}"),
            ({**told, "pid": 1, "host": "elsewhere"}, rf"process 1 on elsewhere.*If it is gone, delete {tmp_path}"),
            ("", "another process"),
        ):
            (tmp_path / ".lock.json").write_text(json.dumps(holder))
            with pytest.raises(StoreError, match=remedy), exclusive(tmp_path, "run"):
                pass
