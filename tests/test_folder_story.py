"""A folder as people have it, from the plan to the report: what is there to decide is said first, and nothing twice.

Eight designers' drawings with transparency, two of them credited to two designers, among files that are broken, that
nobody listed, or that a file manager left.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ablatable as ab
from ablatable.data import load_cache

Call = Callable[..., tuple[int, str, str]]
DESIGNERS, DRAWINGS = 8, 4


@pytest.fixture
def paintings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder; loading keeps its cache beside it."""
    monkeypatch.setattr(load_cache, "cache_folder", lambda: tmp_path / "cache")
    folder, rows = tmp_path / "my paintings", []
    units = ab.Units.openmoji(DESIGNERS, size=16)
    for number, designer in enumerate(units.ids):
        for place, pixels in enumerate(units.of(designer)[:DRAWINGS]):
            name = f"{number}/{place}.png"
            (folder / str(number)).mkdir(parents=True, exist_ok=True)
            alpha = np.where((pixels > 250).all(axis=-1), 0, 255).astype(np.uint8)
            Image.fromarray(np.dstack([pixels, alpha])).save(folder / name)
            rows.append((name, designer))
    for place in range(2):  # the first designer's, credited to the last one too
        (folder / "7" / f"again{place}.png").write_bytes((folder / "0" / f"{place}.png").read_bytes())
        rows.append((f"7/again{place}.png", units.ids[7]))
    dim = (np.asarray(Image.open(folder / "1" / "0.png")).astype(float) * [0.9, 0.9, 0.9, 1]).astype(np.uint8)
    Image.fromarray(dim).save(folder / "2" / "similar.png")
    (folder / "3" / "broken.png").write_bytes(b"not an image")
    (folder / "4" / "cut.png").write_bytes((folder / "4" / "0.png").read_bytes()[:80])
    rows += [("2/similar.png", units.ids[2]), ("3/broken.png", units.ids[3]), ("4/cut.png", units.ids[4])]
    for place in range(3):
        (folder / f"photo{place}.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "unlisted.png").write_bytes((folder / "0" / "0.png").read_bytes())
    (folder / ".DS_Store").write_bytes(b"Bud1")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._0.png").write_bytes(b"")
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=";").writerows([("file_name", "artist"), *rows])
    return folder


def next_command(text: str) -> list[str]:
    """The last line's command, as a shell would split it."""
    *_, last = text.strip().splitlines()
    assert last.startswith("next: ablatable "), last
    return shlex.split(last)[2:]


def test_a_folder_trained_and_explained_without_a_surprise(paintings: Path, tmp_path: Path, call: Call) -> None:
    def flat(*words: str | Path) -> str:
        code, text, err = call(*words)
        assert code == 0, (words, text, err)
        return " ".join(text.split())

    data = (paintings, "--unit-column", "artist", "--size", "8")
    code, _, err = call("plan", *data)  # all broken files at once, before anything else
    assert code == 2 and "broken.png" in err and "cut.png" in err and "--skip-broken" in err and "Traceback" not in err

    told = flat("plan", *data, "--skip-broken")
    assert "35 images, 8 units, 8 x 8, all in colour, transparency on white; skipped: " in told
    for part in ("2 hidden or system files", "2 broken", "4 not in metadata.csv"):
        assert part in told.partition("skipped: ")[2][:120], told
    assert "2 pictures are in more than one unit (2 units)" in told and "--drop-duplicates" in told
    assert re.search(r"\d+ (pairs of )?images of different units look the same", told) and "similar.png" in told
    assert "No single unit can be marked: among 8 units" in told and "9 components at weight 4 have them" in told
    _, text, _ = call("plan", *data, "--skip-broken", "--drop-duplicates")
    again = next_command(text)
    assert again[:2] == ["train", str(paintings)] and {"--skip-broken", "--drop-duplicates"} <= set(again)
    pairs = json.loads(call("plan", *data, "--skip-broken", "--drop-duplicates", "--json")[1])["near_duplicates"]
    assert any({Path(name).name for name in pair["images"]} == {"0.png", "similar.png"} for pair in pairs)

    run, universe = tmp_path / "my run", tmp_path / "my run.zarr"
    train = [*again[:-1], run, "--preset", "tiny", "--steps", "8", "--workers", "0"]
    code, _, err = call(*[word for word in train if word != "--drop-duplicates"])
    assert code == 2 and "again0.png" in err and not run.exists()  # decided before training
    code, text, _ = call(*train)
    told = " ".join(text.split())
    assert code == 0 and "31 images, 8 units" in told and "note: each image is seen" in told
    assert (run / "first_look.png").is_file() and (run / "loss.png").is_file() and "first_look.png" in told
    step = next_command(text)
    assert step[:3] == ["universe", "create", str(run)] and 0 < int(step[step.index("--spares") + 1]) <= 62
    assert str(universe) == step[-1]

    code, text, _ = call("witness", run, "--seeds", "0-1", "--steps", "4")
    assert code == 0 and next_command(text)[-3] in ab.Run(run).units().ids  # a name with a space, in one piece
    code, text, _ = call(*step, "--seeds", "0-1", "--steps", "4", "--workers", "0")
    assert code == 0 and next_command(text)[:2] == ["report", str(universe)]
    told = flat("universe", "influence", universe, "--top", "3")
    assert "score" in told and told.count("cannot be judged") <= 1
    assert "cannot be below" in flat("universe", "radius", universe)
    assert flat("report", universe, "--run", run, "--out", tmp_path / "page")
    assert (tmp_path / "page" / "report.html").is_file()
    told = flat("run", "forget", run, "--unit", ab.Run(run).units().ids[1], "--dry-run")
    assert "would lose 4 components" in told and "looks much like" in told
    assert flat("audit", "check", run) and flat("audit", "check", universe)
