"""Compiling: what it needs where, and where it is the default."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablatable import Execution, Sampling
from ablatable._runtime import compiling
from ablatable.diffusion import fast_unet
from ablatable.diffusion.sampling_settings import BackendName
from ablatable.errors import SettingsError
from ablatable.runs.run import Run
from ablatable.universes.enumeration import plan_universe, settled
from conftest import Small

GPU = "NVIDIA A100, CUDA 12.8, cuDNN 91002"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """A machine that has these programs and no others, and Triton or not."""

    def has(*programs: str, triton: bool = False) -> None:
        for name in ("CC", "CXX"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        for program in programs:
            (tmp_path / program).write_text("")
            (tmp_path / program).chmod(0o755)
        find: Any = importlib.util.find_spec
        monkeypatch.setattr(
            compiling,
            "find_spec",
            lambda name: object() if triton and name == "triton" else None if name == "triton" else find(name),
        )

    return has


def compiled(run: Run, hardware: str, wanted: BackendName | None = None) -> bool:
    plan = plan_universe(run, [0], sampling=Sampling(backend=wanted), hardware=hardware, memory=2**34)
    assert plan.backend in ("compiled", "eager")
    return plan.backend == "compiled"


def test_a_gpu_needs_triton_and_c_and_no_c_plus_plus(small: Small, machine: Callable[..., None]) -> None:
    machine("gcc", triton=True)
    assert compiled(small.run, GPU) and not compiled(small.run, GPU, "eager")
    assert not compiled(small.run, "cpu"), "on a CPU it is a choice"
    with pytest.raises(SettingsError, match="needs a C\\+\\+ compiler"):
        compiled(small.run, "cpu", "compiled")


@pytest.mark.parametrize(
    ("programs", "triton", "hardware", "named"),
    [
        (("gcc", "g++"), False, GPU, "the package triton"),
        (("g++",), True, GPU, "a C compiler, and there is none; install gcc"),
        (("gcc", "g++"), True, "mps", "a CPU or a CUDA GPU, and this is mps"),
    ],
)
def test_what_is_missing_is_named_if_compiling_is_asked_for(
    small: Small, machine: Callable[..., None], programs: tuple[str, ...], triton: bool, hardware: str, named: str
) -> None:
    machine(*programs, triton=triton)
    assert not compiled(small.run, hardware), "and is not done if it isn't"
    with pytest.raises(SettingsError, match=named):
        compiled(small.run, hardware, "compiled")


def test_a_cluster_compiles_if_it_is_asked_to() -> None:
    cluster = Execution(ray="auto")
    assert settled(Sampling(), cluster).backend == "eager"
    assert settled(Sampling(backend="compiled"), cluster).backend == "compiled"
    assert settled(Sampling(), Execution()).backend is None


def test_a_compiler_that_fails_is_a_sentence(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise RuntimeError("no kernel for\nthis")

    monkeypatch.setattr(fast_unet, "_compiled", lambda: fails)
    with pytest.raises(
        SettingsError, match=r"compiling the forward pass failed \(no kernel for this\).*backend='eager'"
    ):
        small.run.ensemble(batch=8, backend="compiled")
