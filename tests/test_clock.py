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
