"""When the program says that `--compile` would pay, or did not."""

from __future__ import annotations

from pathlib import Path

import pytest

import ablatable as ab
from ablatable import Execution, Sampling
from ablatable.universes import compiling
from ablatable.universes import enumeration as landscape
from ablatable.universes.compiling import did_not_pay, would_pay


def test_a_long_drawing() -> None:
    assert would_pay("bf16", left=3590, whole=3600) == (
        "about 60 minutes left; drawn anew with --compile it would be about 44 (another --out, or --overwrite)"
    )
    assert "about 51" in (would_pay("fp32", left=3590, whole=3600) or "")


@pytest.mark.parametrize(("left", "whole"), [(500, 500), (3600, 5000), (0, 10_000)])
def test_short_or_far_advanced(left: float, whole: float) -> None:
    assert would_pay("fp32", left, whole) is None


@pytest.mark.parametrize(("precision", "even"), [("fp32", 187.5), ("bf16", 107.1)])
def test_a_short_compiled_drawing(precision: str, even: float) -> None:
    """Even: compiling's 30 seconds are what the shorter passes saved."""
    assert did_not_pay(precision, even + 1) is None
    assert "does not pay" in (did_not_pay(precision, even - 1) or "")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, True),
        ({"quiet": True}, False),
        ({"recipe": "ideal"}, False),
    ],
)
def test_said_once_while_drawing(
    small,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: dict,
    said: bool,
) -> None:
    """At most once, on stderr, from the measured speed; never of what cannot be compiled."""
    monkeypatch.setattr(compiling, "LONG", 0.0)  # so that every drawing is a long one, and compiling takes no time
    monkeypatch.setattr(compiling, "COMPILING", 0.0)
    monkeypatch.setattr(compiling, "RATIO", {"fp32": 0.01})
    monkeypatch.setattr(landscape, "START_UP", 0.0)
    monkeypatch.setattr(landscape, "BLOCK_ROWS", (3, 3))
    monkeypatch.setattr(landscape, "has_compiler", lambda: True)
    run = small.run.path
    if changed.get("recipe"):
        run = tmp_path / "run"
        ab.train(small.units, small.code, ab.preset("ideal"), out=run, execution=Execution(workers=0, quiet=True))
    quiet = changed.get("quiet", False)
    ab.enumerate_universe(
        run, [0, 1], out=tmp_path / "u.zarr", sampling=Sampling(steps=3), execution=Execution(workers=0, quiet=quiet)
    )
    captured = capsys.readouterr()
    assert captured.err.count("drawn anew with --compile") == int(said)
    assert "--compile" not in captured.out
