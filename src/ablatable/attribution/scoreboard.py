"""Methods side by side: every metric of each, as a table and as a figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._runtime.tables import Tabular
from .metrics import (
    Estimate,
    FalseAttribution,
    discounted_gain,
    estimate,
    informed_correlation,
    linear_datamodelling,
    precision,
    removal_area,
)
from .pieces import Piece, content_of
from .truth import Truth

if TYPE_CHECKING:
    import polars as pl

SIGNIFICANT = 0.05  # p-value up to which a unit counts as significant
TOP = 5
COLOUR, INK, MUTED = "#24578f", "#1d2024", "#5c626b"  # as in reports

METRICS = {  # name -> heading, and what it is
    "far": ("FAR", "false attribution rate (lower is better)"),
    "rank_distance": ("dist.", "rank correlation with the counterfactual distance"),
    "rank_significance": ("sig.", "rank correlation with the calibrated significance"),
    "precision": (f"top{TOP}", f"share of the top {TOP} units that are significant"),
    "ndcg": ("gain", "normalised discounted gain of the significance"),
    "removal": ("area", "area under the removal curve"),
    "lds_distance": ("LDSd", "datamodelling score, distance"),
    "lds_loss": ("LDSl", "datamodelling score, diffusion loss"),
}


@dataclass(frozen=True, eq=False)
class Scored:
    """A method's answers for all samples.

    Attributes:
        pieces: what holds the scores, a few samples each.
        named: the unit that the method names in each factual sample (its row), int (samples,).
        far: what it names in counterfactuals; None where it could not be asked (stored scores of factual samples only).
        seconds: to score one sample; `ready`: to make the method ready, once.
    """

    pieces: tuple[Piece, ...]
    named: np.ndarray
    far: FalseAttribution | None
    seconds: float
    ready: float

    @property
    def scores(self) -> np.ndarray:
        """Of the factual samples, float64 (samples, units), read from the evaluation's folder."""
        return np.concatenate([content_of(piece).scores for piece in self.pieces])

    def per_sample(self, samples: int) -> float:
        """What one of so many samples costs, the making ready shared out, in seconds."""
        return self.seconds + self.ready / samples


@dataclass(frozen=True, eq=False)
class Evaluation(Tabular):
    """What `evaluate` found; `results[method][metric]`, None where a metric has no value (`why` gives the reason)."""

    results: dict[str, dict[str, Estimate | None]]
    scored: dict[str, Scored]
    why: dict[str, str]
    samples: int
    units: int

    def table(self) -> pl.DataFrame:
        """One row per method and metric.

        Columns: method, metric, value, low, high, chance, samples, without_named, without_other (see
        `metrics.FalseAttribution.counts`), seconds, seconds_once.
        """
        import polars as pl

        rows = []
        for method, metrics in self.results.items():
            scored = self.scored[method]
            for metric, found in metrics.items():
                counts = scored.far.counts[:2] if metric == "far" and scored.far else (None, None)
                values = (found or Estimate(np.nan, np.nan, np.nan, np.nan, 0)).as_dict()
                cost = {"seconds": scored.seconds, "seconds_once": scored.ready}
                named = {"without_named": counts[0], "without_other": counts[1]}
                rows.append({"method": method, "metric": metric, **values, **named, **cost})
        return pl.DataFrame(rows, infer_schema_length=None)


Measured = dict[str, tuple[np.ndarray, np.ndarray]]
"""Metrics of some samples, and what chance gives in each; float64 (samples,)."""


def measure(parts: Sequence[Measured], far: FalseAttribution | None, name: str) -> dict[str, Estimate | None]:
    """Every metric of one method, from those of all samples; None where the universe or the method cannot tell."""
    results: dict[str, Estimate | None] = dict.fromkeys(METRICS)
    results["far"] = far.rate() if far else None
    for metric in parts[0]:
        values, chance = (np.concatenate([part[metric][k] for part in parts]) for k in (0, 1))
        results[metric] = estimate(values, chance, name=name)
    return results


def measured(scores: np.ndarray, truth: Truth) -> Measured:
    """The metrics of some samples, from scores (samples, units) and what removal shows of them."""
    nothing = np.zeros(len(scores))
    found = {
        "rank_distance": (informed_correlation(scores, truth.distance), nothing),
        "removal": removal_area(scores, truth.distance),
    }
    if truth.p is not None:
        significant = truth.p <= SIGNIFICANT
        found["rank_significance"] = informed_correlation(scores, -truth.p), nothing
        found["precision"] = precision(scores, significant, TOP), significant.mean(axis=1)
        found["ndcg"] = discounted_gain(scores, -np.log10(truth.p))
    if truth.presence is not None and truth.spare_distance is not None:
        found["lds_distance"] = linear_datamodelling(scores, truth.presence, -truth.spare_distance), nothing
    if truth.set_presence is not None and truth.set_loss is not None:
        found["lds_loss"] = linear_datamodelling(scores, truth.set_presence, -truth.set_loss), nothing
    return found


# --- to look at --------------------------------------------------------------------------------------------------


def terminal_rows(found: Evaluation) -> tuple[list[str], list[tuple[str, ...]]]:
    """Headings and rows: one row per method, then the chance levels. Metrics without a value are left out."""
    shown = _shown(found)
    columns = ["method", *(METRICS[metric][0] for metric in shown), "sec."]
    rows = []
    for method, results in found.results.items():
        cells = [_value(results[metric]) for metric in shown]
        rows.append((method, *cells, f"{found.scored[method].per_sample(found.samples):.2g}"))
    chances = [
        next(estimate for results in found.results.values() if (estimate := results[metric])) for metric in shown
    ]
    rows.append(("(chance)", *(f"{one.chance:.2f}" for one in chances), ""))
    return columns, rows


def _shown(found: Evaluation) -> list[str]:
    """Metrics that some method has a value of."""
    return [metric for metric in METRICS if any(_known(results[metric]) for results in found.results.values())]


def _known(found: Estimate | None) -> bool:
    return found is not None and not np.isnan(found.value)


def _chance(found: Evaluation, metric: str) -> float:
    """The same for all methods, but for the samples that a metric leaves out."""
    return float(
        np.mean([one.chance for results in found.results.values() if (one := results[metric]) and _known(one)])
    )


def _value(found: Estimate | None) -> str:
    return f"{found.value:.2f}" if found is not None and _known(found) else "-"


def as_tex(found: Evaluation) -> str:
    """A LaTeX table (booktabs): values with their 95 % intervals, the chance levels last."""
    shown = _shown(found)
    lines = [
        f"\\begin{{tabular}}{{l{'r' * (len(shown) + 1)}}}",
        "\\toprule",
        " & ".join(["method", *(METRICS[metric][0] for metric in shown), "sec."]) + " \\\\",
        "\\midrule",
    ]
    for method, results in found.results.items():
        cells = []
        for metric in shown:
            one = results[metric]
            value = _value(one)
            interval = "" if one is None or value == "-" else f" {{\\scriptsize [{one.low:.2f}, {one.high:.2f}]}}"
            cells.append(f"${value}${interval}" if value != "-" else "--")
        name = method.replace("\\", "/").replace("_", "\\_").replace("&", "\\&").replace("%", "\\%").replace("#", "\\#")
        lines.append(" & ".join([name, *cells, f"{found.scored[method].per_sample(found.samples):.2g}"]) + " \\\\")
    _, rows = terminal_rows(found)
    lines += ["\\midrule", " & ".join(rows[-1]) + " \\\\", "\\bottomrule", "\\end{tabular}"]
    return "\n".join(lines) + "\n"


def figure(found: Evaluation) -> bytes:
    """One panel per metric, one dot and interval per method, a dashed line at chance level; a PNG file on white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown, methods = _shown(found), list(found.results)
    columns = max(1, min(4, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    drawing = Figure(
        figsize=(2.9 * columns + 1.2, rows * (0.9 + 0.27 * len(methods))),
        dpi=150,
        layout="constrained",
        facecolor="white",
    )
    FigureCanvasAgg(drawing)
    panels = drawing.subplots(rows, columns, squeeze=False, sharey=True)
    for panel in panels.flat[len(shown) :]:
        panel.set_visible(False)
    for metric, panel in zip(shown, panels.flat, strict=False):
        panel.axvline(_chance(found, metric), color=MUTED, linestyle=(0, (4, 3)), linewidth=1)
        for place, method in enumerate(methods):
            one = found.results[method][metric]
            if one is None or not _known(one):
                continue
            panel.plot([one.low, one.high], [place, place], color=COLOUR, alpha=0.45, linewidth=2.4)
            panel.plot(one.value, place, "o", color=COLOUR, markersize=5)
        title, about = METRICS[metric]
        panel.set_title(f"{title}: {about}".replace(" with ", "\nwith ").replace(", ", ",\n"), fontsize=7.5, color=INK)
        panel.set_yticks(range(len(methods)), methods)
        panel.set_ylim(len(methods) - 0.5, -0.5)
        panel.tick_params(labelsize=8, colors=MUTED)
        panel.locator_params(axis="x", nbins=5)
        panel.grid(axis="x", alpha=0.2)
        panel.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
