"""Where tensors live, which hardware that is, and how exactly it computes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

from ..errors import SettingsError, WorkerError, option

PrecisionName = Literal["fp32", "tf32", "bf16"]
PRECISIONS: tuple[PrecisionName, ...] = get_args(PrecisionName)
CPU = "cpu"

UNSAID = 16 * 2**30  # bytes of a GPU's memory where nobody says, as on a cluster
CONTEXT = 2**30  # bytes that CUDA and its libraries take for themselves in each process, generously

# cuBLAS adds in a fixed order only with a workspace of its own per stream; it reads this before its first product
CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def resolve_device(device: str) -> str:
    """`auto` becomes `cuda` where there is one, else `cpu`; `SettingsError` for a device that is not there."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else CPU
    kind, colon, number = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and (kind != "cuda" or not number.isdecimal())):
        raise SettingsError(f"no device '{device}'; there are auto, cpu, cuda, cuda:k and mps")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise SettingsError(f"device 'mps' asked for, but torch sees none; take {option('device', CPU)}")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise SettingsError(f"device '{device}' asked for, but torch sees none; take {option('device', CPU)}")
        count = torch.cuda.device_count()
        if number and int(number) >= count:
            raise SettingsError(
                f"device '{device}' asked for, but there are {count} GPUs, cuda:0 to cuda:{count - 1}; "
                f"take one of them, or {option('device', 'cuda')} for all"
            )
    return device


def kind_of(device: str) -> str:
    """The kind of a device: `cuda` of `cuda:1`."""
    return device.partition(":")[0]


def check_precision(precision: str, device: str) -> None:
    """Raise `SettingsError` for a precision that the device does not have; `device` as resolved."""
    if precision == "tf32" and kind_of(device) != "cuda":
        raise SettingsError(
            f"precision tf32 exists on CUDA GPUs only, and the device is {device}; take {option('precision', 'fp32')}"
        )


def hardware(device: str) -> str:
    """What bits depend on: `cpu`, or the GPU's name with the versions of the libraries that compute on it."""
    import torch

    kind = kind_of(device)
    if kind != "cuda":
        return kind
    name = torch.cuda.get_device_name(torch.device(device))
    return f"{name}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"


def memory(device: str) -> int | None:
    """Bytes of a GPU's memory; None where nobody says."""
    import torch

    return torch.cuda.get_device_properties(torch.device(device)).total_memory if kind_of(device) == "cuda" else None


def gpu_share(needs: int, total: int = UNSAID) -> float:
    """The share of a GPU for a worker that needs so many bytes of its memory: 1, 1/2 or 1/4, as small as it fits."""
    return 1 / max(k for k in (1, 2, 4) if k == 1 or k * (needs + CONTEXT) <= total)


def visible_gpus() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` must be for a process to see only one of the GPUs that this one sees, GPU by GPU."""
    import torch

    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(k) for k in range(torch.cuda.device_count())])[: torch.cuda.device_count()]


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


@contextmanager
def computing(device: str, precision: str = "fp32") -> Iterator[None]:
    """Compute the same bits every time: one thread, deterministic kernels, and no precision but the one asked for.

    Args:
        device: where the work is done, as resolved.
        precision: `fp32`, where products of float32 numbers are those of IEEE float32; `tf32`, where a GPU may round
            their factors to 10 bits; or `bf16`, which concerns tensors in bfloat16 and leaves float32 as in `fp32`.

    Raises:
        SettingsError: the device does not have this precision.
        WorkerError: the device's memory is full.
    """
    check_precision(precision, device)
    with ExitStack() as stack:
        stack.enter_context(one_thread())
        stack.enter_context(_products_in("tf32" if precision == "tf32" else "ieee"))
        if kind_of(device) != CPU:  # the CPU's kernels are deterministic as they are
            os.environ.setdefault(*CUBLAS)
            stack.enter_context(_deterministic())
        try:
            yield
        except Exception as error:
            if (full := full_memory(error)) is not None:
                raise full from error
            raise


@contextmanager
def _deterministic() -> Iterator[None]:
    import torch
    from torch.utils import deterministic

    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        deterministic.fill_uninitialized_memory,  # pyright: ignore[reportAttributeAccessIssue]
        cudnn.deterministic,
        cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    cudnn.deterministic, cudnn.benchmark = True, False  # trying kernels out would choose another one each time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        deterministic.fill_uninitialized_memory = before[2]  # pyright: ignore[reportAttributeAccessIssue]
        cudnn.deterministic, cudnn.benchmark = before[3:]


@contextmanager
def _products_in(mode: str) -> Iterator[None]:
    """Set how GPUs round products of float32, `ieee` or `tf32`; torch lets cuDNN choose. On the CPU they are IEEE's."""
    wanted = _switches(mode)
    before = [getattr(place, name) for place, name, _ in wanted]
    try:
        for place, name, value in wanted:
            setattr(place, name, value)
        yield
    finally:
        for (place, name, _), value in zip(wanted, before, strict=True):
            setattr(place, name, value)


def _switches(mode: str) -> list[tuple[Any, str, Any]]:
    import torch

    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):  # before torch 2.9
        return [(place, "allow_tf32", mode == "tf32") for place in (backends.cuda.matmul, backends.cudnn)]
    gpu = (backends.cuda.matmul, backends.cudnn.conv)
    cpu = (backends.mkldnn.conv, backends.mkldnn.matmul)
    return [(place, "fp32_precision", mode) for place in gpu] + [(place, "fp32_precision", "ieee") for place in cpu]


def full_memory(error: BaseException) -> WorkerError | None:
    """The sentence for an error that says that a device's memory, or the machine's, is full; None for any other."""
    text = str(error)
    signs = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator")
    if not isinstance(error, RuntimeError | MemoryError) or not any(sign in text for sign in signs):
        return None
    return WorkerError(
        f"the device's memory is full ({' '.join(text.split())[:160]}); train with a smaller batch "
        f"({option('batch', 16)}), or draw with fewer components in memory ({option('max_resident', 1)}). "
        "What is finished is kept: repeat what you did, and it resumes there"
    )
