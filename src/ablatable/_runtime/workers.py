"""Run independent tasks: in this process, or in local worker processes. Results do not depend on which.

A task is a picklable value; a function `(task, report) -> result` does it. `report(event)` sends a small dict back
while it runs. Functions must not depend on each other or on the order in which tasks finish.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from ..errors import AblatableError, WorkerError, option
from .devices import CUBLAS, full_memory

OnEvent = Callable[[int, dict], None]

ATTEMPTS = 3  # a task whose worker dies is given to a fresh worker this often

# One thread a worker: two single-threaded workers beat one process with two threads, and sums keep one order.
# Passive waiting: OpenMP's spinning takes a busy core away from the neighbour.
THREADS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    CUBLAS[0]: CUBLAS[1],
}


def default_workers() -> int:
    """One worker per core this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """Workers for one function. They stay between calls of `run`, so what a worker has loaded serves again.

    Use it as a context manager: leaving it stops the workers, whatever they are doing.
    """

    def __init__(
        self, function: Callable[[Any, Callable[[dict], None]], Any], workers: int, gpus: Sequence[str] = ()
    ) -> None:
        """Start no worker yet.

        Args:
            function: does one task.
            workers: how many local processes; 0 does every task in this process.
            gpus: GPUs to share out, as `CUDA_VISIBLE_DEVICES` names them: worker k sees only number k of them (and
                begins again with the first when there are more workers), as `cuda`.
        """
        self.function, self.count, self.gpus = function, workers, tuple(gpus)
        self.workers: dict[Connection, _Worker] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self.workers.values():
            worker.stop()
        self.workers.clear()

    def run(self, tasks: Sequence[Any], on_event: OnEvent = lambda number, event: None) -> Iterator[tuple[int, Any]]:
        """Do every task and yield `(task number, result)` as each finishes, in any order.

        Args:
            tasks: picklable values.
            on_event: called in this process with `(task number, event)` for every event a task reports.

        Raises:
            WorkerError: a worker died ATTEMPTS times on the same task, or a task failed in an unexpected way.
            AblatableError: what a task itself raised.
        """
        if self.count == 0:
            for number, task in enumerate(tasks):
                yield number, self.function(task, lambda event, number=number: on_event(number, event))
            return
        waiting, deaths, busy = deque(range(len(tasks))), [0] * len(tasks), 0
        for place in range(len(self.workers), min(self.count, len(tasks))):
            self._start(place)
        idle = list(self.workers.values())
        while waiting or busy:
            while waiting and idle:
                number = waiting.popleft()
                idle.pop().give(number, tasks[number])
                busy += 1
            for connection in wait(list(self.workers)):
                assert isinstance(connection, Connection)
                worker = self.workers[connection]
                number = worker.number
                try:
                    kind, value = connection.recv()
                except (EOFError, OSError):
                    self._replace(worker, idle)
                    if number is not None:
                        busy -= 1
                        deaths[number] += 1
                        if deaths[number] >= ATTEMPTS:
                            raise WorkerError(_gave_up(number, worker.process.returncode)) from None
                        waiting.appendleft(number)
                    continue
                assert number is not None
                if kind == "event":
                    on_event(number, value)
                elif kind == "error":
                    raise value
                else:
                    worker.number = None
                    idle.append(worker)
                    busy -= 1
                    yield number, value

    def _replace(self, dead: _Worker, idle: list[_Worker]) -> None:
        del self.workers[dead.connection]
        dead.stop()
        if dead in idle:
            idle.remove(dead)
        idle.append(self._start(dead.place))

    def _start(self, place: int) -> _Worker:
        gpu = self.gpus[place % len(self.gpus)] if self.gpus else None
        worker = _Worker(self.function, place, gpu)
        self.workers[worker.connection] = worker
        return worker


def _gave_up(number: int, exit_code: int | None) -> str:
    return (
        f"a worker died {ATTEMPTS} times on task {number} (exit code {exit_code}: killed, or out of memory?); "
        f"try fewer {option('workers')}. What is finished is kept: repeat what you did, and it resumes there"
    )


class _Worker:
    """A process that does one task at a time, the pipe to it, and the number of the task it has.

    It is a fresh interpreter that imports this package and never the caller's script, so that a script needs no
    `if __name__ == "__main__"` and nothing of the caller's state can reach a task.
    """

    def __init__(self, function: Callable, place: int, gpu: str | None) -> None:
        """`place`: which of the pool's workers it is; `gpu`: the only one that it may see, None = all."""
        self.place = place
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"from ablatable._runtime.workers import serve; serve({theirs.fileno()})"],
                env={**os.environ, **THREADS, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
                | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}),
                stdin=subprocess.PIPE,  # never written to: it closes when we die, however we die
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        self.connection = Connection(ours.detach())
        self.number: int | None = None
        self._send(function)

    def _send(self, value: Any) -> None:
        with suppress(OSError):  # it died; the end of its pipe will say so
            self.connection.send(value)

    def give(self, number: int, task: Any) -> None:
        self.number = number
        self._send(task)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.connection.close()


def serve(handle: int) -> None:
    """What a worker process does: receive a function, then tasks one after the other, until the pipe closes."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    connection = Connection(handle)
    with suppress(EOFError, OSError):  # the parent is gone or has no more for us
        function = connection.recv()
        while True:
            task = connection.recv()
            try:
                answer = ("result", function(task, lambda event: connection.send(("event", event))))
            except AblatableError as error:
                answer = ("error", error)
            except Exception as error:
                full = full_memory(error)
                answer = ("error", full or WorkerError("a task failed unexpectedly:\n" + traceback.format_exc()))
            connection.send(answer)


def _die_with_parent() -> None:
    """A parent killed outright cannot stop its workers, so they watch for it and stop themselves."""
    os.read(0, 1)  # returns only at the end of the pipe that the parent held open
    os._exit(1)


def chunks(count: int, size: int) -> Iterable[tuple[int, int]]:
    """Consecutive (start, stop) pairs that cover `count` items, each `size` long but perhaps the last."""
    return ((start, min(start + size, count)) for start in range(0, count, size))
