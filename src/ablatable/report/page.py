"""A report's content as one self-contained page: everything it shows is inside it, and it asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis.calibration import LEVEL
from ..data.distance import REFERENCE
from . import charts, pictures
from .content import SHEET_SPARES, SHEET_UNITS, Content, Sample, mean_share
from .facts import facts
from .layout import TOP_UNITS, Caps, fit_page
from .wording import between, distance, percent, probability, score, shorten

if TYPE_CHECKING:
    from ..runs.run import Run


class Page:
    """Builds a page: samples are added one after another, and only what is shown of them is kept."""

    def __init__(self, content: Content, run: Run | None = None) -> None:
        """`run`: the run that the universe is of, for what only it knows of its components."""
        self.content, self.run = content, run
        longest = max(float(content.radius.max()), float(content.spare_distances.max(initial=0)))
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

    def html(self, explorer: str | None = None) -> str:
        """The page, after the last sample, with a link to an explorer's page if there is one."""
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
        environment.filters.update(distance=distance, percent=percent, probability=probability, score=score)
        environment.tests["hash"] = lambda text: re.fullmatch("[0-9a-f]{64}", text) is not None
        return environment.get_template("page.html").render(
            style=texts["page.css"],
            explorer=explorer,
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
            cards=self.cards,
            data=self._data(),
            training=self._training(),
            overview=self._overview(),
            histogram=self._histogram(),
            facts=facts(self.content, self.run),
            groups=self._groups(),
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
            len(content.unit_ids),
            len(content.spare_distances),
            1.1 * max(measured),
            images=len(content.universe.training.images),
        )

    def _card(self, sample: Sample, tiles: np.ndarray) -> dict[str, Any]:
        distances = sample.distances
        return {
            "sample": sample.index,
            "seed": sample.seed,
            "asked": sample.asked,
            "factual": pictures.data_uri(sample.factual),
            "radius": sample.radius,
            "spare_radius": sample.spare_radius,
            "beyond": sample.spares_as_far(sample.radius),
            "witness": None if self.content.witness is None else self.content.witness.verdict(sample.index),
            "disagreement": self.content.disagreement(sample),
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
                "score": None if sample.score is None else float(sample.score[sample.nearest]),
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
                    "score": None if sample.score is None else float(sample.score[unit]),
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
            "id": shorten(content.unit_ids[row]),
            "image": pictures.data_uri(content.training_image(image)),
            "images": int(content.images_of[row]),
        }

    def _groups(self) -> list[dict[str, Any]]:
        """Contact sheets of the units that have several images."""
        content, grouped = self.content, int((self.content.images_of > 1).sum())
        return [
            {
                "id": shorten(content.unit_ids[row]),
                "images": int(content.images_of[row]),
                "shown": len(images),
                "columns": pictures.sprite_columns(len(images)),
                "sheet": pictures.data_uri(pictures.sprite(images)),
                "of": grouped,
            }
            for row, images in content.groups()
        ]

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
            "ids": [shorten(content.unit_ids[row]) for row in rows],
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
            "units": len(content.unit_ids),
            "components": code.components if code else None,
            "removed": between(code.matrix.sum(axis=1)) if code else None,
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
            "undecidable": content.undecidable,
            "approximate": None if content.calibration is None else content.calibration.approximate(),
            "sharers": [shorten(unit) for unit in content.sharers],
            "level": LEVEL,
            "witness": None if content.witness is None else content.witness.headline(),
            "witness_exact": content.witness is not None and content.witness.exact,
            "discrete": content.universe.settings.threshold is not None,
            "changed": int(nearest.changed.sum()),
            "changed_share": float(nearest.changed.mean()),
            "changed_spares": mean_share(nearest.changed_spares),
            "changed_others": mean_share(nearest.changed_others),
            "file_units": min(len(content.unit_ids), SHEET_UNITS),
            "file_spares": min(len(content.spare_distances), SHEET_SPARES),
            "top": min(TOP_UNITS, len(content.unit_ids)),
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


def _rgb(colour: tuple[int, int, int]) -> str:
    return "rgb({} {} {})".format(*colour)
