"""Processes that have imported the large packages already: one imports them, and forks for each that is asked for.

A child runs a program with arguments and an environment of its own. It has loaded nothing of this package, and knows
nothing of the process that asked for it. It is for tests whose subject is what a process does, not how it starts:
importing torch and diffusers takes six seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

# Imported and not used: none of them starts a thread or opens a file before it is used, so they can be forked.
PACKAGES = (
    "torch",
    "diffusers.models.unets.unet_2d",
    "diffusers.schedulers.scheduling_ddim",
    "diffusers.schedulers.scheduling_ddpm",
    "diffusers.pipelines.pipeline_utils",
    "matplotlib",
    "pydantic",
    "safetensors.torch",
    "scipy.stats",
    "zarr",
)
START = "import sys; sys.path.insert(0, sys.argv[1]); import prepared; prepared.serve(int(sys.argv[2]))"
HIGH = 100  # file descriptors from here on are free


class Template:
    """The process that has imported them; it starts when it is asked for the first child."""

    def __init__(self) -> None:
        self.asking = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        self.ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, str(Path(__file__).parent), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the process whose children the others are."""
        if self.process is None:
            self.open()
        assert self.process is not None
        return self.process.pid

    def close(self) -> None:
        if self.process is not None:
            self.ours.close()  # it ends when nobody can ask it any more
            self.process.wait()

    def ask(self, request: dict[str, Any], descriptors: Sequence[int] = ()) -> Any:
        with self.asking:
            if self.process is None:
                self.open()
            socket.send_fds(self.ours, [pickle.dumps(request)], list(descriptors))
            return pickle.loads(self.ours.recv(1 << 16))

    def start(self, program: str, *arguments: str | Path, **options: Any) -> Child:
        """Run a program's text; `options` as `Child` takes them."""
        return Child(self, [sys.executable, "-c", program, *map(str, arguments)], **options)


class Child:
    """A child of the template, with the part of `subprocess.Popen` that tests and workers need."""

    def __init__(
        self,
        template: Template,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | None = None,
        stderr: IO[Any] | None = None,
        pass_fds: Sequence[int] = (),
        start_new_session: bool = False,
    ) -> None:
        """`command`: `[python, "-c", program, *arguments]`; `stdin`: `subprocess.PIPE`, or None for nothing to read."""
        assert command[1] == "-c"
        self.template, self.returncode, self.stdin = template, None, None
        reads, writes = os.pipe()
        descriptors = {0: reads, 2: 2 if stderr is None else stderr.fileno(), **{number: number for number in pass_fds}}
        request = {
            "program": command[2],
            "arguments": ["-c", *command[3:]],
            "environment": dict(os.environ if env is None else env),
            "numbers": list(descriptors),
            "session": start_new_session,
        }
        self.pid: int = template.ask(request, list(descriptors.values()))
        os.close(reads)
        self.stdin = os.fdopen(writes, "wb")
        if stdin is None:
            self.stdin.close()

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.template.ask({"ended": self.pid})
        return self.returncode

    def wait(self, timeout: float = 240) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            assert time.monotonic() < deadline, "a process does not end"
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


# --- in the template ----------------------------------------------------------------------------------------------


def serve(handle: int) -> None:
    """Import everything, then answer: fork a child, or tell whether one has ended."""
    for name in PACKAGES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    asked = socket.socket(fileno=handle)
    while True:
        message, descriptors, _, _ = socket.recv_fds(asked, 1 << 18, 8)
        if not message:
            return
        request = pickle.loads(message)
        if "ended" in request:
            pid, status = os.waitpid(request["ended"], os.WNOHANG)
            asked.send(pickle.dumps(os.waitstatus_to_exitcode(status) if pid else None))
        elif os.fork() == 0:
            become(request, descriptors, asked)
        for descriptor in descriptors:
            os.close(descriptor)


def become(request: dict[str, Any], descriptors: Sequence[int], asked: socket.socket) -> NoReturn:
    """Be the process that was asked for: its files, its environment, its path; run its program, and end."""
    if request["session"]:
        os.setsid()
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, HIGH) for descriptor in descriptors]
    asked.send(pickle.dumps(os.getpid()))
    asked.detach()
    os.closerange(3, HIGH)
    for number, descriptor in zip(request["numbers"], high, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    own = request["environment"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = list(dict.fromkeys(["", *filter(None, own), *sys.path]))
    sys.argv = request["arguments"]
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    code = 0
    try:
        exec(compile(request["program"], "<string>", "exec"), main.__dict__)
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an interpreter that shuts down waits for threads of libraries, which a fork does not have
