"""How many rows a component processes at once. It is recorded, and never changes within a universe."""

from __future__ import annotations

import math

from .._runtime.devices import CPU
from ..runs.run import Run
from ..runs.samples import BATCH

MOST = 256  # on a GPU; more gains little there
UNSAID = 16 * 2**30  # bytes of a GPU's memory where nobody says, as on a cluster
SHARE = 4  # a batch takes at most one part in so many of the memory: components are there, too
ALIVE = 40  # arrays as large as a network's first layer that are in memory at once, generously


def batch_of(run: Run, precision: str, hardware: str, memory: int | None, rows: int) -> int:
    """The batch for drawing blocks of some rows.

    On a CPU it is small: as fast as a larger one, and with little padding. A GPU needs many rows to be busy, so there
    it is a power of two, as large as the rows and the memory allow.

    Args:
        run: the run that is drawn from.
        precision: of the forward passes.
        hardware: see `devices.hardware`.
        memory: of the GPU, in bytes, where it is known.
        rows: in a block. A component survives in a part of them only.
    """
    if hardware == CPU:
        return BATCH[precision]
    _, height, width = run.shape
    wide = max(run.shape[0], *getattr(run.recipe.component, "channels", (0,))[:1])
    row = height * width * wide * ALIVE * (2 if precision == "bf16" else 4)
    share = 1 - run.code.matrix.mean()  # of the rows that a component survives in
    most = min(MOST, max(1, round(rows * share)), max(1, (memory or UNSAID) // SHARE // row))
    return 2 ** math.floor(math.log2(most))
