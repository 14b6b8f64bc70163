"""Loading pictures as people have them: what is read, what is said, what is refused. All files are made here."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ablatable as ab
from ablatable._runtime.execution import HERE
from ablatable.data import load_cache, loading
from ablatable.data.folders import readable_suffixes
from ablatable.data.naming import load_units
from ablatable.errors import AblatableError, DataError, SettingsError

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(load_cache, "cache_folder", lambda: place / "pictures")
    return place / "pictures"


def picture(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape or (8, 8, 3), np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels, mode).save(path, **options)
    return path


def report(folder: Path, **options: object) -> ab.data.load_report.LoadReport:
    made = ab.Units.from_folder(folder, **options).report
    assert made is not None
    return made


# --- backgrounds ---


def composite(rgba: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + np.array(background) * (1 - alpha)


@pytest.mark.parametrize(
    ("given", "colour"),
    [("white", (255, 255, 255)), ("black", (0, 0, 0)), ("#1080fE", (16, 128, 254)), ((1, 2, 3), (1, 2, 3))],
)
def test_transparent_pictures_are_put_on_the_background(tmp_path, given, colour):
    rgba = picture(1, 8, 8, 4)
    save(tmp_path / "a.png", rgba)
    got = ab.Units.from_folder(tmp_path, background=given)
    assert np.abs(got.images[0] - composite(rgba, colour)).max() <= 1
    assert np.array_equal(ab.Units.from_arrays(rgba[None], background=given).images, got.images)
    name = {(255, 255, 255): "white", (0, 0, 0): "black"}.get(colour, "#" + bytes(colour).hex())
    assert got.report is not None and f", transparency on {name}" in got.report.sentence()


def test_white_is_the_background_unless_another_is_given(tmp_path):
    save(tmp_path / "a.png", picture(1, 8, 8, 4))
    assert ab.Units.from_folder(tmp_path).digests == ab.Units.from_folder(tmp_path, background="white").digests
    assert ab.Units.from_folder(tmp_path).digests != ab.Units.from_folder(tmp_path, background="black").digests


@pytest.mark.parametrize("background", ["grey", (1, 2), (1, 2, 256), "#12345", "#1234567", "ffffff", ""])
def test_impossible_backgrounds(tmp_path, background):
    with pytest.raises(SettingsError, match="give white, black or #rrggbb"):
        ab.Units.from_folder(tmp_path, background=background)


def test_palettes_with_transparency(tmp_path):
    image = Image.fromarray((picture(2, 8, 8) % 2).astype(np.uint8)).convert("P")
    bits = np.asarray(image)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.save(tmp_path / "a.png", transparency=1)
    got = ab.Units.from_folder(tmp_path, background="#010203").images[0]
    assert np.array_equal(got, np.where(bits[..., None] == 1, [1, 2, 3], [200, 0, 0]))


def test_grey_with_transparency_is_in_colour_on_a_coloured_background(tmp_path):
    save(tmp_path / "a.png", np.dstack([GREY, 255 - GREY]))
    assert ab.Units.from_folder(tmp_path).shape == (1, 8, 8)
    assert ab.Units.from_folder(tmp_path, background="#808080").shape == (1, 8, 8)
    assert ab.Units.from_folder(tmp_path, background="#ff0000").shape == (3, 8, 8)


# --- what was done to pictures is said ---


def jpeg_turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    save(path, COLOUR, exif=exif)


def animated(path: Path) -> None:
    frames = [Image.fromarray(pixels) for pixels in (COLOUR, 255 - COLOUR)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


CONVERTED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "turned upright by EXIF": ("a.jpg", jpeg_turned),
    "first frame of an animation": ("a.gif", animated),
    "page of several": ("a.tif", animated),
    "CMYK to RGB": ("a.jpg", lambda path: Image.new("CMYK", (8, 8), (9, 99, 199, 0)).save(path)),
    "16 bits to 8": ("a.png", lambda path: Image.fromarray(np.full((8, 8), 999, np.uint16)).save(path)),
    "floating point to 8": ("a.tif", lambda path: Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(path)),
    "grey to colour": ("a.png", lambda path: save(path, GREY)),
}


@pytest.mark.parametrize("said", CONVERTED)
def test_conversions_are_counted(tmp_path, said):
    name, make = CONVERTED[said]
    make(tmp_path / name)
    save(tmp_path / "z.png", picture(3))
    save(tmp_path / "y.png", picture(4))
    told = report(tmp_path, channels=3, size=8).sentence()
    assert re.search(rf"{said}[^,;]* \(1\)", told), told


def test_plain_pictures_need_no_conversion(tmp_path):
    save(tmp_path / "a.png", picture(3))
    save(tmp_path / "b.png", picture(4))
    opaque = np.dstack([picture(5), np.full((8, 8), 255, np.uint8)])
    save(tmp_path / "c.png", opaque)  # has an alpha channel that hides nothing
    assert report(tmp_path).sentence() == "3 images, 3 units, 8 x 8, all in colour"
    assert report(tmp_path, channels=1).sentence() == "3 images, 3 units, 8 x 8 grey, colour to grey"


def test_colour_to_grey_and_channels_that_nobody_gave(tmp_path):
    save(tmp_path / "a.png", GREY)
    assert report(tmp_path).sentence() == "1 image, 1 unit, 8 x 8, all grey"
    assert report(tmp_path, channels=1).sentence() == "1 image, 1 unit, 8 x 8 grey"
    save(tmp_path / "b.png", COLOUR)
    with pytest.raises(DataError, match=r"mixed channels: .*a.png is grey, .*b.png is in colour; give `channels=1`"):
        ab.Units.from_folder(tmp_path)
    assert report(tmp_path, channels=1).sentence().endswith("8 x 8 grey, colour to grey (1)")


def test_a_units_pixels_depend_on_its_files_alone(tmp_path):
    """Whatever the other units are: grey, in colour, transparent, broken, or not there."""
    save(tmp_path / "mine" / "1.png", picture(6, 8, 8, 4))
    save(tmp_path / "mine" / "2.png", GREY)
    options = {"channels": 3, "size": 8, "background": "black"}
    alone = ab.Units.from_folder(tmp_path, **options).digest("mine")
    others = [picture(7), GREY.T, picture(8, 20, 30, 4), picture(9, 3, 3), np.full((8, 8), 77, np.uint16)]
    for number, pixels in enumerate(others):
        save(tmp_path / "another" / f"{number}.png", pixels)
        assert ab.Units.from_folder(tmp_path, **options).digest("mine") == alone
    (tmp_path / "another" / "5.png").write_bytes(b"broken")
    assert ab.Units.from_folder(tmp_path, skip_broken=True, **options).digest("mine") == alone


# --- broken files ---


def test_broken_files_are_listed_all_at_once(tmp_path):
    for number in range(5):
        save(tmp_path / f"{number}.png", picture(number))
    (tmp_path / "1.png").write_bytes(b"no picture")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:90])
    with pytest.raises(DataError) as caught:
        ab.Units.from_folder(tmp_path)
    lines = str(caught.value).split("\n")
    assert lines[0] == "2 pictures are broken:" and "`skip_broken=True`" in lines[-1] and len(lines) == 4
    assert "1.png cannot be read" in lines[1] and "3.png cannot be read" in lines[2]
    units = ab.Units.from_folder(tmp_path, skip_broken=True)
    assert units.ids == ("0", "2", "4")
    assert np.array_equal(units.images, [picture(0), picture(2), picture(4)])
    assert units.report is not None and units.report.sentence().endswith("; skipped: 2 broken")
    assert [Path(text.split(" cannot")[0]).name for text in units.report.broken] == ["1.png", "3.png"]


def test_the_first_file_may_be_broken_and_all_may(tmp_path):
    (tmp_path / "0.png").write_bytes(b"")
    save(tmp_path / "1.png", picture(1))
    assert ab.Units.from_folder(tmp_path, skip_broken=True).ids == ("1",)
    (tmp_path / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match="no images are left: none of 2 can be read"):
        ab.Units.from_folder(tmp_path, skip_broken=True)


def test_a_unit_of_broken_files_only_is_no_unit(tmp_path):
    save(tmp_path / "a" / "1.png", picture(1))
    save(tmp_path / "b" / "1.png", picture(2))
    (tmp_path / "b" / "1.png").write_bytes(b"")
    assert ab.Units.from_folder(tmp_path, skip_broken=True).ids == ("a",)


def test_broken_rows_of_arrays():
    images = np.full((3, 4, 4), 0.5)
    images[1, 0, 0] = np.nan
    images[2, 0, 0] = 0
    with pytest.raises(DataError, match="row 1 contains NaN"):
        ab.Units.from_arrays(images)
    assert ab.Units.from_arrays(images, skip_broken=True).ids == ("unit-0000", "unit-0002")


# --- what is passed over ---


def test_junk_is_skipped_and_counted(tmp_path):
    save(tmp_path / "ann" / "1.png", picture(1))
    save(tmp_path / "bob" / "1.png", picture(2))
    for junk in ("__MACOSX/ann/._1.png", ".git/1.png", "ann/.DS_Store", "ann/._1.png", "bob/Thumbs.db", "desktop.ini"):
        (tmp_path / junk).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / junk).write_bytes(b"junk")
    made = ab.Units.from_folder(tmp_path)
    assert made.ids == ("ann", "bob") and made.report is not None
    assert made.report.skipped == {"hidden or system files": 6}  # a folder counts once


def test_other_files_are_named_by_their_kind(tmp_path):
    for number in range(2):
        save(tmp_path / f"{number}.png", picture(number))
    for name in ("a.svg", "b.SVG", "c.pdf", "notes.txt", "README", "sub/d.psd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"?")
    told = report(tmp_path)
    assert told.skipped == {".svg": 2, ".pdf": 1, ".txt": 1, "without a suffix": 1, ".psd": 1}
    assert "skipped: 1 .pdf, 1 .psd, 2 .svg, 1 .txt, 1 without a suffix" in told.sentence()


def test_a_folder_of_unreadable_kinds_says_what_there_is(tmp_path):
    (tmp_path / "a.svg").write_bytes(b"?")
    (tmp_path / "b.pdf").write_bytes(b"?")
    with pytest.raises(DataError, match=r"no images found in .*; there are 1 \.svg, 1 \.pdf, which cannot be read"):
        ab.Units.from_folder(tmp_path)
    save(tmp_path / "ann" / "1.png", picture(1))
    (tmp_path / "bob").mkdir()
    (tmp_path / "bob" / "c.svg").write_bytes(b"?")
    with pytest.raises(DataError, match=r"bob has no images; there are 1 \.svg, which cannot be read; fill it"):
        ab.Units.from_folder(tmp_path)


def test_heic_is_read_with_its_extra_and_counted_without(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    save(tmp_path / "a.png", picture(1))
    heif.from_pillow(Image.new("RGB", (8, 8), (200, 30, 60))).save(tmp_path / "b.HEIC", quality=100)
    readable_suffixes.cache_clear()
    assert np.abs(ab.Units.from_folder(tmp_path).of("b").astype(int) - [200, 30, 60]).max() <= 4
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    readable_suffixes.cache_clear()
    try:
        told = report(tmp_path)
    finally:
        readable_suffixes.cache_clear()
    assert told.skipped == {".heic": 1} and 'pip install "ablatable[heif]"' in "".join(told.lines())


@pytest.mark.parametrize("suffix", ["webp", "tif", "avif"])
def test_newer_kinds_are_read(tmp_path, suffix):
    if f".{suffix}" not in readable_suffixes():
        pytest.skip(f"this Pillow does not read {suffix}")
    save(tmp_path / f"a.{suffix}", np.full((8, 8, 3), 90, np.uint8))
    assert np.abs(ab.Units.from_folder(tmp_path).images.astype(int) - 90).max() <= 3


# --- very large pictures ---


def test_a_large_picture_is_read_with_a_note_and_a_huge_one_refused(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    save(tmp_path / "a.png", picture(1, 35, 35))
    save(tmp_path / "b.png", picture(2, 20, 20))
    told = report(tmp_path, size=8)
    assert told.converted == {"large": 1}
    save(tmp_path / "c.png", picture(3, 50, 50))
    with pytest.raises(DataError, match=r"c.png cannot be read as an image: it has more than 2,000 pixels; make it"):
        ab.Units.from_folder(tmp_path, size=8)
    assert not recwarn.list


def test_warnings_of_the_decoder_become_remarks(tmp_path, monkeypatch, recwarn):
    opened = Image.open

    def warns(*args: object, **options: object) -> Image.Image:
        warnings.warn("Corrupt EXIF data", stacklevel=1)
        return opened(*args, **options)

    monkeypatch.setattr(Image, "open", warns)
    for number in range(40):
        save(tmp_path / f"{number}.png", picture(number))
    assert report(tmp_path).remarks == ("the image decoder warned 40 times: Corrupt EXIF data",)
    assert not recwarn.list


# --- tables ---


def listed(tmp_path: Path, table: str | bytes, name: str = "metadata.csv") -> Path:
    for number, file in enumerate(["a.png", "b.png", "sub/c.png"]):
        save(tmp_path / file, picture(number))
    (tmp_path / name).write_bytes(table.encode() if isinstance(table, str) else table)
    return tmp_path


DIALECTS = {
    "comma": "file_name,artist\na.png,Ann\nb.png,Bob\nsub/c.png,Ann\n",
    "semicolon": "file_name;artist\na.png;Ann\nb.png;Bob\nsub/c.png;Ann\n",
    "tab": "artist\tfile_name\nAnn\ta.png\nBob\tb.png\nAnn\tsub/c.png\n",
    "byte order mark": "\ufefffile_name;artist\r\na.png;Ann\r\nb.png;Bob\r\nsub/c.png;Ann\r\n",
    "UTF-16": "file_name\tartist\r\na.png\tAnn\r\nb.png\tBob\r\nsub/c.png\tAnn\r\n".encode("utf-16"),
    "Excel's first line": "sep=;\r\nfile_name;artist\r\na.png;Ann\r\nb.png;Bob\r\nsub/c.png;Ann\r\n",
    "spaces": ' file_name , artist \n a.png , Ann\nb.png,  "Bob"\nsub/c.png,Ann  \n',
    "quotes and line breaks": '"file_name";"x";"artist"\n"a.png";"one; two\nlines";"Ann"\nb.png;;Bob\nsub/c.png;;Ann',
    "blank rows and cells": "\n\nfile_name,artist,,\n,,,\na.png,Ann,,\n\nb.png,Bob,,\nsub/c.png,Ann,,\n,,,\n",
    "windows": "file_name,artist\na.png,Ann\nb.png,Bob\nsub\\c.png,Ann\n",
    "old mac": "file_name,artist\ra.png,Ann\rb.png,Bob\rsub/c.png,Ann\r",
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects_of_csv(tmp_path, dialect):
    units = ab.Units.from_folder(listed(tmp_path, DIALECTS[dialect]), unit_column="artist")
    assert units.ids == ("Ann", "Bob")
    assert sorted(image.tobytes() for image in units.of("Ann")) == sorted(picture(n).tobytes() for n in (0, 2))
    assert units.report is not None and not units.report.skipped


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "file_name,artist\na.png,Ann\nb.png,Bob,x\n",
            r"metadata.csv cannot be read as a table: line 3 has more cells",
        ),
        ('file_name,artist\n"a\n.png",A\nb.png,B,x\n', r"line 4 has more cells"),
        ('file_name,artist\na.png,"Ann\n', r"line 2: unexpected end of data"),
        ('file_name,artist\na.png,"Ann"x\n', r"line 2: "),
        (b"file_name,artist\na.png,Ann\nb.png,Zo\xeb\n", r"line 3 is not in UTF-8; save it as CSV UTF-8"),
        ("file_name,artist,artist\na.png,Ann,Bob\n", r"column 'artist' twice"),
        ("file_name;artist\na.png;Ann\nb.png;\n", r"metadata.csv, line 3 \(b.png\): column 'artist' is missing"),
        ("file_name;artist\n\na.png;Ann\n\n;Bob\n", r"metadata.csv, line 5: column 'file_name' is missing"),
    ],
)
def test_errors_in_tables_name_the_line(tmp_path, table, message):
    with pytest.raises(DataError, match=message):
        ab.Units.from_folder(listed(tmp_path, table), unit_column="artist")


def test_rows_without_a_file_and_files_without_a_row_are_counted(tmp_path):
    folder = listed(tmp_path, "file_name,artist,year\na.png,Ann,1\nx.png,Zed,2\ny.png,Zed,3\n")
    (folder / "notes.txt").write_text("?")
    units = ab.Units.from_folder(folder, unit_column="artist")
    assert units.ids == ("Ann",) and units.report is not None
    assert units.report.skipped == {"rows of metadata.csv without a file": 2, "not in metadata.csv": 2, ".txt": 1}
    assert any("line 3 (x.png): there is no file" in remark for remark in units.report.remarks)


def test_a_mapping_file_elsewhere_and_grouping_by_folder(tmp_path):
    folder = listed(tmp_path / "pictures", "file_name,artist\na.png,Ann\nb.png,Ann\nsub/c.png,Ann\n")
    mapping = tmp_path / "studios.tsv"
    mapping.write_text("studio\tfile_name\nNorth\tb.png\nSouth\ta.png\nSouth\tsub/c.png\n")
    assert ab.Units.from_folder(folder, unit_column="artist").ids == ("Ann",)
    by_studio = load_units(folder, unit_column="studio", table=mapping)
    assert by_studio.ids == ("North", "South") and len(by_studio.images) == 3
    with pytest.raises(DataError, match=r"line 2 \(a.png\) is in no sub-folder"):
        ab.Units.from_folder(folder, unit_column="folder")
    (folder / "metadata.csv").write_text("file_name,artist\nsub/c.png,Ann\n")
    assert ab.Units.from_folder(folder, unit_column="folder").ids == ("sub",)
    with pytest.raises(DataError, match=r"there is no table .*nothing.csv"):
        ab.Units.from_folder(folder, unit_column="studio", table=tmp_path / "nothing.csv")


def test_names_that_differ_by_spaces_or_capitals_are_said(tmp_path):
    for number, name in enumerate(["Ann Lee", "Ann  Lee", "ann lee", "Bob", "Zoe\u0308", "Zo\xeb"]):
        save(tmp_path / name / "1.png", picture(number))
    units = ab.Units.from_folder(tmp_path)
    assert len(units) == 6 and units.report is not None
    (remark,) = units.report.remarks
    assert "'Ann  Lee' and 'Ann Lee' and 'ann lee'" in remark and "'Zo\xeb'" in remark and "Bob" not in remark


# --- equal pictures ---


def shared(tmp_path: Path) -> Path:
    """ann = 0 1 2, bob = 2 3, cid = 3, dan = 4 4: ann and bob share a picture, bob and cid another."""
    for unit, seeds in {"ann": (0, 1, 2), "bob": (2, 3), "cid": (3,), "dan": (4, 4)}.items():
        for place, seed in enumerate(seeds):
            save(tmp_path / unit / f"{unit}{place}.png", picture(seed))
    return tmp_path


def pixels_of(units: ab.Units, unit: str) -> list[bytes]:
    return sorted(image.tobytes() for image in units.of(unit))


def pictures(*seeds: int) -> list[bytes]:
    return sorted(picture(seed).tobytes() for seed in seeds)


def test_equal_pictures_in_two_units_are_refused_with_their_names(tmp_path):
    with pytest.raises(DataError) as caught:
        load_units(shared(tmp_path))
    told = str(caught.value)
    assert told.startswith("2 pictures are in more than one unit (3 units): ")
    assert re.search(r"ann2.png = \S*bob0.png \('ann' and 'bob'\)", told)
    assert re.search(r"bob1.png = \S*cid0.png \('bob' and 'cid'\)", told) and "dan" not in told
    shell = caught.value.render(shell=True)
    for policy in ("merge", "drop", "keep"):
        assert f"duplicates='{policy}'" in told and f"--{policy}-duplicates" in shell


def test_merged(tmp_path):
    units = load_units(shared(tmp_path), duplicates="merge")
    assert units.ids == ("ann + bob + cid", "dan")
    assert pixels_of(units, "ann + bob + cid") == pictures(0, 1, 2, 2, 3, 3)
    assert pixels_of(units, "dan") == pictures(4, 4)
    assert units.report is not None and units.report.shared is not None
    assert "3 units merged into 1: ann + bob + cid" in units.report.shared
    assert ab.Units(units.ids, units.images, units.owner).fingerprint() == units.fingerprint()  # in order


def test_dropped(tmp_path):
    units = load_units(shared(tmp_path), duplicates="drop")
    assert units.ids == ("ann", "dan") and pixels_of(units, "ann") == pictures(0, 1)
    assert units.report is not None and units.report.shared is not None
    assert "4 images left out; 2 units had no others and are gone: bob, cid" in units.report.shared
    assert units.report.images == 4
    with pytest.raises(DataError, match="no images are left"):
        ab.Units.from_arrays(np.stack([picture(1), picture(1)]), duplicates="drop")


def test_kept_and_said(tmp_path):
    units = load_units(shared(tmp_path), duplicates="keep")
    assert units.ids == ("ann", "bob", "cid", "dan") and len(units.images) == 8
    assert units.report is not None and "kept: when one of these units is removed" in (units.report.shared or "")
    assert "1 images are copies of another of the same unit" in units.report.remarks


def test_arrays_warn_unless_told(recwarn):
    images = np.stack([picture(1), picture(2), picture(1)])
    with pytest.warns(UserWarning, match=r"1 picture is in more than one unit \(2 units\): row 0 = row 2"):
        ab.Units.from_arrays(images)
    recwarn.clear()
    ab.Units.from_arrays(images, duplicates="keep")
    ab.Units.from_arrays(images, ids="aba", group=True)
    assert not recwarn.list
    with pytest.raises(DataError, match="more than one unit"):
        ab.Units.from_arrays(images, duplicates="refuse")


def test_pictures_that_become_equal_by_shrinking_are_equal(tmp_path):
    """What trains is what was made of a file, so that is what is compared."""
    checks = (np.indices((8, 8)).sum(0) % 2 * 200).astype(np.uint8)
    save(tmp_path / "a.png", checks)
    save(tmp_path / "b.png", 200 - checks)
    assert len(ab.Units.from_folder(tmp_path)) == 2
    with pytest.raises(DataError, match="1 picture is in more than one unit"):
        ab.Units.from_folder(tmp_path, size=4)


def test_impossible_options(tmp_path):
    save(tmp_path / "a.png", GREY)
    with pytest.raises(SettingsError, match="duplicates='merg' is not possible; give one of refuse, merge"):
        ab.Units.from_folder(tmp_path, duplicates="merg")
    with pytest.raises(TypeError, match="no option 'sise'; there are size"):
        ab.Units.from_folder(tmp_path, sise=4)  # pyright: ignore[reportCallIssue]


# --- many files, and the cache ---


def many(folder: Path, count: int = 300) -> np.ndarray:
    rng = np.random.default_rng(5)
    stack = rng.integers(0, 256, (count, 6, 6, 3), np.uint8)
    for number, pixels in enumerate(stack):
        save(folder / f"unit{number % 40:02d}" / f"{number:04d}.png", pixels)
    return stack


def expected(stack: np.ndarray) -> dict[str, list[bytes]]:
    """Each unit's pictures in the order of their SHA-256."""
    units: dict[str, list[bytes]] = {}
    for number, pixels in enumerate(stack):
        units.setdefault(f"unit{number % 40:02d}", []).append(pixels.tobytes())
    return {unit: sorted(some, key=lambda data: hashlib.sha256(data).digest()) for unit, some in units.items()}


def contents(units: ab.Units) -> dict[str, list[bytes]]:
    return {unit: [image.tobytes() for image in units.of(unit)] for unit in units.ids}


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    plain = loading._read
    monkeypatch.setattr(loading, "_read", lambda entry, settings: read.append(entry.name) or plain(entry, settings))
    return read


def test_threads_put_every_picture_in_its_place(tmp_path):
    stack = many(tmp_path)
    units = ab.Units.from_folder(tmp_path, cache=False)
    assert contents(units) == expected(stack)
    assert all(not array.flags.writeable for array in (units.images, units.owner))


def test_the_second_time_is_read_from_the_cache(tmp_path, monkeypatch, cache):
    stack = many(tmp_path)
    first = ab.Units.from_folder(tmp_path)
    read = count_reads(monkeypatch)
    second = ab.Units.from_folder(tmp_path)
    assert not read and contents(second) == expected(stack)
    assert second.fingerprint() == first.fingerprint() and second.report == first.report
    with pytest.raises(ValueError, match="read-only"):
        second.images[0] = 0
    ab.Units.from_folder(tmp_path, cache=False)
    assert len(read) == 300
    read.clear()
    ab.Units.from_folder(tmp_path, size=3)  # other settings, other pixels
    assert len(read) == 300
    (entry,) = {file.parent for file in cache.glob("*/*/pixels.raw") if file.stat().st_size == stack.nbytes}
    assert os.name != "posix" or entry.stat().st_mode & 0o077 == 0  # copies of pictures are their owner's alone


def test_a_changed_file_is_read_again_and_the_old_entry_deleted(tmp_path, monkeypatch, cache):
    stack = many(tmp_path)
    ab.Units.from_folder(tmp_path)
    (before,) = cache.glob("*/*/pixels.raw")
    file = tmp_path / "unit00" / "0000.png"
    status = file.stat()
    pixels = 255 - stack[0]
    save(file, pixels)
    with file.open("ab") as end:
        end.write(bytes(max(0, status.st_size - file.stat().st_size)))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # as if it had not been touched
    units = ab.Units.from_folder(tmp_path)
    assert pixels.tobytes() in contents(units)["unit00"] and stack[0].tobytes() not in contents(units)["unit00"]
    assert not before.exists()


def test_a_removed_folder_leaves_nothing_in_the_cache(tmp_path, cache):
    many(tmp_path / "one")
    many(tmp_path / "two")
    ab.Units.from_folder(tmp_path / "one")
    (before,) = cache.glob("*/*/pixels.raw")
    shutil.rmtree(tmp_path / "one")
    ab.Units.from_folder(tmp_path / "two")
    assert not before.exists() and len(list(cache.glob("*/*/pixels.raw"))) == 1


def test_a_damaged_cache_is_never_served(tmp_path, cache):
    stack = many(tmp_path)
    ab.Units.from_folder(tmp_path)
    for name in ("pixels.raw", "pictures.json"):
        for damage in ("flip", "cut", "empty", "gone"):
            (file,) = cache.glob(f"*/*/{name}")
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            whole = {"flip": bytes(data), "cut": bytes(data[:-7]), "empty": b""}
            file.write_bytes(whole[damage]) if damage in whole else file.unlink()
            assert contents(ab.Units.from_folder(tmp_path)) == expected(stack), (name, damage)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    stack = many(tmp_path)
    blocked = tmp_path.parent / f"{tmp_path.name}-file"
    blocked.write_text("a file where the folder should be")
    monkeypatch.setattr(load_cache, "cache_folder", lambda: blocked / "pictures")
    assert contents(ab.Units.from_folder(tmp_path)) == expected(stack)


@pytest.mark.parametrize("cached", [False, True])
def test_many_pixels_are_mapped_from_a_file(tmp_path, monkeypatch, cache, cached):
    stack = many(tmp_path)
    (tmp_path / "unit07" / "0007.png").write_bytes(b"broken")
    monkeypatch.setattr(load_cache, "LARGE", 1000)
    right = expected(stack)
    right["unit07"].remove(stack[7].tobytes())
    for _ in range(2):
        units = ab.Units.from_folder(tmp_path, cache=cached, skip_broken=True)
        assert isinstance(units.images, np.memmap) and contents(units) == right
        assert units.select(["unit07"]).digests == (units.digest("unit07"),)
        assert units.report is not None and len(units.report.broken) == 1
    assert len(list(cache.glob("*/*/pixels.raw"))) == cached


def test_progress_is_shown_for_many_files_and_not_when_quiet(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loading, "SHOW_FROM", 100)
    many(tmp_path)
    ab.Units.from_folder(tmp_path)
    assert "reading images: done" in capsys.readouterr().err
    ab.Units.from_folder(tmp_path)
    assert "300 from the cache" in capsys.readouterr().err
    ab.Units.from_folder(tmp_path, quiet=True)
    ab.Units.from_folder(tmp_path, quiet=True, cache=False)
    assert capsys.readouterr().err == ""


# --- in runs ---


def test_a_run_records_what_was_loaded(tmp_path):
    """In its log, so that weights, hashes and the manifest are what they would be without."""
    from ablatable.runs.loading_record import background_of, options_of, recorded

    folder = tmp_path / "pictures"
    for number in range(6):
        save(folder / f"{number}.png", picture(number, 8, 8, 4))
    recipe = ab.preset("ideal")
    code = ab.Code.balanced(units=6, components=4, seed=0)
    units = ab.Units.from_folder(folder, background="black")
    run = ab.train(units, code, recipe, out=tmp_path / "run", execution=HERE)
    plain = ab.Units(units.ids, units.images, units.owner)
    same = ab.train(plain, code, recipe, out=tmp_path / "same", execution=HERE)
    assert run.digest == same.digest and recorded(same.path) is None
    said = recorded(run.path)
    assert said is not None and units.report is not None
    assert json.loads(json.dumps(units.report.as_dict())).items() <= said.model_dump(mode="json").items()
    assert background_of(run.path) == (0, 0, 0) and options_of(same.path)["duplicates"] == "keep"


def test_audit_and_repair_bring_pictures_to_the_pixels_of_the_run(tmp_path):
    from ablatable.unlearning.repairing import run_units
    from ablatable.unlearning.verification import audit_image

    folder = tmp_path / "pictures"
    for number in range(6):
        save(folder / f"{number}.png", picture(number, 8, 8, 4))
    units = ab.Units.from_folder(folder, background="#204060")
    code = ab.Code.balanced(units=6, components=4, seed=0)
    run = ab.train(units, code, ab.preset("ideal"), out=tmp_path / "run", execution=HERE)
    assert audit_image(run.path, folder / "3.png").units == ("3",)
    assert run_units(run, folder).fingerprint() == units.fingerprint()


def test_errors_are_the_packages_own(tmp_path):
    for name, content in {
        "a.png": b"",
        "b.gif": b"GIF89a",
        "c.webp": b"RIFF",
        "d.tif": b"II*\0",
        "e.jpg": b"\xff",
    }.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AblatableError):
        ab.Units.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        (["ann/1.png", "ann/2.png"], r"there is 1 unit \(each sub-folder was taken as a unit\); at least 2 are needed"),
        (["1.png"], r"there is 1 unit \(each image was taken as a unit\); at least 2 are needed"),
    ],
)
def test_one_unit_is_too_few(tmp_path, layout, told):
    for number, name in enumerate(layout):
        save(tmp_path / "pictures" / name, picture(number))
    units = ab.Units.from_folder(tmp_path / "pictures")
    with pytest.raises(SettingsError, match=told) as caught:
        ab.train(units, ab.Code.balanced(1, 4, seed=0), ab.preset("ideal"), out=tmp_path / "run", execution=HERE)
    assert "one sub-folder per unit" in str(caught.value) and "--unit-column artist" in caught.value.render(shell=True)
    assert not (tmp_path / "run").exists()


def test_too_few_units_for_the_components(tmp_path):
    units = ab.Units.from_arrays(np.stack([picture(number) for number in range(3)]))
    code = ab.Code.balanced(3, 16, seed=0, weight=2)
    told = r"there are 3 units .*each seen by 2 of 16 components, .* train on nothing; at least 8 units are needed"
    with pytest.raises(SettingsError, match=told):
        ab.train(units, code, ab.preset("ideal"), out=tmp_path / "run", execution=HERE)


@pytest.mark.parametrize(
    ("unit_column", "unit_is"),
    [(None, "each row of metadata.csv"), ("artist", "each value of the column 'artist'")],
)
def test_what_makes_a_unit_is_reported(tmp_path, unit_column, unit_is):
    folder = listed(tmp_path, DIALECTS["comma"])
    assert report(folder, unit_column=unit_column).unit_is == f"{unit_is} was taken as a unit"
