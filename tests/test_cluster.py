"""Ray: two nodes on this machine, one killed in the middle, the driver killed: the bytes of a local run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

import ablatable as ab
import worker_tasks
from ablatable import Execution, Sampling
from ablatable.errors import DataError, SettingsError, WorkerError

# Before Ray is imported: it stays on the loopback address, and its workers do not give way to other tests.
os.environ.update(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_worker_niceness="0")
ray = pytest.importorskip("ray", reason="needs Ray: pip install 'ablatable[ray]'")
from ablatable._runtime import cluster as cluster_module  # noqa: E402
from ablatable._runtime.cluster import RayPool, _has_gpus, _places_with_copies, _reason  # noqa: E402
from ablatable._runtime.cluster_runs import archive_of, unpacked  # noqa: E402
from ablatable.universes import enumeration  # noqa: E402
from ablatable.universes.screening.screening_run import screen_universe  # noqa: E402

SEEDS, STEPS, SPARES = [5, 0, 9], 6, 3  # as the fixture `small_universe` has them
Fingerprints = Callable[[Path], dict[str, str]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that takes no tasks, and two nodes of one CPU."""
    from ray.cluster_utils import Cluster

    monkey = pytest.MonkeyPatch()
    monkey.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(Path(__file__).parent), *sys.path])))
    here = {"node_ip_address": "127.0.0.1", "object_store_memory": 100 << 20}
    made: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **here})
    made.here = here
    made.workers = [made.add_node(num_cpus=1, **here) for _ in range(2)]
    yield made
    ray.shutdown()
    made.shutdown()
    monkey.undo()


def test_a_universe_and_a_run(cluster: Any, small, small_universe, tmp_path: Path, fingerprints: Fingerprints) -> None:
    there = Execution(ray=cluster.address, quiet=True)
    ab.train(small.units, small.code, small.recipe, out=tmp_path / "run", execution=there)
    assert fingerprints(tmp_path / "run") == fingerprints(small.run.path)
    ab.enumerate_universe(
        tmp_path / "run", SEEDS, out=tmp_path / "u", sampling=Sampling(steps=STEPS), spares=SPARES, execution=there
    )
    assert fingerprints(tmp_path / "u") == fingerprints(Path(small_universe.url))


@pytest.mark.slow
def test_a_screened_universe(cluster: Any, small, tmp_path: Path, fingerprints: Fingerprints) -> None:
    there = Execution(ray=cluster.address, quiet=True)
    for name, execution in {"s": there, "local": Execution(workers=0, quiet=True)}.items():
        options: dict[str, Any] = {"share": 0.75, "sampling": Sampling(steps=STEPS), "spares": SPARES}
        screen_universe(small.run.path, SEEDS, out=tmp_path / name, execution=execution, **options)
    assert fingerprints(tmp_path / "s") == fingerprints(tmp_path / "local")


def test_tasks_events_and_errors(cluster: Any) -> None:
    events: list[tuple[int, dict]] = []
    with RayPool(worker_tasks.patient_square, cluster.address, device="cpu") as workforce:
        tasks = [worker_tasks.Square(k) for k in range(6)]
        done = dict(workforce.run(tasks, lambda number, event: events.append((number, event))))
        assert done == {k: k * k for k in range(6)}
        assert events and all(event == {"value": number} for number, event in events)
        again = dict(workforce.run(tasks[:2]))  # it stays
        assert again == {0: 0, 1: 1}
    for value, error in [(-1, DataError), (-2, WorkerError)]:
        with RayPool(worker_tasks.patient_square, cluster.address, device="cpu") as workforce, pytest.raises(error):
            list(workforce.run([worker_tasks.Square(value)]))


def test_each_node_unpacks_a_run_once(small, tmp_path: Path, monkeypatch, fingerprints: Fingerprints) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    asked: list[Any] = []

    def get(content: Any) -> Any:
        asked.append(content)
        return content.copy()

    archive = archive_of(small.run.path, lambda content: content)
    assert len(archive.files) == len(fingerprints(small.run.path)) + 1, "an object per file, and the log"
    first = unpacked(archive, get)
    long_ago, recent = time.time() - 8 * 24 * 3600, time.time() - 6 * 24 * 3600
    for name, when in {"old": long_ago, ".old.123": long_ago, "recent": recent}.items():
        (first.parent / name).mkdir()
        os.utime(first.parent / name, (when, when))
    os.utime(first, (long_ago, long_ago))
    written = (first / "ensemble.json").stat().st_mtime_ns
    asked.clear()
    again = unpacked(archive, get)
    assert not asked, "what a node has is not sent again"
    assert again == first and (first / "ensemble.json").stat().st_mtime_ns == written
    assert fingerprints(first) == fingerprints(small.run.path)
    assert {path.name for path in first.parent.iterdir() if path.is_dir()} == {first.name, "recent"}


class Lazy(Sequence[Any]):
    """Tasks that are made when they are asked for."""

    def __init__(self, count: int) -> None:
        self.length, self.made = count, 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: Any) -> Any:
        self.made += 1
        return worker_tasks.Square(number)


def test_workers_stay_and_tasks_are_made_when_they_are_free(cluster: Any) -> None:
    """A worker keeps what it has loaded, so two CPUs take two processes for sixty tasks."""
    with RayPool(worker_tasks.process, cluster.address, device="cpu") as workforce:
        tasks, most, processes = Lazy(60), 0, set()
        for done, (_, (process, device, _)) in enumerate(workforce.run(tasks), start=1):
            most = max(most, tasks.made - done)
            processes.add(process)
            assert device == "cpu"
    assert tasks.made == 60 and most <= 2 and len(processes) == 2


@pytest.mark.slow
def test_a_task_whose_worker_dies_is_given_to_another(cluster: Any, tmp_path: Path) -> None:
    with RayPool(worker_tasks.die_once_at, cluster.address, device="cpu") as workforce:
        tasks = [worker_tasks.Fatal(str(tmp_path / name)) for name in "abc"]
        done = dict(workforce.run(tasks))
        assert [done[k][0] for k in range(3)] == [task.path for task in tasks]
        with pytest.raises(WorkerError, match="died 3 times"):
            list(workforce.run([worker_tasks.Fatal("")]))


A, B, C, HEAD, GONE = (letter * 56 for letter in "abcde")


class Nodes:
    """What is asked of Ray about nodes: their CPUs, and which have a copy of a run."""

    class exceptions:
        RayError = ValueError

    def __init__(self, cpus: dict[str, int], copies: set[str]) -> None:
        self.cpus, self.copies = cpus, copies

    def nodes(self) -> list[dict]:
        return [{"NodeID": name, "Alive": True, "Resources": {"CPU": count}} for name, count in self.cpus.items()]

    def remote(self, function: Any) -> Any:
        return self

    def options(self, scheduling_strategy: Any, **needs: Any) -> Any:
        assert needs["num_cpus"] == 0 and not scheduling_strategy.soft
        return type("", (), {"remote": lambda _, digest: scheduling_strategy.node_id})()

    def get(self, node: str, timeout: float) -> bool:
        if node == GONE:
            raise ValueError
        return node in self.copies


def test_workers_start_where_the_run_is() -> None:
    def places(cpus: dict[str, int], copies: set[str]) -> list[str]:
        found = _places_with_copies(Nodes(cpus, copies), "digest", "CPU", 0.5)
        assert all(place.soft for place in found), "elsewhere, where there is no room"
        return [place.node_id for place in found]

    assert places({A: 2, B: 1, C: 1, HEAD: 0, GONE: 1}, {B, HEAD, C}) == [B, B, C, C]
    assert places({A: 2}, {A}) == [], "there is nowhere else"


def test_auto_asks_a_cluster_that_grows_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that has none now and cannot grow draws on its CPUs."""

    class Cluster:
        """It gives a GPU when it is asked, or does not."""

        def __init__(self, comes: bool, resources: dict[str, float]) -> None:
            self.comes, self.resources = comes, resources

        def cluster_resources(self) -> dict[str, float]:
            return self.resources

        def remote(self, *kind: Any) -> Any:
            return self

        def options(self, **needs: Any) -> Any:
            assert needs["num_gpus"] == 1
            return self

        @property
        def take(self) -> Any:
            return self

        def wait(self, asked: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
            return (asked, []) if self.comes else ([], asked)

        def kill(self, actor: Any) -> None: ...

    def asked(types: list[str] | None, comes: bool = True, wait: bool = True, **resources: float) -> bool:
        report = None if types is None else {"node_type_mapping": dict(enumerate(types))}
        told = json.dumps({"autoscaler_report": report})
        monkeypatch.setattr("ray.experimental.internal_kv._internal_kv_get", lambda key: told)
        return _has_gpus(Cluster(comes, resources), wait=wait)

    assert asked(["node_1"], GPU=2.0)
    assert not asked(["node_1"], CPU=4.0), "nothing will come"
    assert not asked(None, CPU=4.0) and not asked(["head"], wait=False, CPU=4.0)
    with pytest.warns(UserWarning, match="no GPU yet"):
        assert asked(["head", "gpus"], CPU=4.0) and asked(None) and not asked(["head"], comes=False, CPU=4.0)


@pytest.mark.slow
@pytest.mark.parametrize(("share", "workers"), [(1.0, 2), (0.5, 4)])
def test_each_worker_has_its_gpu_or_a_share_of_one(share: float, workers: int) -> None:
    """Ray believes that there are two; nothing is computed on them."""
    script = (
        "import ray, sys, worker_tasks\n"
        "from ablatable._runtime.cluster import RayPool\n"
        "ray.init(address='local', num_cpus=4, num_gpus=2, include_dashboard=False, _node_ip_address='127.0.0.1')\n"
        f"with RayPool(worker_tasks.process, 'local', share={share}) as pool:\n"
        "    results = [result for _, result in pool.run([worker_tasks.Square(k) for k in range(200)])]\n"
        "assert {device for _, device, _ in results} == {'cuda'}, results\n"
        "assert {gpu for _, _, gpu in results} == {'0', '1'}, results\n"
        f"assert len({{process for process, _, _ in results}}) == {workers}, results\n"
        f"assert len({{(process, gpu) for process, _, gpu in results}}) == {workers}, 'each keeps its own'\n"
    )
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), *sys.path]))
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path}, check=True, timeout=240)


def test_no_cluster_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no Ray cluster at '127\.0\.0\.1:1'"):
        RayPool(worker_tasks.patient_square, "127.0.0.1:1")


def test_a_cluster_without_what_workers_need(cluster: Any) -> None:
    """One that may grow waits for it; one of this machine alone does not."""
    with RayPool(worker_tasks.process, cluster.address, device="cuda") as workforce:
        workforce.ahead = 0
        with pytest.raises(SettingsError, match="has no GPU"):
            list(workforce.run([worker_tasks.Square(1)]))


class Failing:
    """A cluster of one CPU in which no worker starts; it counts those that were asked for."""

    class exceptions:
        RayError = ValueError

    def __init__(self) -> None:
        self.started, self.cause = 0, ValueError("ModuleNotFoundError: No module named 'ablatable'")
        self.options = self.remote = self.take = self.ready = self

    def __call__(self, *arguments: Any, **needs: Any) -> Any:
        return self

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def wait(self, asked: list[Any], **options: Any) -> tuple[list[Any], list[Any]]:
        self.started += 1
        return asked[:1], asked[1:]

    def get(self, reference: Any, **options: Any) -> Any:
        if options:  # for events
            return {}
        raise ValueError("The actor died because of an error raised in its creation task") from self.cause

    def kill(self, actor: Any) -> None: ...


def test_workers_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, and does not try for ever."""
    failing = Failing()
    monkeypatch.setattr(cluster_module, "_import_ray", lambda: failing)
    with (
        RayPool(worker_tasks.process, "1:1", device="cpu") as workforce,
        pytest.raises(WorkerError, match=r"no worker of the Ray cluster starts.*No module named 'ablatable'"),
    ):
        list(workforce.run([worker_tasks.Square(1)]))
    assert failing.started == cluster_module.STARTS


def test_the_reason_that_ray_hides_is_told() -> None:
    deepest = RuntimeError(
        "Failed to connect. Last error: Traceback:\n  File x\nAuthenticationError: the token is missing"
    )
    error = ConnectionError("Failed to connect to Ray cluster at 1:1")
    error.__cause__ = deepest
    assert _reason(error) == "Failed to connect to Ray cluster at 1:1 AuthenticationError: the token is missing"
    assert _reason(OSError("refused")) == "refused"


DRIVER = """
import sys
import ablatable as ab
from ablatable.universes import enumeration
enumeration.BLOCK_ROWS, enumeration.BLOCKS = (24, 24), 1000
ab.enumerate_universe(sys.argv[1], range(24), out=sys.argv[2], sampling=ab.Sampling(steps=40), spares=3,
                      execution=ab.Execution(ray=sys.argv[3], quiet=True))
"""


@pytest.mark.slow
def test_a_node_is_killed(
    cluster: Any, small, tmp_path: Path, fingerprints: Fingerprints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its worker draws a block of many: another worker draws it, and the driver does not notice.

    Then the driver is killed: the same command goes on.
    """
    monkeypatch.setattr(enumeration, "BLOCK_ROWS", (24, 24))
    monkeypatch.setattr(enumeration, "BLOCKS", 1000)
    here, sampling = Execution(workers=0, quiet=True), Sampling(steps=40)
    ab.enumerate_universe(
        small.run.path, range(24), out=tmp_path / "local", sampling=sampling, spares=SPARES, execution=here
    )
    expected = fingerprints(tmp_path / "local")

    def driver(out: Path) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", DRIVER, str(small.run.path), str(out), cluster.address])

    def done(out: Path) -> set[Path]:
        return set(out.glob("done/*.json"))

    victim = cluster.add_node(num_cpus=1, **cluster.here)
    out = tmp_path / "ray"
    process = driver(out)
    wait_for(lambda: draws(victim) and len(done(out)) >= 3, process)
    there = done(out)
    cluster.remove_node(victim, allow_graceful=False)
    assert len(there) < len(done(tmp_path / "local")) - 3, "each of the three workers had one to draw"
    assert process.wait(900) == 0
    assert fingerprints(out) == expected

    out = tmp_path / "again"
    process = driver(out)
    wait_for(lambda: len(done(out)) >= 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in done(out)}
    assert len(kept) < len(done(tmp_path / "local"))
    assert driver(out).wait(900) == 0
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert fingerprints(out) == expected


def draws(node: Any) -> bool:
    """Whether a worker of ours does a task on this node: Ray names processes after what they do."""
    (raylet,) = node.all_processes["raylet"]
    children = psutil.Process(raylet.process.pid).children(recursive=True)
    return any(line.startswith("ray::_Worker.do") for child in children for line in command_line(child))


def command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
