"""Whether a device gives a row of a batch the same bits wherever it stands, on which every comparison of images rests.

Which rows stand beside which depends on how the work is cut and on what was drawn before it was interrupted. A kernel
that adds in another order at another place would make images differ that differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from .._runtime.rng import generator
from ..errors import SettingsError, option


def refuse_unless_places_agree(
    component: nn.Module,
    shape: tuple[int, int, int],
    batch: int,
    t: int,
    device: str,
    given: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Predict one row at the first, a middle and the last place of a batch, each time among other neighbours.

    Args:
        component: a denoiser on `device`.
        shape: (C, H, W) of a row.
        batch: rows that are predicted at once.
        t: timestep.
        device: where the component is.
        given: conditions of the rows, the same for all, where the component takes any.

    Raises:
        SettingsError: the three predictions differ in a bit.
    """
    row, seen = _noise(shape, "row"), []
    for place in sorted({0, batch // 2, batch - 1}):
        rows = torch.stack([_noise(shape, f"neighbours of {place}", k) for k in range(batch)])
        rows[place] = row
        with torch.inference_mode():
            seen.append(component(rows.to(device), t, **given)[place].cpu())
    if not all(torch.equal(seen[0], other) for other in seen):
        apart = max(float((seen[0] - other).abs().max()) for other in seen)
        raise SettingsError(
            f"on {device} the prediction for a picture depends on its place in a batch of {batch} (by up to "
            f"{apart:.1e}), so images would differ by more than the ablation; draw in {option('precision', 'fp32')} "
            f"and with {option('backend', 'eager')}, or with {option('device', 'cpu')}"
        )


def _noise(shape: tuple[int, int, int], *key: str | int) -> Tensor:
    return torch.from_numpy(generator("places", *key).standard_normal(shape, dtype=np.float32))
