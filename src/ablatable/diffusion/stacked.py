"""An ensemble whose components predict as one network, see `stacked_unet`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import SettingsError, option
from .ensemble import Ensemble
from .kinds import kind_named

if TYPE_CHECKING:
    from .given import Given
    from .recipe import ComponentConfig


ONE_BY_ONE = f"train without {option('stacked')}, and draw with {option('backend', 'eager')}"
"""What to do where components cannot be stacked."""


def stacked(components: Sequence[nn.Module], kind: str) -> nn.Module:
    """Components of one kind as one denoiser: rows come as equal parts, part k for component k.

    It has a method `write_to(components)`, which copies the weights back.

    Raises:
        SettingsError: this kind, or this architecture, cannot be stacked.
    """
    stack = kind_named(kind).stack
    if stack is None:
        raise _not_stacked(kind)
    return stack(components)


def refuse_unless_stackable(config: ComponentConfig) -> None:
    """Raise `SettingsError` unless components of these settings can be stacked; call this before anything is made."""
    if kind_named(config.kind).stack is None:
        raise _not_stacked(config.kind)
    if config.takes is not None:
        raise SettingsError(f"components that take conditions cannot be stacked; {ONE_BY_ONE}")
    if getattr(config, "attention", ()) or getattr(config, "middle_attention", False):
        raise SettingsError(f"components with attention cannot be stacked; {ONE_BY_ONE}")


def _not_stacked(kind: str) -> SettingsError:
    return SettingsError(f"components of kind '{kind}' cannot be stacked; {ONE_BY_ONE}")


class Slot(nn.Module):
    """One component of a stack as a denoiser of its own: the whole stack computes, and the rest is thrown away."""

    def __init__(self, stack: nn.Module, number: int, count: int) -> None:
        """`number` of `count` components."""
        super().__init__()
        self.stack, self.number, self.count = [stack], number, count

    def forward(self, x: Tensor, t: Tensor | int) -> Tensor:
        """As any component."""
        times = t.repeat(self.count) if isinstance(t, Tensor) and _per_row(t) else t
        return self.stack[0](x.repeat(self.count, 1, 1, 1), times).unflatten(0, (self.count, -1))[self.number]


class StackedEnsemble(Ensemble):
    """An ensemble that asks all components at once. Those that survive in fewer rows compute some for nothing."""

    def __init__(self, stack: nn.Module, count: int, alive: np.ndarray | None = None, *, batch: int) -> None:
        """Combine the components of a stack.

        Args:
            stack: see `stacked`, of `count` components.
            count: how many components there are.
            alive: see `Ensemble`.
            batch: each component only ever sees batches of exactly this many rows.
        """
        super().__init__([Slot(stack, k, count) for k in range(count)], alive, batch=batch)
        self.stack, self.count, self.rows = stack, count, batch
        self._chosen: tuple[Any, Tensor] | None = None

    def ablate(self, alive: np.ndarray) -> StackedEnsemble:
        """The same components with other survivors, bool (n,) or (rows, n)."""
        return StackedEnsemble(self.stack, self.count, alive, batch=self.rows)

    def under(self, given: Given | None) -> StackedEnsemble:
        """The same: components that take conditions are not stacked."""
        assert given is None
        return self

    def __call__(self, x: Tensor, t: Tensor | int) -> Tensor:
        """Predicted noise, like `x` (rows, C, H, W)."""
        said = [
            self._ask(x[rows.flatten()], t[rows.flatten()] if isinstance(t, Tensor) and _per_row(t) else t)
            for rows in self._parts(len(x), x.device)
        ]
        every = torch.cat(said, dim=1)  # (K, parts B, C, H, W)
        return self._mean_of(x, lambda k, index: every[k, : len(index)])

    def shared(self, x: Tensor, rows: Tensor, t: int) -> Tensor:
        """See `Ensemble.shared`."""
        filled = torch.cat([x, x[:1].expand(-len(x) % self.rows, *x.shape[1:])])
        said = [self._ask(part.repeat(self.count, 1, 1, 1), t) for part in filled.split(self.rows)]
        every = torch.cat(said, dim=1)
        return self._mean_of(x[rows], lambda k, index: every[k][rows[index]])

    def _ask(self, x: Tensor, t: Tensor | int) -> Tensor:
        return self.stack(x, t).unflatten(0, (self.count, -1))

    def _mean_of(self, x: Tensor, said: Callable[[int, Tensor], Tensor]) -> Tensor:
        """As `Ensemble._mean`: added in the components' order."""
        alive, counts = self._survivors(len(x), x.device)
        total = torch.zeros_like(x)
        for k, index in enumerate(alive):
            if index is not None:
                total[index] += said(k, index)
        return total / counts.to(x.dtype)[:, None, None, None]

    def _parts(self, rows: int, device: torch.device) -> Tensor:
        """Which rows each component sees, pass by pass: int64 (parts, K, B), filled up with row 0."""
        key = (rows, device)
        if self._chosen is None or self._chosen[0] != key:
            alive = np.broadcast_to(self.alive, (rows, self.count))
            parts = -(-int(alive.sum(0).max()) // self.rows)
            chosen = np.zeros((self.count, parts * self.rows), np.int64)
            for filled, column in zip(chosen, alive.T, strict=True):
                index = np.flatnonzero(column)
                filled[: len(index)] = index
            arranged = chosen.reshape(self.count, parts, self.rows).swapaxes(0, 1)
            self._chosen = key, torch.from_numpy(arranged.copy()).to(device)
        return self._chosen[1]


def refuse_unless_alone(seen: Sequence[Sequence[Tensor]]) -> None:
    """Raise `SettingsError` unless what one component gave, each time beside others in the stack, is the same bits."""
    if not all(torch.equal(a, b) for other in seen[1:] for a, b in zip(seen[0], other, strict=True)):
        raise SettingsError(
            "on this device a component's bits depend on the others that it is stacked with, so it would not be a "
            f"function of its own split alone; {ONE_BY_ONE}"
        )


def _per_row(t: Tensor | int) -> bool:
    return isinstance(t, Tensor) and t.ndim > 0 and len(t) > 1
