"""What `torch.compile` needs on a machine, and whether it is there."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec

from .devices import CPU


def missing_for_compiling(hardware: str) -> str | None:
    """What to install, as part of a sentence; None if nothing is missing.

    For a CPU, torch writes C++, so it needs a compiler of that. For a CUDA GPU it has Triton make the kernels, which
    compiles a small helper in C and needs no C++.

    Args:
        hardware: `cpu`, or what `devices.hardware` says of a GPU.
    """
    if hardware == CPU:
        found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
        return None if found else "a C++ compiler, and there is none; install g++"
    if "CUDA" not in hardware:
        return f"a CPU or a CUDA GPU, and this is {hardware}"
    if find_spec("triton") is None:
        return "the package triton, which is not installed; install triton"
    found = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return None if found else "a C compiler, and there is none; install gcc"
