"""Make what a loop needs at each step beforehand, and send it to a device while the device computes other steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from .._runtime.devices import CPU

AHEAD = 2  # steps that are on their way at once

Sent = tuple[tuple[Tensor, ...], Any]
"""Tensors on a device, and the event after which they are there; None if they are there already."""


def ahead(
    make: Callable[[int], tuple[Tensor, ...]], steps: Sequence[int], device: str | torch.device
) -> Iterator[tuple[Tensor, ...]]:
    """What `make(step)` gives, tensors on the CPU, for each of `steps`: the same tensors on `device`, in that order.

    A thread makes and sends them, in a stream of its own, so neither Python nor the device waits for a copy. On the
    CPU nothing is sent, and each is made when it is asked for.
    """
    device = torch.device(device)
    if device.type == CPU:
        yield from map(make, steps)
        return
    module: Any = torch.get_device_module(device)
    stream = module.Stream(device) if hasattr(module, "Stream") else None

    def send(step: int) -> Sent:
        made = make(step)
        if stream is None:
            return tuple(tensor.to(device, non_blocking=True) for tensor in made), None
        with module.stream(stream):  # pinned memory, or the copy would wait for the device
            pinned = (tensor.pin_memory() if device.type == "cuda" else tensor for tensor in made)
            return tuple(tensor.to(device, non_blocking=True) for tensor in pinned), stream.record_event()

    with ThreadPoolExecutor(1) as beside:
        coming = deque(beside.submit(send, step) for step in steps[:AHEAD])
        for following in [*steps[AHEAD:], *[None] * min(AHEAD, len(steps))]:
            tensors, there = coming.popleft().result()
            if following is not None:
                coming.append(beside.submit(send, following))
            if there is not None:
                current = module.current_stream(device)
                current.wait_event(there)  # the device waits, if it must, and Python does not
                for tensor in tensors:
                    tensor.record_stream(current)  # or its memory might be used again too early
            yield tensors
