"""Forward-mode derivatives of a component: what it predicts, and how that moves as its input moves.

Several directions share one prediction. `torch.func` does it for any component whose operations it knows
(`push_through`), and does it for the closed-form one; a kind may do better (`tangent_unet`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.func import jvp, vmap

from ..errors import SettingsError


def push(component: nn.Module, x: Tensor, t: int, directions: Tensor) -> tuple[Tensor, Tensor]:
    """A component's prediction for one picture, and its derivatives along some directions.

    Args:
        component: a denoiser, in evaluation mode; its weights must not change between calls.
        x: the picture, float (C, H, W).
        t: timestep.
        directions: float (K, C, H, W).

    Returns:
        The predicted noise (C, H, W), and K times d/ds component(x + s direction) at s = 0: (K, C, H, W).

    Raises:
        SettingsError: the component has no method `tangent`.
    """
    tangent: Callable[..., tuple[Tensor, Tensor]] | None = getattr(component, "tangent", None)
    if tangent is None:
        raise SettingsError(
            f"a component of type {type(component).__name__} cannot be differentiated: it has no method 'tangent' "
            "(`diffusion.tangents.push_through` makes one of whatever torch.func can differentiate)"
        )
    return tangent(x, t, directions)


def push_through(function: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """The same for any function of one row, by `torch.func`; what it computes of `x` alone is computed once."""
    outs: Any = (None, 0)  # what has no direction has no axis for it
    return vmap(lambda direction: jvp(function, (x,), (direction,))[:2], out_dims=outs)(directions)
