"""Arguments of library calls, written flat: tests vary one setting at a time."""

from __future__ import annotations

from typing import Any

import ablatable as ab

SAMPLING = ("sampler", "steps", "precision", "backend", "threshold", "clip")
EXECUTION = ("workers", "device", "max_resident", "ray", "quiet")


def how(**options: Any) -> dict[str, Any]:
    """The same options with those of `Sampling` and `Execution` gathered into one value each."""
    sampling = {name: options.pop(name) for name in SAMPLING if name in options}
    execution = {name: options.pop(name) for name in EXECUTION if name in options}
    return {**options, "sampling": ab.Sampling(**sampling), "execution": ab.Execution(**execution)}


def train_how(**options: Any) -> dict[str, Any]:
    """The same for `train`, which does not sample."""
    gathered = how(**options)
    del gathered["sampling"]
    return gathered
