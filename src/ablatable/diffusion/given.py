"""What components are given beside x_t and t: the conditions of the rows of a batch, and how far they are followed.

With the prediction e(c) under a row's condition c and e(0) under none, guidance g predicts

    e(0) + g (e(c) - e(0))        (Ho & Salimans 2022, equation 6, with g = 1 + w),

which is e(c) at g = 1. It is linear in the predictions, so the mean over components of the guided predictions is the
guided mean. A negative prompt takes the place of the empty one in e(0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .conditions import Takes, Text


@dataclass(frozen=True, eq=False)
class Given:
    """The conditions of some rows.

    Attributes:
        tensors: for each distinct condition what components take, (K, ...), by the keyword of their forward pass:
            `class_labels` int64 (K,), or `encoder_hidden_states` float32 (K, tokens, width).
        row: which of them each row has, int64 (rows,).
        guidance: g.
        instead: as `tensors`, under none of the conditions; (K, ...) in the same order. Needed unless g is 1.
    """

    tensors: Mapping[str, Tensor]
    row: Tensor
    guidance: float = 1.0
    instead: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        if self.guidance != 1 and self.instead is None:
            raise ValueError("guidance needs what the components are given without a condition")

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, rows: Tensor | slice) -> Given:
        """The same for some of the rows."""
        return replace(self, row=self.row[rows])

    def filled(self, more: int) -> Given:
        """With so many rows more, which repeat the first."""
        return replace(self, row=torch.cat([self.row, self.row[:1].expand(more)]))

    def repeated(self, times: int) -> Given:
        """All rows so many times over."""
        return replace(self, row=self.row.repeat(times))

    def to(self, device: str | torch.device) -> Given:
        """On a device."""
        instead = None if self.instead is None else {name: part.to(device) for name, part in self.instead.items()}
        tensors = {name: part.to(device) for name, part in self.tensors.items()}
        return replace(self, tensors=tensors, row=self.row.to(device), instead=instead)

    def rows(self) -> dict[str, Tensor]:
        """What a component takes for these rows."""
        return {name: part[self.row] for name, part in self.tensors.items()}


def trial_of(takes: Takes | None, rows: int, device: str = "cpu") -> dict[str, Tensor]:
    """Some conditions for so many rows, to try a component with: the first class, or an empty embedding."""
    if isinstance(takes, Text):
        return {"encoder_hidden_states": torch.zeros(rows, takes.tokens, takes.width, device=device)}
    return {} if takes is None else {"class_labels": torch.zeros(rows, dtype=torch.int64, device=device)}


def ask(component: nn.Module, x: Tensor, t: Tensor | int, given: Given | None) -> Tensor:
    """A component's prediction for the rows of `x` (B, C, H, W), under their conditions if there are any, guided."""
    if given is None:
        return component(x, t)
    towards = component(x, t, **given.rows()) if given.guidance != 0 else None
    if given.guidance == 1:
        assert towards is not None
        return towards
    assert given.instead is not None  # as __post_init__ says
    away = component(x, t, **{name: part[given.row] for name, part in given.instead.items()})
    return away if towards is None else away + given.guidance * (towards - away)
