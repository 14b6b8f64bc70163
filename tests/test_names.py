"""Names that people give: with spaces, quotes or control characters, they pass through every command unharmed."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable.cli.output import next_step, quoted, say
from ablatable.universes.reader import Universe
from ablatable.unlearning.certificate import read_certificate, render_certificate

Call = Callable[..., tuple[int, str, str]]
HERE = Execution(workers=0, quiet=True)
HOSTILE = "\x1b[2Jred\nherring"  # clears a terminal's screen
SPACED = "Ann O'Neil & co"


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> ab.Run:
    """A run whose units have awkward names."""
    digits = ab.Units.digits(6, size=8)
    units = ab.Units((HOSTILE, SPACED, *digits.ids[2:]), digits.images, digits.owner)
    code = ab.Code.random(6, 6, 0)
    return ab.train(units, code, "ideal", out=tmp_path_factory.mktemp("named") / "my run", execution=HERE)


def test_a_certificate_writes_control_characters_out(named: ab.Run, tmp_path: Path) -> None:
    ab.forget(named, [HOSTILE], out=tmp_path / "without")
    shown = render_certificate(read_certificate(tmp_path / "without" / "certificate.json"))
    assert "\x1b" not in shown and "\\x1b[2Jred\\nherring" in shown


def test_the_next_command_can_be_copied(
    named: ab.Run, call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, text, _ = call("run", "sample", named.path, "--seeds", "0", "--steps", "2", "--without", SPACED,
                         "--out", tmp_path / "a b")  # fmt: skip
    words = shlex.split(text.splitlines()[-1].removeprefix("next: "))
    assert code == 0 and words[words.index("--unit") + 1] == SPACED and str(named.path) in words
    assert call(*words[1:])[0] == 0  # as a shell would give it


def test_what_is_printed_cannot_rewrite_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"unit {HOSTILE}")
    next_step(f"ablatable run sample R --without {quoted(HOSTILE)}")
    assert "\x1b" not in capsys.readouterr().out


def test_universes_are_opened_alike_and_say_what_they_are(small_universe: Universe) -> None:
    for opened in (ab.Universe(small_universe.url), ab.Universe.open(Path(small_universe.url))):
        assert opened.digest == small_universe.digest
    assert ab.Universe.open(small_universe) is small_universe
    said = repr(small_universe)
    assert said == f"Universe('{small_universe.url}': 3 samples of 1 x 8 x 8, 12 units, 3 spares, ddpm, 6 steps)"


def test_one_name_is_a_list_of_one(named: ab.Run, tmp_path: Path) -> None:
    """A unit or a method by itself, where several may be named."""
    sampling = Sampling(steps=2)
    for out, without in (("a", SPACED), ("b", [SPACED])):
        ab.draw_samples(named, [0], out=tmp_path / out, without=without, sampling=sampling, execution=HERE)
    drawn = [(tmp_path / out / "sample-00000.png").read_bytes() for out in "ab"]
    assert drawn[0] == drawn[1]
    universe = ab.enumerate_universe(named, [0], out=tmp_path / "u", sampling=sampling, execution=HERE)
    found = ab.evaluate(universe, "euclidean", out=tmp_path / "e", execution=HERE)
    assert list(found.results) == ["euclidean"]
