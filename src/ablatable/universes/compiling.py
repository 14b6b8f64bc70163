"""When `--compile` pays: said by the program, from the speed of the drawing at hand."""

from __future__ import annotations

import os
import shutil

# a compiled forward pass's time against one that is not, and what compiling takes; measured, see docs/performance.md
RATIO = {"fp32": 0.84, "bf16": 0.72}
COMPILING = 30.0  # seconds, in each worker
LONG = 600.0  # seconds; of less than this nothing is said


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which `torch.compile` needs."""
    return bool(os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++"))


def would_pay(precision: str, left: float, whole: float) -> str | None:
    """What to say while a universe is drawn without being compiled; None if going on is about as good.

    Args:
        left: seconds that the rest will take, at the speed so far.
        whole: seconds that all of it would, at that speed: a compiled universe is another one, drawn from its start.
    """
    anew = whole * RATIO[precision] + COMPILING
    if left < LONG or anew > 0.95 * left:
        return None
    return (
        f"about {left / 60:.0f} minutes left; drawn anew with --compile it would be about {anew / 60:.0f} "
        "(another --out, or --overwrite)"
    )


def did_not_pay(precision: str, seconds: float) -> str | None:
    """What to say when a compiled universe took so many seconds, compiling included; None if compiling was right."""
    if (seconds - COMPILING) / RATIO[precision] > seconds:
        return None
    return "--compile does not pay for so little drawing: compiling takes half a minute in each worker"
