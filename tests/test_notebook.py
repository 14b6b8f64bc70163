"""What notebooks show: the HTML holds the very pixels and names, and nothing in a name becomes markup."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

import ablatable as ab
from ablatable._runtime.tables import Tabular


class Seen(HTMLParser):
    """Images, uint8 (H, W) or (H, W, C), by title; tags; and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: dict[str, np.ndarray] = {}
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "img":
            given = dict(attrs)
            data = re.fullmatch(r"data:image/png;base64,(.+)", given["src"] or "")
            assert data is not None
            self.images[given["title"] or ""] = np.array(Image.open(io.BytesIO(base64.b64decode(data[1]))))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_units_show_the_first_image_of_each() -> None:
    images = np.random.default_rng(0).integers(0, 256, (21, 6, 5, 3), dtype=np.uint8)
    names = ["<script>", *(f"u{k}" for k in range(19))]
    units = ab.Units(names, images, [0, 0, *range(1, 20)])
    seen = Seen(units._repr_html_())
    assert list(seen.images) == ["<script> (2 images)", *names[1:16]] and "and 4 more units" in seen.text
    assert "script" not in seen.tags and "20 units, 21 images" in seen.text
    np.testing.assert_array_equal(seen.images["<script> (2 images)"], units.of("<script>")[0])
    for name in names[1:16]:
        np.testing.assert_array_equal(seen.images[name], units.of(name)[0])


def test_a_run_shows_key_figures_and_images(small) -> None:
    seen = Seen(small.run._repr_html_())
    assert list(seen.images) == list(small.units.ids) and {"table", "img"} <= seen.tags
    np.testing.assert_array_equal(seen.images["digit-0002"], small.units.of("digit-0002")[0, ..., 0])
    for figure in (str(len(small.units)), "8 x 8, grey", str(small.recipe.training.steps), small.run.digest[:16]):
        assert figure in seen.text


def test_a_universe_shows_factual_and_counterfactual(small_universe: ab.Universe) -> None:
    images = Seen(small_universe._repr_html_()).images
    without = {name.removeprefix("without ") for name in images} - {"factual sample"}
    farthest = {small_universe.unit_ids[k] for k in small_universe.distances().argmax(axis=0)}
    assert without == farthest


def test_results_are_tables_and_frames(small_universe: ab.Universe) -> None:
    found = ab.calibrate(small_universe)
    assert isinstance(found, Tabular) and "table" in Seen(found._repr_html_()).tags
    assert found.to_pandas().to_dict("list") == found.to_polars().to_dict(as_series=False)
    assert all(issubclass(result, Tabular) for result in (ab.Witness, type(ab.budget(ab.bundled()))))
