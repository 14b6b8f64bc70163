"""A pretended accelerator: real arithmetic, done on the CPU, on tensors that say that they are elsewhere.

As with a GPU, an operation on tensors of both places is an error (unless one has no dimensions), and every copy from
one place to the other is seen: `Pretended.copies` lists them, by direction, and `Pretended.beside` those of other
threads. The order of sums is the CPU's. Work can be recorded and replayed as with CUDA graphs: what is recorded is not
computed until then, and cannot copy to the CPU or from it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretended"


class _Module(backend_registration._DummyBackendModule):
    """What autocast asks a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def current_stream(self, device: Any = None) -> Stream:
        return Stream()

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        yield

    def graph_pool_handle(self) -> None:
        return None

    @contextmanager
    def graph(self, graph: CUDAGraph, pool: Any = None, capture_error_mode: str = "global") -> Iterator[None]:
        assert Pretended.active
        # in the mode "global", other threads may not take memory while work is recorded
        assert capture_error_mode == "thread_local" or not Pretended.active.beside
        Pretended.active.recording = graph
        try:
            yield
        finally:
            Pretended.active.recording = None
        graph.forget()


class Stream:
    """Work is done at once, so there is nothing to wait for."""

    def __init__(self, device: Any = None) -> None:
        pass

    def wait_stream(self, other: Stream) -> None:
        pass

    def wait_event(self, event: str) -> None:
        assert event == "recorded"

    def record_event(self) -> str:
        return "recorded"


class CUDAGraph:
    """The operations that were recorded."""

    broken = False  # whether it replays other numbers

    def __init__(self) -> None:
        self.done: list[tuple[Any, Any, Any, Any]] = []

    def forget(self) -> None:
        """What was recorded was not computed: whatever it would have filled holds nothing."""
        own = set()
        for _, args, kwargs, out in self.done:
            given = {_memory(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
            for tensor in tree_leaves(out):
                if isinstance(tensor, Tensor) and (_memory(tensor) in own or _memory(tensor) not in given):
                    own.add(_memory(tensor))
                    if tensor.is_floating_point():
                        tensor.fill_(float("nan"))

    def replay(self) -> None:
        assert Pretended.active
        Pretended.active.calls.append("replay")
        for func, args, kwargs, out in self.done:
            again = func(*args, **kwargs)
            for there, value in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(value, Tensor) and value.data_ptr() != there.data_ptr():
                    there.copy_(value + 1e-3 if self.broken and value.is_floating_point() else value)


_Module.Stream, _Module.CUDAGraph = Stream, CUDAGraph  # pyright: ignore[reportAttributeAccessIssue]
KEPT = backend_registration._DummyPrivateUse1Hook(), backend_registration._DummyDeviceGuard()
backend_registration._setup_privateuseone_for_python_backend(NAME, _Module(), hook=KEPT[0], device_guard=KEPT[1])
aten: Any = torch.ops.aten


class Far(Tensor):
    """A tensor whose values are in a CPU tensor."""

    @staticmethod
    def __new__(cls, near: Tensor) -> Far:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )

    def __init__(self, near: Tensor) -> None:
        self.near = near

    def __repr__(self, **options: Any) -> str:
        return f"Far({self.near})"

    def record_stream(self, s: Any) -> None:
        assert isinstance(s, Stream)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        mode = Pretended.active
        assert mode is not None, f"{func} on a pretended device that is gone"
        return mode.run(func, args, kwargs or {})


class Pretended(TorchDispatchMode):
    """Counts copies while it is entered."""

    active: Pretended | None = None

    def __init__(self) -> None:
        super().__init__()
        self.here: list[str] = []
        self.beside: list[str] = []  # copies that other threads made
        self.calls: list[str] = []
        self.thread = threading.get_ident()
        self.recording: CUDAGraph | None = None

    @property
    def copies(self) -> list[str]:
        """Those that this thread made."""
        return self.here if threading.get_ident() == self.thread else self.beside

    def copied(self, way: str) -> None:
        if self.recording is not None and not _sends():
            raise RuntimeError(f"a copy ({way}) while work is recorded")
        self.copies.append(way)

    def __enter__(self) -> Pretended:
        Pretended.active = self
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        Pretended.active = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        far = any(isinstance(t, Far) for t in tensors)
        wanted = kwargs.get("device")
        if wanted is not None:
            there = torch.device(wanted).type == NAME
            kwargs = {**kwargs, "device": torch.device("cpu")}
            if tensors and there != far:
                self.copied("in" if there else "out")
            far = there
        elif func is aten._local_scalar_dense.default and far:
            self.copied("item")
        elif func is aten.copy_.default:
            places = [isinstance(t, Far) for t in tensors]
            if places[0] != places[-1]:
                self.copied("in" if places[0] else "out")
        elif far:
            for t in tensors:
                if not isinstance(t, Far) and t.ndim:
                    raise RuntimeError(f"{func}: tensors of two places")
        if far:
            self.calls.append(str(func))
        near_args, near_kwargs = tree_map(_near, args), tree_map(_near, kwargs)
        out = func(*near_args, **near_kwargs)
        if self.recording is not None and far and not _sends():
            self.recording.done.append((func, near_args, near_kwargs, out))
        if not far or func is aten._local_scalar_dense.default:
            return out
        same = {id(t.near): t for t in tensors if isinstance(t, Far)}  # what works in place gives back what it got
        return tree_map(
            lambda v: same.get(id(v), Far(v)) if isinstance(v, Tensor) else v,
            out,
        )


def _sends() -> bool:
    """Whether this thread only sends what comes next; autograd's threads do part of the work itself."""
    return threading.current_thread().name.startswith("ThreadPoolExecutor")


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _near(value: Any) -> Any:
    return value.near if isinstance(value, Far) else value


@torch.library.impl("aten::empty_strided", "PrivateUse1")
def _empty_strided(size: Any, stride: Any, **kwargs: Any) -> Tensor:
    return Far(torch.empty_strided(size, stride, dtype=kwargs.get("dtype"), device="cpu"))


@torch.library.impl("aten::empty.memory_format", "PrivateUse1")
def _empty(size: Any, **kwargs: Any) -> Tensor:
    return Far(torch.empty(size, dtype=kwargs.get("dtype"), device="cpu"))


@torch.library.impl("aten::_copy_from", "PrivateUse1")
def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    if Pretended.active:
        Pretended.active.copied("in" if isinstance(target, Far) else "out")
    _near(target).copy_(_near(source))
    return target
