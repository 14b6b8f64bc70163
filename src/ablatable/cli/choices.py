"""The named choices of the command line's options, so that they complete and a typing mistake gets the nearest one.

They are repeated here because reading them from the library would import all of it for `--help`; a test holds them
equal to the library's.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

Sampler = Literal["ddpm", "ddim", "dpmsolver++", "heun"]
Precision = Literal["fp32", "tf32", "bf16"]
Backend = Literal["eager", "compiled", "stacked", "openvino"]
Preset = Literal["tiny", "small", "colour", "colour32", "paper", "ideal"]
Statistic = Literal["plain", "directional", "likeness", "residual", "both", "regressed"]
DemoData = Literal["artists", "digits"]
Rule = Literal["max", "sum", "mean"]
Orientation = Literal["quanda", "dattri"]
Attributors = ("random", "euclidean", "euclidean-flips", "witness", "tracin", "grad-cos", "trak", "d-trak")


def told(choice: Any) -> str:
    """The names of a choice, for its option's help: `a, b or c`."""
    *first, last = get_args(choice)
    return f"{', '.join(first)} or {last}"
