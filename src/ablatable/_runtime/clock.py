"""Time that the machine was awake: a laptop that sleeps must not spoil what is said about the time left."""

from __future__ import annotations

import time
from collections.abc import Callable

ASLEEP = 120.0  # seconds without a reading after which the machine is taken to have slept


class AwakeClock:
    """Seconds since it was made, without the gaps between two readings that can only be sleep.

    Work reports at every step, so readings are close together. A gap of more than `ASLEEP`, and of more than ten times
    the longest gap so far, counts as that longest gap: slow steps count in full, a closed lid does not.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """`now`: the clock to read, in seconds."""
        self.now, self.read, self.awake, self.longest = now, now(), 0.0, 0.0

    def __call__(self) -> float:
        """Seconds awake until now."""
        now = self.now()
        gap, self.read = max(now - self.read, 0.0), now
        if gap > max(ASLEEP, 10 * self.longest):
            gap = self.longest
        self.longest = max(self.longest, gap)
        self.awake += gap
        return self.awake
