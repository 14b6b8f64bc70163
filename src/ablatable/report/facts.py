"""What a report says about how a run and its universe were made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .content import Content
from .wording import between, plain, ranges

if TYPE_CHECKING:
    from ..runs.run import Run
    from ..universes.settings import UniverseSettings

Rows = list[tuple[str, str]]
"""(name, value) pairs."""


def facts(content: Content, run: Run | None) -> list[tuple[str, Rows]]:
    """What the run was, in groups of (name, value)."""
    settings = content.universe.settings
    channels, height, width = settings.shape
    training = content.universe.training
    universe = content.universe
    groups = [
        (
            "Training data",
            [
                ("units", str(len(content.unit_ids))),
                ("images", str(len(training.images))),
                ("picture", f"{height} × {width}, {'grey' if channels == 1 else 'colour'}"),
                ("content, SHA-256", training.fingerprint()),
            ],
        ),
        ("Code", _code_facts(content)),
        ("Components", _component_facts(run)),
        ("Sampling", _sampling_facts(content)),
        ("Versions", [(str(name), str(value)) for name, value in universe.environment.items()]),
        (
            "Record",
            [
                ("run, SHA-256 of its manifest", settings.run_sha256 or "not recorded"),
                ("universe, SHA-256 of its description", universe.digest),
                ("universe format", str(settings.format)),
            ],
        ),
    ]
    return [(name, rows) for name, rows in groups if rows]


def _code_facts(content: Content) -> Rows:
    code, settings = content.code, content.universe.settings
    if code is None:
        return []
    return [
        ("components", str(code.components)),
        ("weight (components a unit is in)", between(code.matrix.sum(axis=1))),
        ("split (units a component trains on)", between(code.split_sizes())),
        ("distinct ablations of units", str(len(set(settings.ablation)))),
        ("spare ablations", str(len(settings.spares))),
        ("codewords, SHA-256", code.digest()),
    ]


def _sampling_facts(content: Content) -> Rows:
    settings = content.universe.settings
    if settings.imported:
        return []
    return [
        ("sampler", settings.sampling.sampler),
        ("steps", str(settings.steps)),
        ("precision", settings.precision),
        ("predicted image", "brought into range at every step" if settings.clip else "not clipped"),
        (
            "levels",
            "256" if settings.threshold is None else f"black and white, from {settings.threshold} up are white",
        ),
        ("rows in a batch", str(settings.batch)),
        ("seeds", ranges(settings.seeds)),
        *_condition_facts(settings),
    ]


def _condition_facts(settings: UniverseSettings) -> Rows:
    if settings.conditions is None:
        return []
    distinct = list(dict.fromkeys(map(str, settings.conditions)))
    told = ", ".join(distinct[:8]) + (f" and {len(distinct) - 8} more" if len(distinct) > 8 else "")
    return [("conditions", told), ("guidance", f"{settings.guidance:g}")]


def _component_facts(run: Run | None) -> Rows:
    if run is None:
        return []
    from ..diffusion.recipe import PRESETS
    from ..runs.adopting import claimed
    from ..runs.shared import relative_to

    recipe = run.recipe
    component, training = recipe.component, recipe.training
    like = next((name for name, other in PRESETS.items() if other.component == component), None)
    rows = [("architecture", component.kind + (f", as in preset {like}" if like else ""))]
    named = component.model_dump(exclude={"kind"})
    rows += [(name.replace("_", " "), plain(value)) for name, value in named.items()]
    if component.trained:
        rows += [(name.replace("_", " "), plain(value)) for name, value in training.model_dump().items()]
    rows.append(("noise schedule", recipe.schedule.words()))
    rows.append(("ensemble seed", str(run.seed)))
    rows += [(f"{part.role} '{part.name}', SHA-256", part.sha256) for part in run.shared.records]
    sentences = [*claimed(component), *relative_to(run.shared.records)]
    rows += [("what is guaranteed", sentence) for sentence in sentences]
    return rows
