"""What removal shows: the ground truth that scores are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._runtime.devices import CPU, computing
from .._runtime.rng import generator
from .._runtime.text import stretches
from .._runtime.workers import chunks
from ..analysis.calibration import spared_scores
from ..analysis.seen import Seen
from ..runs.conditioning import given_of
from ..runs.run import Run
from ..universes.reader import Universe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..diffusion.conditions import Condition

SETS = 128  # sets of components, half of them each, whose diffusion loss is predicted
ROWS = 256  # samples that a component processes at once
NOISES = 20  # timesteps, each with its own noise, over which the diffusion loss of an image is averaged
ERRORS = 2**26  # numbers in the components' errors of the samples that are looked at together, for bounded memory


@dataclass(frozen=True, eq=False)
class Truth:
    """What removal shows of some samples. All (samples, ..), float64; None where a universe cannot tell.

    Attributes:
        distance: of every unit's counterfactual, (samples, units).
        p: calibrated p-value of every unit, (samples, units); None without spares.
        presence: of every spare ablation, the share of its survivors that trained on each unit, (spares, units).
        spare_distance: (samples, spares).
        set_presence, set_loss: the same shares for random sets of components, (sets, units), and the diffusion loss of
            every sample under each, (samples, sets); None without the run.
    """

    distance: np.ndarray
    p: np.ndarray | None
    presence: np.ndarray | None
    spare_distance: np.ndarray | None
    set_presence: np.ndarray | None
    set_loss: np.ndarray | None


class Removals:
    """What a universe tells of its units' influence, read a few samples at a time.

    Attributes:
        why: for each metric of which it does not tell, the reason.
    """

    def __init__(self, universe: Universe, run: Run | None, samples: Sequence[int], device: str = CPU) -> None:
        """`samples`: those that will be asked about; `device`: where components compute, as resolved."""
        settings, self.universe, self.why = universe.settings, universe, dict[str, str]()
        self._presence = self._set_presence = self._set_loss = self._seen = None
        if settings.spares:
            words = settings.codewords
            trained = words[list(settings.ablation)]  # (units, components)
            self._presence = present(~words[list(settings.spares)], trained)
            self._seen = Seen(universe, None)
        else:
            reason = "the universe has no spare ablations"
            self.why |= dict.fromkeys(("rank_significance", "precision", "ndcg", "lds_distance"), reason)
        if run is None:
            self.why["lds_loss"] = "no run is given" if not settings.imported else "an imported universe has no run"
        else:
            sets = component_sets(run.code.components)
            self._set_presence = present(sets, run.code.matrix)
            losses = diffusion_loss(universe, run, sets, device, samples)
            self._set_loss = dict(zip(samples, losses, strict=True))

    def of(self, samples: Sequence[int]) -> Truth:
        """What it tells of some samples."""
        parts, p, spare_distance = [slice(first, last + 1) for first, last in stretches(samples)], None, None
        if self._seen is not None:
            # of the unit's own removal, which is what methods predict
            p = spared_scores(self._seen, samples, "likeness")[1].T
            spares = np.hstack([self.universe.spare_distances(samples=part) for part in parts])
            spare_distance = spares.T.astype(np.float64)
        return Truth(
            np.hstack([self.universe.distances(samples=part) for part in parts]).T.astype(np.float64),
            p,
            self._presence,
            spare_distance,
            self._set_presence,
            None if self._set_loss is None else np.stack([self._set_loss[sample] for sample in samples]),
        )


def present(alive: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """Share of each set's components, bool (sets, components), that trained on each unit, (units, components)."""
    return alive.astype(np.float64) @ trained.T / alive.sum(axis=1, keepdims=True)


def component_sets(components: int) -> np.ndarray:
    """Distinct sets of half of the components, in a fixed random order: bool (<= SETS, components)."""
    sets: dict[bytes, np.ndarray] = {}
    rng = generator("component sets", components)
    for _ in range(4 * SETS):
        chosen = np.zeros(components, bool)
        chosen[rng.permutation(components)[: max(1, components // 2)]] = True
        sets.setdefault(chosen.tobytes(), chosen)
    return np.stack(list(sets.values())[:SETS])


def diffusion_loss(
    universe: Universe, run: Run, sets: np.ndarray, device: str = CPU, samples: Sequence[int] | None = None
) -> np.ndarray:
    """Loss of factual samples (None = all) under sets of components, bool (sets, n): float64 (samples, sets).

    The mean over timesteps and noises of |eps - mean_{i in set} eps_i(x_t, t)|^2 / pixels. Each component predicts
    once; what a set predicts is the mean.
    """
    import torch

    factual = universe.factual
    components = [run.load_component(i).to(device) for i in range(run.code.components)]
    weights = torch.from_numpy(sets / sets.sum(axis=1, keepdims=True)).float()  # (sets, n)
    at_once = max(1, ERRORS // (len(components) * math.prod(run.noise_shape)))
    asked, numbers = universe.settings.conditions, range(len(factual)) if samples is None else samples
    found = []
    for part in (numbers[first:last] for first, last in chunks(len(numbers), at_once)):
        seeds = [universe.seeds[sample] for sample in part]
        conditions = None if asked is None else [asked[sample] for sample in part]
        found.append(_losses(run, components, factual[list(part)], seeds, weights, device, conditions))
    return np.concatenate(found)


def _losses(
    run: Run,
    components: list[nn.Module],
    factual: np.ndarray,
    seeds: Sequence[int],
    weights: Tensor,
    device: str,
    conditions: Sequence[Condition] | None,
) -> np.ndarray:
    """`diffusion_loss` of some samples, uint8 (samples, H, W, C), under sets of these weights, float (sets, n)."""
    import torch

    from ..data.units import to_model
    from ..diffusion.given import ask
    from ..diffusion.schedule import add_noise

    x0 = to_model(factual) if run.codec is None else run.codec.encode(factual)  # (samples, C, H, W)
    abar = run.recipe.schedule.alphas_cumprod().float()
    steps = np.floor((np.arange(NOISES) + 0.5) / NOISES * run.recipe.schedule.train_steps).astype(int)
    loss, given = np.zeros((len(x0), len(weights))), given_of(run, conditions, len(x0), device=device)
    with torch.inference_mode(), computing(device) if device != CPU else nullcontext():
        for t in steps:
            noises = (generator("loss", seed, int(t)).standard_normal(x0.shape[1:], dtype=np.float32) for seed in seeds)
            eps = torch.from_numpy(np.stack(list(noises)))
            x = add_noise(x0, eps, abar[t])
            there = [
                (x[first:last].to(device), None if given is None else given[slice(first, last)])
                for first, last in chunks(len(x), ROWS)
            ]
            errors = torch.stack(
                [
                    (torch.cat([ask(component, part, int(t), some).cpu() for part, some in there]) - eps).flatten(1)
                    for component in components
                ]
            )  # (n, samples, D)
            gram = torch.einsum("isd,jsd->sij", errors, errors)  # |mean error|^2 = w' G w
            loss += torch.einsum("ki,sij,kj->sk", weights, gram, weights).double().numpy() / errors.shape[2] / NOISES
    return loss
