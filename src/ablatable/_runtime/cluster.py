"""The same interface as `workers.Pool`, on a Ray cluster: Ray schedules, retries, places and carries; we ask and wait.

Results go from the workers straight to the store, so a run's folder or a universe's must be one that every node reaches
(a shared file system, or an object-store URL). The components travel through Ray: each node gets them once.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import AblatableError, SettingsError, WorkerError, option
from .devices import CPU, full_memory, kind_of
from .files import file_hash, json_hash
from .workers import ATTEMPTS, THREADS, OnEvent

KEPT_SECONDS = 7 * 24 * 3600  # how long a node keeps its copy of a run after the last task on it
WINDOW = 16  # tasks that are submitted beyond what the cluster has room for
POLL_SECONDS = 0.5  # how often the driver looks for what is finished, and for events


class RayPool:
    """Workers for one function: as many tasks at once as the cluster has CPUs (or GPUs) for.

    Use it as a context manager: leaving it cancels what still runs.
    """

    def __init__(
        self,
        function: Callable[[Any, Callable[[dict], None]], Any],
        address: str,
        *,
        run: Path | None = None,
        device: str = "auto",
    ) -> None:
        """Connect to a cluster.

        Args:
            function: as for `workers.Pool`.
            address: `auto`, the cluster this machine belongs to; `local`, a new one of this machine alone, which ends
                with this process; or a cluster's address.
            run: if given, each node gets a copy of this run, and finds its path in `task.run`.
            device: `cuda` gives each task a GPU, `cpu` a CPU; `auto` takes GPUs if the cluster has them.

        Raises:
            SettingsError: Ray is not installed, or there is no cluster at `address`.
        """
        self.ray = _import_ray()
        self.function = function
        self.ours = not self.ray.is_initialized()
        if self.ours:
            try:
                _reach(address)
                self.ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level="ERROR",
                    include_dashboard=False if address == "local" else None,
                    runtime_env={"env_vars": THREADS},
                )
            except (OSError, ValueError, RuntimeError) as error:
                raise SettingsError(
                    f"no Ray cluster at '{address}' ({str(error).splitlines()[0]}); start one with 'ray start --head', "
                    f"or take {option('ray', 'local')} for one on this machine"
                ) from error
        gpus = self.ray.cluster_resources().get("GPU", 0)
        self.device = (
            ("cuda" if gpus else CPU) if device == "auto" else kind_of(device)
        )  # Ray shows a task its GPU alone
        needs = {"num_gpus": 1} if self.device == "cuda" else {"num_cpus": 1}
        self.do = self.ray.remote(_do).options(max_retries=ATTEMPTS - 1, **needs)
        self.archive = _archive(run, self.ray.put) if run else None
        self.events = self.ray.remote(_Events).options(num_cpus=0, max_restarts=-1).remote()
        self.waiting: dict[Any, int] = {}

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(Exception):  # the cluster may be gone
            for reference in self.waiting:
                self.ray.cancel(reference, force=True)
            self.ray.kill(self.events)
        if self.ours:
            self.ray.shutdown()

    def run(self, tasks: Sequence[Any], on_event: OnEvent = lambda number, event: None) -> Iterator[tuple[int, Any]]:
        """Do every task and yield `(task number, result)` as each finishes, as `workers.Pool.run`."""
        coming, self.waiting = iter(range(len(tasks))), {}
        while True:
            for number in islice(coming, max(0, self._window() - len(self.waiting))):
                task = _placed(tasks[number], device=self.device)
                self.waiting[self.do.remote(self.function, number, task, self.events, self.archive)] = number
            if not self.waiting:
                return
            finished, _ = self.ray.wait(list(self.waiting), num_returns=1, timeout=POLL_SECONDS)
            with suppress(self.ray.exceptions.RayError):  # the events' keeper died with its node; it is restarted
                for number, event in self.ray.get(self.events.take.remote(), timeout=POLL_SECONDS).items():
                    on_event(number, event)
            for reference in finished:
                number = self.waiting.pop(reference)
                try:
                    kind, value = self.ray.get(reference)
                except self.ray.exceptions.RayError as error:
                    raise WorkerError(
                        f"Ray gave up on task {number} ({type(error).__name__}: {str(error).splitlines()[0]}). "
                        "What is finished is kept: give the same command again to resume"
                    ) from error
                if kind == "error":
                    raise value
                yield number, value

    def _window(self) -> int:
        """How many tasks are given to Ray at once: enough for all of the cluster, and for nodes that may join it."""
        resource = "GPU" if self.device == "cuda" else "CPU"
        return WINDOW + 2 * int(self.ray.cluster_resources().get(resource, 0))


class _Events:
    """The last event of each task, until the driver takes them."""

    def __init__(self) -> None:
        self.last: dict[int, dict] = {}

    def put(self, number: int, event: dict) -> None:
        self.last[number] = event

    def take(self) -> dict[int, dict]:
        taken, self.last = self.last, {}
        return taken


def _placed(task: Any, **changes: Any) -> Any:
    """The task with another device or run; these are its own fields, or those of its `source`."""
    source = getattr(task, "source", None)
    return replace(task, **changes) if source is None else replace(task, source=replace(source, **changes))


def _do(function: Callable, number: int, task: Any, events: Any, archive: Archive | None) -> tuple[str, Any]:
    """One task, on whichever node Ray chose."""
    try:
        if archive is not None:
            task = _placed(task, run=str(_unpacked(archive, _import_ray().get)))
        return "result", function(task, lambda event: events.put.remote(number, event))
    except AblatableError as error:
        return "error", error
    except Exception as error:
        return "error", full_memory(error) or WorkerError("a task failed unexpectedly:\n" + traceback.format_exc())


@dataclass(frozen=True)
class Archive:
    """A run that nodes copy: one object of Ray's per file, so that none is as large as all of them, and its hash."""

    digest: str
    files: dict[str, Any]  # references to arrays of bytes, by the file's name


def _archive(run: Path, put: Callable[[Any], Any]) -> Archive:
    """Hash a run's files and hand them to Ray, once, one after another."""
    paths = [p for p in sorted(run.rglob("*")) if p.is_file() and not p.name.startswith(".")]
    names = [path.relative_to(run).as_posix() for path in paths]
    digest = json_hash({name: file_hash(path) for name, path in zip(names, paths, strict=True)})
    return Archive(digest, {name: put(np.fromfile(path, np.uint8)) for name, path in zip(names, paths, strict=True)})


def _unpacked(archive: Archive, get: Callable[[Any], Any]) -> Path:
    """The run's folder on this node, written by the first worker that comes; others wait, and ask for nothing."""
    from filelock import FileLock

    folder = Path(tempfile.gettempdir()) / f"ablatable-runs-{getpass.getuser()}" / archive.digest[:32]
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            aside = folder.with_name(f".{folder.name}.{os.getpid()}")
            for name, content in archive.files.items():
                path = aside / name
                path.parent.mkdir(parents=True, exist_ok=True)
                get(content).tofile(path)
            aside.rename(folder)
        os.utime(folder)
    for other in folder.parent.iterdir():  # copies that no task asks for any more, and torn ones
        with suppress(OSError):
            if other.is_dir() and time.time() - other.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(other)
    return folder


def _reach(address: str) -> None:
    """Try a cluster's address before Ray does, which takes minutes to give up; `OSError` if nobody is there."""
    host, colon, port = address.rpartition(":")
    if colon and "//" not in address:
        socket.create_connection((host, int(port)), timeout=5).close()


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise SettingsError(f"{option('ray')} needs Ray: pip install 'ablatable[ray]', on every node") from error
    return ray
