"""Reports: what the page says is what the universe holds, whatever the ids, colours and sizes; and it can be used."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ablatable import Execution, Sampling
from ablatable.analysis import nearest
from ablatable.analysis.calibration import calibrate
from ablatable.data.units import Units
from ablatable.errors import SettingsError
from ablatable.report import charts, content, figures, layout, pictures, wording, write_report
from ablatable.report import page as page_module
from ablatable.universes.reader import Universe
from ablatable.universes.settings import UniverseSettings
from ablatable.universes.writer import UniverseWriter

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page


# --- universes made by hand -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A universe and the arrays it was made of; pictures are (.., H, W, C)."""

    universe: Universe
    training: np.ndarray  # (images, H, W, C)
    owner: np.ndarray
    factual: np.ndarray  # (samples, ..)
    units: np.ndarray  # (units, samples, ..): the counterfactuals
    spares: np.ndarray  # (spares, samples, ..)

    def distance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """On values in [0, 1], at 256 x 256 x 3; in float64, by the formula."""
        change = a.astype(np.float64) / 255 - b.astype(np.float64) / 255
        size = np.prod(self.factual.shape[1:])
        return np.sqrt((change**2).reshape(*change.shape[:-3], -1).sum(-1) * (256 * 256 * 3 / size))

    def distances(self) -> np.ndarray:
        return self.distance(self.units, self.factual)

    def spare_distances(self) -> np.ndarray:
        return self.distance(self.spares, self.factual)

    def nearest_unit(self, picture: np.ndarray) -> int:
        every = self.distance(picture[None], self.training)
        return int(self.owner[every.argmin()])

    def nearest_image(self, picture: np.ndarray, unit: int) -> np.ndarray:
        own = self.training[self.owner == unit]
        return own[self.distance(picture[None], own).argmin()]


def make(
    ids: Sequence[str] = tuple("abcdefg"),
    *,
    side: tuple[int, int] = (8, 9),
    channels: int = 1,
    samples: int = 3,
    spares: int = 4,
    images: int = 1,
    components: int = 6,
    seed: int = 0,
    shared: bool = False,
    adjust: Callable[[np.ndarray, np.ndarray], None] = lambda factual, ablated: None,
) -> Made:
    """Random pictures; the spares' ablations come first, then the units' in reverse.

    `shared`: the last unit has the first one's codeword. `adjust` may change the factual samples and the ablations'
    pictures before they are stored.
    """
    random = np.random.default_rng(seed)
    shape = (*side, channels)

    def draw(*count: int) -> np.ndarray:
        return random.integers(0, 256, (*count, *shape)).astype(np.uint8)

    owner = np.repeat(np.arange(len(ids)), images)
    training = Units(tuple(ids), draw(len(owner)), owner)
    words = [
        "".join("01"[i in ones] for i in range(components)) for ones in combinations(range(components), components // 2)
    ]
    count = len(ids) + spares
    assert len(words) >= count
    words = words[:count]
    ablation = list(range(count - 1, spares - 1, -1))
    if shared:
        ablation[-1] = ablation[0]
    factual, ablated = draw(samples), draw(len(words), samples)
    adjust(factual, ablated)
    settings = UniverseSettings(
        run_sha256=None,
        shape=(channels, *side),
        components=components,
        sampler="ddim",
        steps=7,
        batch=4,
        block=(4, 2),
        seeds=tuple(range(40, 40 + samples)),
        units=training.ids,
        digests=training.digests,
        words=tuple(words),
        ablation=tuple(ablation),
        spares=tuple(range(spares)),
    )
    url = f"memory://{uuid4()}"
    universe = UniverseWriter.create(url, settings, training, {"ablatable": "1.2.3", "torch": "9.9"})
    for block in universe.blocks():
        columns = slice(*block.samples)
        block_pictures = (
            factual[None, columns] if block.ablations is None else ablated[slice(*block.ablations), columns]
        )
        universe.write(block, np.moveaxis(block_pictures, -1, 2))
    return Made(Universe.open(url), training.images, owner, factual, ablated[ablation], ablated[:spares])


# --- reading a page ---------------------------------------------------------------------------------------------

VOID = {"meta", "img", "input", "br", "link", "hr", "path", "rect"}


@dataclass
class Node:
    """An element: its tag, attributes, children and text."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Node | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        parts = [child if isinstance(child, str) else child.text for child in self.children]
        return " ".join("".join(parts).split())

    def all(self, tag: str = "", **attributes: str) -> list[Node]:
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        found = []
        for child in self.children:
            if isinstance(child, Node):
                classes = child.attributes.get("class", "").split()
                matches = all(
                    value in classes if name == "class" else child.attributes.get(name) == value
                    for name, value in wanted.items()
                )
                found += [child] * (matches and tag in ("", child.tag)) + child.all(tag, **attributes)
        return found

    def value(self, name: str) -> str:
        (only,) = self.all(data_value=name)
        return only.text


class Reader(HTMLParser):
    """Builds the tree of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Node("root")
        self.path = [self.root]
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.path[-1].children.append(node)
        if tag not in VOID:
            self.path.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.path[-1].children.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.path.pop().tag == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.path[-1].children.append(data)


def read(path: Path) -> Node:
    reader = Reader(path.read_text("utf-8"))
    assert reader.path == [reader.root], "an element is not closed"
    return reader.root


def pixels(source: str | bytes) -> np.ndarray:
    """The pixels of a PNG file or of an address that holds one, (H, W, C)."""
    if isinstance(source, str):
        head, _, body = source.partition(",")
        assert head == "data:image/png;base64"
        source = base64.b64decode(body)
    array = np.asarray(Image.open(io.BytesIO(source)))
    return array if array.ndim == 3 else array[..., None]


def images_of(node: Node) -> list[np.ndarray]:
    return [pixels(image.attributes["src"]) for image in node.all("img")]


def data_of(root: Node) -> dict[str, Any]:
    (script,) = root.all("script", id="data")
    return json.loads("".join(map(str, script.children)))


def places(sheet: np.ndarray, tile: np.ndarray) -> list[tuple[int, int]]:
    """Where a tile is on a sheet, as (y, x)."""
    rows, channels = sheet.shape[0], sheet.shape[2]
    wanted, found = tile[0].tobytes(), []
    for y in range(rows - len(tile) + 1):
        line, at = sheet[y].tobytes(), 0
        while (at := line.find(wanted, at)) >= 0:
            x = at // channels
            if at % channels == 0 and np.array_equal(sheet[y : y + len(tile), x : x + tile.shape[1]], tile):
                found.append((y, x))
            at += 1
    return found


def fact(root: Node, name: str) -> str:
    (row,) = [row for row in root.all("tr") if row.all("th")[0].text == name]
    return row.all("td")[0].text


# --- what the page says -----------------------------------------------------------------------------------------

KINDS = {
    "grey": {},
    "colour": {"channels": 3, "side": (10, 8)},
    "several images a unit": {"channels": 3, "side": (8, 8), "images": 3},
}


@pytest.fixture(scope="module", params=list(KINDS))
def reported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Path]:
    made = make(**KINDS[request.param])
    return made, write_report(made.universe, tmp_path_factory.mktemp("report"))


def test_head_numbers(reported: tuple[Made, Path]) -> None:
    made, path = reported
    root = read(path)
    radius, spare_radius = made.distances().max(0), made.spare_distances().max(0)
    nearest = [made.nearest_unit(picture) for picture in made.factual]
    units, samples = made.units.shape[:2]
    changed = [made.nearest_unit(made.units[u, s]) != u for s, u in enumerate(nearest)]
    under_spares = [[made.nearest_unit(picture) != u for picture in made.spares[:, s]] for s, u in enumerate(nearest)]
    others = [[made.nearest_unit(made.units[k, s]) != u for k in range(units) if k != u] for s, u in enumerate(nearest)]
    (head,) = root.all("header", class_="top")
    shown = {node.attributes["data-value"]: node.text for node in head.all() if "data-value" in node.attributes}
    assert shown == {
        "samples": str(samples),
        "units": str(units),
        "components": "6",
        "removed": "3",
        "spares": str(len(made.spares)),
        "mean-radius": f"{np.prod(radius) ** (1 / samples):.1f}",
        "mean-spare-radius": f"{np.prod(spare_radius) ** (1 / samples):.1f}",
        "changed-share": f"{100 * np.mean(changed):.0f} %",
        "changed-spares": f"{100 * np.mean(under_spares):.0f} %",
        "changed-others": f"{100 * np.mean(others):.0f} %",
        "changed": f"{sum(changed)} of {samples}",
        "undecidable": shown["undecidable"],
    }
    # C(6, 3) = 20 words less those in use; 7 units take 69 for one of them to reach 0.1
    assert f"cannot be judged with {20 - len(set(made.universe.settings.ablation))} unused" in shown["undecidable"]
    assert "takes 69" in shown["undecidable"]
    assert f"beyond every spare distance in {(radius > spare_radius).sum()} of {samples} samples" in head.text


def test_card_numbers_and_pictures(reported: tuple[Made, Path]) -> None:
    made, path = reported
    cards = read(path).all("article")
    distances, spare_distances = made.distances(), made.spare_distances()
    samples = len(made.factual)
    assert len(cards) == samples
    for s, card in enumerate(cards):
        factual, own = made.factual[s], distances[:, s]
        nearest = made.nearest_unit(factual)
        without = made.units[nearest, s]
        after = made.nearest_unit(without)
        assert card.attributes["id"] == f"sample-{s}"
        assert card.value("seed") == str(40 + s)
        assert card.value("radius") == f"{own.max():.1f}"
        assert card.value("spare-radius") == f"{spare_distances[:, s].max():.1f}"
        assert card.value("nearest-moves") == f"{own[nearest]:.1f}"
        assert card.value("nearest-rank") == str(1 + sorted(-own).index(-own[nearest]))
        image = made.nearest_image(factual, nearest)
        assert card.value("nearest-distance") == f"{made.distance(factual, image):.1f}"
        changed = [made.nearest_unit(picture) != nearest for picture in made.spares[:, s]]
        assert card.value("changed-spares") == f"{100 * np.mean(changed):.0f} %"
        beyond = int((spare_distances[:, s] >= own.max()).sum())
        assert (card.value("beyond") == str(beyond)) if beyond else (not card.all(data_value="beyond"))

        tested = calibrate(made.universe, samples=[s])
        assert card.value("nearest-p") == f"{tested.p[nearest, 0]:.3f}"
        assert card.value("nearest-score") == f"{tested.score[nearest, 0]:+.2f}"
        assert not card.all(data_value="calibrated")  # no unit can be marked: said once, above

        (story,) = card.all("div", class_="story")
        expected = [factual, image, without, made.nearest_image(without, after), *made.spares[:3, s]]
        for shown, wanted in zip(images_of(story), expected, strict=True):
            np.testing.assert_array_equal(shown, wanted)
        assert ("Now nearest" if after != nearest else "Still nearest") in story.text

        (tops,) = card.all("ol", class_="tops")
        order = np.argsort(-own)[:5]
        for item, unit in zip(tops.all("li"), order, strict=True):
            assert item.all("bdi")[0].text == made.universe.unit_ids[unit]
            assert item.value("top-distance") == f"{own[unit]:.1f}"
            assert item.value("top-p") == f"{tested.p[unit, 0]:.3f}"
            assert item.value("top-score") == f"{tested.score[unit, 0]:+.2f}"
            assert f"{(spare_distances[:, s] >= own[unit]).sum()} of {len(made.spares)} spares as far" in item.text
            training, picture, _ = images_of(item)
            np.testing.assert_array_equal(training, made.nearest_image(factual, unit))
            np.testing.assert_array_equal(picture, made.units[unit, s])


def test_sprites_hold_the_landscape(reported: tuple[Made, Path]) -> None:
    made, path = reported
    root = read(path)
    data = data_of(root)
    height, width = made.factual.shape[1:3]

    def tile(sprite: np.ndarray, columns: int, k: int) -> np.ndarray:
        y, x = k // columns * height, k % columns * width
        return sprite[y : y + height, x : x + width]

    (training,) = root.all("img", id="training")
    training_sprite = pixels(training.attributes["src"])
    for s, (card, listed) in enumerate(zip(root.all("article"), data["samples"], strict=True)):
        (image,) = card.all("img", class_="sprite")
        sprite = pixels(image.attributes["src"])
        columns = sprite.shape[1] // width
        np.testing.assert_array_equal(tile(sprite, columns, 0), made.factual[s])
        order, spare_order = np.argsort(-made.distances()[:, s]), np.argsort(-made.spare_distances()[:, s])
        assert [data["ids"][row] for row, *_ in listed["units"]] == [made.universe.unit_ids[unit] for unit in order]
        for k, (unit, (_, distance, _, at)) in enumerate(zip(order, listed["units"], strict=True)):
            np.testing.assert_array_equal(tile(sprite, columns, 1 + k), made.units[unit, s])
            assert distance == pytest.approx(made.distances()[unit, s], abs=0.051)
            np.testing.assert_array_equal(
                tile(training_sprite, data["columns"], at), made.nearest_image(made.factual[s], unit)
            )
        assert [spare - 1 for spare, _ in listed["spares"]] == list(spare_order)
        for k, spare in enumerate(spare_order):
            np.testing.assert_array_equal(tile(sprite, columns, 1 + len(order) + k), made.spares[spare, s])


def test_groups_are_shown_with_their_images(reported: tuple[Made, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    made, path = reported
    ids, own = made.universe.unit_ids, np.bincount(made.owner)
    shown = read(path).all("section", class_="who")
    if own.max() == 1:
        assert shown == []
        return
    (section,) = shown
    height, width = made.factual.shape[1:3]
    for unit, item in enumerate(section.all("li")):
        (sheet,) = images_of(item)
        for image in made.training[made.owner == unit]:
            assert any(y % height == 0 and x % width == 0 for y, x in places(sheet, image))
        assert item.text == f"{ids[unit]}{own[unit]} images"
    assert len(section.all("li")) == len(ids)
    monkeypatch.setattr(content, "GROUPS", 2)
    monkeypatch.setattr(content, "GROUP_IMAGES", 1)
    (section,) = read(write_report(made.universe, path.parent.parent / "few")).all("section", class_="who")
    assert [item.text for item in section.all("li")] == [f"{unit}3 images, the first 1 shown" for unit in ids[:2]]
    assert "The first 2 of the 7 units" in section.text


def test_files_beside_the_page(reported: tuple[Made, Path]) -> None:
    made, path = reported
    folder, samples = path.parent, len(made.factual)
    assert {file.name for file in folder.iterdir()} == {
        "report.html",
        "report.json",
        "radii.png",
        "story.png",
        "summary.csv",
        *(f"landscape-{s}.png" for s in range(samples)),
    }
    rows = list(csv.DictReader((folder / "summary.csv").open()))
    assert [int(row["seed"]) for row in rows] == [40 + s for s in range(samples)]
    for s, row in enumerate(rows):
        assert float(row["radius"]) == pytest.approx(made.distances()[:, s].max(), rel=1e-6)
        assert float(row["spare_radius"]) == pytest.approx(made.spare_distances()[:, s].max(), rel=1e-6)
        assert row["nearest_unit"] == made.universe.unit_ids[made.nearest_unit(made.factual[s])]
    for name in ("radii.png", "story.png"):
        image = pixels((folder / name).read_bytes())
        assert (image[[0, -1]][:, [0, -1]][..., :3] == 255).all(), f"{name} is not on white"
        assert image.std() > 5, f"{name} is empty"


def enlarged(picture: np.ndarray, target: int) -> np.ndarray:
    factor = max(1, round(target / max(picture.shape[:2])))
    return np.kron(picture, np.ones((factor, factor, 1), np.uint8))


def test_contact_sheets_are_sorted(reported: tuple[Made, Path]) -> None:
    made, path = reported
    for s, factual in enumerate(made.factual):
        sheet = pixels((path.parent / f"landscape-{s}.png").read_bytes())
        order, spare_order = np.argsort(-made.distances()[:, s]), np.argsort(-made.spare_distances()[:, s])
        expected = [factual, *made.units[order, s], *made.spares[spare_order, s]]
        found = [places(sheet, enlarged(picture, figures.TILE)) for picture in expected]
        assert all(len(place) == 1 for place in found), "each picture once"
        flat = [place[0] for place in found]
        assert flat == sorted(flat), "in reading order: factual, units and spares, farthest first"


def test_story_columns(reported: tuple[Made, Path]) -> None:
    made, path = reported
    sheet = pixels((path.parent / "story.png").read_bytes())
    rows = []
    for s, factual in enumerate(made.factual):
        nearest = made.nearest_unit(factual)
        column = [factual, made.nearest_image(factual, nearest), made.units[nearest, s], *made.spares[:3, s]]
        where = [places(sheet, enlarged(picture, figures.STORY_TILE)) for picture in column]
        # a training image may be nearest to two samples, and then is there twice
        x = where[0][0][1]
        ys = [next(y for y, other in place if other == x) for place in where]
        assert ys == sorted(ys)
        rows.append(ys)
    assert all(ys == rows[0] for ys in rows), "a row a kind of picture"


def test_facts(reported: tuple[Made, Path]) -> None:
    made, path = reported
    root, settings = read(path), made.universe.settings
    assert fact(root, "sampler") == "ddim"
    assert fact(root, "seeds") == f"40–{39 + len(made.factual)}"
    assert fact(root, "torch") == "9.9"
    assert fact(root, "distinct ablations of units") == str(len(made.units))
    assert fact(root, "run, SHA-256 of its manifest") == "not recorded"
    assert fact(root, "images") == str(len(made.training))
    splits = np.array([[bit == "1" for bit in settings.words[row]] for row in settings.ablation]).sum(0)
    assert fact(root, "split (units a component trains on)") == f"{splits.min()} to {splits.max()}"


def test_the_histogram_counts_every_sample(reported: tuple[Made, Path]) -> None:
    made, path = reported
    (unit_half,), (spare_half,) = (read(path).all("div", class_=name) for name in ("unit", "spare"))
    for half in (unit_half, spare_half):
        assert sum(int(count.text) for count in half.all("i", class_="count")) == len(made.factual)


# --- awkward universes ------------------------------------------------------------------------------------------

HOSTILE = (
    "<script>document.title='hit'</script>",
    "</script><img src=x onerror=\"document.title='hit'\">",
    '"><svg onload="document.title=\'hit\'">',
    "{{ 7 * 7 }}{% raw %}",
    "it's <b>\"quoted\"</b> & 'so'",
    "\u202eבקרה 日本語 \U0001f600 \u2028",
    "two\nlines\tand\x07bell",
    "x" * 5000 + "the end",
)


def test_hostile_ids_are_only_text(tmp_path: Path) -> None:
    made = make(HOSTILE, samples=2, spares=2)
    root = read(write_report(made.universe, tmp_path))
    assert {node.tag for node in root.all()} <= {
        *("html", "head", "meta", "title", "style", "body", "a", "main", "header", "p", "h1", "h2", "h3", "h4", "dl"),
        *("div", "dt", "dd", "section", "span", "small", "b", "strong", "em", "nav", "img", "ul", "ol", "li", "i"),
        *("article", "figure", "figcaption", "bdi", "svg", "path", "rect", "fieldset", "legend", "label", "input"),
        *("table", "caption", "tbody", "tr", "th", "td", "footer", "script"),
    }
    assert len(root.all("script")) == 2
    assert not [name for node in root.all() for name in node.attributes if name.startswith("on")]
    ids = data_of(root)["ids"]
    assert set(HOSTILE[:-1]) < set(ids)
    (cut,) = set(ids) - set(HOSTILE)
    assert len(cut) <= 120 and cut.startswith("xxx") and cut.endswith("the end") and "…" in cut
    shown = {node.attributes["title"] for node in root.all("bdi")}
    assert shown <= set(ids)
    assert "49" not in {node.text for node in root.all("bdi")}


def test_without_spares(tmp_path: Path) -> None:
    made = make(spares=0)
    root = read(write_report(made.universe, tmp_path))
    assert "no spare ablations" in root.all("header", class_="top")[0].text
    assert not root.all(data_value="spare-radius") and not root.all("div", class_="spare")
    assert data_of(root)["samples"][0]["spares"] == []
    assert next(csv.DictReader((tmp_path / "summary.csv").open()))["spare_radius"] == ""
    assert not [node for node in root.all("p") if "nan" in node.text.lower() or "None" in node.text]


def test_images_that_stay_with_another_unit_are_admitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page does not say of a unit that it was never there if another one holds a copy of its image."""
    made = make(list("abcd"), images=2)
    (page,) = [write_report(made.universe, tmp_path / "none")]
    assert not read(page).all(data_value="sharers")
    training = made.training.copy()
    training[3] = training[6]  # an image of b, and one of d
    content_of = content.Content(made.universe)
    content_of.universe = SimpleNamespace(training=Units(tuple("abcd"), training, made.owner))  # type: ignore[assignment]
    assert content_of.sharers == ("b", "d")
    monkeypatch.setattr(content.Content, "sharers", tuple("abcd"))
    (said,) = read(write_report(made.universe, tmp_path / "four")).all(data_value="sharers")
    assert "4 units" in said.text and "a, b, c" in said.text and "and 1 more" in said.text


def test_one_unit_one_sample(tmp_path: Path) -> None:
    made = make(["only"], samples=1, spares=0, components=2)
    root = read(write_report(made.universe, tmp_path))
    assert root.value("changed") == "0 of 1"
    assert "Still nearest" in root.text
    assert "nan" not in root.all("main")[0].text.lower()


def test_units_that_share_a_codeword(tmp_path: Path) -> None:
    made = make(shared=True, samples=1)
    root = read(write_report(made.universe, tmp_path))
    data = data_of(root)
    assert dict(zip(data["ids"], data["sharing"], strict=True)) == {**dict.fromkeys("bcdef", 1), "a": 2, "g": 2}
    moved = {data["ids"][row]: distance for row, distance, *_ in data["samples"][0]["units"]}
    assert moved["a"] == moved["g"]
    assert fact(root, "distinct ablations of units") == "6"


def test_a_sample_that_nothing_changes(tmp_path: Path) -> None:
    def adjust(factual: np.ndarray, ablated: np.ndarray) -> None:
        ablated[:, 1] = factual[1]

    made = make(adjust=adjust)
    root = read(write_report(made.universe, tmp_path))
    cards = root.all("article")
    assert cards[1].value("radius") == "0.0"
    assert ["Unattributable" in card.text for card in cards] == [False, True, False]
    moved = made.distances().max(axis=0)[[0, 2]]
    assert root.value("mean-radius") == f"{np.sqrt(moved[0] * moved[1]):.1f}"  # the zero is left out


def test_as_many_as_the_caps_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "REPORT_SAMPLES", 2)
    monkeypatch.setattr(layout, "REPORT_SAMPLES", 2)
    for module in (content, layout, page_module):
        monkeypatch.setattr(module, "SHEET_UNITS", 25)
        monkeypatch.setattr(module, "SHEET_SPARES", 3)
    made = make([f"unit {k}" for k in range(60)], samples=3, spares=10, components=8)
    root = read(write_report(made.universe, tmp_path))
    assert len(root.all("article")) == 2
    assert {file.name for file in tmp_path.glob("landscape-*")} == {"landscape-0.png", "landscape-1.png"}
    assert "The first 2 of 3 are shown" in root.text
    assert root.value("samples") == "3"
    assert root.value("mean-radius") == f"{np.exp(np.log(made.distances().max(0)).mean()):.1f}", "over all samples"
    first = data_of(root)["samples"][0]
    order = np.argsort(-made.distances()[:, 0])[:25]
    assert [data_of(root)["ids"][row] for row, *_ in first["units"]] == [f"unit {k}" for k in order]
    assert [spare - 1 for spare, _ in first["spares"]] == list(np.argsort(-made.spare_distances()[:, 0])[:3])
    assert "25 units of largest distance, of 60" in root.all("article")[0].text
    sheet = pixels((tmp_path / "landscape-0.png").read_bytes())
    seen = [bool(places(sheet, enlarged(made.units[unit, 0], figures.TILE))) for unit in range(60)]
    assert np.flatnonzero(seen).tolist() == sorted(order)


def test_a_page_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make([f"unit {k}" for k in range(90)], samples=3, spares=60, components=10, side=(16, 16), channels=3)
    whole = write_report(made.universe, tmp_path / "whole").stat().st_size
    monkeypatch.setattr(layout, "PAGE_BYTES", whole // 2)
    path = write_report(made.universe, tmp_path / "half")
    assert 0.5 * whole // 2 < path.stat().st_size < whole // 2
    card = read(path).all("article")[0]
    assert re.search(r"the \d+ units of largest distance, of 90", card.text)
    assert "landscape-0.png beside this page shows 90 units and 60 spares" in card.text


@given(
    samples=st.integers(1, 3000),
    units=st.integers(1, 60_000),
    spares=st.integers(0, 60_000),
    picture=st.floats(1, 30_000),
    images=st.integers(1, 60_000),
)
def test_fit_page(samples: int, units: int, spares: int, picture: float, images: int) -> None:
    caps = layout.fit_page(samples, units, spares, picture, images=images)
    assert 1 <= caps.samples <= min(samples, layout.REPORT_SAMPLES)
    assert min(units, 2 * layout.TOP_UNITS) <= caps.units <= min(units, layout.SHEET_UNITS)
    assert 0 <= caps.spares <= min(spares, layout.SHEET_SPARES)
    weight = 4 / 3 * picture * (caps.samples * (caps.units + caps.spares) + min(images, caps.samples * caps.units))
    assert weight <= layout.PAGE_BYTES or caps.samples == 1
    roomier = layout.fit_page(samples, units, spares, picture / 2, images=images)
    assert roomier.samples >= caps.samples


def test_only_what_is_shown_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each landscape the pictures that the page has, and of few samples: never all of it."""
    made, read_from = make([f"unit {k}" for k in range(40)], samples=5, spares=6, components=8), []
    monkeypatch.setattr(content, "REPORT_SAMPLES", 2)
    monkeypatch.setattr(content, "SHEET_UNITS", 5)
    monkeypatch.setattr(Universe, "landscape", None)
    monkeypatch.setattr(content, "comparable", lambda universe: False)  # tests look at every counterfactual
    monkeypatch.setattr(nearest, "OTHERS", 3)
    rows_of = Universe.counterfactuals

    def spy(self: Universe, sample: int, rows: Any) -> np.ndarray:
        read_from.append((sample, len(rows)))
        return rows_of(self, sample, rows)

    monkeypatch.setattr(Universe, "counterfactuals", spy)
    write_report(made.universe, tmp_path)
    assert max(count for _, count in read_from) <= 1 + 5 + 6
    assert {count for sample, count in read_from if sample > 1} == {1}, "of the others, what is nearest without it"


# --- files ------------------------------------------------------------------------------------------------------


def test_same_universe_same_bytes(tmp_path: Path) -> None:
    made = make(channels=3)
    folders = [write_report(made.universe, tmp_path / name).parent for name in "ab"]
    files = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    made, other = make(samples=4), make(samples=2, seed=1)
    path = write_report(made.universe, tmp_path)
    (tmp_path / "landscape-of-mine.png").write_text("mine")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(SettingsError, match=r"report\.html is already there.*overwrite=True"):
        write_report(other.universe, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert write_report(other.universe, tmp_path, overwrite=True) == path
    assert len(read(path).all("article")) == 2
    assert {file.name for file in tmp_path.glob("landscape-*")} == {
        "landscape-0.png",
        "landscape-1.png",
        "landscape-of-mine.png",
    }


def test_out_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="is a file"):
        write_report(make().universe, tmp_path / "file")
    with pytest.raises(SettingsError, match="cannot write"):
        write_report(make().universe, tmp_path / "file" / "below")


@pytest.fixture(scope="module")
def ideal_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that needs no training."""
    from ablatable.codes.code import Code
    from ablatable.diffusion.recipe import preset
    from ablatable.runs.ensemble_training import train

    units = Units.digits(5, size=8)
    out = tmp_path_factory.mktemp("run") / "run"
    train(
        units,
        Code.balanced(units=5, components=4, seed=0),
        preset("ideal"),
        out=out,
        execution=Execution(workers=0, quiet=True),
        seed=17,
    )
    return out


def test_a_run_tells_of_its_components(ideal_run: Path, tmp_path: Path) -> None:
    from ablatable.universes.enumeration import enumerate_universe

    universe = enumerate_universe(
        ideal_run,
        seeds=[3],
        out=tmp_path / "u.zarr",
        sampling=Sampling(steps=3),
        execution=Execution(workers=0, quiet=True),
    )
    bare = read(write_report(universe, tmp_path / "bare"))
    full = read(write_report(universe, tmp_path / "full", run=ideal_run))
    assert "Components" not in [node.text for node in bare.all("caption")]
    assert fact(full, "architecture") == "ideal, as in preset ideal"
    assert fact(full, "ensemble seed") == "17"
    assert fact(full, "run, SHA-256 of its manifest") == universe.settings.run_sha256
    with pytest.raises(SettingsError, match="not a universe of the run"):
        write_report(make().universe, tmp_path / "wrong", run=ideal_run)
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(
    "p, alike, changed, spares, says",
    [
        (0.01, None, True, 0.5, None),
        (0.5, None, False, 0.5, None),
        (0.01, None, False, 0.5, "recognise b, and without it the picture is still nearest to it"),
        (0.5, None, True, 0.25, "do not recognise b, and without it another unit is nearest: so it is under 25 %"),
        (0.5, None, True, float("nan"), None),
        (0.01, "Another unit is as near", True, 0.5, "Another unit is as near"),
    ],
)
def test_where_the_witness_and_the_removal_differ(
    p: float, alike: str | None, changed: bool, spares: float, says: str | None
) -> None:
    told = SimpleNamespace(nearest_p=np.array([p]), remark=lambda sample: alike)
    sample = SimpleNamespace(index=0, nearest=1, changed=changed, changed_spares=spares)
    found = content.Content.disagreement(SimpleNamespace(witness=told, unit_ids=("a", "b")), sample)  # pyright: ignore[reportArgumentType]
    assert found == says if says is None else says in str(found)


# --- small parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_difference(channels: int) -> None:
    before = np.full((1, 4, channels), 100, np.uint8)
    after = before.copy()
    after[0, 1], after[0, 2] = 160, 40
    after[0, 3, 0] = 0  # grey: 100 darker; colour: in one channel of three
    shown = pictures.difference(before, after)
    assert shown.dtype == np.uint8 and shown.shape == (1, 4, 4)
    assert shown[0, :, 3].tolist() == [0, 60, 60, 100 if channels == 1 else 58]  # 100 / sqrt(3) = 57.7
    assert tuple(shown[0, 1, :3]) == pictures.BRIGHTER
    assert tuple(shown[0, 2, :3]) == tuple(shown[0, 3, :3]) == pictures.DARKER


@given(low=st.floats(0, 440), span=st.floats(0, 440), ticks=st.integers(2, 30))
def test_scales_are_round_and_wide_enough(low: float, span: float, ticks: int) -> None:
    scale = charts.Scale.of(low, low + span, ticks)
    slack = 1e-6 * scale.step
    assert scale.low <= low + slack and scale.high >= low + span - slack
    assert round((scale.high - scale.low) / scale.step) <= ticks + 2
    mantissa = float(f"{scale.step:e}".partition("e")[0])
    assert mantissa in (1, 2, 5)
    texts = scale.ticks()
    assert texts[0].percent == 0 and texts[-1].percent == 100


@given(st.lists(st.floats(0, 443, width=32), min_size=1, max_size=50))
def test_bars_count_every_value(values: list[float]) -> None:
    array = np.array(values, np.float32)
    bins = charts.edges(array)
    bars = charts.bars(array, bins, charts.tallest(bins, array))
    assert sum(bar.count for bar in bars) == len(values)
    assert max(bar.height for bar in bars) == 100
    assert all(bar.left >= 0 and bar.left + bar.width <= 100.1 for bar in bars)


def test_strip_marks_places() -> None:
    scale = charts.Scale(0, 50, 10)
    path = charts.strip(np.array([0, 25, 50, 25.01]), scale)
    assert path == "M0 0v1M500 0v1M1000 0v1"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [((0, 1, 2, 3), "0–3"), ((5,), "5"), ((1, 2, 5, 9, 10), "1–2, 5, 9–10"), ((3, 1), "3, 1")],
)
def test_ranges(numbers: tuple[int, ...], text: str) -> None:
    assert wording.ranges(numbers) == text


def test_many_ranges_are_cut() -> None:
    assert wording.ranges(range(0, 100, 2), limit=3) == "0, 2, 4, … (50 in all)"


# --- in a browser -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Path]:
    names = [f"unit {k}" for k in (10, 9, 2, 33, 1, 7, 8, 21, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16)]
    made = make(names, channels=3, spares=6, samples=3, side=(8, 12), images=2, components=7)
    return made, write_report(made.universe, tmp_path_factory.mktemp("report"))


@pytest.fixture
def opened(colour: tuple[Made, Path], page: Page) -> Page:
    """The page, its first landscape built."""
    return open_page(page, colour[1])


def open_page(page: Page, path: Path) -> Page:
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.trouble = trouble  # pyright: ignore[reportAttributeAccessIssue]
    page.goto(path.as_uri())
    landscape(page, 0)
    return page


def landscape(page: Page, sample: int) -> Locator:
    found = page.locator(f"#sample-{sample} .landscape")
    found.scroll_into_view_if_needed()
    page.locator(f"#sample-{sample} .landscape.built").wait_for()
    return found


def units_shown(found: Locator) -> list[tuple[str, float]]:
    script = "tiles => tiles.map(tile => [tile.dataset.unit, Number(tile.dataset.distance)])"
    return [tuple(pair) for pair in found.locator(".tile[data-unit]").evaluate_all(script)]


def canvas_pixels(canvas: Locator) -> np.ndarray:
    script = "c => [c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    height, width, *values = canvas.evaluate(script)
    return np.array(values, np.uint8).reshape(height, width, 4)


def test_page_is_quiet_and_complete(opened: Page, network_requests: list[str]) -> None:
    for sample in range(3):
        landscape(opened, sample)
    broken = opened.locator("img").evaluate_all("all => all.filter(i => !(i.complete && i.naturalWidth > 0)).length")
    assert broken == 0
    assert opened.locator("img").count() > 30
    assert opened.locator("img:visible").count() > 30
    assert opened.locator("img.sprite:visible").count() == 0, "with scripts the sheet takes its place"
    assert network_requests == []
    assert opened.trouble == []  # pyright: ignore[reportAttributeAccessIssue]


def test_printing_fills_every_card(page: Page, colour: tuple[Made, Path]) -> None:
    """At once when printing begins, however far below the screen a card is; nothing waits for a picture then."""
    page.add_init_script("window.requestIdleCallback = () => 0")  # nothing is filled meanwhile
    page.set_viewport_size({"width": 400, "height": 300})
    open_page(page, colour[1])
    count = "document.querySelectorAll('.landscape.built .tile canvas').length"
    cards = page.locator(".landscape").count()
    before = page.locator(".landscape.built").count()
    built = page.evaluate(
        f"(dispatchEvent(new Event('beforeprint')), [document.querySelectorAll('.landscape.built').length, {count}])"
    )
    assert built[0] == cards and built[1] >= cards * len(colour[0].universe.unit_ids)
    assert before <= cards


def test_idle_time_fills_every_card(page: Page, colour: tuple[Made, Path]) -> None:
    """So a screenshot of the whole page has no blank boxes."""
    page.set_viewport_size({"width": 400, "height": 300})
    open_page(page, colour[1])
    page.wait_for_function("document.querySelectorAll('.landscape:not(.built)').length === 0")


def test_a_link_to_the_explorer_and_a_notebook(tmp_path: Path, page: Page, colour: tuple[Made, Path]) -> None:
    """The link leads to the explorer's page from where the report is; the notebook's output is the page."""
    (tmp_path / "a site").mkdir()
    (tmp_path / "a site" / "index.html").write_text("<title>Explorer</title>")
    universe = colour[0].universe
    made = write_report(universe, tmp_path / "deep" / "report", explorer=tmp_path / "a site", notebook=True)
    page.goto(made.as_uri())
    page.get_by_role("link", name="Open the explorer").click()
    assert page.title() == "Explorer"
    notebook = json.loads((made.parent / "report.ipynb").read_text())
    (tmp_path / "frame.html").write_text(notebook["cells"][0]["outputs"][0]["data"]["text/html"])
    page.goto((tmp_path / "frame.html").as_uri())
    page.frame_locator("iframe").locator(".landscape").first.scroll_into_view_if_needed(timeout=120_000)
    page.frame_locator("iframe").locator(".landscape.built").first.wait_for(timeout=120_000)
    write_report(universe, tmp_path / "deep" / "report", overwrite=True)
    assert not (made.parent / "report.ipynb").exists() and "Open the explorer" not in made.read_text()
    with pytest.raises(SettingsError, match="is no explorer"):
        write_report(universe, tmp_path / "other", explorer=tmp_path)
    assert not (tmp_path / "other").exists()


def test_sorting(opened: Page, colour: tuple[Made, Path]) -> None:
    made = colour[0]
    found = landscape(opened, 1)
    own = made.distances()[:, 1]
    by_distance = [made.universe.unit_ids[k] for k in np.argsort(-own)]
    shown = units_shown(found)
    assert [unit for unit, _ in shown] == by_distance
    assert [distance for _, distance in shown] == pytest.approx(np.sort(own)[::-1], abs=0.051)
    found.get_by_label("unit id").check()
    by_name = sorted(made.universe.unit_ids, key=lambda name: int(name.split()[1]))
    assert [unit for unit, _ in units_shown(found)] == by_name
    spares = found.locator(".group.spares .tile").evaluate_all("tiles => tiles.map(t => t.ariaLabel)")
    assert [label.split(",")[0] for label in spares] == [f"spare ablation {k + 1}" for k in range(6)]
    found.locator("input[value=unit]").press("ArrowLeft")  # by keyboard
    assert [unit for unit, _ in units_shown(found)] == by_distance
    others = [unit for unit, _ in units_shown(landscape(opened, 0))]
    assert others == [made.universe.unit_ids[k] for k in np.argsort(-made.distances()[:, 0])], "each sheet on its own"


def check_details(found: Locator, made: Made, unit: int, sample: int) -> None:
    details = found.locator(".details")
    assert details.locator(".details-title").inner_text() == made.universe.unit_ids[unit]
    distance = made.distances()[unit, sample]
    text = details.locator(".details-lines").inner_text()
    assert f"distance {distance:.1f}" in text
    assert f"{(made.spare_distances()[:, sample] >= distance).sum()} of 6 spares as far" in text
    without = made.units[unit, sample]
    opaque = np.full((*without.shape[:2], 1), 255, np.uint8)
    for name, picture in (
        ("without", without),
        ("factual", made.factual[sample]),
        ("training", made.nearest_image(made.factual[sample], unit)),
    ):
        shown = canvas_pixels(details.locator(f".{name} canvas"))
        np.testing.assert_array_equal(shown, np.concatenate([picture, opaque], -1))
    change = canvas_pixels(details.locator(".change canvas")).astype(int)
    step = without.astype(float) - made.factual[sample]
    np.testing.assert_allclose(change[..., 3], np.sqrt((step**2).mean(-1)), atol=1)
    clear = (np.abs(step.sum(-1)) > 0) & (change[..., 3] > 100)  # a canvas keeps colours to its opacity's precision
    redder = change[..., 0] > change[..., 2]
    np.testing.assert_array_equal(redder[clear], (step.sum(-1) > 0)[clear])


def test_details_on_click_and_on_hover(opened: Page, colour: tuple[Made, Path]) -> None:
    made = colour[0]
    found = landscape(opened, 0)
    first, second, third = np.argsort(-made.distances()[:, 0])[:3]
    check_details(found, made, first, 0)
    tiles = found.locator(".tile[data-unit]")
    tiles.nth(1).click()
    check_details(found, made, second, 0)
    tiles.nth(2).hover()
    check_details(found, made, third, 0)
    opened.locator("h1").hover()
    check_details(found, made, second, 0)
    assert found.locator(".tile[aria-current]").count() == 1


def test_details_of_a_spare(opened: Page, colour: tuple[Made, Path]) -> None:
    made = colour[0]
    found = landscape(opened, 0)
    found.locator(".group.spares .tile").first.click()
    spare = int(made.spare_distances()[:, 0].argmax())
    assert found.locator(".details-title").inner_text() == f"Spare ablation {spare + 1}"
    assert f"distance {made.spare_distances()[spare, 0]:.1f}" in found.locator(".details-lines").inner_text()
    shown = canvas_pixels(found.locator(".details .without canvas"))
    np.testing.assert_array_equal(shown[..., :3], made.spares[spare, 0])


def test_details_by_keyboard(opened: Page, colour: tuple[Made, Path]) -> None:
    made = colour[0]
    found = landscape(opened, 0)
    order = np.argsort(-made.distances()[:, 0])
    found.locator("input[value=distance]").focus()
    opened.keyboard.press("Tab")
    check_details(found, made, order[0], 0)
    opened.keyboard.press("ArrowRight")
    opened.keyboard.press("ArrowRight")
    check_details(found, made, order[2], 0)
    opened.keyboard.press("End")
    check_details(found, made, order[-1], 0)
    opened.keyboard.press("ArrowRight")
    check_details(found, made, order[-1], 0)
    opened.keyboard.press("Home")
    opened.keyboard.press("ArrowDown")
    tops = found.locator(".tile[data-unit]").evaluate_all("tiles => tiles.map(tile => tile.offsetTop)")
    check_details(found, made, order[tops.count(tops[0])], 0)
    opened.keyboard.press("Tab")  # one stop a group
    assert found.locator(".group.spares .tile:focus").count() == 1


def test_hostile_ids_in_the_script(page: Page, tmp_path: Path, network_requests: list[str]) -> None:
    open_page(page, write_report(make(HOSTILE, samples=1, spares=2).universe, tmp_path))
    found = landscape(page, 0)
    tiles = found.locator(".tile[data-unit]")
    shown = set()
    for k in range(len(HOSTILE)):
        tiles.nth(k).click()
        shown.add(found.locator(".details-title").text_content())
        assert found.locator(".details-title *").count() == 1
    assert set(HOSTILE[:-1]) < shown
    assert page.title().startswith("What would it have drawn")
    assert network_requests == [] and page.trouble == []  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("width", [360, 700, 1000, 2200])
def test_nothing_sticks_out(opened: Page, width: int) -> None:
    opened.set_viewport_size({"width": width, "height": 800})
    for sample in range(3):
        landscape(opened, sample)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_are_legible(opened: Page, scheme: str) -> None:
    """Contrast of at least 4.5 (WCAG 2.1, 1.4.3), and a dark page where dark is preferred."""
    opened.emulate_media(color_scheme=scheme)  # pyright: ignore[reportArgumentType]
    found = opened.evaluate(
        """() => [...document.querySelectorAll('main *')]
          .filter(e => e.offsetParent && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
          .map(e => {
            const ground = e => getComputedStyle(e).backgroundColor;
            let behind = e;
            while (behind.parentElement && ground(behind) === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
            const what = e.className + ' ' + e.textContent.slice(0, 30);
            return [what, getComputedStyle(e).color, ground(behind)];
          })"""
    )
    assert len(found) > 100
    for what, ink, paper in found:
        light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (what, ink, paper)
    paper = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (luminance(paper) < 0.1) == (scheme == "dark")


def test_without_scripts(browser: Browser, colour: tuple[Made, Path]) -> None:
    context = browser.new_context(java_script_enabled=False)
    try:
        bare = context.new_page()
        bare.goto(colour[1].as_uri())
        assert bare.locator("img.sprite").nth(2).is_visible()
        assert not bare.locator(".sort").first.is_visible()
    finally:
        context.close()
