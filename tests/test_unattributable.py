"""Black and white pictures and the samples that no unit moves: against plain counting, pixel by pixel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable._runtime.stats import wilson
from ablatable.analysis.unattributable import unattributable
from ablatable.data.images import delivered
from ablatable.errors import SettingsError
from ablatable.universes.checking import check_universe
from ablatable.universes.reader import Universe

SEEDS = list(range(16))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two digits that 13 units each have, so that none of these is needed, and 12 digits of one unit each."""
    out = tmp_path_factory.mktemp("binary") / "run"
    digits = ab.Units.digits(14, size=8).images
    units = ab.Units.from_arrays(np.concatenate([np.repeat(digits[:2], 13, axis=0), digits[2:]]))
    code = ab.Code.balanced(units=38, components=8, seed=0)
    ab.train(units, code, ab.preset("ideal"), out=out, execution=Execution(workers=0, quiet=True))
    return out


@pytest.fixture(scope="module")
def universes(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Universe, Universe]:
    """The same samples in 256 levels and in two."""
    out = tmp_path_factory.mktemp("universes")
    grey = ab.enumerate_universe(
        run, SEEDS, out=out / "grey", sampling=Sampling(steps=8), spares=4, execution=Execution(workers=0, quiet=True)
    )
    black = ab.enumerate_universe(
        run,
        SEEDS,
        out=out / "black",
        sampling=Sampling(steps=8, threshold=100),
        spares=4,
        execution=Execution(workers=0, quiet=True),
    )
    return grey, black


def landscapes(universe: Universe) -> list[tuple[bytes, list[bytes]]]:
    """Of every sample, its bytes and its counterfactuals'."""
    factual = universe.factual
    without = [universe.counterfactual(unit) for unit in universe.unit_ids]
    return [(factual[s].tobytes(), [pictures[s].tobytes() for pictures in without]) for s in range(len(factual))]


def test_it_is_the_grey_universe_in_black_and_white(universes: tuple[Universe, Universe]) -> None:
    grey, black = universes
    for (factual, without), (black_factual, black_without) in zip(landscapes(grey), landscapes(black), strict=True):
        for levels, two in zip([factual, *without], [black_factual, *black_without], strict=True):
            assert [255 if level >= 100 else 0 for level in levels] == list(two)
    assert check_universe(black.url) == []
    assert black.settings.threshold == 100 and grey.settings.threshold is None


def test_unattributable_samples(universes: tuple[Universe, Universe]) -> None:
    """Counted on bytes: how many units' removal changes any pixel, and how many pixels at most."""
    _, black = universes
    found = unattributable(black)
    seen = 0
    for sample, (factual, without) in enumerate(landscapes(black)):
        flips = [sum(a != b for a, b in zip(factual, picture, strict=True)) for picture in without]
        assert found.pixels is not None
        assert (found.moved_by[sample], found.pixels[sample]) == (sum(k > 0 for k in flips), max(flips))
        assert (sample in found.samples) == (without == [factual] * len(without)) == (black.radius()[sample] == 0)
        seen += sample in found.samples
        if (unit := found.top_unit[sample]) is not None:
            assert flips[black.unit_ids.index(unit)] == max(flips)
        else:
            assert max(flips) == 0
    assert 0 < seen < len(SEEDS), "all samples alike show nothing"
    shared = np.where(black.training.images[[0, 13]] >= 100, 255, 0)
    for sample in found.samples:  # what no unit is needed for is what many have
        assert any((black.factual[sample] == digit).mean() > 0.9 for digit in shared)
    assert found.share == seen / len(SEEDS)
    assert found.table()["moved_by"].to_list() == sorted(found.moved_by.tolist())


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (0, 50), (50, 50), (14, 3731), (1, 2), (37, 100)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_wilson(successes: int, trials: int, level: float) -> None:
    expected = binomtest(successes, trials).proportion_ci(confidence_level=level, method="wilson")
    assert wilson(successes, trials, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing() -> None:
    assert wilson(0, 0) == (0, 1)


def test_networks_draw_none_in_256_levels(small_universe: Universe) -> None:
    found = unattributable(small_universe)
    assert found.samples.size == 0 and found.pixels is None and (found.moved_by == len(small_universe.unit_ids)).all()


def test_black_pictures_are_pictures(run: Path, tmp_path: Path) -> None:
    """A block without one white pixel is stored like any other; read back, it is whole."""
    made = ab.enumerate_universe(
        run,
        [0, 1],
        out=tmp_path / "u",
        sampling=Sampling(steps=8, threshold=255),
        execution=Execution(workers=0, quiet=True),
    )
    assert not made.factual.any() and not made.landscape(1).any() and check_universe(made.url) == []
    assert unattributable(made).share == 1


@pytest.mark.parametrize("threshold", [0, 256, -1])
def test_impossible_threshold(run: Path, tmp_path: Path, threshold: int) -> None:
    with pytest.raises(SettingsError, match="1 to 255"):
        ab.enumerate_universe(
            run,
            [0],
            out=tmp_path / "u",
            sampling=Sampling(threshold=threshold),
            execution=Execution(workers=0, quiet=True),
        )


def test_threshold_is_inclusive() -> None:
    assert delivered(np.array([0, 99, 100, 255], np.uint8), 100).tolist() == [0, 0, 255, 255]


def test_command(call, run: Path, universes: tuple[Universe, Universe], small_universe: Universe) -> None:
    _, black = universes
    found = unattributable(black)
    code, text, _ = call("universe", "unattributable", black.url, "--json")
    told = json.loads(text)
    assert code == 0 and told["samples"] == found.samples.tolist() and told["interval"] == list(found.interval())
    code, text, _ = call("universe", "unattributable", black.url, "--top", "3")
    assert code == 0 and f"{len(found.samples)} of {len(SEEDS)}" in text
    code, text, _ = call("universe", "unattributable", small_universe.url)
    assert code == 0 and "0 of 3" in text and "--threshold" in text
    again = (
        "universe",
        "create",
        run,
        "--seeds",
        "0-15",
        "--steps",
        "8",
        "--spares",
        "4",
        "--out",
        black.url,
        "--workers",
        "0",
    )
    assert call(*again, "--threshold", "100")[0] == 0
    code, _, err = call(*again)
    assert code == 2 and "threshold: 100 there, None asked for" in err


def test_report(universes: tuple[Universe, Universe], small_universe: Universe, tmp_path: Path) -> None:
    from ablatable.report import write_report

    _, black = universes
    found = unattributable(black)
    page = write_report(black, tmp_path / "black").read_text()
    assert f'data-value="unattributable">{len(found.samples)} of {len(SEEDS)}<' in page
    assert page.count('class="unattributable"') == len(found.samples)
    assert "black and white, from 100 up are white" in page
    assert "nattributable" not in write_report(small_universe, tmp_path / "grey").read_text().split("</style>")[1]
