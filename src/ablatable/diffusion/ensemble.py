"""The ensemble: the mean of its components' noise predictions, of all of them or of an ablation's survivors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .given import Given, ask


class Ensemble:
    """A denoiser: the arithmetic mean of its surviving components' predictions (paper, eq. of the ensemble score).

    Survivors are the same for every row of a batch, or each row has its own; the second form lets rows of many
    ablations share one forward pass per component, while each row's result stays the plain mean over its survivors.
    Likewise each row may have a condition of its own.
    """

    def __init__(
        self,
        components: Sequence[nn.Module],
        alive: np.ndarray | None = None,
        *,
        batch: int | None = None,
        given: Given | None = None,
    ) -> None:
        """Combine components.

        Args:
            components: n denoisers.
            alive: bool (n,), or (rows, n) for a batch of exactly that many rows; None = all survive.
            batch: if given, components only ever see batches of exactly this many rows, the last one filled up.
                A kernel's sums may depend on the batch's size; a fixed size keeps each row's bits the same whatever
                it is computed together with.
            given: the conditions of the rows of a batch, of exactly that many; None = components are given none.
        """
        self.components = components
        n = len(self.components)
        self.alive = np.ones(n, bool) if alive is None else np.asarray(alive, bool)
        if self.alive.shape[-1] != n:
            raise ValueError(f"survivors of {self.alive.shape[-1]} components given for an ensemble of {n}")
        if not self.alive.any(-1).all():
            raise ValueError("an ensemble without a surviving component predicts nothing")
        self.batch, self.given = batch, given
        self._placed: tuple[tuple[int, torch.device], list[Tensor | None], Tensor] | None = None

    def ablate(self, alive: np.ndarray) -> Ensemble:
        """The same components with other survivors, bool (n,) or (rows, n)."""
        return Ensemble(self.components, alive, batch=self.batch, given=self.given)

    def under(self, given: Given | None) -> Ensemble:
        """The same components and survivors, for rows with these conditions."""
        return Ensemble(self.components, self.alive, batch=self.batch, given=given)

    def __call__(self, x: Tensor, t: Tensor | int) -> Tensor:
        """Predicted noise, like `x` (rows, C, H, W)."""

        def predict(component: nn.Module, index: Tensor) -> Tensor:
            times = t[index] if isinstance(t, Tensor) and t.ndim else t
            return self._forward(component, x[index], times, None if given is None else given[index])

        given = self._conditions(len(x))
        return self._mean(x, predict)

    def shared(self, x: Tensor, rows: Tensor, t: int) -> Tensor:
        """As `__call__` on `x[rows]`, each component predicting `x` once; `rows`: int64 (rows,), on `x`'s device.

        Rows of one entry of `x` have one condition, too.
        """
        given = self._conditions(len(rows))
        if given is not None:
            some = torch.zeros(len(x), dtype=torch.int64, device=rows.device)
            some[rows] = torch.arange(len(rows), device=rows.device)  # a row of each entry, no matter which
            given = given[some]
        return self._mean(x[rows], lambda component, index: self._forward(component, x, t, given)[rows[index]])

    def _conditions(self, rows: int) -> Given | None:
        if self.given is not None and len(self.given) != rows:
            raise ValueError(f"the conditions of {len(self.given)} rows given for a batch of {rows}")
        return self.given

    def _mean(self, x: Tensor, predict: Callable[[nn.Module, Tensor], Tensor]) -> Tensor:
        """Mean over survivors of `predict(component, indices of the rows it survives in)`, added in their order."""
        rows, counts = self._survivors(len(x), x.device)
        total = torch.zeros_like(x)
        for number, index in enumerate(rows):
            if index is not None:
                total[index] += predict(self.components[number], index)  # not kept: it may be one of many too large
        return total / counts.to(x.dtype)[:, None, None, None]

    def _survivors(self, rows: int, device: torch.device) -> tuple[list[Tensor | None], Tensor]:
        """The rows that each component survives in, and how many survive in each row: copied to a device once."""
        if self._placed is None or self._placed[0] != (rows, device):
            alive = np.broadcast_to(self.alive, (rows, len(self.components)))
            found = (torch.from_numpy(np.flatnonzero(column)) for column in alive.T)
            indices = [index.to(device) if len(index) else None for index in found]
            self._placed = (rows, device), indices, torch.from_numpy(alive.sum(1)).to(device)
        return self._placed[1:]

    def _forward(self, component: nn.Module, x: Tensor, t: Tensor | int, given: Given | None) -> Tensor:
        if self.batch is None:
            return ask(component, x, t, given)
        count, filler = len(x), -len(x) % self.batch
        if filler:
            x = torch.cat([x, x[:1].expand(filler, *x.shape[1:])])
            if isinstance(t, Tensor) and t.ndim:
                t = torch.cat([t, t[:1].expand(filler)])
            given = None if given is None else given.filled(filler)
        parts = []
        for k in range(0, len(x), self.batch):
            part = slice(k, k + self.batch)
            times = t[part] if isinstance(t, Tensor) and t.ndim else t
            parts.append(ask(component, x[part], times, None if given is None else given[part]))
        return torch.cat(parts)[:count]


class Streamed(Sequence[nn.Module]):
    """Components of which at most `resident` are in memory at once; the others are read whenever they are asked for.

    An ensemble asks for all of them in the same order at every step. For such a cycle it is best to keep the first ones
    for good and to read each of the others again: keeping those used last would read all of them every time.
    """

    def __init__(self, load: Callable[[int], nn.Module], count: int, resident: int) -> None:
        """`load(index)` reads a component."""
        self.load, self.number = load, count
        self.kept = {index: load(index) for index in range(min(resident - 1, count))}

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> nn.Module:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not 0 <= index < self.number:
            raise IndexError(index)
        return self.kept[index] if index in self.kept else self.load(index)
