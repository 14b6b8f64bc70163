"""Differential ablation: the derivative of a sample by the ensemble's weights, and what it says of every ablation.

An ablation replaces the weights w = (1/n, .., 1/n) of the mean by 1/m for each of the m survivors and 0 elsewhere. To
first order the sample moves by J dw, where J = d sample / d w is taken once, at the factual weights (arXiv 2306.02174).
With eps = sum_i w_i f_i(x), the derivative along a direction u of the weights (sum u = 0) passes through the sampling
loop together with the sample,

    d eps = sum_i w_i (d f_i / d x) dx  +  sum_i u_i f_i(x).

Every sampler's step is linear in x, eps and the noise, so the same step without noise carries (dx, d eps). Clipping is
a piecewise linear function of eps before that step, and d eps passes through its derivative. The weights sum to one,
so n - 1 directions suffice. One Jacobian takes about n (n - 1) forward passes per step and estimates a sample's
counterfactuals of any number of units.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._runtime.execution import Execution
from .._runtime.files import writing
from .._runtime.lock import exclusive
from .._runtime.progress import Display
from .._runtime.stats import rank_correlation
from .._runtime.tables import Tabular
from .._runtime.workers import chunks
from ..codes.code import weight_change
from ..data.distance import euclidean
from ..data.images import delivered
from ..diffusion.sampling_settings import Sampling
from ..errors import SettingsError, StoreError, command
from ..runs.run import Run, as_run
from .drawing import Source, loaded
from .landscapes import checked_sample
from .reader import Universe
from .store import absolute, read, seal, unseal

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor, nn

    from ..diffusion.sampling import Noise
    from ..diffusion.schedule import Schedule

DIRECTIONS = 32  # directions that pass through a component together, which bounds memory


def sample_jacobian(
    components: Sequence[nn.Module],
    noise: Noise,
    *,
    schedule: Schedule,
    sampling: Sampling = Sampling(),
    on_step: Callable[[int], None] = lambda step: None,
) -> tuple[Tensor, Tensor]:
    """One sample and its derivatives by the weights of the components.

    Args:
        components: n >= 2 denoisers, in evaluation mode.
        noise: one noise trajectory, `noise[k]` of (1, C, H, W); its dtype is that of the arithmetic.
        schedule, sampling, on_step: as `sample` takes them.

    Returns:
        The factual sample (C, H, W), about [-1, 1]; and J (n, C, H, W), with J_i the derivative along
        e_i - (1, .., 1)/n. These sum to zero over i, and weights that change by dw (of sum zero) move the sample by
        sum_i dw_i J_i.
    """
    import torch

    from ..diffusion.clipping import clip_noise_along, scheduler_abar
    from ..diffusion.sampling import make_sampler
    from ..diffusion.tangents import push

    n, abar = len(components), scheduler_abar(schedule)
    timesteps, step_from = make_sampler(sampling, schedule)
    # some samplers remember steps: the directions' own memory
    _, step_along = make_sampler(replace(sampling, clip=False), schedule)
    with torch.no_grad():
        x = noise[0]
        dx = x.new_zeros(n - 1, *x.shape[1:])
        for number, t in enumerate(timesteps, start=1):
            predictions, along = [], torch.zeros_like(dx)
            for component in components:
                parts = [push(component, x[0], t, dx[first:last]) for first, last in chunks(n - 1, DIRECTIONS)]
                predictions.append(parts[0][0])
                along += torch.cat([moved for _, moved in parts]) / n
            mean = torch.stack(predictions).mean(0)
            along += torch.stack(predictions[:-1]) - mean
            z = noise[number] if sampling.sampler == "ddpm" else x
            if sampling.clip:
                along = clip_noise_along(along, dx, mean[None], x, abar[t])
            x = step_from(mean[None], t, x, z)
            dx = step_along(along, t, dx, torch.zeros_like(dx))
            if done := sampling.finished(number):
                on_step(done)
    return x[0], torch.cat([dx, -dx.sum(0, keepdim=True)])


def extrapolate(factual: np.ndarray, jacobian: np.ndarray, words: np.ndarray, *, step: float = 1.0) -> np.ndarray:
    """First-order counterfactuals: factual + step * J dw.

    Args:
        factual: float (C, H, W).
        jacobian: float (n, C, H, W), see `sample_jacobian`.
        words: ablations, bool (ablations, n).
        step: how far to go from the factual weights (0) to the survivors' (1).

    Returns:
        float32 (ablations, C, H, W), not clipped.
    """
    change = np.tensordot(step * weight_change(words), jacobian.astype(np.float64), axes=1)
    return (factual + change).astype(np.float32)


# --- stored beside a universe -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class DifferentialTask:
    """One sample's Jacobian, as given to a worker."""

    source: Source
    universe: str
    seed: int


class Differential(Tabular):
    """The Jacobians that are stored beside a universe: one object per sample, checked whenever it is read.

    Attributes:
        universe: the universe.
        words: its ablations, bool (ablations, n).
    """

    def __init__(self, universe: str | Path | Universe) -> None:
        """Open the Jacobians of a universe; `differentiate` makes them.

        Raises:
            SettingsError: the universe was imported, so it has no codewords.
            StoreError: it is no finished universe.
        """
        self.universe = Universe.open(universe)
        self.words = self.universe.settings.codewords

    @classmethod
    def open(cls, universe: str | Path | Universe | Differential) -> Differential:
        """Open the Jacobians of a universe. An object that is open already is given back as it is."""
        return universe if isinstance(universe, Differential) else cls(universe)

    def _key(self, seed: int) -> str:
        return f"differential/{seed}.safetensors"

    def has(self, seed: int) -> bool:
        """Whether a sample's Jacobian is there, intact, and of this universe."""
        try:
            self.read(seed)
        except StoreError:
            return False
        return True

    def read(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The sample of a seed as it was computed, float32 (C, H, W), and its J, float32 (n, C, H, W).

        Raises:
            StoreError: it is missing, damaged, or of another universe.
        """
        from safetensors.numpy import load

        key = self._key(seed)
        try:
            tensors = load(unseal(self._settings(), read(self.universe.store, key)))
        except Exception as error:  # object stores and safetensors have many kinds
            raise StoreError(
                f"{self.universe.url}: the differential ablation of seed {seed} is missing, damaged or of another "
                f"universe ({type(error).__name__}); make it with "
                f"{command('universe differential', 'RUN', self.universe.url)}"
            ) from error
        return tensors["factual"], tensors["jacobian"]

    def write(self, seed: int, factual: np.ndarray, jacobian: np.ndarray) -> None:
        """Store a sample's Jacobian. It replaces what is there in one step."""
        from safetensors.numpy import save

        data = save({"factual": factual.astype(np.float32), "jacobian": jacobian.astype(np.float32)})
        with writing(self.universe.url):
            self.universe.store.put(self._key(seed), seal(self._settings(), data))

    def _settings(self) -> bytes:
        """What a Jacobian depends on. It is sealed with it, so that the Jacobian of another universe is refused."""
        settings = self.universe.settings
        clip = ["clip"] if settings.clip else []
        return json.dumps([settings.run_sha256, settings.sampler, settings.steps, list(settings.shape), *clip]).encode()

    def landscape(self, sample: int, *, step: float = 1.0) -> np.ndarray:
        """Estimates of one sample under every ablation, spares too: uint8 (ablations, H, W, C)."""
        factual, jacobian = self.read(self.universe.seeds[checked_sample(sample, self.universe.seeds)])
        return self._delivered(extrapolate(factual, jacobian, self.words, step=step))

    def _delivered(self, pictures: np.ndarray) -> np.ndarray:
        import torch

        from ..data.units import to_images

        return delivered(to_images(torch.from_numpy(pictures)), self.universe.settings.threshold)

    def distances(self, sample: int) -> np.ndarray:
        """Estimated distance of every ablation's counterfactual from the factual sample, float32 (ablations,)."""
        return euclidean(self.landscape(sample), self.universe.factual[sample])

    def table(self) -> pl.DataFrame:
        """As `compare`."""
        return self.compare()

    def compare(self) -> pl.DataFrame:
        """Estimates beside exact counterfactuals, one row per sample.

        Columns: sample, seed; error (of the images, relative to how far the exact ones move: root mean square over
        units); rank_correlation (Spearman, of the units' distances); top_found (whether the unit of largest distance
        is the same); top_tenth (whether it is in the estimates' top tenth); radius; radius_ratio (estimated / exact).
        """
        import polars as pl

        universe, units, rows = self.universe, list(self.universe.settings.ablation), []
        all_distances = universe.distances()
        for sample, seed in enumerate(universe.seeds):
            exact = universe.landscape(sample)[units].astype(np.float64)
            estimate = self.landscape(sample)[units].astype(np.float64)
            moved = exact - universe.factual[sample]
            distances = all_distances[:, sample]
            guesses = self.distances(sample)[units]
            rows.append(
                {
                    "sample": sample,
                    "seed": seed,
                    "error": float(np.sqrt(np.square(estimate - exact).sum() / max(np.square(moved).sum(), 1e-12))),
                    **agreement(distances, guesses),
                    "radius": float(distances.max()),
                    "radius_ratio": float(guesses.max() / max(distances.max(), 1e-12)),
                }
            )
        return pl.DataFrame(rows)


def agreement(exact: np.ndarray, estimate: np.ndarray) -> dict[str, float | bool]:
    """How well estimated distances (units,) rank units: rank_correlation, top_found, top_tenth, see `compare`."""
    place = int((estimate > estimate[exact.argmax()]).sum())  # units said to be farther than the farthest
    return {
        "rank_correlation": float(rank_correlation(exact, estimate)),
        "top_found": place == 0,
        "top_tenth": place < max(1, len(exact) // 10),
    }


def compute_sample(task: DifferentialTask, report: Callable[[dict], None]) -> None:
    """Differentiate one sample and store it."""
    from .._runtime.devices import computing
    from ..diffusion.sampling import Trajectories

    universe = Universe.open(task.universe)
    run, ensemble = loaded(task.source)
    with computing(task.source.device):
        factual, jacobian = sample_jacobian(
            ensemble.components,
            Trajectories([task.seed], run.shape, device=task.source.device),
            schedule=run.recipe.schedule,
            sampling=universe.settings.sampling,
            on_step=lambda step: report({"step": step}),
        )
    Differential(universe).write(task.seed, factual.cpu().numpy(), jacobian.cpu().numpy())


def differentiate(
    run: str | Path | Run,
    url: str | Path | Universe,
    *,
    execution: Execution = Execution(),
) -> Differential:
    """Compute the Jacobian of each sample of a universe and store it there. What is there already is kept.

    Args:
        run: the run that the universe was drawn from, or its folder.
        url: the universe, or its place.
        execution: how to run the work.

    Raises:
        SettingsError: the universe is another run's, or its kind of component cannot be differentiated.
        StoreError: not a run, or no universe.
    """
    from ..diffusion.kinds import kind_named

    opened, universe, execution = as_run(run), Universe.open(url), execution.resolved()
    if universe.settings.run_sha256 != opened.digest:
        raise SettingsError(
            f"{universe.url} was not drawn from the run {opened.path} as it is now; give the run that it was drawn from"
        )
    kind_named(opened.recipe.component.kind).refuse_unless("tangent", "differential ablation")
    if opened.recipe.component.takes is not None:
        raise SettingsError(
            "differential ablation is not possible with components that take conditions: their derivatives are not "
            "worked out here"
        )
    if opened.recipe.latent is not None:
        raise SettingsError(
            "differential ablation is not possible with latents: a decoder is not linear, so derivatives of latents "
            "are none of pictures"
        )
    found = Differential(universe)
    with exclusive(universe.url, "universe"):
        missing = [seed for seed in universe.seeds if not found.has(seed)]
        if not missing:
            return found
        source, steps = replace(Source.of(opened, execution), max_resident=None), universe.settings.sampling.steps
        tasks = [DifferentialTask(source, absolute(universe.url), seed) for seed in missing]
        title = f"differentiating {len(universe.seeds)} samples by {opened.code.components} weights"
        with (
            Display(
                title, len(universe.seeds), done=len(universe.seeds) - len(tasks), quiet=execution.quiet
            ) as display,
            execution.pool(compute_sample) as pool,
        ):

            def on_event(number: int, event: dict) -> None:
                step = event["step"]
                display.update(number, f"seed {tasks[number].seed}", step / steps, 1, f"step {step}/{steps}")

            for number, _ in pool.run(tasks, on_event):
                display.finish(number, 1)
    return found
