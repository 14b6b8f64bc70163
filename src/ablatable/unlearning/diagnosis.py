"""What there is to work with: versions, device, memory, disk, extras; and whether this machine makes a run's bits."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from .._runtime.execution import HERE
from .._runtime.provenance import environment
from .._runtime.workers import default_workers
from ..runs.run import Run, as_run
from .verification import Repetition, repeat

REPEATED = 16  # training steps that are repeated of one component; marks are at powers of two


@dataclass(frozen=True)
class Diagnosis:
    """What there is to work with.

    Attributes:
        versions: of Python, this package and those that results depend on.
        machine: the kind of machine, and what the CPU can do.
        devices: those that PyTorch sees.
        cores: how many this process may use, which is how many workers there are by default.
        memory, memory_free: in bytes; None where the system does not say.
        disk_free: in bytes, where the working folder is.
        missing: extras that are not installed, with the packages that each lacks.
        repetition: the first steps of a run's component trained again; None without a run.
    """

    versions: dict[str, str]
    machine: str
    devices: tuple[str, ...]
    cores: int
    memory: int | None
    memory_free: int | None
    disk_free: int
    missing: dict[str, tuple[str, ...]]
    repetition: Repetition | None = None

    def rows(self) -> list[tuple[str, str]]:
        """Labels and values, for a table."""
        memory = "unknown"
        if self.memory is not None and self.memory_free is not None:
            memory = f"{_gib(self.memory_free)} free of {_gib(self.memory)}"
        return [
            *sorted(self.versions.items()),
            ("machine", self.machine),
            ("devices", ", ".join(self.devices)),
            ("workers by default", str(self.cores)),
            ("memory", memory),
            ("disk", f"{_gib(self.disk_free)} free"),
        ]

    def sentences(self) -> list[str]:
        """What is missing and how to get it; whether bits agree."""
        said = [
            f"The extra '{extra}' is not installed ({', '.join(packages)} missing): pip install 'ablatable[{extra}]'"
            for extra, packages in self.missing.items()
        ]
        if self.repetition is not None:
            said += list(_agreement(self.repetition))
        return said

    def as_dict(self) -> dict[str, Any]:
        """All fields as JSON types."""
        repetition = None if self.repetition is None else self.repetition.as_dict()
        return {**asdict(self), "repetition": repetition}


def diagnose(run: str | Path | Run | None = None) -> Diagnosis:
    """Look at this machine and, with a run, train the first steps of one of its components again and compare bits.

    Raises `StoreError` if `run` is not a complete run.
    """
    import torch

    cuda = [f"cuda:{k} ({torch.cuda.get_device_name(k)})" for k in range(torch.cuda.device_count())]
    made_of = environment()
    total, free = _memory()
    return Diagnosis(
        versions={name: made_of[name] for name in made_of if name not in ("machine", "cpu", "processor", "system")},
        machine=f"{platform.system()} {platform.machine()}, {made_of['cpu']}, {made_of['processor']}",
        devices=("cpu", *cuda),
        cores=default_workers(),
        memory=total,
        memory_free=free,
        disk_free=shutil.disk_usage(Path.cwd()).free,
        missing=dict(_missing_extras()),
        repetition=None if run is None else _repeated(as_run(run)),
    )


def _repeated(run: Run) -> Repetition:
    return repeat(run, (), run.present[:1], steps=min(REPEATED, run.recipe.training.steps), execution=HERE)


def _agreement(repetition: Repetition) -> Iterator[str]:
    for each in repetition.repeated:
        what = f"component {each.component:02d}, {each.steps or 'all'} training steps repeated"
        if each.exact:
            yield f"This machine makes the run's bits: {what}, the same to the last bit."
        else:
            yield f"This machine does NOT make the run's bits: {what}, with another result."
    if repetition.elsewhere:
        yield f"The run was made elsewhere ({'; '.join(repetition.elsewhere)}), so its bits may differ here."
    elif not repetition.holds:
        yield "Versions and machine are the run's, so equal bits are expected. The run may be damaged; check it."


def _missing_extras() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Extras for users (not for development) with the packages that are not installed."""
    lacking: dict[str, list[str]] = {}
    for requirement in requires("ablatable") or []:
        wanted, _, marker = requirement.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        name = re.split(r"[\s<>=!~\[(]", wanted.strip())[0]
        if extra is None or extra[1] == "dev":
            continue
        try:
            version(name)
        except PackageNotFoundError:
            lacking.setdefault(extra[1], []).append(name)
    yield from ((extra, tuple(names)) for extra, names in sorted(lacking.items()))


def _memory() -> tuple[int | None, int | None]:
    """All of the memory and what is free of it, in bytes, where the system says."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows, and in part on macOS
        return None, None


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
