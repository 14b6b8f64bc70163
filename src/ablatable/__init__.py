"""Ablation based counterfactuals: remove training data from a diffusion ensemble exactly, and see what changes.

Names are loaded when they are first used, so that `import ablatable` and the command line start at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .code import Code
    from .distance import euclidean, geometric_mean
    from .errors import AblatableError
    from .landscape import enumerate_universe
    from .pipeline import AblatablePipeline
    from .plan import plan
    from .recipe import Recipe, preset
    from .run import Run
    from .sampling import noise_trajectory, sample
    from .screening import screen_universe
    from .training import train
    from .units import Units
    from .universe import Universe

_WHERE = {
    "AblatableError": "errors",
    "AblatablePipeline": "pipeline",
    "Code": "code",
    "Recipe": "recipe",
    "Run": "run",
    "Units": "units",
    "Universe": "universe",
    "enumerate_universe": "landscape",
    "euclidean": "distance",
    "geometric_mean": "distance",
    "noise_trajectory": "sampling",
    "plan": "plan",
    "preset": "recipe",
    "sample": "sampling",
    "screen_universe": "screening",
    "train": "training",
}

__all__ = [
    "AblatableError",
    "AblatablePipeline",
    "Code",
    "Recipe",
    "Run",
    "Units",
    "Universe",
    "__version__",
    "enumerate_universe",
    "euclidean",
    "geometric_mean",
    "noise_trajectory",
    "plan",
    "preset",
    "sample",
    "screen_universe",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'ablatable' has no attribute '{name}'")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
