"""Control: is what an ablation shows what training without the unit would have shown?

For some units, models are trained from scratch without each of them, with the same seeds and noise trajectories: a
plain model on all other units, and the components that had the unit. Their counterfactual distances stand beside the
ablation's:

- `ablation`: the ensemble without the components that saw the unit, from the ensemble;
- `ensemble`: the ensemble with these components trained without the unit, from the ensemble: no component is lost;
- `single`: a plain model trained without the unit, from the plain model trained on all;
- `half`: the ensemble without as many components, drawn at random, from the ensemble: what the loss of components does;
- `reseeded`: a plain model trained on all units from another seed, from the plain model: what chance in training does.

All radii are over the same number of units (or random ablations), so that none wins by taking its maximum over more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._runtime.execution import Execution
from .._runtime.files import read_json, write_atomic, write_json
from .._runtime.outputs import OutputKind, output_folder
from .._runtime.plotting import Axes, figure_png
from .._runtime.progress import Display
from .._runtime.provenance import compare_settings
from .._runtime.rng import generator
from .._runtime.stats import bootstrap, rank_correlation
from .._runtime.tables import Tabular
from ..data.distance import euclidean
from ..diffusion.sampling_settings import Sampling
from ..errors import SettingsError, command
from ..runs.adopting import refuse_claimed
from ..runs.conditioning import given_of
from ..runs.run import Run, as_run
from ..universes.drawing import draw

if TYPE_CHECKING:
    import polars as pl
    from torch import nn

    from ..runs.component_training import TrainTask

CONTROL = OutputKind(
    what="retraining study",
    marker="settings.json",
    recognises=lambda value: {"run_sha256", "units", "seeds"} <= set(value) and "kind" not in value,
    files=(
        r"(settings|control)\.json|table\.csv|figure\.png",
        r"(single/\w+|ensemble/\d+/\d+)(\.partial)?/[\w.]+",
    ),
)
"""What the folder of such a study holds."""

RETRAINED = ("ensemble", "single")


@dataclass(frozen=True, eq=False)
class Control(Tabular):
    """What was found; distances are float32 (units, samples), in the paper's unit.

    Attributes:
        units: the units that were left out.
        seeds: the samples.
        distances: by kind (see the module), each (units, samples); `reseeded` (1, samples).
    """

    units: tuple[str, ...]
    seeds: tuple[int, ...]
    distances: dict[str, np.ndarray]

    def table(self) -> pl.DataFrame:
        """One row per kind of retraining or control, compared with the ablation.

        Columns: kind, radius (mean over samples of the largest distance; some are 0, so not the geometric one), ratio
        (of the ablation's radius to it) and its 95 % interval, correlation (Spearman's, over units, mean over samples)
        and its interval. Intervals are bootstraps over samples. Null: the ratio to `reseeded`, which is one model and
        not the largest of several, and correlations where no unit is left out.
        """
        import polars as pl

        return pl.DataFrame([self._row(kind) for kind in ("ablation", *RETRAINED, "half", "reseeded")])

    def _row(self, kind: str) -> dict[str, Any]:
        ours, theirs = self.distances["ablation"], self.distances[kind]
        ours_most, most = ours.max(axis=0).astype(float), theirs.max(axis=0).astype(float)

        def ratio(rows: np.ndarray) -> float:
            return float(ours_most[rows].mean() / max(most[rows].mean(), 1e-9))

        row: dict[str, Any] = {"kind": kind, "radius": float(most.mean()), "ratio": ratio(np.arange(len(most)))}
        row["ratio_low"], row["ratio_high"] = bootstrap(ratio, len(most))
        if kind == "reseeded":
            row |= dict.fromkeys(("ratio", "ratio_low", "ratio_high"))
        row |= dict.fromkeys(("correlation", "correlation_low", "correlation_high"))
        if kind in RETRAINED:
            each = rank_correlation(ours, theirs, axis=0)
            each = each[~np.isnan(each)]  # a sample that nothing moves ranks nothing
            if len(each):
                row["correlation"] = float(each.mean())
                row["correlation_low"], row["correlation_high"] = bootstrap(lambda rows: each[rows].mean(), len(each))
        return row


def control(
    run: str | Path | Run,
    units: int,
    seeds: list[int],
    *,
    out: str | Path,
    sampling: Sampling = Sampling(),
    seed: int = 0,
    execution: Execution = Execution(),
) -> Control:
    """Retrain without each of some random units and compare with the ablations; what an earlier call trained is kept.

    Args:
        run: a complete run.
        units: how many units to leave out, one at a time.
        seeds: one sample each.
        out: a folder for the models and `control.json`, `table.csv`, `figure.png`.
        seed: of the choice of units and of the random ablations.

    Raises:
        SettingsError: too many units, or `out` was made with other settings.
    """
    from ..runs.component_training import train_component

    opened, path, execution = as_run(run), Path(out), execution.resolved()
    refuse_claimed(opened.recipe.component, command("study retraining"))
    rows = choose(opened, units, seed)
    settings = {
        "run_sha256": opened.digest,
        "units": [opened.unit_ids[row] for row in rows],
        "seeds": seeds,
        "sampler": sampling.sampler,
        "steps": sampling.steps,
        **({"clip": True} if sampling.clip else {}),
        "seed": seed,
    }
    with output_folder(path, CONTROL):
        known = path / "settings.json"
        if known.exists():
            compare_settings(read_json(known), settings, path)
        else:
            write_json(known, settings)
        tasks = _trainings(opened, rows)
        missing = [task for task in tasks if not (path / task.folder).exists()]
        steps_each = opened.recipe.training_steps or 1
        title = f"training {len(tasks)} models without a unit"
        done = len(tasks) - len(missing)
        total, before = len(tasks) * steps_each, done * steps_each
        with (
            Display(title, total, done=before, quiet=execution.quiet) as display,
            execution.pool(train_component) as pool,
        ):

            def on_event(number: int, event: dict) -> None:
                display.update(number, missing[number].folder, event["step"], steps_each, f"loss {event['loss']:.4f}")

            for number, _ in pool.run(_tasks(opened, missing, path, execution.device), on_event):
                display.finish(number, steps_each)
        found = Control(
            tuple(settings["units"]),
            tuple(seeds),
            _distances(opened, rows, path, seeds, sampling, seed, execution.device),
        )
        values = {kind: array.tolist() for kind, array in found.distances.items()}
        write_json(path / "control.json", {**settings, "distances": values})
        write_atomic(path / "table.csv", found.table().write_csv().encode())
        write_atomic(path / "figure.png", _figure(found))
    return found


def choose(run: Run, units: int, seed: int) -> list[int]:
    """Rows of random units, none of which is all that some component has."""
    sizes = run.code.split_sizes()
    alone = np.flatnonzero(run.code.matrix[:, sizes == 1].sum(axis=1)).tolist()
    able = [row for row in generator("control", seed).permutation(len(run.unit_ids)).tolist() if row not in alone]
    if not 2 <= units <= len(able):
        raise SettingsError(f"{units} units asked for; 2 to {len(able)} can be left out of {run.path}")
    return able[:units]


@dataclass(frozen=True)
class _Training:
    """A model to train: its folder, the number that keys its randomness, and its split.

    The split is that of a component of the run, or all units (None), less one (None: less none).
    """

    folder: str
    number: int
    split_of: int | None = None
    without: int | None = None

    def rows(self, run: Run) -> list[int]:
        """The units that it trains on."""
        every = range(len(run.unit_ids)) if self.split_of is None else run.code.split(self.split_of).tolist()
        return [row for row in every if row != self.without]


def _trainings(run: Run, rows: list[int]) -> list[_Training]:
    n = run.code.components
    found = [_Training("single/all", n), _Training("single/reseeded", n + 1)]
    for row in rows:
        found.append(_Training(f"single/{row:05d}", n, None, row))
        for i in np.flatnonzero(run.code.matrix[row]).tolist():
            found.append(_Training(f"ensemble/{row:05d}/{i:02d}", i, i, row))
    return found


def _tasks(run: Run, trainings: list[_Training], path: Path, device: str) -> Sequence[TrainTask]:
    from ..runs.component_training import SPLIT, TrainTask, beside
    from ..runs.ensemble_training import Tasks

    units = run.units()

    def task(place: int) -> TrainTask:
        training = trainings[place]
        folder = path / training.folder
        ids = sorted(run.unit_ids[row] for row in training.rows(run))
        split = units.write_to(beside(folder) / SPLIT, ids)
        return TrainTask(split, run.recipe, training.number, run.seed, folder, device, shared=run.shared)

    return Tasks(range(len(trainings)), task)


def _distances(
    run: Run, rows: list[int], path: Path, seeds: list[int], sampling: Sampling, seed: int, device: str
) -> dict[str, np.ndarray]:
    from .._runtime.devices import computing, memory
    from ..diffusion.ensemble import Ensemble
    from ..diffusion.kinds import load_component
    from ..runs.batches import batch_alone

    n = run.code.components
    batch = batch_alone(run, "fp32", device, memory(device))
    words = run.code.matrix[rows]
    half = np.stack(
        [
            np.isin(np.arange(n), generator("half", seed, k).permutation(n)[: int(w)])
            for k, w in enumerate(words.sum(axis=1))
        ]
    )

    def load(folder: str) -> nn.Module:
        recipe = run.recipe
        return load_component(path / folder, recipe.component, recipe.schedule, run.shared.folders).to(device)

    def pictures(components: list[nn.Module], ablations: np.ndarray | None = None) -> np.ndarray:
        """Uint8 (ablations, samples, C, H, W)."""
        with computing(device, sampling.precision):
            return draw(
                Ensemble(components, batch=batch),
                np.zeros((1, len(components)), bool) if ablations is None else ablations,
                seeds,
                shape=run.noise_shape,
                codec=run.codec,
                schedule=run.recipe.schedule,
                sampling=sampling,
                device=device,
                given=given_of(run, None, len(seeds), sampling.guidance, device),
            )

    components = [run.load_component(i).to(device) for i in range(n)]
    factual, plain = pictures(components)[0], pictures([load("single/all")])[0]
    retrained, single = [], []
    for row in rows:
        renewed = [load(f"ensemble/{row:05d}/{i:02d}") if run.code.matrix[row, i] else components[i] for i in range(n)]
        retrained.append(euclidean(pictures(renewed)[0], factual))
        single.append(euclidean(pictures([load(f"single/{row:05d}")])[0], plain))
    return {
        "ablation": euclidean(pictures(components, words), factual),
        "ensemble": np.stack(retrained),
        "single": np.stack(single),
        "half": euclidean(pictures(components, half), factual),
        "reseeded": euclidean(pictures([load("single/reseeded")]), plain),
    }


def _figure(found: Control) -> bytes:
    """Each unit and sample: the ablation's distance against that of retraining."""

    def draw_panel(*panels: Axes) -> None:
        ours = found.distances["ablation"]
        for axes, kind in zip(panels, RETRAINED, strict=True):
            theirs = found.distances[kind]
            most = 1.05 * max(float(ours.max()), float(theirs.max()), 1e-3)
            axes.scatter(theirs.ravel(), ours.ravel(), s=9, alpha=0.5, color="#24578f", linewidths=0)
            axes.plot([0, most], [0, most], color="#555555", linewidth=0.8, linestyle="--")
            axes.set_xlim(0, most)
            axes.set_ylim(0, most)
            axes.set_xlabel(f"distance, {'ensemble' if kind == 'ensemble' else 'plain model'} trained without the unit")
            axes.set_ylabel("distance, ablation of the unit")

    return figure_png(draw_panel, panels=2, width=4.4)
