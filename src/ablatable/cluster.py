"""Run independent tasks on a Ray cluster: the same interface as `workers.Pool`, the same results.

Ray does the scheduling, the retries when a node is lost, the placement and the transport; this module only hands tasks
over and listens. A task's result is small: pictures and weights go from the worker straight to the store.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .errors import AblatableError, SettingsError, WorkerError
from .workers import ATTEMPTS, OnEvent


class RayPool:
    """Workers on a cluster, for one function. A context manager, as `workers.Pool`."""

    def __init__(self, function: Callable, address: str, *, gpus: float = 0, ship: Path | None = None) -> None:
        """Connect to a cluster.

        Args:
            function: `(task, report) -> result`, importable on every node.
            address: `auto` for the cluster this machine is part of, `local` for one on this machine alone, or a
                cluster's address. A program that has already called `ray.init` keeps the cluster it has.
            gpus: how many a task needs.
            ship: a run's folder that tasks read (as `task.run`). It reaches each node once, through Ray's object
                store, and is unpacked there, so that the nodes need no file system in common for it.

        Raises:
            SettingsError: Ray is not installed, or there is no cluster at the address.
        """
        try:
            import ray
        except ImportError:
            raise SettingsError('--ray needs Ray: pip install "ablatable[ray]"') from None
        self.ray, self.function, self.ours = ray, function, not ray.is_initialized()
        if self.ours:
            try:
                ray.init(address=address, log_to_driver=False, logging_level="error")
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise SettingsError(
                    f"no Ray cluster at '{address}' ({error}); start one with 'ray start --head', or take --ray local"
                ) from error
        self.remote = ray.remote(_do).options(num_cpus=1, num_gpus=gpus, max_retries=ATTEMPTS - 1)
        self.parcel = None if ship is None else ray.put(_packed(ship))

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.ours:
            self.ray.shutdown()

    def run(self, tasks: Sequence[Any], on_event: OnEvent = lambda number, event: None) -> Iterator[tuple[int, Any]]:
        """Do every task and yield `(task number, result)` as each finishes, in any order; see `workers.Pool.run`."""
        from ray.util.queue import Queue

        events = Queue(actor_options={"num_cpus": 0})
        waiting = {
            self.remote.remote(self.function, number, task, events, self.parcel): number
            for number, task in enumerate(tasks)
        }
        try:
            while waiting:
                finished, _ = self.ray.wait(list(waiting), timeout=0.5)
                for number, event in events.get_nowait_batch(events.qsize()):
                    on_event(number, event)
                for reference in finished:
                    number = waiting.pop(reference)
                    yield number, self._result(reference, number)
        finally:
            for reference in waiting:
                self.ray.cancel(reference, force=True)
            events.shutdown(force=True)

    def _result(self, reference: Any, number: int) -> Any:
        try:
            kind, value = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            raise WorkerError(
                f"Ray gave up on task {number} after {ATTEMPTS} attempts: {error}. "
                "What is finished is kept: the same command goes on from there"
            ) from error
        if kind == "error":
            raise value
        return value


def _do(function: Callable, number: int, task: Any, events: Any, parcel: bytes | None) -> tuple[str, Any]:
    """What a node does: one task. An error that is ours crosses as itself, not in Ray's wrapping."""
    try:
        if parcel is not None:
            task = replace(task, run=str(_unpacked(parcel, task.run_sha256)))
        return "result", function(task, lambda event: events.put_nowait((number, event)))
    except AblatableError as error:
        return "error", error


def _packed(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                tar.add(path, arcname=path.relative_to(folder).as_posix())
    return buffer.getvalue()


def _unpacked(parcel: bytes, digest: str) -> Path:
    """The run on this node: unpacked by the first worker that comes, found by the others."""
    from filelock import FileLock

    from .files import move_folder_into_place

    place = Path(tempfile.gettempdir()) / f"ablatable-{digest[:32]}"
    with FileLock(place.with_suffix(".lock")):
        if not place.exists():
            aside = Path(tempfile.mkdtemp(prefix="ablatable-"))
            with tarfile.open(fileobj=io.BytesIO(parcel)) as tar:
                tar.extractall(aside, filter="data")
            move_folder_into_place(aside, place)
    return place
