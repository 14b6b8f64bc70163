"""CTF archives: both ways without loss, and every kind of bad archive refused. The oracle writes and reads by hand."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable.diffusion.recipe import IdealConfig, Recipe
from ablatable.errors import AblatableError, DataError, SettingsError
from ablatable.universes import ctf
from ablatable.universes.ctf import exporting, importing
from ablatable.universes.writer import UniverseWriter

Members = dict[str, bytes]


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def column(pictures: np.ndarray) -> bytes:
    """Pictures (n, H, W, C) below one another, grey as mode L."""
    tall = np.concatenate(list(pictures), axis=0)
    return png(tall[:, :, 0] if tall.shape[2] == 1 else tall)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def describe(units: int, samples: int, height: int, width: int, channels: int, kind: str = "ONEFILE") -> dict[str, Any]:
    return {
        "Format": kind,
        "TrainingUnits": units,
        "NumberGenerated": samples,
        "TrainHeight": height,
        "TrainWidth": width,
        "TrainChannel": channels,
        "GenHeight": height,
        "GenWidth": width,
        "GenChannel": channels,
    }


def tar(path: Path, members: Members | list[tuple[tarfile.TarInfo | str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items() if isinstance(members, dict) else members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            if not isinstance(name, tarfile.TarInfo):
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def by_hand(units: int = 3, samples: int = 2, height: int = 4, width: int = 5, channels: int = 1) -> Members:
    """A sound archive's members."""
    members = {
        "config.json": json.dumps(describe(units, samples, height, width, channels)).encode(),
        "factual.png": column(noise(samples, height, width, channels)),
        "training_set.png": column(noise(units, height, width, channels, seed=1)),
    }
    for u in range(1, units + 1):
        members[f"leave_{u}_out.png"] = column(noise(samples, height, width, channels, seed=100 + u))
    return members


def universe(tmp_path: Path, units: ab.Units, components: int = 6) -> ab.Universe:
    recipe = Recipe(component=IdealConfig())
    code = ab.Code.balanced(len(units), components, seed=1)
    run = ab.train(units, code, recipe, out=tmp_path / "run", execution=Execution(workers=0, quiet=True))
    return ab.enumerate_universe(
        run.path,
        [7, 3, 11],
        out=tmp_path / "u",
        sampling=Sampling(steps=3),
        spares=2,
        execution=Execution(workers=0, quiet=True),
    )


# --- both ways ---


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_exported_is_the_format_and_comes_back(channels: int, tmp_path: Path) -> None:
    units = ab.Units.digits(9, size="8x10", channels=channels)
    made = universe(tmp_path, units)
    path = ctf.export_ctf(made, tmp_path / "a.ctf", quiet=True)

    with tarfile.open(path) as archive:
        inside = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    leave = {f"leave_{u}_out.png" for u in range(1, 10)}
    assert set(inside) == {"config.json", "factual.png", "training_set.png"} | leave
    told = json.loads(inside["config.json"])
    assert told.items() >= describe(9, 3, 8, 10, channels).items()
    picture = Image.open(io.BytesIO(inside["leave_4_out.png"]))
    assert picture.mode == ("L" if channels == 1 else "RGB") and picture.size == (10, 3 * 8)
    tiles = np.asarray(picture).reshape(3, 8, 10, channels)
    np.testing.assert_array_equal(tiles, made.counterfactual(units.ids[3]))

    back = ctf.import_ctf(path, tmp_path / "back", quiet=True)
    assert (
        back.unit_ids == made.unit_ids and back.seeds == made.seeds and back.settings.digests == made.settings.digests
    )
    np.testing.assert_array_equal(back.factual, made.factual)
    np.testing.assert_array_equal(back.training.images, units.images)
    for unit in units.ids:
        np.testing.assert_array_equal(back.counterfactual(unit), made.counterfactual(unit))
    np.testing.assert_array_equal(back.distances(), made.distances())
    again = ctf.export_ctf(back, tmp_path / "b.ctf", quiet=True)
    assert again.read_bytes() == path.read_bytes()
    with pytest.raises(SettingsError, match="overwrite"):
        ctf.export_ctf(back, tmp_path / "b.ctf", quiet=True)


def test_some_samples_are_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = ab.Units.digits(9, size="8x10")
    made, read = universe(tmp_path, units), []
    inner = ab.Universe.counterfactuals

    def spy(self: ab.Universe, sample: int, rows: Any) -> np.ndarray:
        read.append((sample, len(rows)))
        return inner(self, sample, rows)

    monkeypatch.setattr(ab.Universe, "counterfactuals", spy)
    monkeypatch.setattr(ab.Universe, "ablations", None)
    monkeypatch.setattr(exporting, "BUFFER", 4 * 2 * 80)  # four units at a time
    path = ctf.export_ctf(made, tmp_path / "a.ctf", samples=[2, 0], quiet=True)
    assert {sample for sample, _ in read} == {2, 0} and max(count for _, count in read) <= 4
    with tarfile.open(path) as archive:
        inside = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    told = json.loads(inside["config.json"])
    assert told.items() >= describe(9, 2, 8, 10, 1).items() and told["Seeds"] == [11, 7]

    def tiles(name: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(inside[name]))).reshape(2, 8, 10, 1)

    np.testing.assert_array_equal(tiles("factual.png"), made.factual[[2, 0]])
    for number, unit in enumerate(units.ids, start=1):
        np.testing.assert_array_equal(tiles(f"leave_{number}_out.png"), made.counterfactual(unit)[[2, 0]])
    assert ctf.import_ctf(path, tmp_path / "back", quiet=True).seeds == (11, 7)
    for samples, error, reason in (
        ([3], DataError, "no sample 3"),
        ([], SettingsError, "no sample"),
        ([1, 1], SettingsError, "twice"),
    ):
        with pytest.raises(error, match=reason):
            ctf.export_ctf(made, tmp_path / "b.ctf", samples=samples, quiet=True)
    assert not (tmp_path / "b.ctf").exists()


def test_more_training_images_than_one_png_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go into one file per unit, and samples that are too many are refused with a remedy."""
    units = ab.Units.digits(9, size="8x10")
    made = universe(tmp_path, units)
    monkeypatch.setattr(exporting, "MOST_PIXELS", 3 * 80)  # the samples fit, the training images do not
    path = ctf.export_ctf(made, tmp_path / "a.ctf", quiet=True)
    with tarfile.open(path) as archive:
        names = archive.getnames()
    assert "training_set.png" not in names and sum(name.startswith("train_") for name in names) == len(units)
    back = ctf.import_ctf(path, tmp_path / "back", quiet=True)
    for unit in units.ids:
        np.testing.assert_array_equal(back.training_images(unit), units.of(unit))
        np.testing.assert_array_equal(back.counterfactual(unit), made.counterfactual(unit))
    monkeypatch.setattr(exporting, "MOST_PIXELS", 2 * 80)
    with pytest.raises(DataError, match=r"3 samples of 8 x 10 .* choose at most 2 with `samples"):
        ctf.export_ctf(made, tmp_path / "b.ctf", quiet=True)


def test_units_of_several_images(tmp_path: Path) -> None:
    images = noise(9, 8, 8, 1)
    owners = ["an artist/one", "b_2", "b_2", "c", "c", "c", "c", "d", "d"]
    units = ab.Units.from_arrays(images, ids=owners, group=True)
    made = universe(tmp_path, units)
    path = ctf.export_ctf(made, tmp_path / "a.ctf", quiet=True)
    with tarfile.open(path) as archive:
        names = archive.getnames()
    assert "training_set.png" not in names and sum(name.startswith("train_") for name in names) == 4
    assert any(name.startswith("train_3_") and name.endswith("_4.png") for name in names)
    assert not any("/" in name for name in names)
    back = ctf.import_ctf(path, tmp_path / "back", quiet=True)
    assert back.unit_ids == units.ids
    for unit in units.ids:
        np.testing.assert_array_equal(back.training_images(unit), units.of(unit))
        np.testing.assert_array_equal(back.counterfactual(unit), made.counterfactual(unit))


def test_an_archive_by_hand(tmp_path: Path) -> None:
    """Members in the order of their names, `./` before them, no keys of ours, mtimes that need extended headers."""
    members = by_hand(units=12, samples=3)
    with tarfile.open(tmp_path / "a.ctf", "w", format=tarfile.PAX_FORMAT) as archive:
        top = tarfile.TarInfo("./")
        top.type = tarfile.DIRTYPE
        archive.addfile(top)
        for name in sorted(members):
            member = tarfile.TarInfo("./" + name)
            member.size, member.mtime = len(members[name]), 1.5
            archive.addfile(member, io.BytesIO(members[name]))
    made = ctf.import_ctf(tmp_path / "a.ctf", tmp_path / "u", quiet=True)
    assert made.unit_ids[:2] == ("unit-0001", "unit-0002") and made.seeds == (0, 1, 2)
    np.testing.assert_array_equal(made.factual, noise(3, 4, 5, 1))
    for u in (1, 2, 10, 12):
        expected = noise(3, 4, 5, 1, seed=100 + u)
        np.testing.assert_array_equal(made.counterfactual(f"unit-{u:04d}"), expected)
        gap = (expected.astype(float) - noise(3, 4, 5, 1)) / 255
        native = np.sqrt((gap**2).sum((1, 2, 3)))
        np.testing.assert_allclose(made.distances(scaled=False)[u - 1], native, rtol=1e-5)
    assert not list(tmp_path.rglob("*.png"))


def test_several_columns_and_training_files_counted_from_0(tmp_path: Path) -> None:
    """Tiles go row by row; a last row may be filled up."""
    generated, training = noise(5, 3, 4, 3), [noise(2, 3, 4, 3, seed=8), noise(1, 3, 4, 3, seed=9)]
    grid = np.zeros((9, 8, 3), np.uint8)
    for k, tile in enumerate(generated):
        grid[3 * (k // 2) : 3 * (k // 2) + 3, 4 * (k % 2) : 4 * (k % 2) + 4] = tile
    members = {
        "leave_2_out.png": png(grid),
        "leave_1_out.png": png(255 - grid),
        "train_0_some_one_2.png": column(training[0]),
        "train_1_1.png": column(training[1]),
        "factual.png": png(grid),
        "config.json": json.dumps(describe(2, 5, 3, 4, 3, kind="SEPARATE")).encode(),
    }
    made = ctf.import_ctf(tar(tmp_path / "a.ctf", members), tmp_path / "u", quiet=True)
    np.testing.assert_array_equal(made.factual, generated)
    np.testing.assert_array_equal(made.counterfactual("unit-0001"), 255 - generated)
    stored = {image.tobytes() for image in made.training_images("unit-0001")}
    assert stored == {image.tobytes() for image in training[0]}


def test_one_unit_and_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar(tmp_path / "a.ctf", by_hand(units=1, samples=1))
    assert len(ctf.import_ctf(path, tmp_path / "one", quiet=True).unit_ids) == 1

    path = tar(tmp_path / "b.ctf", by_hand(units=6))
    monkeypatch.setattr(importing, "BUFFER", 50)  # a unit a block
    whole = UniverseWriter.write

    def interrupted(self: UniverseWriter, block: Any, pictures: np.ndarray) -> None:
        if block.ablations == (4, 5):
            raise KeyboardInterrupt
        whole(self, block, pictures)

    monkeypatch.setattr(UniverseWriter, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ctf.import_ctf(path, tmp_path / "u", quiet=True)
    written = []
    monkeypatch.setattr(
        UniverseWriter, "write", lambda self, block, p: (written.append(block.ablations), whole(self, block, p))
    )
    made = ctf.import_ctf(path, tmp_path / "u", quiet=True)
    assert set(written) == {(4, 5), (5, 6)}
    np.testing.assert_array_equal(made.counterfactual("unit-0006"), noise(2, 4, 5, 1, seed=106))
    with pytest.raises(SettingsError, match="other settings"):
        ctf.import_ctf(tar(tmp_path / "c.ctf", by_hand(units=5)), tmp_path / "u", quiet=True)


def test_memory_does_not_grow_with_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units of 8 pictures 32 x 32, 8 KB each; only their training images, 1 KB each, may be held (a few times)."""
    for module in (importing, exporting):
        monkeypatch.setattr(module, "BUFFER", 2**18)
    one, peaks = column(noise(8, 32, 32, 1)), {}
    for units in (50, 100, 400):  # the first imports what is imported late
        members = {"config.json": json.dumps(describe(units, 8, 32, 32, 1)).encode()}
        members |= {"training_set.png": column(noise(units, 32, 32, 1)), "factual.png": one}
        members = {f"leave_{u}_out.png": one for u in range(units, 0, -1)} | members  # backwards
        path = tar(tmp_path / f"{units}.ctf", members)
        tracemalloc.start()
        made = ctf.import_ctf(path, tmp_path / f"{units}", quiet=True)
        imported = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        ctf.export_ctf(made, tmp_path / f"{units}.back", quiet=True)
        peaks[units] = np.array([imported, tracemalloc.get_traced_memory()[1]])
        tracemalloc.stop()
    growth = (peaks[400] - peaks[100]) / 300
    assert (growth < 4 * 1024).all(), f"{growth} bytes a unit"


# --- an imported universe is a universe ---


def test_commands_on_an_imported_universe(tmp_path: Path) -> None:
    from ablatable.report import write_report
    from ablatable.universes.checking import check_universe

    made = universe(tmp_path, ab.Units.digits(8, size=8))
    back = ctf.import_ctf(ctf.export_ctf(made, tmp_path / "a.ctf", quiet=True), tmp_path / "back", quiet=True)
    np.testing.assert_array_equal(back.radius(), made.radius())
    assert back.influence(1).equals(made.influence(1))
    assert check_universe(tmp_path / "back") == []
    page = write_report(back, tmp_path / "report").read_text(encoding="utf-8")
    assert "None" not in page.split("<script")[0] and "An ensemble of diffusion models" in " ".join(page.split())


# --- bad archives ---


def changed(**config: Any) -> Callable[[Members], Members]:
    def change(members: Members) -> Members:
        values = json.loads(members["config.json"]) | config
        return members | {"config.json": json.dumps(values).encode()}

    return change


def replaced(name: str, content: bytes | None) -> Callable[[Members], Members]:
    def change(members: Members) -> Members:
        rest = {key: value for key, value in members.items() if key != name}
        return rest if content is None else rest | {name: content}

    return change


BAD = {
    "no config": (replaced("config.json", None), "config.json"),
    "no factual": (replaced("factual.png", None), "factual.png is missing"),
    "a unit missing": (replaced("leave_2_out.png", None), "leave_2_out.png is missing"),
    "no training set": (replaced("training_set.png", None), "training_set.png is missing"),
    "no training files": (changed(Format="SEPARATE"), "training files"),
    "more units": (changed(TrainingUnits=4), "leave_4_out.png is missing"),
    "no units": (changed(TrainingUnits=0), "TrainingUnits"),
    "units as text": (changed(TrainingUnits="3"), "TrainingUnits"),
    "two channels": (changed(GenChannel=2), "GenChannel"),
    "negative": (changed(GenHeight=-4), "GenHeight"),
    "more samples": (changed(NumberGenerated=3), "factual.png is 8 x 5"),
    "fewer samples": (changed(NumberGenerated=1), "factual.png is 8 x 5"),
    "other height": (changed(GenHeight=3, TrainHeight=3), "12 x 5|8 x 5"),
    "other width": (changed(GenWidth=4, TrainWidth=4), "x 5"),
    "unlike": (changed(TrainHeight=6), "must be alike"),
    "colour": (changed(GenChannel=3, TrainChannel=3), "mode L"),
    "repeated ids": (changed(UnitIds=["a", "a", "b"]), "UnitIds"),
    "blank ids": (changed(UnitIds=["a", " ", "b"]), "blank"),
    "too much": (changed(NumberGenerated=10**6, GenHeight=4000, TrainHeight=4000), "GiB|pixels"),
    "not JSON": (replaced("config.json", b"{"), "not JSON"),
    "deep JSON": (replaced("config.json", b"[" * 100_000), "not JSON"),
    "not a PNG": (replaced("leave_2_out.png", b"GIF89a, as it says"), "leave_2_out.png"),
    "cut PNG": (replaced("leave_2_out.png", column(noise(2, 4, 5, 1))[:-40]), "leave_2_out.png"),
    "a bomb": (replaced("leave_2_out.png", png(np.zeros((20_000, 3_000), np.uint8))), "20000 x 3000"),
    "padded": (replaced("leave_2_out.png", column(noise(2, 4, 5, 1)) + bytes(10**6)), "bytes"),
    "path": (replaced("../evil", b""), "out of the archive"),
    "absolute": (replaced("/etc/evil", b""), "out of the archive"),
    "in a folder": (replaced("sub/evil", b""), "in a folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_archives_are_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    change, reason = BAD[name]
    path = tar(tmp_path / "a.ctf", change(by_hand()))
    with pytest.raises(DataError, match=reason) as told:
        ctf.import_ctf(path, tmp_path / "out" / "u", quiet=True)
    assert str(path) in str(told.value) and len(str(told.value)) < 400


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.FIFOTYPE, "not a plain file"),
        (tarfile.CHRTYPE, "not a plain file"),
    ],
)
def test_what_is_no_file_is_refused(kind: bytes, reason: str, tmp_path: Path) -> None:
    member = tarfile.TarInfo("leave_9_out.png")
    member.type, member.linkname = kind, "/etc/passwd"
    path = tar(tmp_path / "a.ctf", [*by_hand().items(), (member, b"")])
    with pytest.raises(DataError, match=reason):
        ctf.import_ctf(path, tmp_path / "u", quiet=True)


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    sound = tar(tmp_path / "sound.ctf", by_hand()).read_bytes()
    twice = tar(tmp_path / "twice.ctf", [*by_hand().items(), ("factual.png", b"")])
    packed, cut, text = tmp_path / "packed.ctf", tmp_path / "cut.ctf", tmp_path / "text.ctf"
    packed.write_bytes(gzip.compress(sound))
    cut.write_bytes(sound[: len(sound) // 2])
    text.write_text("not a tar " * 1000)
    for path, reason in (
        (packed, "uncompressed"),
        (cut, "cut off|damaged|missing"),
        (text, "uncompressed"),
        (twice, "two members"),
    ):
        with pytest.raises(DataError, match=reason):
            ctf.import_ctf(path, tmp_path / "u", quiet=True)
    with pytest.raises(DataError, match="no "):
        ctf.import_ctf(tmp_path / "nowhere.ctf", tmp_path / "u", quiet=True)
    (tmp_path / "empty.ctf").write_bytes(b"")
    with pytest.raises(AblatableError):
        ctf.import_ctf(tmp_path / "empty.ctf", tmp_path / "u", quiet=True)


def test_a_header_that_claims_gigabytes(tmp_path: Path) -> None:
    """An extended header of 8 GB (a sparse file costs an attacker nothing) is not read into memory."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 8 * 2**30 - 1024
    path = tmp_path / "a.ctf"
    with path.open("wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(8 * 2**30)
    with pytest.raises(DataError, match="a header claims"):
        ctf.import_ctf(path, tmp_path / "u", quiet=True)
    huge = tarfile.TarInfo("factual.png")
    huge.size = 2**40
    path.write_bytes(huge.tobuf() + bytes(2048))
    with pytest.raises(DataError, match=r"cut off|damaged"):
        ctf.import_ctf(path, tmp_path / "u", quiet=True)
