"""Ctrl-C, a closed terminal, and `kill`: the command ends within two seconds, and says how to resume.

All that is finished is on disk already and the rest is written aside, so ending at once loses nothing but the work at
hand. Workers end when this process does, however it ends (see `workers`).
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .._runtime.progress import RESUME

PATIENCE = 1.5  # seconds that an orderly end may take; a cluster's gets more, so that its processes end too
CLUSTER_PATIENCE = 10.0
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interruption:
    """What stopped a command: the signal, if there was one, and what has been said about it."""

    def __init__(self) -> None:
        self.stopped: KeyboardInterrupt | None = None
        self.signal = signal.SIGINT
        self.told = False

    @property
    def exit_code(self) -> int:
        """As shells have it."""
        return 128 + int(self.signal)

    def tell(self) -> None:
        """Say how to resume, unless a progress display has."""
        if not self.told and not getattr(self.stopped, "__notes__", None):
            self.told = True
            with suppress(OSError):  # the terminal may be gone
                print(f"stopped; what is finished is kept: {RESUME}", file=sys.stderr, flush=True)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Within it, a signal raises `KeyboardInterrupt` in the main thread; whatever holds that up is cut short."""
    caught = Interruption()

    def stop(number: int, frame: object) -> None:
        caught.signal = signal.Signals(number)
        if caught.stopped is None:
            caught.stopped = KeyboardInterrupt()
            raise caught.stopped

    # a signal that the caller ignores, as nohup does, stays ignored
    before = {number: signal.getsignal(number) for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    watch = threading.Thread(target=_cut_short, args=(reader, caught), daemon=True)
    watch.start()
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in before:
        signal.signal(number, stop)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        if caught.stopped is None:  # else the watch goes on: the interpreter's own end takes time too
            writer.close()
            watch.join()


def _cut_short(reader: socket.socket, caught: Interruption) -> None:
    """Wait for a signal, and end the process if that takes it too long, or at a second one."""
    first = _signal(reader)
    if first is None:
        reader.close()
        return
    patience = CLUSTER_PATIENCE if "ray" in sys.modules else PATIENCE
    select.select([reader], [], [], patience)
    caught.signal = first
    caught.tell()
    os._exit(caught.exit_code)


def _signal(reader: socket.socket) -> signal.Signals | None:
    """The next signal of those we handle; None when the pipe is closed."""
    while data := reader.recv(1):
        if data[0] in SIGNALS:
            return signal.Signals(data[0])
    return None
