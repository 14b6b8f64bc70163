"""Where tensors live and how many threads compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import SettingsError, option


def resolve_device(device: str) -> str:
    """`auto` becomes `cuda` where there is one; `SettingsError` for a device that is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise SettingsError(f"no device '{device}'; there are auto, cpu, cuda and cuda:k")
    if kind == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"device '{device}' asked for, but torch sees none; take {option('device', 'cpu')}")
    return device


@contextmanager
def one_thread() -> Iterator[None]:
    """Kernels may add in another order with another number of threads; with one, the sums are always the same."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
