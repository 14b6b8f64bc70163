"""A report's content as one self-contained page: everything it shows is inside it, and it asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis.calibration import LEVEL
from ..data.distance import REFERENCE
from . import charts, pictures
from .content import REPORT_SAMPLES, SHEET_SPARES, SHEET_UNITS, Content, Sample, mean_share

if TYPE_CHECKING:
    from ..runs.run import Run

TOP_UNITS = 5  # units shown beside a sample: those of largest distance
PAGE_BYTES = 15_000_000  # what a page weighs at most, about
PICTURE_SHARE = 0.8  # of it; the rest is for words and numbers
ID_CHARACTERS = 120  # longer ids are cut in the middle


@dataclass(frozen=True)
class Caps:
    """How much a page shows, so that it stays below PAGE_BYTES: samples, and of each so many units and spares."""

    samples: int
    units: int
    spares: int


def fit_page(samples: int, units: int, spares: int, picture: float, *, images: int = 1) -> Caps:
    """The most that fits.

    Args:
        samples, units, spares: what there is.
        picture: bytes a picture takes as part of a sprite.
        images: training images at hand.

    First the number of tiles of each sample shrinks, down to some dozens; then the number of samples.
    """
    budget = PAGE_BYTES * PICTURE_SHARE * 3 / 4  # base64 makes 4 bytes of 3
    samples = min(samples, REPORT_SAMPLES)
    least = min(units, 4 * TOP_UNITS)

    def cost(count: int, share: float) -> tuple[float, Caps]:
        own = max(least, int(share * min(units, SHEET_UNITS)))
        other = int(share * min(spares, SHEET_SPARES))
        # beside the sprite: the row of pictures, and for each top unit a training image, a picture and a difference
        alone = 10 + TOP_UNITS * 5
        training = min(images, count * own)
        return picture * (count * (1 + own + other + alone) + training), Caps(count, own, other)

    for count in range(samples, 0, -1):
        for share in np.linspace(1, 0, 101):
            size, caps = cost(count, float(share))
            if size <= budget:
                return caps
    return Caps(1, least, 0)


class Page:
    """A page in the making: samples are added one after another, and only what is shown of them is kept."""

    def __init__(self, content: Content, run: Run | None = None) -> None:
        """`run`: the run that the universe is of, for what only it knows of its components."""
        self.content, self.run = content, run
        longest = max(float(content.distances.max()), float(content.spare_distances.max(initial=0)))
        self.scale = charts.Scale.of(0, longest)
        self.caps: Caps | None = None
        self.cards: list[dict[str, Any]] = []
        self.data: list[dict[str, Any]] = []
        self.images: dict[int, int] = {}  # training images that are shown -> place in their sprite
        self.ids: dict[int, int] = {}  # units that are shown -> place in the list of ids

    def add(self, sample: Sample) -> None:
        """Add a sample's card, if it still fits."""
        if self.caps is None:
            self.caps = self._fit(sample)
        if len(self.cards) == self.caps.samples:
            return
        order, spare_order = sample.order[: self.caps.units], sample.spare_order[: self.caps.spares]
        tiles = np.concatenate(
            [sample.factual[None], sample.pictures[: len(order)], sample.spare_pictures[: len(spare_order)]]
        )
        self.data.append(
            {
                "units": [
                    [
                        self.ids.setdefault(unit, len(self.ids)),
                        float(distance(moved)),  # as it is shown everywhere
                        sample.spares_as_far(moved),
                        self.images.setdefault(int(sample.image[unit]), len(self.images)),
                    ]
                    for unit, moved in zip(order.tolist(), sample.distances[order].tolist(), strict=True)
                ],
                "spares": [
                    [spare + 1, float(distance(moved))]
                    for spare, moved in zip(
                        spare_order.tolist(), sample.spare_distances[spare_order].tolist(), strict=True
                    )
                ],
            }
        )
        self.cards.append(self._card(sample, tiles))

    def html(self) -> str:
        """The page, after the last sample."""
        from jinja2 import Environment, FunctionLoader, StrictUndefined

        texts = {name: (files(__package__ or "") / name).read_text("utf-8") for name in ("page.html", "page.css")}
        script = (files(__package__ or "") / "page.js").read_text("utf-8")
        environment = Environment(
            loader=FunctionLoader(texts.__getitem__),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters.update(distance=distance, percent=percent, probability=probability)
        environment.tests["hash"] = lambda text: re.fullmatch("[0-9a-f]{64}", text) is not None
        return environment.get_template("page.html").render(
            style=texts["page.css"],
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
            cards=self.cards,
            data=self._data(),
            training=self._training(),
            overview=self._overview(),
            histogram=self._histogram(),
            facts=self._facts(),
            ticks=self.scale.ticks(),
            ceiling=REFERENCE**0.5,
            brighter=_rgb(pictures.BRIGHTER),
            darker=_rgb(pictures.DARKER),
        )

    # --- parts --------------------------------------------------------------------------------------------------

    def _fit(self, first: Sample) -> Caps:
        """Caps, from what pictures like these weigh: the training images', and the first landscape's."""
        content = self.content
        some = content.universe.training.images[:256]
        measured = [len(pictures.png(pictures.sprite(group))) / len(group) for group in (some, first.pictures)]
        return fit_page(
            content.shown,
            len(content.units),
            len(content.spare_distances),
            1.1 * max(measured),
            images=len(content.universe.training.images),
        )

    def _card(self, sample: Sample, tiles: np.ndarray) -> dict[str, Any]:
        distances = sample.distances
        return {
            "sample": sample.index,
            "seed": sample.seed,
            "factual": pictures.data_uri(sample.factual),
            "radius": sample.radius,
            "spare_radius": sample.spare_radius,
            "beyond": sample.spares_as_far(sample.radius),
            "calibrated": sample.verdict and sample.verdict[0].upper() + sample.verdict[1:],
            "strip": charts.strip(distances, self.scale),
            "radius_at": self.scale.percent(sample.radius),
            "nearest_at": self.scale.percent(distances[sample.nearest]),
            "spare_strip": charts.strip(sample.spare_distances, self.scale),
            "spare_radius_at": None if sample.spare_radius is None else self.scale.percent(sample.spare_radius),
            "nearest": {
                **self._unit(sample.nearest, int(sample.image[sample.nearest])),
                "distance": sample.nearest_distance,
                "moves": float(distances[sample.nearest]),
                "rank": sample.rank(sample.nearest),
                "p": None if sample.p is None else float(sample.p[sample.nearest]),
                "without": pictures.data_uri(sample.without),
                "after": self._unit(sample.after, sample.after_image),
                "changed": sample.changed,
                "changed_spares": None if np.isnan(sample.changed_spares) else sample.changed_spares,
                "changed_others": None if np.isnan(sample.changed_others) else sample.changed_others,
            },
            "spare_examples": [pictures.data_uri(picture) for picture in sample.spare_examples],
            "top": [
                {
                    **self._unit(int(unit), int(sample.image[unit])),
                    "without": pictures.data_uri(picture),
                    "difference": pictures.data_uri(pictures.difference(sample.factual, picture)),
                    "distance": float(distances[unit]),
                    "as_far": sample.spares_as_far(float(distances[unit])),
                    "p": None if sample.p is None else float(sample.p[unit]),
                    "q": None if sample.q is None else float(sample.q[unit]),
                    "marked": sample.q is not None and bool(sample.q[unit] <= LEVEL),
                }
                for unit, picture in zip(sample.order[:TOP_UNITS], sample.pictures, strict=False)
            ],
            "sprite": pictures.data_uri(pictures.sprite(tiles)),
            "units": min(len(sample.order), self._caps.units),
            "spares": min(len(sample.spare_order), self._caps.spares),
        }

    @property
    def _caps(self) -> Caps:
        assert self.caps is not None
        return self.caps

    def _unit(self, row: int, image: int) -> dict[str, Any]:
        content = self.content
        return {
            "id": shorten(content.units[row]),
            "image": pictures.data_uri(content.training_image(image)),
            "images": int(content.images_of[row]),
        }

    def _training(self) -> str:
        """The sprite of all training images that any tile refers to."""
        return pictures.data_uri(pictures.sprite(self.content.universe.training.images[list(self.images)]))

    def _data(self) -> dict[str, Any]:
        """What the script needs."""
        content = self.content
        channels, height, width = content.universe.settings.shape
        rows = list(self.ids)
        return {
            "shape": [height, width, channels],
            "colours": {"brighter": pictures.BRIGHTER, "darker": pictures.DARKER},
            "spares": len(content.spare_distances),
            "ids": [shorten(content.units[row]) for row in rows],
            "order": rows,  # place in the training data
            "images": [int(content.images_of[row]) for row in rows],
            "sharing": [int(content.sharing[row]) for row in rows],
            "columns": pictures.sprite_columns(len(self.images)),
            "samples": self.data,
        }

    def _overview(self) -> dict[str, Any]:
        content, nearest = self.content, self.content.nearest
        code = content.code
        bound = max(content.mean_radius, content.mean_spare_radius or 0) or 1
        same = content.unattributable
        return {
            "samples": len(content.universe.seeds),
            "shown": len(self.cards),
            "units": len(content.units),
            "components": code.components if code else None,
            "removed": _between(code.matrix.sum(axis=1)) if code else None,
            "spares": len(content.spare_distances),
            "mean_radius": content.mean_radius,
            "mean_radius_at": round(100 * content.mean_radius / bound, 2),
            "mean_spare_radius": content.mean_spare_radius,
            "mean_spare_radius_at": round(100 * (content.mean_spare_radius or 0) / bound, 2),
            "farther": None if content.spare_radius is None else int((content.radius > content.spare_radius).sum()),
            "unattributable": same.samples.tolist(),
            "unattributable_share": same.share,
            "unattributable_interval": same.interval(),
            "marked": None if content.calibration is None else int(content.calibration.marked().any(axis=0).sum()),
            "level": LEVEL,
            "discrete": content.universe.settings.threshold is not None,
            "changed": int(nearest.changed.sum()),
            "changed_share": float(nearest.changed.mean()),
            "changed_spares": mean_share(nearest.changed_spares),
            "changed_others": mean_share(nearest.changed_others),
            "file_units": min(len(content.units), SHEET_UNITS),
            "file_spares": min(len(content.spare_distances), SHEET_SPARES),
            "top": min(TOP_UNITS, len(content.units)),
        }

    def _histogram(self) -> dict[str, Any]:
        content = self.content
        groups = [content.radius] if content.spare_radius is None else [content.radius, content.spare_radius]
        bins = charts.edges(np.concatenate(groups))
        scale = charts.Scale(float(bins[0]), float(bins[-1]), float(bins[1] - bins[0]))
        top = charts.tallest(bins, *groups)
        labelled = charts.nice_step(scale.high - scale.low, 6)
        return {
            "ticks": [tick for tick in scale.ticks() if abs(math.remainder(tick.value, labelled)) < 1e-9 * labelled],
            "units": charts.bars(groups[0], bins, top),
            "mean_at": scale.percent(content.mean_radius) if content.mean_radius >= scale.low else None,
            "spares": charts.bars(groups[1], bins, top) if len(groups) > 1 else None,
            "spare_mean_at": scale.percent(content.mean_spare_radius)
            if content.mean_spare_radius is not None and content.mean_spare_radius >= scale.low
            else None,
        }

    def _facts(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """What the run was, in groups of (name, value)."""
        content, settings = self.content, self.content.universe.settings
        channels, height, width = settings.shape
        training = content.universe.training
        attrs: Any = content.universe.group.attrs
        groups = [
            (
                "Training data",
                [
                    ("units", str(len(content.units))),
                    ("images", str(len(training.images))),
                    ("picture", f"{height} × {width}, {'grey' if channels == 1 else 'colour'}"),
                    ("content, SHA-256", training.fingerprint()),
                ],
            ),
            ("Code", self._code_facts()),
            ("Components", self._component_facts()),
            ("Sampling", self._sampling_facts()),
            ("Versions", [(str(name), str(value)) for name, value in dict(attrs.get("environment", {})).items()]),
            (
                "Record",
                [
                    ("run, SHA-256 of its manifest", settings.run_sha256 or "not recorded"),
                    ("universe, SHA-256 of its description", str(attrs.get("sha256", "not recorded"))),
                    ("universe format", str(settings.format)),
                ],
            ),
        ]
        return [(name, rows) for name, rows in groups if rows]

    def _code_facts(self) -> list[tuple[str, str]]:
        code, settings = self.content.code, self.content.universe.settings
        if code is None:
            return []
        return [
            ("components", str(code.components)),
            ("weight (components a unit is in)", _between(code.matrix.sum(axis=1))),
            ("split (units a component trains on)", _between(code.split_sizes())),
            ("distinct ablations of units", str(len(set(settings.ablation)))),
            ("spare ablations", str(len(settings.spares))),
            ("codewords, SHA-256", code.digest()),
        ]

    def _sampling_facts(self) -> list[tuple[str, str]]:
        settings = self.content.universe.settings
        if settings.imported:
            return []
        return [
            ("sampler", settings.sampler),
            ("steps", str(settings.steps)),
            ("precision", settings.precision),
            (
                "levels",
                "256" if settings.threshold is None else f"black and white, from {settings.threshold} up are white",
            ),
            ("rows in a batch", str(settings.batch)),
            ("seeds", ranges(settings.seeds)),
        ]

    def _component_facts(self) -> list[tuple[str, str]]:
        if self.run is None:
            return []
        from ..diffusion.recipe import PRESETS

        recipe = self.run.recipe
        component, training = recipe.component, recipe.training
        like = next((name for name, other in PRESETS.items() if other.component == component), None)
        rows = [("architecture", component.kind + (f", as in preset {like}" if like else ""))]
        named = component.model_dump(exclude={"kind"})
        rows += [(name.replace("_", " "), _plain(value)) for name, value in named.items()]
        if component.kind == "unet":
            rows += [(name.replace("_", " "), _plain(value)) for name, value in training.model_dump().items()]
        schedule = recipe.schedule
        rows.append(
            ("noise schedule", f"{schedule.train_steps} steps, β {schedule.beta_start:g} to {schedule.beta_end:g}")
        )
        rows.append(("ensemble seed", str(self.run.seed)))
        return rows


# --- words ------------------------------------------------------------------------------------------------------


def distance(value: float) -> str:
    """A distance as it is shown, in the paper's unit."""
    return f"{value:.1f}"


def percent(share: float) -> str:
    """A share of 0 to 1 as it is shown."""
    return f"{100 * share:.0f} %"


def probability(value: float) -> str:
    """A p- or q-value as it is shown."""
    return f"{value:.3f}"


def shorten(text: str, limit: int = ID_CHARACTERS) -> str:
    """A long id, cut in the middle: its ends are what tells it from others."""
    return text if len(text) <= limit else f"{text[: limit - limit // 3 - 1]}…{text[-(limit // 3) :]}"


def ranges(numbers: Sequence[int], limit: int = 24) -> str:
    """Numbers as ranges: `0–9, 12`; after so many of them, how many there are in all."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    texts = [str(first) if first == last else f"{first}–{last}" for first, last in parts]
    more = f", … ({len(numbers)} in all)" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more


def _between(values: Iterable[Any]) -> str:
    """One number if all are equal, else the least and the largest."""
    low, high = min(values := [int(value) for value in values]), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rgb(colour: tuple[int, int, int]) -> str:
    return "rgb({} {} {})".format(*colour)
