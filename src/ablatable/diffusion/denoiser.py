"""A denoiser maps `(x_t: float (B, C, H, W), t: int (B,) or a single int) -> predicted noise (B, C, H, W)`.

A component, an ensemble and an ablated ensemble all are denoisers, so samplers need to know nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Denoiser = Callable[[Tensor, "Tensor | int"], Tensor]
