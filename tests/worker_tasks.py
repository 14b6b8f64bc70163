"""Functions that tests hand to worker processes, which import them by name."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ablatable.errors import DataError


def double(task: int, report: Callable[[dict], None]) -> int:
    report({"seen": task})
    return 2 * task


def whoami(task: int, report: Callable[[dict], None]) -> tuple[int, str]:
    time.sleep(0.05)
    return os.getpid(), os.environ.get("OMP_NUM_THREADS", "")


def complain(task: str, report: Callable[[dict], None]) -> None:
    raise DataError(task) if task else ZeroDivisionError("nothing to see")


def die_once(task: str, report: Callable[[dict], None]) -> str:
    """The first attempt at a task kills its worker as the system would; later ones succeed."""
    if not Path(task).exists():
        Path(task).touch()
        os._exit(9)
    return task


def die(task: int, report: Callable[[dict], None]) -> None:
    os._exit(9)


def sleep(task: str, report: Callable[[dict], None]) -> None:
    Path(task, str(os.getpid())).touch()
    time.sleep(60)


@dataclass(frozen=True)
class Square:
    value: int
    device: str = "auto"


def patient_square(task: Square, report: Callable[[dict], None]) -> int:
    report({"value": task.value})
    time.sleep(1)  # longer than the driver waits before it looks for events
    if task.value == -1:
        raise DataError("negative")
    if task.value < 0:
        raise ZeroDivisionError("nothing to see")
    return task.value**2


def visible(task: int, report: Callable[[dict], None]) -> str:
    """The GPUs that this worker may see."""
    time.sleep(0.1)  # so that each worker gets a task
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def die_once_and_see(task: str, report: Callable[[dict], None]) -> str:
    return visible(len(die_once(task, report)), report)


def fill_memory(task: int, report: Callable[[dict], None]) -> None:
    """What torch raises when a GPU's memory is full, inside what all computation is inside of."""
    import torch

    from ablatable._runtime.devices import computing

    with computing("cpu"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def seen(task: Square, report: Callable[[dict], None]) -> tuple[int, str, str]:
    """The task, its device, and the GPUs that its worker may see."""
    time.sleep(0.05)
    return task.value, task.device, os.environ.get("CUDA_VISIBLE_DEVICES", "")


@dataclass(frozen=True)
class Fatal:
    path: str
    device: str = "auto"


def die_once_at(task: Fatal, report: Callable[[dict], None]) -> tuple[str, int]:
    """The first attempt at a task kills its worker; without a path, every attempt does."""
    return (die_once(task.path, report) if task.path else die(0, report) or ""), os.getpid()


def process(task: Square, report: Callable[[dict], None]) -> tuple[int, str, str]:
    """The process that did it, and the GPUs that it may see."""
    time.sleep(0.05)
    return os.getpid(), task.device, os.environ.get("CUDA_VISIBLE_DEVICES", "")
