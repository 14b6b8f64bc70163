"""What a run or universe was made with: compared when it is reopened, recorded when it is written."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import SettingsError, option


def compare_settings(before: Mapping[str, Any], now: Mapping[str, Any], path: Path | str) -> None:
    """Raise `SettingsError` naming both values of every setting in which a reopened run or universe differs."""
    flat_before, flat_now = dict(_flatten(before)), dict(_flatten(now))
    differences = [
        f"{key}: {flat_before.get(key, 'absent')} there, {flat_now.get(key, 'absent')} asked for"
        for key in sorted(flat_before.keys() | flat_now.keys())
        if flat_before.get(key) != flat_now.get(key)
    ]
    if differences:
        raise SettingsError(
            f"{path} was made with other settings ({'; '.join(differences)}); "
            f"use those, choose another {option('out')}, or replace it with {option('overwrite', True)}"
        )


def _flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flatten(inner, f"{prefix}{key}.")
        else:
            yield prefix + key, inner


def environment(*more: str) -> dict[str, str]:
    """What bit-identical results depend on besides the settings: versions, of `more` packages too, and the machine."""
    import torch

    packages = ("torch", "diffusers", "numpy", "safetensors", "zarr")
    return {
        "ablatable": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),  # kernels, and the order of their sums, are chosen by it
        "processor": _processor(),  # and by the maker and model, within one capability
        "system": platform.system(),
        **{name: version(name) for name in (*packages, *more)},
    }


def _processor() -> str:
    """Maker and model of the processor, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or "unknown"
    said = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    parts = [said[name] for name in ("vendor_id", "cpu family", "model", "model name") if said.get(name)]
    return " ".join(parts) or platform.processor() or "unknown"
