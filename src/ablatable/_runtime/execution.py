"""How long work is executed: with how many processes, on which device, and whether progress is shown.

Results never depend on an `Execution`, except that a device of another kind rounds differently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SettingsError
from .devices import CPU, check_precision, gpu_share, hardware, kind_of, memory, resolve_device, visible_gpus
from .workers import Pool, default_workers

if TYPE_CHECKING:
    from .cluster import RayPool


@dataclass(frozen=True)
class Execution:
    """How to run long work.

    Attributes:
        workers: local processes, each with one thread; None = one per core, or one per GPU; 0 = this process.
        device: `auto` (`cuda` where there is a GPU, else `cpu`), `cpu`, `cuda` (all GPUs, worker k on GPU k), `cuda:k`
            (this GPU alone), or `mps`.
        max_resident: how many components a worker keeps in memory; None = all of them. The others are read again
            whenever they are needed, once per sampling step.
        ray: the address of a Ray cluster (`auto`, `local` or its address), which then takes the place of `workers`.
            All nodes must be able to reach the files that the work reads and writes.
        quiet: show no progress.

    Raises:
        SettingsError: the values exclude each other, or are out of range.
    """

    workers: int | None = None
    device: str = "auto"
    max_resident: int | None = None
    ray: str | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.ray is not None and self.workers is not None:
            raise SettingsError(
                "ray and workers exclude each other: on a cluster, Ray decides how many workers there are"
            )
        if self.workers is not None and self.workers < 0:
            raise SettingsError(f"workers is {self.workers}; give 0 (this process), a number of processes, or None")
        if self.max_resident is not None and self.max_resident < 1:
            raise SettingsError(f"max_resident is {self.max_resident}; a worker needs at least 1 component in memory")

    def resolved(self) -> Execution:
        """The same with a device that is there; a cluster chooses its own.

        Raises:
            SettingsError: there is no such device. Call this before anything is written.
        """
        return self if self.ray is not None else replace(self, device=resolve_device(self.device))

    def hardware(self, precision: str = "fp32") -> str:
        """What the work's bits depend on, see `devices.hardware`; a cluster is asked.

        Raises:
            SettingsError: the device does not have this precision.
        """
        here = self if self.ray != "local" else replace(self, device=resolve_device(self.device))
        if self.ray in (None, "local") or kind_of(self.device) == CPU:
            check_precision(precision, here.device)
            return hardware(here.device)
        with self.pool(_hardware_of) as pool:
            (_, there), *_ = pool.run([Place(self.device)])
        return there

    def memory(self) -> int | None:
        """Bytes of a GPU's memory; None without a GPU, or on a cluster."""
        return None if self.ray is not None else memory(self.device)

    def processes(self) -> int:
        """How many tasks run at once, as `resolved`; on a cluster, as many as this machine would take."""
        if self.workers is not None:
            return max(1, self.workers)
        if self.device == "cuda" and self.ray is None:
            return max(1, len(visible_gpus()))
        return 1 if kind_of(self.device) not in (CPU, "auto") and self.ray is None else default_workers()

    def pool(self, function: Callable, *, run: Path | None = None, gpu_bytes: int | None = None) -> Pool | RayPool:
        """Workers for one function, on devices as `resolved` gave them.

        A cluster copies `run` to each node, once. On its GPUs several workers share one if each needs few bytes of its
        memory, `gpu_bytes`; None = a GPU each.
        """
        if self.ray is None:
            gpus = visible_gpus() if self.device == "cuda" else ()
            return Pool(function, self.processes() if self.workers is None else self.workers, gpus)
        from .cluster import RayPool

        share = 1.0 if gpu_bytes is None else gpu_share(gpu_bytes)
        return RayPool(function, self.ray, run=run, device=self.device, share=share)


@dataclass(frozen=True)
class Place:
    """A task that asks for a device."""

    device: str


def _hardware_of(task: Place, report: Callable[[dict], None]) -> str:
    return hardware(task.device)


HERE = Execution(workers=0, device="cpu", quiet=True)
"""In this process, on the CPU, without a progress display."""
