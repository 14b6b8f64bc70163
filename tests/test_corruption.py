"""Corrupted files of every format: the same results, or an error of this package that names the file; nothing else.

Each corruption is drawn from a seed. It flips a bit, cuts, zeroes, deletes or grows one file, exchanges two, repeats a
key of JSON with another value, or changes the type or the shape that metadata gives an array. Formats that hash what
they hold must give the same results or refuse. CTF archives and score files have no hashes: what is read from them must
at least be well formed.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ablatable as ab
from ablatable.attribution.scores import read_scores, write_scores
from ablatable.errors import AblatableError, StoreError
from ablatable.universes import ctf
from ablatable.universes.checking import check, repair_metadata
from ablatable.universes.differential import Differential
from ablatable.universes.reader import Universe
from ablatable.universes.screening.screen import Screen
from ablatable.unlearning import certificate
from calls import how

Change = tuple[str, list[Path]]  # what was done, to which files


# --- what is corrupted: one folder per format, made once ----------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ideal components, a run that forgot a unit, a universe, a screen, scores, an archive: 6 x 6 pixels."""
    folder = tmp_path_factory.mktemp("sound")
    units, code = ab.Units.digits(6, size=6), ab.Code.balanced(units=6, components=4, seed=0)
    quiet, how_drawn = ab.Execution(workers=0, quiet=True), how(sampler="ddim", steps=2, workers=0, quiet=True)
    run = ab.train(units, code, ab.preset("ideal"), out=folder / "run", execution=quiet)
    from ablatable.unlearning.forgetting import forget

    forget(run.path, ["digit-0002"], out=folder / "forgotten")
    universe = ab.enumerate_universe(run, range(3), out=folder / "universe", **how_drawn)
    ab.screen_universe(run, range(2), out=folder / "screen", share=1, **how_drawn)
    (folder / "ctf").mkdir()
    ctf.export_ctf(universe, folder / "ctf" / "u.ctf", quiet=True)
    (folder / "scores").mkdir()
    scores = np.random.default_rng(0).random((3, 6))
    for suffix in ("parquet", "csv", "npy", "safetensors"):
        write_scores(folder / "scores" / f"s.{suffix}", scores, units=universe.unit_ids)
    return folder


def digest(*values: Any) -> str:
    """Of arrays and plain values."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            found.update(f"{value.dtype} {value.shape}".encode() + value.tobytes())
        else:
            found.update(repr(value).encode())
    return found.hexdigest()


def read_run(folder: Path) -> str:
    run = ab.Run(folder)
    units = run.units()
    states = [
        {name: tensor.numpy() for name, tensor in run.load_component(k).state_dict().items()}
        for k in range(run.code.components)
    ]
    arrays = [array for state in states for _, array in sorted(state.items())]
    return digest(
        run.unit_ids, run.digests, run.present, run.design.words(), run.seed, units.images, units.owner, *arrays
    )


def read_forgotten(folder: Path) -> str:
    issued = certificate.read_certificate(folder / "certificate.json")
    if wrong := certificate.check_certificate(issued, folder):
        raise StoreError(f"{folder}: {wrong[0]}")
    return digest(read_run(folder), issued.model_dump())


def read_universe(folder: Path) -> str:
    universe = Universe.open(folder)
    training = universe.training
    return digest(
        universe.settings.model_dump_json(),
        universe.factual,
        *(universe.landscape(sample) for sample in range(len(universe.seeds))),
        *(universe.counterfactual(unit) for unit in universe.unit_ids),
        universe.distances(),
        training.images,
        training.owner,
    )


def read_screen(folder: Path) -> str:
    screen = Screen.open(folder)
    landscapes = [np.ma.getdata(screen.landscape(sample)) for sample in range(len(screen.seeds))]
    values = screen.estimates(), screen.drawn(), screen.chance(), screen.training.images, screen.factual
    return digest(screen.made_with.model_dump_json(), *landscapes, *values)


def read_ctf(folder: Path) -> None:
    """Well formed: as many images as it says, of the size it says, and a sound universe."""
    place = f"memory://{folder}"
    made = ctf.import_ctf(folder / "u.ctf", place, quiet=True, overwrite=True)
    assert made.landscape(0).shape == (len(made.unit_ids), *made.factual.shape[1:])
    assert check(made) == []


def read_all_scores(folder: Path) -> None:
    """Well formed: each file gives numbers of the right shape, or is refused. The first error is raised at the end."""
    refused = None
    for suffix in ("parquet", "csv", "npy", "safetensors"):
        try:
            scores = read_scores(folder / f"s.{suffix}", samples=3, units=tuple(f"digit-{k:04d}" for k in range(6)))
            assert scores.factual.shape == (3, 6) and scores.factual.dtype == np.float64
        except AblatableError as error:
            refused = error
    if refused is not None:
        raise refused


FORMATS: dict[str, Callable[[Path], str | None]] = {
    "universe": read_universe,
    "run": read_run,
    "forgotten": read_forgotten,
    "screen": read_screen,
    "ctf": read_ctf,
    "scores": read_all_scores,
}
HASHED = ("universe", "run", "forgotten", "screen")


# --- how it is corrupted --------------------------------------------------------------------------------------------


def corrupt(folder: Path, rng: random.Random) -> Change:
    """Change one or two files of a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".") and p.name != "log.jsonl")
    path = rng.choice(files)
    described = [p for p in files if p.suffix == ".json"]
    kind = rng.choice(["flip", "flip", "cut", "zero", "delete", "grow", "swap", "key", "type", "shape"])
    data = bytearray(path.read_bytes())
    place = rng.randrange(max(1, len(data)))
    if kind == "swap":
        other = rng.choice(files)
        if path.suffix != other.suffix:  # one of a kind is a harder test
            other = rng.choice([p for p in files if p.suffix == path.suffix])
        content = other.read_bytes()
        other.write_bytes(data)
        path.write_bytes(content)
        return kind, [path, other]
    if kind in ("key", "type", "shape") and described:
        path = rng.choice(described)
        path.write_bytes(reworded(path.read_text(), kind, rng).encode())
        return kind, [path]
    if kind == "delete":
        path.unlink()
        return kind, [path]
    if kind == "cut":
        del data[place:]
    elif kind == "zero":
        data[place : place + rng.choice([1, 16, len(data)])] = bytes(min(16, len(data) - place))
    elif kind == "grow":
        data += rng.choice([b"\0", b"}", b"\xff" * 9, bytes(data)])
    elif data:
        data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return kind, [path]


def reworded(text: str, kind: str, rng: random.Random) -> str:
    """JSON with a repeated key, another type of array, or another shape."""
    if kind == "type":
        changed = re.sub(r'"(uint8|float32|int64)"', lambda found: rng.choice(['"int16"', '"float64"', "7"]), text)
    elif kind == "shape":
        changed = re.sub(r"\b[1-9]\d*\b", lambda found: rng.choice([found[0], "0", "-1", "97", "null"]), text)
    else:
        keys = list(re.finditer(r'"(\w+)":', text))
        if not keys:
            return text + "{}"
        found = rng.choice(keys)
        value = rng.choice(["null", "0", "[]", '"x"', "{}"])
        changed = f'{text[: found.start()]}"{found[1]}": {value}, {text[found.start() :]}'
    return changed if changed != text else text + " "


# --- the property ---------------------------------------------------------------------------------------------------


def same_or_refused(sound: Path, copy: Path, kind: str, seeds: range) -> int:
    """Corrupt a format again and again; returns how often it was refused."""
    read, folder, expected, refused = FORMATS[kind], copy / kind, FORMATS[kind](sound / kind), 0
    for seed in seeds:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sound / kind, folder)
        change = corrupt(folder, random.Random(f"{kind} {seed}"))
        what = f"{kind} {seed}: {change[0]} {', '.join(str(path.relative_to(folder)) for path in change[1])}"
        try:
            assert read(folder) == expected, f"{what}: other results"
        except AblatableError as error:
            refused += 1
            assert str(folder) in str(error), f"{what}: {error} names no file"
        except AssertionError:
            raise
        except BaseException as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        if kind in HASHED:
            assert_check_agrees(folder, what, read, expected)
    return refused


def assert_check_agrees(folder: Path, what: str, read: Callable[[Path], str | None], expected: str | None) -> None:
    """`check` never fails with anything but a message; what it calls intact reads as it was."""
    try:
        wrong = check(folder)
    except AblatableError:
        return
    except BaseException as error:
        raise AssertionError(f"{what}: check: {type(error).__name__}: {error}") from error
    if not wrong and folder.name != "forgotten":  # its certificate has a check of its own
        assert read(folder) == expected, f"{what}: check calls it intact"


QUICK, ALL = 45, 400


@pytest.mark.parametrize("kind", FORMATS)
def test_same_results_or_refused(sound: Path, tmp_path: Path, kind: str) -> None:
    assert same_or_refused(sound, tmp_path, kind, range(QUICK)) > QUICK / 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_same_results_or_refused_many_times(sound: Path, tmp_path: Path, kind: str) -> None:
    """2,400 corruptions over all formats."""
    assert same_or_refused(sound, tmp_path, kind, range(QUICK, QUICK + ALL)) > ALL / 3


# --- inner metadata of a universe -----------------------------------------------------------------------------------

METADATA = (
    "factual/zarr.json",
    "counterfactual/zarr.json",
    "distance/zarr.json",
    "distance/euclidean/zarr.json",
    "training/zarr.json",
    "training/images/zarr.json",
    "training/owner/zarr.json",
)
DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "deleted": lambda data: None,
    "emptied": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "zeroed": lambda data: bytes(len(data)),
    "not text": lambda data: b"\xff\xfe" + data,
    "another type": lambda data: re.sub(rb'"(uint8|float32|int64|group)"', b'"int16"', data),
    "another shape": lambda data: re.sub(rb"\b3\b", b"2", data) + b" ",
    "a list": lambda data: b"[]",
    "deeply nested": lambda data: b"[" * 100_000,
    "a repeated key": lambda data: data.rstrip()[:-1] + b', "zarr_format": 2}',
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_metadata_is_refused_and_repaired(sound: Path, tmp_path: Path, damage: str) -> None:
    """Each file by itself, and all of them at once: the message names it and the remedy, which restores the bytes."""
    folder = Path(shutil.copytree(sound / "universe", tmp_path / "u"))
    original = {name: (folder / name).read_bytes() for name in METADATA}
    expected = read_universe(folder)
    for names in (*((name,) for name in METADATA), METADATA):
        for name in names:
            content = DAMAGE[damage](original[name])
            (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        with pytest.raises(StoreError) as told:
            Universe.open(folder)
        assert names[0] in str(told.value) and "repair" in str(told.value)
        assert sum(any(name in line for line in check(folder)) for name in names) == len(names)
        assert set(repair_metadata(folder)) == set(names)
        assert {name: (folder / name).read_bytes() for name in METADATA} == original
        assert read_universe(folder) == expected and check(folder) == [] and repair_metadata(folder) == []


def test_metadata_of_a_universe_that_grew(sound: Path, tmp_path: Path) -> None:
    """Its training arrays keep the chunks of fewer images."""
    options: dict[str, Any] = how(sampler="ddim", steps=2, workers=0, quiet=True)
    first = [f"digit-{k:04d}" for k in (4, 1)]
    ab.enumerate_universe(sound / "run", [0], out=tmp_path / "u", units=first, **options)
    ab.enumerate_universe(sound / "run", [0, 1], out=tmp_path / "u", **options)
    original = {name: (tmp_path / "u" / name).read_bytes() for name in METADATA}
    for name in METADATA:
        (tmp_path / "u" / name).unlink()
    assert check(tmp_path / "u") != [] and check(tmp_path / "u", repair=True) == []
    assert {name: (tmp_path / "u" / name).read_bytes() for name in METADATA} == original
    assert check(tmp_path / "u") == []


def test_damaged_metadata_is_repaired_when_a_universe_is_resumed(sound: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound / "universe", tmp_path / "u"))
    for name in METADATA:
        (folder / name).write_bytes(b"{}")
    options: dict[str, Any] = how(sampler="ddim", steps=2, workers=0, quiet=True)
    ab.enumerate_universe(sound / "run", range(3), out=folder, **options)
    assert read_universe(folder) == read_universe(sound / "universe")


def test_metadata_that_does_not_follow_from_the_settings_is_left(sound: Path, tmp_path: Path) -> None:
    """Nothing is written whose hash is not the recorded one."""
    folder = Path(shutil.copytree(sound / "universe", tmp_path / "u"))
    root = json.loads((folder / "zarr.json").read_text())
    root["attributes"]["laid_out"]["factual/zarr.json"] = "0" * 64
    (folder / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match="hash"):
        repair_metadata(folder)


def test_exchanged_shards_are_not_served(sound: Path, tmp_path: Path) -> None:
    """Both are sound by their own checksums, and in the other's place."""
    options: dict[str, Any] = how(sampler="ddim", steps=2, workers=0, quiet=True)
    folder = tmp_path / "u"
    ab.enumerate_universe(sound / "run", range(20), out=folder, **options)
    shards = sorted(path for path in (folder / "factual" / "c").rglob("*") if path.is_file())
    contents = [path.read_bytes() for path in shards]
    assert len(shards) == 2
    for path, content in zip(shards, reversed(contents), strict=True):
        path.write_bytes(content)
    with pytest.raises(StoreError, match="factual"):
        _ = Universe.open(folder).factual


def test_a_damaged_jacobian_is_refused(small, small_universe: Universe, tmp_path: Path) -> None:
    """Its file is sealed; the arrays in it are not looked at before."""
    folder = Path(shutil.copytree(small_universe.url, tmp_path / "u"))
    found = Differential(folder)
    found.write(5, np.zeros((1, 8, 8)), np.zeros((6, 1, 8, 8)))
    path = folder / "differential" / "5.safetensors"
    content = path.read_bytes()
    for seed in range(30):
        change = corrupt(folder / "differential", random.Random(seed))
        if change[0] not in ("swap", "delete") and path.read_bytes() != content:
            with pytest.raises(StoreError, match="missing, damaged"):
                found.read(5)
        path.write_bytes(content)
    assert found.read(5)[1].shape == (6, 1, 8, 8)
