"""The same interface as `workers.Pool`, on a Ray cluster: Ray places workers, finds the dead, and carries what is sent.

A worker is an actor. It keeps its CPU or its GPU, or its share of one, and the components that it has loaded, from one
task to the next; it gets a task when it has done the last one. As nodes join the cluster, workers start on them.

Results go from the workers straight to the store, so a run's folder or a universe's must be one that every node reaches
(a shared file system, or an object-store URL). The components travel through Ray: each node gets them once.
"""

from __future__ import annotations

import json
import socket
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import AblatableError, SettingsError, WorkerError, option
from .cluster_runs import Archive, archive_of, has_copy, unpacked
from .devices import CPU, full_memory, kind_of
from .workers import ATTEMPTS, THREADS, OnEvent

AHEAD = 8  # workers that are asked for beyond what the cluster has room for: a cluster that grows adds nodes for them
STARTS = 8  # workers that fail to start, one after another, before the driver gives up
POLL_SECONDS = 0.5  # how often the driver looks for what is finished, and for events
NODE_SECONDS = 30.0  # how long a node may take to say whether it has a copy of the run
GPU_SECONDS = 600.0  # how long `auto` waits for the first GPU of a cluster that adds nodes when they are asked for


class RayPool:
    """Workers for one function: as many as the cluster has CPUs for, or GPUs, or shares of them.

    Use it as a context manager: leaving it stops the workers, whatever they are doing.
    """

    def __init__(
        self,
        function: Callable[[Any, Callable[[dict], None]], Any],
        address: str,
        *,
        run: Path | None = None,
        device: str = "auto",
        share: float = 1.0,
    ) -> None:
        """Connect to a cluster.

        Args:
            function: as for `workers.Pool`.
            address: `auto`, the cluster this machine belongs to; `local`, a new one of this machine alone, which ends
                with this process; or a cluster's address.
            run: if given, each node gets a copy of this run, and finds its path in `task.run`.
            device: `cuda` gives each worker a GPU, `cpu` a CPU; `auto` takes GPUs if the cluster has them or adds them
                when one is asked for.
            share: of a GPU that a worker takes: 1, 1/2, 1/4, ..

        Raises:
            SettingsError: Ray is not installed, or there is no cluster at `address`.
        """
        self.ray = ray = _import_ray()
        self.function, self.ours = function, not ray.is_initialized()
        if self.ours:
            _connect(ray, address)
        self.ahead = 0 if address == "local" else AHEAD
        if device == "auto":
            self.device = "cuda" if _has_gpus(ray, wait=address != "local") else CPU
        else:
            self.device = kind_of(device)  # Ray shows a worker its GPU alone
        self.resource, self.each = ("GPU", share) if self.device == "cuda" else ("CPU", 1.0)
        self.archive = archive_of(run, ray.put) if run else None
        self.near: deque[Any] = deque()  # where workers should start first
        if self.archive is not None:
            self.near = _places_with_copies(ray, self.archive.digest, self.resource, self.each)
        self.events = ray.remote(_Events).options(num_cpus=0, max_restarts=-1).remote()
        self.starting: dict[Any, Any] = {}  # workers, by the reference that is ready once they are
        self.busy: dict[Any, tuple[Any, int]] = {}  # workers and the numbers of their tasks, by the result's reference
        self.idle: list[Any] = []
        self.room, self.asked = 0, 0.0
        self.failed = 0  # workers that did not start since the last success

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(Exception):  # the cluster may be gone
            for worker in [*self.starting.values(), *(worker for worker, _ in self.busy.values()), *self.idle]:
                self.ray.kill(worker)
            self.ray.kill(self.events)
        if self.ours:
            self.ray.shutdown()

    def run(self, tasks: Sequence[Any], on_event: OnEvent = lambda number, event: None) -> Iterator[tuple[int, Any]]:
        """Do every task and yield `(task number, result)` as each finishes, as `workers.Pool.run`."""
        waiting, deaths = deque(range(len(tasks))), [0] * len(tasks)
        for worker, _ in self.busy.values():  # with what nobody waits for any more
            self._lost(worker)
        self.busy.clear()
        while waiting or self.busy:
            self._start_workers(len(waiting))
            while waiting and self.idle:
                number, worker = waiting.popleft(), self.idle.pop()
                task = _placed(tasks[number], device=self.device)
                self.busy[worker.do.remote(number, task)] = worker, number
            if not self.busy and not self.starting:
                raise SettingsError(
                    f"the cluster has no {self.resource}, and each worker needs one; take {option('device', CPU)}, "
                    "or another cluster"
                )
            ready, _ = self.ray.wait([*self.busy, *self.starting], num_returns=1, timeout=POLL_SECONDS)
            with suppress(self.ray.exceptions.RayError):  # the events' keeper died with its node; it is restarted
                for number, event in self.ray.get(self.events.take.remote(), timeout=POLL_SECONDS).items():
                    on_event(number, event)
            for reference in ready:
                worker, number = self.busy.pop(reference, None) or (self.starting.pop(reference), None)
                try:
                    kind, value = self.ray.get(reference)
                except self.ray.exceptions.RayError as error:
                    self._lost(worker)
                    if number is None:
                        self.failed += 1
                    else:
                        deaths[number] += 1
                        waiting.appendleft(number)
                    if self.failed >= STARTS or (number is not None and deaths[number] >= ATTEMPTS):
                        raise WorkerError(_gave_up(number, error)) from error
                    continue
                self.failed = 0
                self.idle.append(worker)
                if kind == "error":
                    raise value
                if number is not None:
                    yield number, value

    def _start_workers(self, tasks: int) -> None:
        """Ask Ray for workers: as many as there is room for, some for nodes that may come, and none without a task."""
        if time.monotonic() - self.asked > POLL_SECONDS:
            self.room = int(self.ray.cluster_resources().get(self.resource, 0) / self.each)
            self.asked = time.monotonic()
        there = len(self.starting) + len(self.idle)
        wanted = min(tasks - there, self.room + self.ahead - there - len(self.busy))
        for _ in range(wanted):
            needs: dict[str, Any] = {"num_cpus": 0, "num_gpus": 0} | {f"num_{self.resource.lower()}s": self.each}
            if self.near:
                needs["scheduling_strategy"] = self.near.popleft()
            worker = self.ray.remote(_Worker).options(**needs).remote(self.function, self.events, self.archive)
            self.starting[worker.ready.remote()] = worker

    def _lost(self, worker: Any) -> None:
        """A worker died, or its node; another takes its place."""
        with suppress(Exception):
            self.ray.kill(worker)


class _Worker:
    """Does one task at a time, on whichever node Ray chose, and keeps what it has loaded."""

    def __init__(self, function: Callable, events: Any, archive: Archive | None) -> None:
        self.function, self.events = function, events
        self.changes = {} if archive is None else {"run": str(unpacked(archive, _import_ray().get))}

    def ready(self) -> tuple[str, None]:
        return "ready", None

    def do(self, number: int, task: Any) -> tuple[str, Any]:
        try:
            task = _placed(task, **self.changes)
            return "result", self.function(task, lambda event: self.events.put.remote(number, event))
        except AblatableError as error:
            return "error", error
        except Exception as error:
            return "error", full_memory(error) or WorkerError("a task failed unexpectedly:\n" + traceback.format_exc())


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


def _gave_up(number: int | None, error: Exception) -> str:
    what = f"Ray gave up on task {number}, whose worker died {ATTEMPTS} times"
    if number is None:
        what = f"no worker of the Ray cluster starts, tried {STARTS} times: is ablatable installed on every node?"
    return f"{what} ({_reason(error)}). What is finished is kept: give the same command again to resume"


# --- what the cluster has -----------------------------------------------------------------------------------------


def _connect(ray: Any, address: str) -> None:
    try:
        _reach(address)
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            include_dashboard=False if address == "local" else None,
            runtime_env={"env_vars": THREADS},
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingsError(
            f"no Ray cluster at '{address}' ({_reason(error)}); start one with 'ray start --head', "
            f"or take {option('ray', 'local')} for one on this machine"
        ) from error


def _reason(error: BaseException) -> str:
    """What Ray says of it, in a line: it hides the reason, such as a token that is missing, below other errors."""
    lines = str(error).splitlines()
    while error.__cause__ is not None:
        error = error.__cause__
    deepest = str(error).strip().splitlines()[-1:]
    return " ".join(dict.fromkeys([*lines[:1], *deepest]))[:400]


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


def _has_gpus(ray: Any, *, wait: bool) -> bool:
    """Whether the cluster has GPUs, or has them soon after one is asked for."""
    if ray.cluster_resources().get("GPU", 0):
        return True
    if not wait or not _grows(ray):
        return False
    warnings.warn(
        f"the cluster has no GPU yet, and adds nodes when they are asked for: waiting for one, {GPU_SECONDS:.0f} "
        "seconds at most. Name the device, cuda or cpu, to decide it yourself",
        stacklevel=4,
    )
    asking = ray.remote(_Events).options(num_cpus=0, num_gpus=1).remote()
    ready, _ = ray.wait([asking.take.remote()], timeout=GPU_SECONDS)
    ray.kill(asking)
    return bool(ready)


def _grows(ray: Any) -> bool:
    """Whether the cluster adds nodes when they are asked for.

    Nothing that Ray documents says it. Its autoscaler reports the types of its nodes, and names a type after the node
    where there is nothing to scale. Without such a report, a cluster in which nothing can run must be one that grows.
    """
    with suppress(Exception):
        from ray.experimental.internal_kv import _internal_kv_get

        types = json.loads(_internal_kv_get("__autoscaling_status"))["autoscaler_report"]["node_type_mapping"]
        return any(not name.startswith("node_") for name in types.values())
    return not ray.cluster_resources().get("CPU", 0)


def _places_with_copies(ray: Any, digest: str, resource: str, each: float) -> deque[Any]:
    """Where workers should start first: on nodes that have a copy of the run, as many as there is room for on each."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    room = {node["NodeID"]: int(node["Resources"].get(resource, 0) / each) for node in ray.nodes() if node["Alive"]}
    room = {node: count for node, count in room.items() if count}
    if len(room) < 2:
        return deque()
    look = ray.remote(has_copy)
    asked = {
        node: look.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(digest)
        for node in room
    }
    places: deque[Any] = deque()
    for node, reference in asked.items():
        with suppress(ray.exceptions.RayError):  # it left
            if ray.get(reference, timeout=NODE_SECONDS):
                near = NodeAffinitySchedulingStrategy(node, soft=True, _spill_on_unavailable=True)
                places.extend([near] * room[node])
    return places
