"""How many more removals a run allows: expected, in the worst case, and unit by unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from .._runtime.tables import Tabular
from .._runtime.text import counted
from .code import Code
from .survival import RISK, Survival, survivors_of

QUALITY = 0.25
"""With a smaller share of the designed components than this left, the ensemble's quality is called at risk."""

if TYPE_CHECKING:
    import polars as pl

_AHEAD = 5  # removals looked ahead


@dataclass(frozen=True)
class Budget(Tabular):
    """What is left of a run's design, and how long it will last."""

    designed: int
    """Components that the run was designed with."""
    present: int
    """Components that are left."""
    guaranteed: int
    """Any so many units can still go, and some component survives."""
    guaranteed_is: str
    """`exact`, or `greedy` where the worst case was searched for and not proven."""
    risky: int | None
    """From so many random removals on, nothing survives with a probability above RISK; None = never."""
    ahead: tuple[Survival, ...]
    """Survivors after 1, 2, .. random removals."""
    costs: tuple[tuple[str, int], ...]
    """Every unit and how many components its removal ablates, the cheapest first."""

    def table(self) -> pl.DataFrame:
        """One row per unit, the cheapest to remove first. Columns: unit, components (that its removal ablates)."""
        import polars as pl

        return pl.DataFrame(list(self.costs), schema=["unit", "components"], orient="row")

    @property
    def stuck(self) -> list[str]:
        """Units that every component left has seen: they cannot go before a repair."""
        return [unit for unit, cost in self.costs if cost == self.present]

    @property
    def at_risk(self) -> bool:
        """Whether too few components are left, now or on average after one more removal, for the quality to hold."""
        return min(self.present, self.ahead[0].mean) < QUALITY * self.designed

    def as_dict(self) -> dict[str, Any]:
        """All fields as JSON types."""
        costs = [{"unit": unit, "components": cost} for unit, cost in self.costs]
        return {**asdict(self), "costs": costs, "stuck": self.stuck, "at_risk": self.at_risk}

    def sentences(self) -> list[str]:
        """Plain sentences about it."""
        n, (cheapest, least), (costliest, most) = self.present, self.costs[0], self.costs[-1]
        hedge = " as far as the search went" if self.guaranteed_is == "greedy" else ""
        said = [
            f"{n} of {self.designed} components are left. {_sure(self.guaranteed)}{hedge}; "
            f"one random removal leaves {self.ahead[0].mean:.1f} components on average.",
        ]
        if self.risky is not None:
            said.append(
                f"From {counted(self.risky, 'more random removal')} on, the chance that nothing survives is over "
                f"{RISK:.0%}."
            )
        if least == most:
            said.append(f"Every unit's removal costs {counted(most, 'component')}.")
        else:
            said.append(
                f"Cheapest to remove: {cheapest} ({counted(least, 'component')}); most expensive: {costliest} ({most})."
            )
        if stuck := self.stuck:
            said.append(
                f"Seen by every component left, and so to be removed only after a repair: {stuck[0]}"
                + (f" and {counted(len(stuck) - 1, 'other unit')}." if len(stuck) > 1 else ".")
            )
        if self.at_risk:
            said.append(
                f"Quality is at risk: fewer than {ceil(QUALITY * self.designed)} components are left, now or after one "
                "more removal; repair the run."
            )
        return said


def _sure(guaranteed: int) -> str:
    return f"Any {counted(guaranteed, 'more unit')} can go" if guaranteed else "No further unit is sure to be removable"


def budget_of(code: Code, ids: Sequence[str], designed: int) -> Budget:
    """The budget of a code whose columns are the components that are left of `designed` many; one id a row."""
    survivors = survivors_of(code)
    guaranteed, how = survivors.budget()
    costs = sorted(zip(ids, code.matrix.sum(axis=1).tolist(), strict=True), key=lambda pair: pair[1])
    return Budget(
        designed=designed,
        present=code.components,
        guaranteed=guaranteed,
        guaranteed_is=how,
        risky=survivors.risky()[0],
        ahead=tuple(survivors.survival(r) for r in range(1, min(_AHEAD, code.units) + 1)),
        costs=tuple(costs),
    )
