"""Workers: the same results from any number of them, errors that cross as themselves, deaths that do not matter."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import worker_tasks
from ablatable._runtime.workers import Pool, chunks
from ablatable.errors import DataError, WorkerError

HERE = Path(__file__).parent
pytestmark = pytest.mark.usefixtures("real_workers")


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_and_events(workers: int) -> None:
    events: list[tuple[int, dict]] = []
    with Pool(worker_tasks.double, workers) as pool:
        for tasks in ([5, 6, 7, 8, 9], [1], []):  # workers stay between calls
            events.clear()
            results = dict(pool.run(tasks, lambda number, event: events.append((number, event))))
            assert results == {number: 2 * task for number, task in enumerate(tasks)}
            assert sorted((number, event["seen"]) for number, event in events) == list(enumerate(tasks))


def test_processes_are_shared_out_single_threaded_and_kept() -> None:
    with Pool(worker_tasks.whoami, 2) as pool:
        first = [result for _, result in pool.run(range(8))]
        second = [result for _, result in pool.run(range(8))]
    pids = {pid for pid, _ in first}
    assert len(pids) == 2 and os.getpid() not in pids and {pid for pid, _ in second} <= pids
    assert {threads for _, threads in first} == {"1"}


@pytest.mark.parametrize("workers", [0, 2])
def test_errors(workers: int) -> None:
    with Pool(worker_tasks.complain, workers) as pool, pytest.raises(DataError, match="this file"):
        list(pool.run(["this file"]))
    expected = pytest.raises((WorkerError, ZeroDivisionError), match="nothing to see")
    with Pool(worker_tasks.complain, workers) as pool, expected:
        list(pool.run([""]))


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    tasks = [str(tmp_path / name) for name in "abcd"]
    with Pool(worker_tasks.die_once, 2) as pool:
        assert dict(pool.run(tasks)) == dict(enumerate(tasks))


def test_a_task_that_always_kills_is_given_up() -> None:
    with Pool(worker_tasks.die, 1) as pool, pytest.raises(WorkerError, match=r"died 3 times .*exit code 9"):
        list(pool.run([0]))


SCRIPT = """
import sys, worker_tasks
from ablatable._runtime.workers import Pool
print("started", flush=True)
with Pool(worker_tasks.{function}, 2) as pool:
    print(dict(pool.run({tasks})))
"""


def script(function: str, tasks: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), *sys.path)))}
    command = [sys.executable, "-c", SCRIPT.format(function=function, tasks=tasks)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_script_needs_no_main_guard(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), *sys.path)))}
    file = tmp_path / "script.py"
    file.write_text(SCRIPT.format(function="double", tasks="[1, 2]"))
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, env=environment, check=True)
    started, results = done.stdout.splitlines()  # the script ran once: no worker imported it
    assert started == "started" and ast.literal_eval(results) == {0: 2, 1: 4}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    with script("sleep", repr([str(tmp_path)] * 2)) as parent:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2:
            assert time.monotonic() < deadline and parent.poll() is None
            time.sleep(0.05)
        parent.send_signal(how)
        parent.wait(timeout=30)
    pids = [int(path.name) for path in tmp_path.iterdir()]
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker goes on without its parent"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_chunks() -> None:
    assert list(chunks(7, 3)) == [(0, 3), (3, 6), (6, 7)]
    assert list(chunks(0, 3)) == []
