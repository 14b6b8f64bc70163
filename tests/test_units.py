"""Units: every source, every error, and the oracles for what pixels and digests have to be."""

from __future__ import annotations

import csv
import gzip
import hashlib
import importlib.util
import json
import os
import pickle
import struct
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from ablatable.data import load_cache
from ablatable.data import units as units_module
from ablatable.data.naming import load_units
from ablatable.data.units import Units, to_images, to_model
from ablatable.errors import AblatableError, DataError, SettingsError

# Made-up pictures may be equal; tests/test_loading.py looks at what is said about it.
pytestmark = pytest.mark.filterwarnings("ignore:.*more than one unit")
needs_datasets = pytest.mark.skipif(not importlib.util.find_spec("datasets"), reason="needs datasets")

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_idx(path: Path, array: np.ndarray) -> Path:
    data = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_csv(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def expected_digest(images: list[np.ndarray]) -> str:
    """By the words of the format: tag, four little-endian uint64, pixels sorted by their own hash."""
    pixels = sorted((image.tobytes() for image in images), key=lambda data: hashlib.sha256(data).digest())
    height, width, channels = images[0].shape
    header = b"".join(n.to_bytes(8, "little") for n in (len(images), height, width, channels))
    return hashlib.sha256(b"ablatable unit v1\0" + header + b"".join(pixels)).hexdigest()


stacks = arrays.arrays(np.uint8, st.tuples(st.integers(1, 8), st.just(3), st.just(4), st.sampled_from([1, 3])))


# --- what a Units is ---


def test_arrays_become_read_only_canonical_pixels():
    source = noise(0, 5, 3, 4, 3)
    units = Units.from_arrays(source, ids=["e", "d", "c", "b", "a"])
    assert units.ids == ("e", "d", "c", "b", "a")
    assert units.shape == (3, 3, 4)
    assert units.owner.dtype == np.int64 and units.owner.tolist() == [0, 1, 2, 3, 4]
    assert units.images.dtype == np.uint8 and np.array_equal(units.images, source)
    before = units.images.copy()
    source[:] = 0
    assert np.array_equal(units.images, before)
    for array in (units.images, units.owner, units.of("c"), pickle.loads(pickle.dumps(units)).images):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    with pytest.raises(AttributeError):
        units.ids = ()  # pyright: ignore[reportAttributeAccessIssue]


@given(stacks, st.data())
def test_a_unit_is_its_pixels_and_not_their_order_or_names(images, data):
    keys = data.draw(st.lists(st.sampled_from("abc"), min_size=len(images), max_size=len(images)))
    order = data.draw(st.permutations(range(len(images))))
    one = Units.from_arrays(images, ids=keys, group=True)
    other = Units.from_arrays(images[order], ids=["unit " + keys[i] for i in order], group=True)
    for key in set(keys):
        mine = [image for image, k in zip(images, keys, strict=True) if k == key]
        assert one.digest(key) == other.digest("unit " + key) == expected_digest(mine)
        assert np.array_equal(one.of(key), other.of("unit " + key))
        assert sorted(image.tobytes() for image in one.of(key)) == sorted(image.tobytes() for image in mine)
        assert np.array_equal(one.of(key), one.images[one.owner == one.ids.index(key)])
    assert one.ids == tuple(dict.fromkeys(keys))
    assert (np.diff(one.owner) >= 0).all()


@given(stacks, st.data())
def test_digest_changes_with_any_pixel(images, data):
    row = data.draw(st.integers(0, len(images) - 1))
    changed = images.copy()
    changed[row, 1, 2, 0] ^= data.draw(st.integers(1, 255))
    before, after = Units.from_arrays(images).digests, Units.from_arrays(changed).digests
    assert [a == b for a, b in zip(before, after, strict=True)] == [i != row for i in range(len(images))]


def test_digest_tells_shapes_apart():
    flat = np.zeros((1, 2, 6, 1), np.uint8)
    shapes = [flat, flat.reshape(1, 6, 2, 1), flat.reshape(1, 2, 2, 3)]
    assert len({Units.from_arrays(images).digests[0] for images in shapes}) == 3
    two = Units.from_arrays(flat.reshape(2, 1, 6, 1), ids="aa", group=True)
    assert two.digests[0] != Units.from_arrays(flat).digests[0]


def test_fingerprint_follows_its_format_and_sees_order_and_ids():
    images = noise(1, 2, 3, 4, 1)
    units = Units.from_arrays(images, ids=["ä", "b"])
    total = hashlib.sha256(b"ablatable units v1\0")
    for id, image in zip(["ä", "b"], images, strict=True):
        total.update(len(id.encode()).to_bytes(8, "little") + id.encode())
        total.update(bytes.fromhex(expected_digest([image])))
    assert units.fingerprint() == total.hexdigest()
    others = [units.select(["b", "ä"]), units.select(["b"]), Units.from_arrays(images, ids=["a", "b"])]
    assert len({units.fingerprint(), *(other.fingerprint() for other in others)}) == 4
    assert units.select(["ä", "b"]).fingerprint() == units.fingerprint()
    assert pickle.loads(pickle.dumps(units)).fingerprint() == units.fingerprint()


def test_select_and_without():
    images = noise(2, 6, 3, 4, 1)
    units = Units.from_arrays(images, ids=["a", "b", "a", "c", "b", "a"], group=True)
    assert len(units) == 3 and len(units.images) == 6
    picked = units.select(iter(["c", "a"]))
    assert picked.ids == ("c", "a") and picked.owner.tolist() == [0, 1, 1, 1]
    assert np.array_equal(picked.of("a"), units.of("a")) and np.array_equal(picked.of("c"), images[3:4])
    assert picked.digests == (units.digest("c"), units.digest("a"))
    rest = units.without(["a"])
    assert rest.ids == ("b", "c") and rest.owner.tolist() == [0, 0, 1]
    assert rest.fingerprint() == units.without("a").fingerprint() == units.select(["b", "c"]).fingerprint()
    nothing = units.without(units.ids)
    assert len(nothing) == 0 and nothing.shape == units.shape


def test_many_selected_pictures_stay_in_a_file(monkeypatch):
    """Above a size, a selection is mapped, from a file that has no name; a unit of several images too."""
    images = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), dtype=np.uint8)
    units = Units.from_arrays(images, [f"unit-{k // 3}" for k in range(30)], group=True)
    wanted = [f"unit-{k}" for k in (7, 0, 9, 2)]
    small = units.select(wanted)
    monkeypatch.setattr(load_cache, "LARGE", 200)
    monkeypatch.setattr(load_cache, "PIECE", 100)  # two pictures
    large = units.select(wanted)
    assert isinstance(large.images.base, np.memmap) and not isinstance(small.images.base, np.memmap)
    assert large.ids == small.ids and large.digests == small.digests and not large.images.flags.writeable
    np.testing.assert_array_equal(large.images, small.images)
    assert units.without(units.ids[1:]).digests == units.digests[:1]
    again = pickle.loads(pickle.dumps(large))
    np.testing.assert_array_equal(again.images, small.images)
    assert units.select(units.ids) is units


@pytest.mark.parametrize("ask", [lambda u, i: u.select([i]), lambda u, i: u.without([i]), Units.of, Units.digest])
def test_unknown_unit(ask):
    with pytest.raises(DataError, match=r"no unit 'digit-17' .*did you mean 'digit-0017'"):
        ask(Units.digits(), "digit-17")
    with pytest.raises(DataError, match=r"no unit '#' .*ids are like digit-0000"):
        ask(Units.digits(), "#")


def test_select_refuses_repeats():
    with pytest.raises(DataError, match="duplicate id 'digit-0001'"):
        Units.digits().select(["digit-0001", "digit-0001"])


def test_direct_construction_checks_copies_and_sorts():
    images = noise(3, 3, 2, 2, 1)
    units = Units(("a", "b"), images, np.array([0, 0, 1]))
    turned = images[[1, 0, 2]]
    assert np.array_equal(Units(("a", "b"), turned, np.array([0, 0, 1])).images, units.images)
    turned.flags.writeable = False
    assert np.array_equal(Units(("a", "b"), turned, np.array([0, 0, 1])).images, units.images)
    reference = Units.from_arrays(images[[1, 0, 2]], ids=["a", "a", "b"], group=True)
    assert np.array_equal(units.images, reference.images)
    images[:] = 0
    assert np.array_equal(units.images, reference.images)
    for ids, owner in [("ab", [0, 1, 2]), ("ab", [0, 0, 0]), ("ab", [0, 1, 0]), ("ab", [0, 1]), ("a", [-1, 0, 0])]:
        with pytest.raises(DataError, match="owner"):
            Units(tuple(ids), images, np.array(owner))
    for wrong in (images.astype(float), images[..., 0], np.zeros((3, 2, 2, 2), np.uint8)):
        with pytest.raises(DataError, match="must be uint8"):
            Units(("a", "b"), wrong, np.array([0, 0, 1]))
    for ids in (("a", ""), ("a", "a"), ("a", "\udcff")):
        with pytest.raises(DataError, match="id"):
            Units(ids, images, np.array([0, 0, 1]))


# --- arrays ---


def test_layout_is_decided_by_the_type_alone():
    images = noise(4, 3, 3, 3, 3)  # every layout would fit
    torch_images = torch.tensor(images)
    assert np.array_equal(Units.from_arrays(images).images, images)
    assert np.array_equal(Units.from_arrays(torch_images).images, images.transpose(0, 2, 3, 1))
    assert np.array_equal(Units.from_arrays(images[..., 0]).images, images[..., :1])
    assert np.array_equal(Units.from_arrays(torch_images[..., 0]).images, images[..., :1])
    assert Units.from_arrays(images).ids == ("unit-0000", "unit-0001", "unit-0002")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_floats(dtype):
    x = torch.tensor([0, 0.25, 0.5, 1], dtype=dtype).reshape(1, 1, 2, 2).requires_grad_()
    assert Units.from_arrays(x).images.ravel().tolist() == [0, 64, 128, 255]  # 63.75, 127.5 to even, 255


@given(arrays.arrays(np.uint8, (2, 2, 3)))
def test_floats_are_rounded_to_8_bits(images):
    for dtype in (np.float32, np.float64):
        assert np.array_equal(Units.from_arrays(images.astype(dtype) / 255).images[..., 0], images)
    shifted = np.clip(images.astype(np.float64) + 0.4, 0, 255) / 255
    assert np.array_equal(Units.from_arrays(shifted).images[..., 0], images)


def test_ids_may_be_numbers_or_tensors():
    images = noise(5, 3, 2, 2)
    for ids in ([7, 8, 9], np.array([7, 8, 9]), torch.tensor([7, 8, 9]), ["7", "8", "9"]):
        assert Units.from_arrays(images, ids=ids).ids == ("7", "8", "9")


def test_alpha_in_arrays_is_composited_on_white():
    images = np.array([[[[100, 255], [100, 0]]]], np.uint8)
    assert Units.from_arrays(images).images.ravel().tolist() == [100, 255]
    images = np.array([[[[10, 20, 30, 255], [10, 20, 30, 0]]]], np.uint8)
    assert Units.from_arrays(images).images.ravel().tolist() == [10, 20, 30, 255, 255, 255]


def with_value(value: float) -> np.ndarray:
    images = np.zeros((3, 2, 2))
    images[1, 0, 1] = value
    return images


@pytest.mark.parametrize(
    ("images", "ids", "message"),
    [
        (with_value(np.nan), "abc", r"row 1 \(id 'b'\) contains NaN"),
        (with_value(np.inf), "abc", r"row 1 \(id 'b'\) contains infinity"),
        (with_value(1.5), "abc", r"row 1 \(id 'b'\) has values from 0 to 1.5"),
        (with_value(-0.5), None, r"row 1 has values from -0.5 to 0"),
        (np.zeros((2, 4, 4), np.int64), None, r"row 0 has numbers of type int64"),
        (np.zeros((2, 1, 28, 28), np.uint8), None, r"row 0 has shape \(1, 28, 28\).*channels last"),
        (np.zeros((2, 0, 4), np.uint8), None, r"row 0 has shape \(0, 4\)"),
        (torch.zeros(2, 28, 28, 3), None, r"28 channels; tensors are channels first"),
        (np.zeros((4, 4), np.uint8), None, r"shape \(4, 4\) are not a stack"),
        ([np.zeros((2, 2)), np.zeros((3, 3))], None, "same shape"),
        (np.zeros((0, 4, 4), np.uint8), None, "no images found"),
        (np.zeros((3, 2, 2)), "ab", "2 ids for 3 images"),
        (np.zeros((3, 2, 2)), "aba", r"duplicate id 'a': row 0 \(id 'a'\) and row 2 \(id 'a'\).*group"),
        (np.zeros((3, 2, 2)), ["a", None, "c"], "row 1: column 'ids' is missing"),
        (np.zeros((3, 2, 2)), [0.5, np.nan, 1.5], "row 1: column 'ids' is missing"),
        (np.zeros((3, 2, 2)), ["a", b"b", "c"], "row 1: column 'ids' holds a value of type bytes"),
        (np.zeros((3, 2, 2)), ["a", " ", "c"], "row 1: column 'ids' is missing"),
    ],
)
def test_array_errors(images, ids, message):
    with pytest.raises(DataError, match=message):
        Units.from_arrays(images, ids=ids)


# --- size and channels ---


def test_whole_number_factors_give_the_block_mean():
    raw = Units.digits(48).images.astype(np.float64)
    for factor in (2, 4, 7, 14):
        small = 28 // factor
        mean = raw.reshape(48, small, factor, small, factor).mean(axis=(2, 4))
        assert np.array_equal(Units.digits(48, size=small).images[..., 0], np.rint(mean))
    assert (np.mod(raw.reshape(48, 14, 2, 14, 2).mean(axis=(2, 4)), 1) == 0.5).any()  # ties did occur


@given(st.data(), st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
def test_shrinking_is_the_exact_area_average(data, rows, columns, more, wide):
    """Oracle: blow every pixel up to rows x columns cells, then average blocks of exactly H x W cells."""
    scale = Fraction(more + wide, wide)
    height, width = rows * scale * wide, columns * scale * wide
    rows, columns = rows * wide, columns * wide
    height, width = int(height), int(width)
    image = data.draw(arrays.arrays(np.uint8, (height, width, 3)))
    cells = image.astype(np.int64).repeat(rows, axis=0).repeat(columns, axis=1)
    sums = cells.reshape(rows, height, columns, width, 3).sum(axis=(1, 3))
    expected = [round(Fraction(int(total), height * width)) for total in sums.ravel()]  # half to even
    units = Units.from_arrays(image[None], size=(rows, columns))
    assert units.images.ravel().tolist() == expected


def test_crop_is_about_the_centre():
    image = noise(6, 4, 10)
    assert np.array_equal(Units.from_arrays(image[None], size=4).images[0, ..., 0], image[:, 3:7])
    assert np.array_equal(Units.from_arrays(image.T[None], size=4).images[0, ..., 0], image.T[3:7])
    # 4 x 9 to 2 x 2: a square of 4 x 4, half a pixel off the centre, rather than blurred.
    mean = image[:, 2:6].astype(float).reshape(2, 2, 2, 2).mean(axis=(1, 3))
    assert np.array_equal(Units.from_arrays(image[None, :, :9], size=2).images[0, ..., 0], np.rint(mean))


def test_enlarging_is_bicubic():
    for image in (GREY, COLOUR):
        expected = np.asarray(Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC))
        assert np.array_equal(Units.from_arrays(image[None], size=20).images[0].squeeze(), expected)
    wide = np.hstack([GREY, GREY])
    expected = np.asarray(Image.fromarray(wide[:, 4:12]).resize((12, 12), Image.Resampling.BICUBIC))
    got = Units.from_arrays(wide[None], size=12).images[0, ..., 0].astype(int)
    assert np.array_equal(got[:, 3:-3], expected[:, 3:-3])  # at its sides the filter sees what was cropped


@pytest.mark.parametrize("size", [14, "14", "14x14", "14X14", (14, 14), [14, 14], np.int64(14)])
def test_ways_to_say_a_size(size):
    assert Units.digits(3, size=size).fingerprint() == Units.digits(3, size=14).fingerprint()
    assert Units.digits(3, size="7x14").shape == (1, 7, 14)


@pytest.mark.parametrize("size", [0, -3, "", "x", "14x", "14x14x14", "big", 14.5, True, (), (1, 2, 3), "-4"])
def test_impossible_sizes(size):
    with pytest.raises(SettingsError, match="size"):
        Units.digits(size=size)


@pytest.mark.parametrize("channels", [0, 2, 4, "1"])
def test_impossible_channels(channels):
    with pytest.raises(SettingsError, match="channels"):
        Units.digits(channels=channels)


def test_channels_on_request():
    grey = Units.from_arrays(GREY[None], channels=3)
    assert np.array_equal(grey.images, np.stack([GREY] * 3, axis=-1)[None])
    colour = Units.from_arrays(COLOUR[None], channels=1)
    luma = COLOUR.astype(float) @ [0.299, 0.587, 0.114]  # ITU-R BT.601
    assert colour.shape == (1, 8, 8)
    assert np.abs(colour.images[0, ..., 0] - luma).max() <= 0.51


# --- folders ---


def test_flat_folder(tmp_path):
    save(tmp_path / "b.png", GREY)
    save(tmp_path / "a.PNG", GREY.T)
    save(tmp_path / ".hidden.png", COLOUR)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "captions").mkdir()
    units = Units.from_folder(tmp_path)
    assert units.ids == ("a", "b")
    assert np.array_equal(units.images[..., 0], [GREY.T, GREY])
    assert load_units(str(tmp_path)).fingerprint() == units.fingerprint()


def test_sub_folders_are_units_whatever_the_files_are_called(tmp_path):
    pictures = noise(7, 4, 5, 6, 3)
    for where, order in (("one", [0, 1, 2, 3]), ("two", [3, 1, 0, 2])):
        for name, row in enumerate(order):
            save(tmp_path / where / ("bob/deep" if row < 3 else "alice") / f"{name}.png", pictures[row])
        (tmp_path / where / ".git").mkdir()
    units = Units.from_folder(tmp_path / "one")
    assert units.ids == ("alice", "bob") and units.owner.tolist() == [0, 1, 1, 1]
    assert units.digests == (expected_digest([pictures[3]]), expected_digest(list(pictures[:3])))
    assert units.fingerprint() == Units.from_folder(str(tmp_path / "two")).fingerprint()


def metadata_folder(tmp_path: Path, kind: str) -> np.ndarray:
    pictures = noise(8, 3, 4, 4)
    for row, name in enumerate(["x/1.png", "x/2.png", "y.png"]):
        save(tmp_path / name, pictures[row])
    save(tmp_path / "unlisted.png", COLOUR)
    table = {"file_name": ["y.png", "x/2.png", "./x/1.png"], "artist": ["007", "Ada", "007"], "year": [1, 2, 3]}
    rows = [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]
    if kind == "csv":
        write_csv(tmp_path / "metadata.csv", [list(table), *[[str(cell) for cell in row.values()] for row in rows]])
    elif kind == "jsonl":
        (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import polars as pl

        pl.DataFrame(rows).write_parquet(tmp_path / "metadata.parquet")
    return pictures


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_metadata(tmp_path, kind):
    one, two, y = metadata_folder(tmp_path, kind)[..., None]
    units = Units.from_folder(tmp_path)
    assert units.ids == ("x/1", "x/2", "y")
    assert np.array_equal(units.images, [one, two, y])
    artists = load_units(str(tmp_path), unit_column="artist")
    assert artists.ids == ("007", "Ada")
    assert artists.digests == (expected_digest([one, y]), expected_digest([two]))
    assert Units.from_folder(tmp_path, unit_column="year").ids == ("1", "2", "3")


def test_metadata_csv_as_spreadsheets_write_it(tmp_path):
    save(tmp_path / "a, b.png", GREY)
    (tmp_path / "metadata.csv").write_bytes('\ufefffile_name,artist\r\n"a, b.png","Zoë ""Z"""\r\n'.encode())
    assert Units.from_folder(tmp_path, unit_column="artist").ids == ('Zoë "Z"',)


METADATA_ERRORS = [
    ([["file_name", "artist"], ["a.png", "A"]], "artits", r"no column 'artits' \(did you mean 'artist'\?\)"),
    ([["file_name", "artist"], ["a.png", "A"]], "owner", r"no column 'owner'.*its columns are: file_name, artist"),
    ([["file", "artist"], ["a.png", "A"]], None, r"no column 'file_name'.*file, artist"),
    ([["file_name", "artist"], ["a.png", "A"], ["b.png", ""]], "artist", r"line 3 \(b.png\): column 'artist' is miss"),
    ([["file_name", "artist"], ["a.png", "A"], ["b.png"]], "artist", r"line 3 \(b.png\): column 'artist' is missing"),
    ([["file_name", "artist"], [" ", "A"]], None, r"line 2: column 'file_name' is missing"),
    ([["file_name"], ["c.png"], ["d.png"]], None, r"line 2 \(c.png\): there is no file .*c.png, nor any other"),
    ([["file_name"], ["a.png"], ["b.png"], ["./a.png"]], None, r"a.png is listed twice: .*line 2 .*line 4"),
    ([["file_name", "artist"], ["a.png", "A"], ["a.png", "B"]], "artist", r"a.png is listed twice: .*line 2 .*line 3"),
    ([["file_name"], ["a.png"], ["a.jpg"]], None, r"duplicate id 'a': .*a.png and .*a.jpg"),
    ([["file_name"], ["../outside.png"]], None, r"line 2 \(../outside.png\): .*inside"),
    ([["file_name"], ["sub/../../outside.png"]], None, r"line 2 .*inside"),
    ([["file_name"], ["/etc/outside.png"]], None, r"line 2 .*inside"),
    ([["file_name"], ["a.png", "extra"]], None, r"metadata.csv cannot be read as a table: line 2 has more cells"),
    ([["file_name"]], None, r"no images found: .*metadata.csv has no rows"),
    ([], None, r"no column 'file_name'.*none"),
]


@pytest.mark.parametrize(("rows", "unit_column", "message"), METADATA_ERRORS)
def test_metadata_errors(tmp_path, rows, unit_column, message):
    folder = tmp_path / "folder"
    for name in ("folder/a.png", "folder/b.png", "folder/a.jpg", "outside.png"):
        save(tmp_path / name, GREY)
    write_csv(folder / "metadata.csv", rows)
    with pytest.raises(DataError, match=message):
        Units.from_folder(folder, unit_column=unit_column)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.jsonl", b'{"file_name": "a.png"}\n{oops', "metadata.jsonl cannot be read as a table"),
        ("metadata.jsonl", b'{"file_name": "a.png"}\n[1]', "line 2 is not a JSON object"),
        ("metadata.jsonl", b'{"file_name": ["a.png"]}', "line 1: column 'file_name' holds a value of type list"),
        ("metadata.csv", b"file_name\n\xff\xfe.png", "metadata.csv cannot be read as a table"),
        ("metadata.parquet", b"PAR0", "metadata.parquet cannot be read as a table"),
    ],
)
def test_unreadable_tables(tmp_path, name, content, message):
    save(tmp_path / "a.png", GREY)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        Units.from_folder(tmp_path)


def test_two_tables(tmp_path):
    metadata_folder(tmp_path, "csv")
    metadata_folder(tmp_path, "jsonl")
    with pytest.raises(DataError, match=r"has metadata.csv and metadata.jsonl"):
        Units.from_folder(tmp_path)


def test_folder_errors(tmp_path):
    def refuses(message: str, **options: str) -> None:
        with pytest.raises(DataError, match=message):
            Units.from_folder(tmp_path, **options)

    refuses(r"no images found in .*\.png")
    (tmp_path / "alice").mkdir()
    refuses("no images found")
    save(tmp_path / "bob" / "1.png", GREY)
    refuses("empty unit: .*alice has no images")
    save(tmp_path / "top.png", GREY)
    refuses(r"both at its top \(top.png\) and in sub-folders \(bob/\)")
    refuses("no metadata.csv, .* unit column 'artist'", unit_column="artist")
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        Units.from_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"top.png is not a folder"):
        Units.from_folder(tmp_path / "top.png")


def test_duplicate_stems_name_both_files(tmp_path):
    save(tmp_path / "a.png", GREY)
    save(tmp_path / "a.jpg", GREY)
    with pytest.raises(DataError, match=r"duplicate id 'a': .*a.jpg and .*a.png"):
        Units.from_folder(tmp_path)


def test_mixed_sizes_and_channels_name_two_files(tmp_path):
    save(tmp_path / "a.png", GREY)
    save(tmp_path / "b.png", GREY[:, :6])
    with pytest.raises(DataError, match=r"a.png is 8x8, .*b.png is 8x6 .*`size=28`"):
        Units.from_folder(tmp_path)
    assert Units.from_folder(tmp_path, size=4).shape == (1, 4, 4)
    save(tmp_path / "b.png", COLOUR)
    with pytest.raises(DataError, match=r"a.png is grey, .*b.png is in colour; give `channels=1`"):
        Units.from_folder(tmp_path)
    assert Units.from_folder(tmp_path, channels=3).shape == (3, 8, 8)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tif"])
def test_damaged_images_name_the_file(tmp_path, suffix):
    save(tmp_path / "a.png", noise(9, 40, 40))
    bad = save(tmp_path / f"bad.{suffix}", noise(9, 40, 40, 3))
    data = bad.read_bytes()
    for content in (data[: len(data) // 2], b"", b"not an image", data[:20]):
        bad.write_bytes(content)
        with pytest.raises(DataError, match=rf"bad.{suffix} cannot be read as an image") as caught:
            Units.from_folder(tmp_path)
        assert "\n" not in str(caught.value)


def test_links(tmp_path):
    real = save(tmp_path / "elsewhere" / "1.png", GREY)
    (tmp_path / "units" / "a").mkdir(parents=True)
    (tmp_path / "units" / "a" / "link.png").symlink_to(real)
    (tmp_path / "units" / "b").symlink_to(real.parent)
    (tmp_path / "units" / "c").mkdir()
    (tmp_path / "units" / "c" / "deep").symlink_to(real.parent)
    units = Units.from_folder(tmp_path / "units", duplicates="keep")
    assert units.digests == (expected_digest([GREY[..., None]]),) * 3
    real.unlink()
    save(tmp_path / "elsewhere" / "2.png", GREY)
    with pytest.raises(DataError, match=r"link.png cannot be read as an image: there is no such file"):
        Units.from_folder(tmp_path / "units")


def test_unreadable_folders_are_not_skipped(tmp_path, monkeypatch):
    save(tmp_path / "bob" / "1.png", GREY)
    (tmp_path / "bob" / "locked").mkdir()
    scandir = os.scandir

    def locked(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(DataError, match=r"locked cannot be read: Permission denied"):
        Units.from_folder(tmp_path)


# --- kinds of picture ---


def only(folder: Path, **options: int) -> np.ndarray:
    return Units.from_folder(folder, **options).images[0].squeeze()


def test_alpha_files_are_composited_on_white(tmp_path):
    alpha = np.full((8, 8), 255, np.uint8)
    alpha[0] = 0
    alpha[1] = 128
    for pixels in (GREY, COLOUR):
        save(tmp_path / "a.png", np.dstack([pixels, alpha]))
        weight = (alpha / 255).reshape(8, 8, *[1] * (pixels.ndim - 2))
        expected = pixels * weight + 255 * (1 - weight)
        got = only(tmp_path)
        assert got.shape == pixels.shape
        assert np.abs(got - expected).max() <= 1
        assert (got[0] == 255).all() and np.array_equal(got[2:], pixels[2:])


def test_palettes(tmp_path):
    image = Image.fromarray(noise(10, 8, 8) % 2).convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "a.png")
    bits = noise(10, 8, 8) % 2
    assert np.array_equal(only(tmp_path), np.where(bits[..., None] == 1, [0, 0, 255], [255, 0, 0]))
    image.save(tmp_path / "a.png", transparency=1)
    assert np.array_equal(only(tmp_path), np.where(bits[..., None] == 1, 255, [255, 0, 0]))
    image.putpalette([10, 10, 10, 200, 200, 200])
    image.save(tmp_path / "a.png")
    assert np.array_equal(only(tmp_path), np.where(bits == 1, 200, 10))  # a grey palette is grey


def test_bilevel_cmyk_16_bit_and_float(tmp_path):
    Image.fromarray(GREY > 30).save(tmp_path / "a.png")
    assert np.array_equal(only(tmp_path), np.where(GREY > 30, 255, 0))
    values = np.array([[0, 128, 129, 257], [385, 386, 40000, 65535]], np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert only(tmp_path).ravel().tolist() == [0, 0, 1, 1, 1, 2, 156, 255]
        (tmp_path / name).unlink()
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(only(tmp_path).astype(int) - [255, 0, 0]).max() <= 3
    (tmp_path / "a.jpg").unlink()
    floats = np.array([[0, 0.5], [0.2, 1]], np.float32)
    Image.fromarray(floats).save(tmp_path / "a.tif")
    assert only(tmp_path).ravel().tolist() == [0, 128, 51, 255]
    floats[1, 0] = np.nan
    Image.fromarray(floats).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a.tif contains NaN"):
        only(tmp_path)
    Image.fromarray(np.array([[70000, 1]], np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a.tif has integers from 1 to 70000"):
        only(tmp_path)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to show
    save(tmp_path / "a.png", COLOUR[:, :5], exif=exif)
    assert np.array_equal(only(tmp_path), np.rot90(COLOUR[:, :5], -1))


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(pixels) for pixels in (COLOUR, 255 - COLOUR)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert np.array_equal(only(tmp_path), COLOUR)


# --- IDX and the bundled digits ---


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx(tmp_path, suffix):
    pictures, labels = noise(11, 5, 3, 4), np.array([7, 1, 7, 0, 1], np.uint8)
    images = write_idx(tmp_path / f"train-images-idx3-ubyte{suffix}", pictures)
    write_idx(tmp_path / f"train-labels-idx1-ubyte{suffix}", labels)
    units = Units.from_idx(images)
    assert units.ids == tuple(f"image-000{i}" for i in range(5))
    assert np.array_equal(units.images[..., 0], pictures)
    assert np.array_equal(Units.from_idx(str(images), limit=2).images[..., 0], pictures[:2])
    assert len(Units.from_idx(images, limit=99)) == 5
    for source in (images, tmp_path):
        assert load_units(str(source)).fingerprint() == units.fingerprint()
        by_label = load_units(str(source), unit_column="label")
        assert by_label.ids == ("7", "1", "0")
        assert by_label.digest("7") == expected_digest([pictures[0][..., None], pictures[2][..., None]])
    first = Units.from_idx(images, unit_column="label", limit=2)
    assert first.ids == ("7", "1") and len(first.images) == 2
    assert load_units(str(images), size="3x2", channels=3).shape == (3, 3, 2)


def test_idx_errors(tmp_path):
    images = write_idx(tmp_path / "t-images-idx3-ubyte", noise(12, 3, 4, 4))
    labels = tmp_path / "t-labels-idx1-ubyte"
    with pytest.raises(DataError, match=r"no column 'artist'; its columns are: label"):
        Units.from_idx(images, unit_column="artist")
    with pytest.raises(DataError, match=r"no labels beside it \(looked for t-labels-idx1-ubyte\)"):
        Units.from_idx(images, unit_column="label")
    write_idx(labels, np.zeros(2, np.uint8))
    with pytest.raises(DataError, match=r"has 2 labels, .* has 3 images"):
        Units.from_idx(images, labels, unit_column="label")
    with pytest.raises(DataError, match=r"t-labels-idx1-ubyte is not an IDX file of images"):
        Units.from_idx(labels)
    with pytest.raises(DataError, match=r"t-images-idx3-ubyte is not an IDX file of labels"):
        Units.from_idx(images, images, unit_column="label")
    with pytest.raises(SettingsError, match="limit 0"):
        Units.from_idx(images, limit=0)
    whole = images.read_bytes()
    for content in (whole[:-1], whole + b"\0"):
        images.write_bytes(content)
        with pytest.raises(
            DataError, match=rf"truncated or damaged: .* 48 bytes \(3 x 4 x 4\), it has {len(content) - 16}"
        ):
            load_units(str(images))
    for content in (b"", whole[:9], gzip.compress(whole)[:-9], b"\x1f\x8bgarbage"):
        images.write_bytes(content)
        with pytest.raises(DataError, match="t-images-idx3-ubyte"):
            load_units(str(images))
    with pytest.raises(DataError, match=r"missing-idx3 cannot be read"):
        Units.from_idx(tmp_path / "missing-idx3")
    write_idx(tmp_path / "u-images-idx3-ubyte", noise(12, 3, 4, 4))
    with pytest.raises(DataError, match=r"several IDX files .*t-images-idx3-ubyte, .*u-images-idx3-ubyte"):
        load_units(str(tmp_path))


def test_bundled_digits_are_balanced_and_distinct():
    folder = Path(units_module.__file__).parent / "assets"
    raw = (folder / "digits-labels-idx1-ubyte.gz").read_bytes()
    assert raw[4:8] == bytes(4)  # gzip's time stamp
    labels = gzip.decompress(raw)[8:]
    assert list(labels) == [k % 10 for k in range(256)]
    raw = (folder / "digits-images-idx3-ubyte.gz").read_bytes()
    assert raw[4:8] == bytes(4)
    pixels = gzip.decompress(raw)[16:]
    units = Units.digits(256)
    assert units.images.tobytes() == pixels and units.shape == (1, 28, 28)
    assert units.ids == tuple(f"digit-{k:04d}" for k in range(256))
    assert len(set(units.digests)) == 256
    for text in (str(hashlib.sha256(gzip.decompress(raw)).hexdigest()), "CC BY-SA 3.0", "LeCun", "Cortes", "Burges"):
        assert text in (folder / "README.md").read_text()


def test_digits_by_name():
    assert load_units("digits").fingerprint() == Units.digits().fingerprint() == Units.digits(48).fingerprint()
    assert load_units("digits:7", size="14").fingerprint() == Units.digits(7, size=14).fingerprint()
    by_label = load_units("digits:20", unit_column="label")
    assert by_label.ids == tuple("0123456789")
    assert by_label.digest("3") == expected_digest(list(Units.digits(20).images[[3, 13]]))
    for source in ("digits:", "digits:many", "digits:-1", "digits:0", "digits:257", "digits:1.5"):
        with pytest.raises(DataError, match="digits"):
            load_units(source)
    with pytest.raises(DataError, match="label"):
        load_units("digits", unit_column="artist")


# --- NumPy files and what load_units refuses ---


def test_numpy_files(tmp_path):
    pictures = noise(13, 4, 3, 5, 3)
    np.save(tmp_path / "a.npy", pictures)
    assert np.array_equal(load_units(str(tmp_path / "a.npy")).images, pictures)
    np.savez(tmp_path / "a.npz", images=pictures, ids=["d", "c", "b", "a"], owner=[1, 2, 1, 1])
    units = load_units(str(tmp_path / "a.npz"))
    assert units.ids == ("d", "c", "b", "a") and np.array_equal(units.images, pictures)
    grouped = load_units(tmp_path / "a.npz", unit_column="owner")
    assert grouped.ids == ("1", "2") and grouped.digest("1") == expected_digest(list(pictures[[0, 2, 3]]))
    np.savez(tmp_path / "b.npz", x=pictures)
    assert np.array_equal(load_units(tmp_path / "b.npz").images, pictures)


def test_numpy_file_errors(tmp_path):
    path = tmp_path / "a.npz"

    def refuses(message: str, **options: str) -> None:
        with pytest.raises(DataError, match=message):
            load_units(path, **options)

    np.savez(path, x=GREY[None], y=GREY[None], ids=["a"])
    refuses(r"a.npz has no array 'images'; its arrays are: x, y, ids")
    np.savez(path, images=with_value(np.nan), who=["a", "b", "b"])
    refuses(r"a.npz, row 1 contains NaN")
    refuses(r"a.npz has no column 'owner'.*: who", unit_column="owner")
    np.savez(path, images=with_value(0), ids=["a", "b", "b"])
    refuses(r"duplicate id 'b': .*a.npz, row 1 .*row 2")
    np.savez(path, images=with_value(0), ids=np.array(["a", None, "c"], object))
    refuses(r"a.npz cannot be read as NumPy arrays")  # would have to be unpickled
    path.write_bytes(path.read_bytes()[:50])
    refuses(r"a.npz cannot be read as NumPy arrays")
    path = tmp_path / "b.npy"
    for content in (b"", b"\x93NUMPY\x01\x00", pickle.dumps([1, 2])):
        path.write_bytes(content)
        refuses(r"b.npy cannot be read as NumPy arrays")


def test_load_units_says_what_it_takes(tmp_path):
    with pytest.raises(DataError, match=r"there is no .*nowhere; give a folder"):
        load_units(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"a.png is a single image; give the folder"):
        load_units(str(save(tmp_path / "a.png", GREY)))
    (tmp_path / "a.tar").write_bytes(b"tar")
    with pytest.raises(DataError, match=r"a.tar is not an IDX file"):
        load_units(str(tmp_path / "a.tar"))


# --- Hugging Face datasets ---


@needs_datasets
def test_dataset_of_images(tmp_path):
    import datasets

    pictures = noise(14, 3, 4, 4, 3)
    paths = [str(save(tmp_path / f"{row}.png", pixels)) for row, pixels in enumerate(pictures)]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "artist": datasets.Value("string"),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    columns = {"image": paths, "artist": ["B", "A", "B"], "kind": [1, 0, 1]}
    dataset = datasets.Dataset.from_dict(columns, features=features)
    embedded = datasets.Dataset.from_dict({**columns, "image": list(pictures)}, features=features)
    for source in (dataset, embedded, dataset.with_format("torch")):
        units = Units.from_dataset(source)
        assert units.ids == ("row-0000", "row-0001", "row-0002")
        assert np.array_equal(units.images, pictures)
        artists = Units.from_dataset(source, unit_column="artist")
        assert artists.ids == ("B", "A")
        assert artists.digests == (expected_digest(list(pictures[[0, 2]])), expected_digest([pictures[1]]))
        assert Units.from_dataset(source, unit_column="kind").ids == ("dog", "cat")
    assert Units.from_dataset(dataset.select([1, 0]), id_column="artist", size=2, channels=1).shape == (1, 2, 2)
    with pytest.raises(DataError, match=r"duplicate id 'B': row 0 .* and row 2 .*unit_column"):
        Units.from_dataset(dataset, id_column="artist")
    with pytest.raises(DataError, match=r"no column 'img'.*: image, artist, kind"):
        Units.from_dataset(dataset, image_column="img")
    with pytest.raises(DataError, match=r"no column 'artits' \(did you mean 'artist'"):
        Units.from_dataset(dataset, unit_column="artits")
    with pytest.raises(SettingsError, match="not both"):
        Units.from_dataset(dataset, unit_column="artist", id_column="kind")
    with pytest.raises(DataError, match="choose one of: train, test"):
        Units.from_dataset(datasets.DatasetDict(train=dataset, test=dataset))
    with pytest.raises(DataError, match="IterableDataset; load it with streaming=False"):
        Units.from_dataset(dataset.to_iterable_dataset())
    with pytest.raises(DataError, match="no images found"):
        Units.from_dataset(dataset.select([]))
    Path(paths[1]).write_bytes(b"no longer an image")
    with pytest.raises(DataError, match=r"row 1 \(.*1.png\) cannot be read as an image"):
        Units.from_dataset(dataset)


@needs_datasets
def test_dataset_of_numbers_and_missing_values():
    import datasets

    pictures = noise(15, 3, 4, 5, 3)
    features = datasets.Features({"pixels": datasets.Array3D((4, 5, 3), "uint8"), "who": datasets.Value("int64")})
    dataset = datasets.Dataset.from_dict({"pixels": list(pictures), "who": [5, None, 6]}, features=features)
    assert np.array_equal(Units.from_dataset(dataset, image_column="pixels").images, pictures)
    with pytest.raises(DataError, match="row 1: column 'who' is missing"):
        Units.from_dataset(dataset, image_column="pixels", unit_column="who")
    with pytest.raises(DataError, match="row 0 has numbers of type int64"):
        Units.from_dataset(datasets.Dataset.from_dict({"image": [[[0, 256]]]}))
    nested = datasets.Dataset.from_dict({"image": [[[0.5, 0.0]], [[1.0, float("nan")]]]})
    with pytest.raises(DataError, match="row 1 contains NaN"):
        Units.from_dataset(nested)
    assert Units.from_dataset(nested.select([0])).images.ravel().tolist() == [128, 0]
    gone = datasets.Dataset.from_dict({"image": [GREY, None]}, features=datasets.Features({"image": datasets.Image()}))
    with pytest.raises(DataError, match="row 1: column 'image' has no image"):
        Units.from_dataset(gone)
    words = datasets.Dataset.from_dict({"image": ["a", "b"]})
    with pytest.raises(DataError, match="row 0"):
        Units.from_dataset(words)


def test_datasets_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'pip install "ablatable\[datasets\]"'):
        Units.from_dataset(object())


# --- to and from what networks see ---


def test_every_level_survives_the_round_trip():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = to_model(levels)
    assert x.dtype == torch.float32 and x.shape == (1, 1, 16, 16) and x.is_contiguous()
    expected = [float(np.float32(Fraction(2 * k, 255) - 1)) for k in range(256)]
    assert np.abs(x.numpy().ravel() - expected).max() < 1e-6
    assert x.min() == -1 and x.max() == 1
    assert np.array_equal(to_images(x), levels)
    assert np.array_equal(to_images(x.double()), levels)


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=3, max_dims=5, max_side=4)))
def test_channels_move(images):
    x = to_model(images)
    assert x.shape == (*images.shape[:-3], images.shape[-1], *images.shape[-3:-1])
    assert np.array_equal(to_images(x), images)
    for index in np.ndindex(images.shape[:-3]):
        for channel in range(images.shape[-1]):
            assert np.array_equal(to_images(x[index][channel : channel + 1])[..., 0], images[index][..., channel])


def test_to_images_clamps_and_rounds():
    x = torch.tensor([-7, -1, -1 + 0.99 / 255, -1 + 1.01 / 255, 0, 1 - 0.99 / 255, 1, float("inf")])
    for values in (x, x.double(), x.clone().requires_grad_()):
        assert to_images(values.reshape(1, 2, 4)).ravel().tolist() == [0, 0, 0, 1, 128, 255, 255, 255]
    assert to_images(torch.ones(1, 1, 1, dtype=torch.bfloat16)).item() == 255
    with pytest.raises(AblatableError, match="NaN"):
        to_images(torch.full((1, 2, 2), torch.nan))
    with pytest.raises(TypeError, match="uint8"):
        to_model(np.zeros((2, 2, 1)))


def test_read_only_pixels_do_not_warn(recwarn):
    to_model(Units.digits(2).images)
    assert not list(recwarn)
