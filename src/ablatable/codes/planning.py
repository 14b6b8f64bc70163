"""What a code would give and cost, before anything is trained: capacity, splits, survivors, passes.

`plan` is a pure function of its arguments. What can be exact is computed in integers; what is not says so.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, comb
from operator import index

import numpy as np

from .._runtime.stats import LEVEL, spares_to_mark_one
from .._runtime.text import counted
from ..errors import CodeError, SettingsError, option
from .arrangement import choose, removal_code, risk
from .code import Code, components_for
from .plan_table import Plan, amount_text, chance_text, count_text
from .survival import RISK, Survival, expected, survivors_of

_FEWEST_UNITS = 8  # a split below this is called small
_LARGE, _PAPER_COMPONENTS = 8192, 22  # from so many units on, the paper's choice is mentioned


def recommended_components(units: int, weight: int | None = None) -> int:
    """The fewest components, from 8 up, with a spare codeword for every unit: C(n, w) >= 2 * units.

    `weight` None means n // 2. Raises CodeError when units < 1 or weight < 1.
    """
    return components_for(2 * units, weight, at_least=8)


def designed(
    units: int,
    components: int | None = None,
    weight: int | None = None,
    *,
    seed: int = 0,
    bear: int | None = None,
    images: np.ndarray | None = None,
    recorded: str | None = None,
) -> Code:
    """The code that is made for so many units.

    `Code.random`, with `recommended_components` and weight components // 2 where they are not given; in a code so small
    that this leaves a component without units, `Code.balanced`. With `bear`, a number of random removals to survive,
    `removal_code` at what `choose` finds for it.

    With `images`, each unit's number of images, `Code.balanced` evens out the images of components; that cannot be
    combined with `bear`.

    `recorded`: the digest of a code on record, such as an unfinished run's. Versions up to 0.1 made `Code.balanced`; if
    that is what is on record, it is what is returned.

    Raises CodeError when there is no such code.
    """
    if bear is not None:
        if images is not None:
            raise SettingsError(f"{option('even', True)} and {option('removals', bear)} exclude each other")
        n, w = choose(units, bear, components, weight)
        return removal_code(units, n, seed, weight=w)
    n = recommended_components(units, weight) if components is None else index(components)
    if images is not None:
        return Code.balanced(units, n, seed, weight=weight, images=images)
    code = Code.random(units, n, seed, weight=weight)
    if code.split_sizes().all() and recorded in (None, code.digest()):
        return code
    balanced = Code.balanced(units, n, seed, weight=weight)
    return balanced if recorded in (None, balanced.digest()) else code


def plan(
    units: int,
    components: int | None = None,
    weight: int | None = None,
    *,
    seed: int = 0,
    removals: int = 5,
    steps: int | None = None,
    batch: int | None = None,
    bear: int | None = None,
) -> Plan:
    """What the code `designed(units, components, weight, seed=seed, bear=bear)` gives and costs.

    Survivors are computed for 1 .. min(removals, units) removals, or for 1 .. bear if that is more. `steps` and
    `batch`, of each component's training, add how often a unit is seen.

    Raises CodeError when there is no such code; SettingsError for removals, steps or batch below 1, and for
    steps without batch or batch without steps.
    """
    units, removals = index(units), index(removals)
    _check(units, removals, steps, batch)
    chosen, half = components is None, weight is None
    code = designed(units, components, weight, seed=seed, bear=bear)
    n, w = code.components, int(code.matrix[0].sum())
    sizes = code.split_sizes()
    split_mean = units * w / n
    passes = None if steps is None or batch is None else steps * batch / split_mean
    removed = survivors_of(code, seed)
    budget, budget_is = removed.budget()
    risky, risky_is = removed.risky()
    made = Plan(
        units=units,
        components=n,
        weight=w,
        seed=seed,
        capacity=code.capacity,
        spares=code.spare_capacity,
        marking=spares_to_mark_one(units),
        split_min=int(sizes.min()),
        split_mean=split_mean,
        split_max=int(sizes.max()),
        distinct_ablations=len(code.ablations()[0]),
        survival=tuple(removed.survival(r) for r in range(1, min(max(removals, bear or 0), units) + 1)),
        budget=budget,
        budget_is=budget_is,
        risky_removals=risky,
        risky_is=risky_is,
        training_cost=float(n),
        steps=steps,
        batch=batch,
        passes_per_split=passes,
        exposures_per_unit=None if passes is None else w * passes,
        factual_cost=float(n),
        counterfactual_cost=(n - w) / n,
        universe_cost=1 + units * (n - w) / n,
        recommendation=(),
    )
    pair = removed.survival(2) if units > 1 else None
    sentences = [
        *(_on_components(made, chosen=chosen, half=half) if bear is None else _on_bearing(made, bear)),
        *_on_spares(made, half=half or w == n // 2),
        *on_marking(code, half=half or w == n // 2),
        *_on_splits(made, int((sizes == 0).sum())),
        *_on_survivors(made, pair),
        *_on_weight(made),
        *_on_power(made),
    ]
    return replace(made, recommendation=tuple(sentences))


def _check(units: int, removals: int, steps: int | None, batch: int | None) -> None:
    if removals < 1:
        raise SettingsError(f"removals must be 1 or more, not {removals}")
    if (steps is None) != (batch is None):
        raise SettingsError(f"how often a unit is seen takes both steps and batch: got {steps} and {batch}")
    if steps is not None and batch is not None and min(steps, batch) < 1:
        raise SettingsError(f"steps and batch must be 1 or more, not {steps} and {batch}")
    if units < 1:
        raise CodeError(f"a plan needs at least 1 unit, not {units}")


# --- sentences ---------------------------------------------------------------------------------------------


def _on_components(made: Plan, *, chosen: bool, half: bool) -> list[str]:
    n, w, units = made.components, made.weight, made.units
    fewest = n if chosen else recommended_components(units, None if half else w)
    sentences = []
    if fewest == n:
        sentences.append(
            f"{n} components are the fewest, from 8 up, with a spare codeword for every unit: "
            f"{count_text(made.capacity)} codewords of weight {w} for {counted(units, 'unit')}."
        )
    elif fewest < n:
        at = fewest // 2 if half else w
        sentences.append(
            f"{fewest} components at weight {at} would already have a spare codeword for every unit "
            f"({count_text(comb(fewest, at))} codewords), at {fewest / n:.0%} of the training cost of {n}."
        )
    if units >= _LARGE and n != _PAPER_COMPONENTS:
        words = comb(_PAPER_COMPONENTS, _PAPER_COMPONENTS // 2)
        sentences.append(
            f"The paper's ensembles for so many units have {_PAPER_COMPONENTS} components: {count_text(words)} "
            f"codewords, at {_PAPER_COMPONENTS / n:.0%} of the training cost of {n}."
        )
    return sentences


def _on_bearing(made: Plan, bear: int) -> list[str]:
    half = made.components // 2
    return [
        f"Weight {made.weight} of {made.components} is the heaviest at which some component survives "
        f"{counted(bear, 'random removal')} with a probability of {1 - RISK:.0%}; at weight {half}, it would be "
        f"{1 - risk(made.components, half, bear):.2g}."
    ]


def _on_spares(made: Plan, *, half: bool) -> list[str]:
    if made.spares >= made.units:
        return []
    more = recommended_components(made.units, None if half else made.weight)
    at = more // 2 if half else made.weight
    return [
        f"Calibration is weak: {counted(made.units, 'unit')} leave {counted(made.spares, 'spare codeword')}, "
        "and these are the null distribution that tells a unit's influence from that of a smaller ensemble; "
        f"{more} components at weight {at} would leave {count_text(comb(more, at) - made.units)}."
    ]


def on_marking(code: Code, *, half: bool) -> list[str]:
    """What it takes to mark one unit of a code, if the code does not have it. `half`: others have weight n // 2."""
    units, n = code.units, code.components
    weight, needed = int(code.matrix[0].sum()), spares_to_mark_one(units)
    if code.spare_capacity >= needed or units < 2:
        return []
    more = components_for(units + needed, None if half else weight)
    at = more // 2 if half else weight
    return [
        f"No single unit can be marked: among {counted(units, 'unit')}, a false discovery rate of {LEVEL:g} takes "
        f"{counted(needed, 'spare codeword')}, and this code has {count_text(code.spare_capacity)}; {more} "
        f"components at weight {at} have them, at {more / n:.0%} of the training cost."
    ]


def _on_splits(made: Plan, empty: int) -> list[str]:
    n, w = made.components, made.weight
    if made.split_min >= _FEWEST_UNITS:
        return []
    enough = ceil(_FEWEST_UNITS * n / w)
    what = (
        f"{counted(empty, 'component')} would have nothing to train on"
        if empty
        else f"the smallest holds {counted(made.split_min, 'unit')}"
    )
    return [f"Splits are small: {what}; at weight {w} of {n}, {enough:,} units would give each {_FEWEST_UNITS}."]


def _on_survivors(made: Plan, pair: Survival | None) -> list[str]:
    if pair is None or made.risky_removals is None:
        return []
    sentences = []
    if pair.worst == 0:
        sentences.append(
            f"Removing two units can leave no component; a random pair does with probability {chance_text(pair)}."
        )
    which = "any unit alone" if made.budget == 1 else f"any {made.budget} units"
    hedge = " as far as the search went" if made.budget_is == "greedy" else ""
    about = "about " if made.risky_is == "monte carlo" else ""
    sentences.append(
        f"Some component survives the removal of {which}{hedge}; from {about}{made.risky_removals} random "
        f"removals on, nothing survives with a probability above {RISK:.0%}."
    )
    return sentences


def _on_weight(made: Plan) -> list[str]:
    n, units = made.components, made.units
    light = max(1, n // 4)
    if made.weight <= light or units < 2:
        return []
    words = comb(n, light)
    keeps = expected(_even(units, n, made.weight), units, 2)
    if words < units:
        more = components_for(units, light)
        return [
            f"Weight {light} has only {count_text(words)} codewords for {counted(units, 'unit')}; with {more} "
            f"components it has {count_text(comb(more, light))} and would keep "
            f"{expected(_even(units, more, light), units, 2):.1f} components on average after two removals, "
            f"instead of {keeps:.1f}."
        ]
    return [
        f"Weight {light} would keep {expected(_even(units, n, light), units, 2):.1f} instead of {keeps:.1f} "
        f"components on average after two removals, with splits of {amount_text(units * light / n)} instead of "
        f"{amount_text(made.split_mean)} units and {count_text(words - units)} instead of {count_text(made.spares)} "
        "spare codewords."
    ]


def _on_power(made: Plan) -> list[str]:
    """The rule that docs/results/code-weight.md arrives at."""
    if made.weight <= max(1, made.components // 4) or made.units < 2:
        return []
    lightest = next((w for w in range(2, made.weight) if comb(made.components, w) >= 2 * made.units), None)
    if lightest is None or lightest > made.components // 3:
        return []
    return [
        f"To tell units apart, weight {lightest} is the lightest with a spare codeword for every unit: tests against "
        "spares found units at least as often at light weights as at half, though pictures are blends of more "
        f"components; a counterfactual costs {(made.components - lightest) / made.components:.2f} instead of "
        f"{made.counterfactual_cost:.2f} of a factual sample."
    ]


def _even(units: int, components: int, weight: int) -> np.ndarray:
    """Split sizes of a code, as even as they can be: what a random code has on average."""
    low, larger = divmod(units * weight, components)
    return low + (np.arange(components) < larger)


# --- numbers as text ---------------------------------------------------------------------------------------
