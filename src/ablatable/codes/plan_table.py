"""A plan as a value: what a code gives and costs, and its numbers as a reader sees them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal

from .._runtime.text import counted
from .survival import RISK, Survival

SURVIVOR_HEADER = ("removed", "mean survivors", "worst case", "chance of none")
"""Column names of `Plan.survivor_rows`."""


@dataclass(frozen=True)
class Plan:
    """A code's properties and costs. Costs count forward passes, relative to what their docstring names."""

    units: int
    components: int
    weight: int
    seed: int
    capacity: int
    """Codewords of this weight, C(components, weight)."""
    spares: int
    """Codewords of this weight that no unit has."""
    marking: int
    """Spares that it takes to mark a single unit, see `_runtime.stats.spares_to_mark_one`."""
    split_min: int
    split_mean: float
    split_max: int
    distinct_ablations: int
    survival: tuple[Survival, ...]
    """After 1, 2, .. removals."""
    budget: int
    """Survivors' budget: the largest r such that any r units can be removed and some component survives."""
    budget_is: Literal["exact", "greedy"]
    """Where "greedy", `budget` is an upper bound: the worst case was searched for, not proven."""
    risky_removals: int | None
    """Smallest r at which r random removals leave nothing with probability > RISK; None if there is none."""
    risky_is: Literal["exact", "monte carlo"]
    training_cost: float
    """All components, relative to one plain model trained for as many steps as each of them."""
    steps: int | None
    batch: int | None
    passes_per_split: float | None
    """Times a component sees each unit of a mean split: steps * batch / split_mean. None without steps."""
    exposures_per_unit: float | None
    """Times all components together see a unit: weight * passes_per_split. None without steps."""
    factual_cost: float
    """A factual sample, relative to a plain model's: one pass a component and step."""
    counterfactual_cost: float
    """A counterfactual sample, relative to a factual one: (n - w) / n."""
    universe_cost: float
    """A factual sample with the counterfactuals of all units, relative to the factual sample alone."""
    recommendation: tuple[str, ...]
    """Plain sentences, every number in them computed for this plan."""

    def as_dict(self) -> dict[str, Any]:
        """All fields as JSON types: lists for tuples, None for what is unknown."""
        survival = [asdict(row) for row in self.survival]
        return {**asdict(self), "survival": survival, "recommendation": list(self.recommendation)}

    def rows(self) -> list[tuple[str, str]]:
        """Labels (up to 22 characters) and values (up to 56), for a table of 80 columns."""
        n, w = self.components, self.weight
        rows = [
            ("units", f"{self.units:,}"),
            ("components", f"{n}: {w} train on each unit, {n - w} survive its removal"),
            ("codewords", f"{count_text(self.capacity)}, of which {count_text(self.spares)} spare"),
            ("distinct ablations", f"{self.distinct_ablations:,}"),
            ("spares to mark a unit", self._marking_text()),
            ("split size", self._split_text()),
            ("survivors' budget", self._budget_text()),
            ("risk of no survivor", self._risk_text()),
            ("training", f"{n} x a plain model trained for as many steps"),
        ]
        if self.passes_per_split is not None and self.exposures_per_unit is not None:
            each = f"{amount_text(self.passes_per_split)} by each of {w} components"
            rows.append(("a unit is seen", f"{amount_text(self.exposures_per_unit)} times, {each}"))
        return [
            *rows,
            ("factual sample", f"{n} x a plain model's sample"),
            ("counterfactual sample", f"{self.counterfactual_cost:.3g} x a factual sample"),
            ("one sample's universe", f"{amount_text(self.universe_cost)} x a factual sample"),
        ]

    def survivor_rows(self) -> list[tuple[str, str, str, str]]:
        """One row for each number of removals, columns as in SURVIVOR_HEADER; fits in 80 columns."""
        return [
            (str(row.removals), f"{row.mean:.2f}", f"{row.worst} ({row.worst_is})", chance_text(row))
            for row in self.survival
        ]

    def _marking_text(self) -> str:
        enough = "which the code has" if self.spares >= self.marking else "more than the code has"
        return f"{self.marking:,}, {enough}"

    def _split_text(self) -> str:
        if self.split_min == self.split_max:
            return counted(self.split_min, "unit")
        return f"{self.split_min:,} to {self.split_max:,} units, mean {amount_text(self.split_mean)}"

    def _budget_text(self) -> str:
        if self.budget == self.units:
            return "all units: some components train on none of them"
        return f"any {counted(self.budget, 'unit')}{' at most (greedy)' if self.budget_is == 'greedy' else ''}"

    def _risk_text(self) -> str:
        if self.risky_removals is None:
            return f"never above {RISK:.0%}"
        about = "about " if self.risky_is == "monte carlo" else ""
        return f"above {RISK:.0%} from {about}{counted(self.risky_removals, 'random removal')} on"


def count_text(value: int) -> str:
    """An integer, which may be astronomical."""
    return f"{value:,}" if value < 10**12 else f"{Decimal(value):.2e}"


def amount_text(value: float) -> str:
    """A quantity to about three digits, whole numbers without a fraction."""
    if value == int(value) or value >= 1000:
        return count_text(round(value))
    return f"{value:.3g}"


def chance_text(row: Survival) -> str:
    """A probability in percent; of random draws with two standard errors, or a bound when none hit."""
    percent = f"{row.none:.2%}" if row.none >= 0.001 else f"{100 * row.none:.2g}%"
    if row.none_is == "exact":
        return "0" if row.none == 0 else percent
    if row.none == 0:
        return f"< {3 / row.draws:.2%} ({row.draws:,} draws)"  # the rule of three: 95 % confidence
    error = 2 * (row.none * (1 - row.none) / row.draws) ** 0.5
    return f"{percent} +- {error:.2%} ({row.draws:,} draws)"
