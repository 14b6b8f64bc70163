"""How many rows a component processes at once. It is recorded, and never changes within a universe."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .._runtime.devices import CPU, UNSAID
from ..diffusion.gpu_room import row_bytes

if TYPE_CHECKING:
    from .run import Run

BATCH = {"fp32": 8, "tf32": 8, "bf16": 16}
"""Rows that a component processes at once on a CPU: as fast as more rows, and little padding in a last batch."""

MOST = 256  # on a GPU; more gains little there
ALONE = 32  # on a GPU, where samples are drawn that belong to no universe
SHARE = 4  # a batch takes at most one part in so many of the memory: components are there, too


def batch_of(run: Run, precision: str, hardware: str, memory: int | None, rows: int, at_once: int = 1) -> int:
    """The batch for drawing blocks of some rows.

    On a CPU it is small: as fast as a larger one, and with little padding. A GPU needs many rows to be busy, so there
    it is a power of two, as large as the rows and the memory allow.

    Args:
        run: the run that is drawn from.
        precision: of the forward passes.
        hardware: see `devices.hardware`.
        memory: of the GPU, in bytes, where it is known.
        rows: in a block. A component survives in a part of them only.
        at_once: components that compute at the same time, each a batch.
    """
    if hardware == CPU:
        return BATCH[precision]
    share = 1 - run.code.matrix.mean()  # of the rows that a component survives in
    return _power_of_two(min(MOST, round(rows * share), _most_in_memory(run, precision, memory) // at_once))


def batch_alone(run: Run, precision: str, hardware: str, memory: int | None = None) -> int:
    """The batch for samples that belong to no universe, however many there are: a sample's bits depend on it.

    Args:
        run: the run that is drawn from.
        precision: of the forward passes.
        hardware, memory: see `batch_of`; the name of a device is enough.
    """
    if hardware == CPU:
        return BATCH[precision]
    return _power_of_two(min(ALONE, _most_in_memory(run, precision, memory)))


def _most_in_memory(run: Run, precision: str, memory: int | None) -> int:
    return (memory or UNSAID) // SHARE // row_bytes(run.recipe, run.shape, precision)


def _power_of_two(most: int) -> int:
    return 2 ** math.floor(math.log2(max(1, most)))


def drawing_bytes(
    run: Run, batch: int | None, precision: str, max_resident: int | None = None, at_once: int = 1
) -> int:
    """Bytes of a GPU's memory that drawing takes: frozen models, the components that are in memory, and their batches.

    Args:
        run: the run that is drawn from.
        batch: rows that a component processes at once.
        precision: of the forward passes.
        max_resident: how many components are in memory; None = all.
        at_once: components that compute at the same time, each a batch.
    """
    sizes = [(run.component_folder(k) / run.recipe.component.weights).stat().st_size for k in range(len(run.present))]
    resident = sum(sorted(sizes)[-max_resident:] if max_resident else sizes)
    return run.shared.size + resident + at_once * (batch or 1) * row_bytes(run.recipe, run.shape, precision)
