"""How many rows a component processes at once. It is recorded, and never changes within a universe."""

from __future__ import annotations

import math

from .._runtime.devices import CPU, UNSAID
from ..diffusion.gpu_room import row_bytes
from ..runs.run import Run
from ..runs.samples import BATCH
from .settings import UniverseSettings

MOST = 256  # on a GPU; more gains little there
SHARE = 4  # a batch takes at most one part in so many of the memory: components are there, too


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
    row = row_bytes(run.recipe, run.shape, precision)
    share = 1 - run.code.matrix.mean()  # of the rows that a component survives in
    most = min(MOST, max(1, round(rows * share)), max(1, (memory or UNSAID) // SHARE // row))
    return 2 ** math.floor(math.log2(most))


def drawing_bytes(run: Run, settings: UniverseSettings, max_resident: int | None = None) -> int:
    """Bytes of a GPU's memory that drawing takes: frozen models, the components in memory at once, and a batch."""
    sizes = [(run.component_folder(k) / run.recipe.component.weights).stat().st_size for k in range(len(run.present))]
    resident = sum(sorted(sizes)[-max_resident:] if max_resident else sizes)
    return run.shared.size + resident + (settings.batch or 1) * row_bytes(run.recipe, run.shape, settings.precision)
