"""A pretended accelerator: real arithmetic, done on the CPU, on tensors that say that they are elsewhere.

As with a GPU, an operation on tensors of both places is an error (unless one has no dimensions), and every copy from
one place to the other is seen: `Pretended.copies` lists them, by direction. The order of sums is the CPU's.
"""

from __future__ import annotations

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
        self.copies: list[str] = []
        self.calls: list[str] = []

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
                self.copies.append("in" if there else "out")
            far = there
        elif func is aten._local_scalar_dense.default and far:
            self.copies.append("item")
        elif func is aten.copy_.default:
            places = [isinstance(t, Far) for t in tensors]
            if places[0] != places[-1]:
                self.copies.append("in" if places[0] else "out")
        elif far:
            for t in tensors:
                if not isinstance(t, Far) and t.ndim:
                    raise RuntimeError(f"{func}: tensors of two places")
        if far:
            self.calls.append(str(func))
        out = func(*tree_map(_near, args), **tree_map(_near, kwargs))
        if not far or func is aten._local_scalar_dense.default:
            return out
        same = {id(t.near): t for t in tensors if isinstance(t, Far)}  # what works in place gives back what it got
        return tree_map(
            lambda v: same.get(id(v), Far(v)) if isinstance(v, Tensor) else v,
            out,
        )


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
        Pretended.active.copies.append("in" if isinstance(target, Far) else "out")
    _near(target).copy_(_near(source))
    return target
