"""Time awake: sleep does not count, slow work does."""

from __future__ import annotations

import pytest

from ablatable._runtime.clock import ASLEEP, AwakeClock


class Machine:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def read(gaps: list[float]) -> float:
    machine = Machine()
    clock, awake = AwakeClock(machine), 0.0
    for gap in gaps:
        machine.time += gap
        awake = clock()
    return awake


def test_all_of_it_counts_while_readings_are_close() -> None:
    assert read([1, 2, 3, ASLEEP]) == pytest.approx(6 + ASLEEP)


def test_a_night_does_not_count() -> None:
    assert read([1, 2, 1, 8 * 3600, 1]) == pytest.approx(1 + 2 + 1 + 2 + 1)


def test_slow_steps_count_in_full() -> None:
    assert read([100, 900, 900]) == pytest.approx(1900)


def test_a_clock_set_back_takes_nothing_away() -> None:
    assert read([5, -3600, 5]) == pytest.approx(10)


def test_loading_does_not_count_as_slow_work(capsys: pytest.CaptureFixture[str]) -> None:
    """Ten minutes until the first step, then one percent every 11 seconds: 18 minutes are left, not days."""
    from ablatable._runtime.progress import Display

    display, now = Display("drawing", 100), 600.0
    display.clock = lambda: now  # type: ignore[assignment]
    for percent in range(1, 4):
        display.update(0, "step", percent, 100)
        now += 11
    first, second, third = capsys.readouterr().err.splitlines()
    assert "left" not in first and "0:17:58 left" not in first
    assert "17:58 left" in second and "17:47 left" in third  # 98 and 97 percent, 11 seconds each
