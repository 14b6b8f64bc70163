"""Samples as files: a universe's bits, whatever the workers; a sheet of them; the place is looked at first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable.runs import samples
from ablatable.runs.samples import draw_samples
from ablatable.universes.reader import Universe


def test_the_same_bytes_with_any_workers_and_in_any_company(
    small, small_universe: Universe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fingerprints
) -> None:
    """Three batches by one process, by two workers, one sample alone: the bytes are those of the universe."""
    sampling, seeds = Sampling(steps=6), [*range(17), 40]
    drawn = draw_samples(
        small.run, seeds, out=tmp_path / "a", sampling=sampling, execution=Execution(workers=0, quiet=True)
    )
    draw_samples(small.run, seeds, out=tmp_path / "b", sampling=sampling, execution=Execution(workers=2, quiet=True))
    assert fingerprints(tmp_path / "a") == fingerprints(tmp_path / "b")
    for place, seed in enumerate(small_universe.seeds):
        pixels = np.asarray(Image.open(drawn[seeds.index(seed)]))
        np.testing.assert_array_equal(pixels, small_universe.factual[place, ..., 0])
    unit, quiet = small.run.units().ids[3], Execution(quiet=True)
    alone = draw_samples(small.run, [9], out=tmp_path / "c", without=[unit], sampling=sampling, execution=quiet)
    pixels = np.asarray(Image.open(alone[0]))
    np.testing.assert_array_equal(pixels, small_universe.counterfactual(unit)[2, ..., 0])


def test_all_cores_are_used_where_there_is_work_for_them(small, tmp_path: Path, monkeypatch) -> None:
    """As many workers as cores, but no more than batches; a single batch needs none."""
    asked = []

    class Watched(Execution):
        def pool(self, function, *, run=None):  # type: ignore[no-untyped-def]
            asked.append(self.workers)
            return Execution(workers=0).pool(function)

    monkeypatch.setattr(samples, "default_workers", lambda: 2)
    once = Sampling(steps=1)
    for count in (8, 9, 30):
        draw_samples(small.run, range(count), out=tmp_path / str(count), sampling=once, execution=Watched(quiet=True))
    assert asked == [0, 2, 2]


def test_the_sheet_shows_all_samples_of_the_folder(small, tmp_path: Path) -> None:
    quiet = Execution(quiet=True)
    first = draw_samples(small.run, range(9), out=tmp_path, sampling=Sampling(steps=2), execution=quiet)
    more = draw_samples(small.run, [30], out=tmp_path, sampling=Sampling(steps=2), execution=quiet)
    sheet = np.asarray(Image.open(tmp_path / "contact-sheet.png"))
    factor = round(96 / 8)
    side = 8 * factor + 4
    assert sheet.shape == (2 * side + 4, 8 * side + 4)
    for place, path in enumerate([*first, *more]):  # 8 in a row
        row, column = divmod(place, 8)
        tile = sheet[4 + row * side :, 4 + column * side :][: 8 * factor : factor, : 8 * factor : factor]
        np.testing.assert_array_equal(tile, np.asarray(Image.open(path)))
    assert (sheet[side + 4 :, 2 * side + 4 :] == 214).all()  # nothing beside the tenth


def test_the_place_is_looked_at_first(small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No component is loaded and nothing is drawn for a place that will not do."""
    monkeypatch.setattr(samples, "draw_batch", None)
    monkeypatch.setattr(ab.Run, "load_component", None)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "cat.png").write_bytes(b"mine")
    for place in ("file", "full", "file/below"):
        with pytest.raises(ab.AblatableError, match=r"file|full"):
            draw_samples(small.run, [0], out=tmp_path / place)
