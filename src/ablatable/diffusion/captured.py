"""Launch many kernels at once: a computation recorded as a CUDA graph, and replayed on other values.

A small network's kernels are shorter than it takes Python to launch them, so a GPU mostly waits. A graph launches all
of them with one call. It reads its inputs from memory of its own, to which each call's values are copied first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

WARM = 2  # calls before recording, in which libraries choose kernels and take their workspaces


@dataclass(frozen=True)
class Graph:
    """A recorded computation."""

    inputs: list[Tensor]
    outputs: tuple[Tensor, ...]
    graph: Any

    def replay(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What it gives for other inputs, in memory that the next call overwrites."""
        torch._foreach_copy_(self.inputs, list(inputs))  # pyright: ignore[reportPrivateImportUsage]
        self.graph.replay()
        return self.outputs


class Captured:
    """A function of tensors that is recorded for each shape of its inputs, and replayed where there is a recording.

    What a recording gives lies in memory that its next call overwrites: copy what must last.

    Before a recording is used, it is replayed on the inputs that it was made with, and must give the bits that the
    function gave. Where it does not, or where the device records nothing, the function is called as it is.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        """`function` takes tensors on one device and returns some; it must not change them or read values back."""
        self.function = function
        self._graphs: dict[Any, Graph | None] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """What the function returns."""
        if not records(inputs[0].device):
            return self.function(*inputs)
        key = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in inputs)
        if key not in self._graphs:
            self._graphs[key] = self._recorded(inputs)
        found = self._graphs[key]
        if found is None:
            return self.function(*inputs)
        return found.replay(inputs)

    def _recorded(self, inputs: tuple[Tensor, ...]) -> Graph | None:
        device = inputs[0].device
        module: Any = torch.get_device_module(device)
        expected = self.function(*inputs)
        try:
            with torch.inference_mode(False):  # or the values could not be replaced outside of it
                own = [tensor.clone() for tensor in inputs]
            side, current = module.Stream(device), module.current_stream(device)
            side.wait_stream(current)
            with module.stream(side):
                for _ in range(WARM):
                    self.function(*own)
            current.wait_stream(side)
            graph = module.CUDAGraph()
            # another thread may send the next step meanwhile (see `ahead`), which must neither fail nor be recorded
            with module.graph(graph, pool=_pool(device), capture_error_mode="thread_local"):
                outputs = self.function(*own)
            found = Graph(own, outputs, graph)
            same = all(torch.equal(a, b) for a, b in zip(found.replay(inputs), expected, strict=True))
            why = None if same else "it gives other bits"
        except RuntimeError as error:  # an operation that cannot be recorded, or too little memory for both
            found, why = None, " ".join(str(error).split())[:160]
        if why is None:
            return found
        warnings.warn(
            f"a step of the work is not recorded as a CUDA graph ({why}): the same results, more slowly", stacklevel=2
        )
        return None


def records(device: torch.device) -> bool:
    """Whether a device records graphs."""
    return device.type not in ("cpu", "meta", "mps") and hasattr(torch.get_device_module(device), "CUDAGraph")


def loss_and_gradients(loss_of: Callable[..., Tensor], parameters: Sequence[Tensor]) -> Captured:
    """A recorded function that gives the loss, and the gradient of its sum by each of the parameters."""

    def both(*given: Tensor) -> tuple[Tensor, ...]:
        loss = loss_of(*given)
        return loss.detach(), *torch.autograd.grad(loss.sum(), list(parameters))

    return Captured(both)


@cache
def _pool(device: torch.device) -> Any:
    """Graphs are replayed one after the other, so they share the memory of what they compute on the way."""
    return torch.get_device_module(device).graph_pool_handle()
