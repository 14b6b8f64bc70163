"""The bundled OpenMoji drawings: what is in the files, what units they make, and how the files are made."""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest
from PIL import Image

import ablatable as ab
from ablatable.data import units as units_module
from ablatable.data.naming import load_units
from ablatable.errors import DataError

ASSETS = Path(units_module.__file__).parent / "assets"
COLUMNS = 41


def table() -> pl.DataFrame:
    return pl.read_parquet(ASSETS / "openmoji.parquet")


@cache
def sheet() -> np.ndarray:
    with Image.open(ASSETS / "openmoji.webp") as image:
        return np.asarray(image.convert("RGB"))


def drawing(row: int) -> np.ndarray:
    """Cut out of the sheet."""
    left, top = row % COLUMNS * 32, row // COLUMNS * 32
    return sheet()[top : top + 32, left : left + 32]


def test_the_files_are_those_that_their_note_describes():
    note = (ASSETS / "README.md").read_text()
    for name in ("openmoji.webp", "openmoji.parquet"):
        assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() in note
    pixels = np.stack([drawing(row) for row in range(len(table()))])
    assert hashlib.sha256(pixels.tobytes()).hexdigest() in note
    for text in ("OpenMoji", "https://openmoji.org/", "CC BY-SA 4.0", "1,675", "96 designers"):
        assert text in note
    rows = table()
    assert rows.columns == ["id", "artist", "group", "subgroup", "annotation"]
    assert len(rows) == 1675 and rows["artist"].n_unique() == 96 and rows["id"].n_unique() == 1675
    assert not {"flags", "symbols", "component"} & set(rows["group"])
    assert not any(word in subgroup for subgroup in set(rows["subgroup"]) for word in ("brand", "flag", "symbol-other"))
    assert "Laudra Dworatschek" not in set(rows["artist"])
    assert all(name == name.strip() for name in rows["artist"])
    assert not any("skin tone" in annotation for annotation in rows["annotation"])


def test_an_artists_drawings_are_a_unit():
    units, rows = ab.Units.openmoji(), table()
    assert units.ids == tuple(sorted(set(rows["artist"]))) and units.shape == (3, 32, 32)
    for artist in ("Liz Bravo", "Emily J\xe4ger", "Robin Bauer"):
        mine = [drawing(row).tobytes() for row in range(len(rows)) if rows["artist"][row] == artist]
        assert mine and sorted(image.tobytes() for image in units.of(artist)) == sorted(mine)


def test_artists_by_number_and_by_name():
    counts = Counter(table()["artist"])
    ten = ab.Units.openmoji(10)
    assert sorted(counts[artist] for artist in ten.ids) == sorted(counts.values())[-10:]
    assert load_units("openmoji:10").fingerprint() == ten.fingerprint()
    assert load_units("openmoji").fingerprint() == ab.Units.openmoji().fingerprint()
    named = ab.Units.openmoji(["Robin Bauer", "Liz Bravo"])
    assert named.ids == ("Liz Bravo", "Robin Bauer") and named.digests == ab.Units.openmoji().select(named.ids).digests
    for asked in (0, 97):
        with pytest.raises(DataError, match="1 to 96 are bundled"):
            ab.Units.openmoji(asked)
    with pytest.raises(DataError, match=r"no drawings by 'Emily Jager' .*Emily J.ger"):
        ab.Units.openmoji(["Emily Jager"])
    for source in ("openmoji:", "openmoji:all", "openmoji:-3"):
        with pytest.raises(DataError, match="openmoji:32"):
            load_units(source)


@pytest.mark.parametrize(("by", "count"), [("artist", 96), ("picture", 1675), ("group", 9), ("subgroup", 94)])
def test_units_by(by, count):
    units = ab.Units.openmoji(by=by)
    assert len(units) == count and len(units.images) == 1675
    assert load_units("openmoji", unit_column=by).fingerprint() == units.fingerprint()
    if by == "picture":
        assert np.array_equal(units.of("grinning-face-1F600")[0], drawing(table()["id"].to_list().index("1F600")))


def test_no_other_units():
    with pytest.raises(DataError, match="no units by 'colour'; give one of artist, picture, group, subgroup"):
        ab.Units.openmoji(by="colour")


@pytest.mark.parametrize("size", [32, 24, 16])
def test_no_drawing_is_a_copy_of_another(size):
    images = ab.Units.openmoji(size=size, by="picture").images  # would be refused by itself: checked here again
    assert images.shape == (1675, size, size, 3) and len({image.tobytes() for image in images}) == 1675
    if size == 16:
        blocks = drawing(0).reshape(16, 2, 16, 2, 3).mean((1, 3))
        first = ab.Units.openmoji(size=16, by="picture").of("grinning-face-1F600")[0]
        assert np.abs(first - blocks).max() <= 0.5


# --- the script ---


@pytest.fixture
def script() -> ModuleType:
    pytest.importorskip("resvg_py")
    path = Path(__file__).parents[1] / "scripts" / "make_openmoji.py"
    spec = importlib.util.spec_from_file_location("make_openmoji", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_copies_of_one_designer_are_kept_once_and_those_of_two_not_at_all(script):
    entries = [{"openmoji_author": name} for name in ("Ann", "Ann", "Bob", "Ann", "Cid", "Cid ", "Dan")]
    pictures = [np.full((2, 2, 3), level, np.uint8) for level in (1, 2, 2, 3, 4, 4, 5)]
    assert script.without_copies(entries, pictures) == [0, 3, 4, 6]


def test_names_are_corrected(script):
    for written, name in (
        ("Laudra Dworatschek", "Laura Dworatschek"),
        (" Kai Magnus Mu\u0308ller ", "Kai Magnus M\xfcller"),
    ):
        assert script.artist({"openmoji_author": written}) == name


def test_the_sheet_is_lossless_and_the_same_every_time(script):
    pictures = list(np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8))
    made = script.sheet_of(pictures)
    assert made == script.sheet_of(pictures)
    import io

    with Image.open(io.BytesIO(made)) as image:
        sheet = np.asarray(image.convert("RGB"))
    assert sheet.shape == (96, 96, 3)
    for number, pixels in enumerate(pictures):
        top, left = number // 3 * 32, number % 3 * 32
        assert np.array_equal(sheet[top : top + 32, left : left + 32], pixels)


def test_a_drawing_is_rendered_on_white(script):
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><path fill="#f00" d="M0 0h36v72h-36z"/></svg>'
    got = script.render(svg)
    assert (got[:, :16] == [255, 0, 0]).all() and (got[:, 16:] == 255).all()


def test_another_package_is_refused(script, tmp_path):
    (tmp_path / "openmoji-17.0.0.tgz").write_bytes(b"something else")
    with pytest.raises(SystemExit, match="is not openmoji-17"):
        script.make(tmp_path / "openmoji-17.0.0.tgz")
