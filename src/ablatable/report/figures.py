"""PNG files beside the page, for papers, slides and README files; all on white, so that any viewer shows them alike."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._runtime.text import counted
from . import charts
from .content import SPARE_EXAMPLES, Content, Sample
from .pictures import enlarge

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

STORY_SAMPLES = 8  # columns of story.png at most: the first samples
UNIT_COLOUR, SPARE_COLOUR = "#24578f", "#8d8673"  # as on the page
INK_PLOT, MUTED_PLOT = "#1d2024", "#5c626b"
INK, MUTED, RULE = (29, 32, 36), (92, 98, 107), (205, 202, 194)
TILE, STORY_TILE = 80, 112  # sides aimed at, in pixels
SHEET_WIDTH = 1600


def radii_plot(content: Content) -> bytes:
    """The histogram of radii, the spares' largest distances below it, as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = [("over the units (radius)", content.radius, content.mean_radius, UNIT_COLOUR, 1)]
    if content.spare_radius is not None and content.mean_spare_radius is not None:
        groups.append(("over the spares", content.spare_radius, content.mean_spare_radius, SPARE_COLOUR, -1))
    bins = charts.edges(np.concatenate([values for _, values, *_ in groups]))
    figure = Figure(figsize=(7.2, 3.8), dpi=200, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    tallest, muted = charts.tallest(bins, *[values for _, values, *_ in groups]), MUTED_PLOT
    for name, values, mean, colour, sign in groups:
        counts = np.histogram(values.astype(np.float64), bins)[0]
        drawn = axes.bar(
            bins[:-1], sign * counts, np.diff(bins), align="edge", color=colour, alpha=0.62, edgecolor="white"
        )
        axes.plot([mean, mean], [0, sign * tallest * 1.16], color=INK_PLOT, linewidth=1.4, linestyle=(0, (4, 2)))
        labels = [str(count) if count else "" for count in counts]
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        for label in axes.bar_label(drawn, labels, padding=3, color=muted, fontsize=8.5):
            label.set_bbox(paper if label.get_text() else None)
        axes.text(
            mean,
            sign * tallest * 1.18,
            f"{name}: geometric mean {mean:.1f}",
            ha="left" if mean < (bins[0] + bins[-1]) / 2 else "right",
            va="bottom" if sign > 0 else "top",
            color=INK_PLOT,
            fontsize=9.5,
        )
    axes.axhline(0, color=muted, linewidth=0.8)
    axes.set_ylim(-tallest * 1.4 if len(groups) > 1 else 0, tallest * 1.4)
    axes.set_xlabel("largest distance of a sample from its counterfactuals (Euclidean, at 256 × 256 × 3)", color=muted)
    axes.set_ylabel("samples", color=muted)
    axes.set_yticks([])  # the bars carry their counts
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(muted)
    axes.tick_params(colors=muted)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


# --- contact sheets ---------------------------------------------------------------------------------------------


def contact_sheet(content: Content, sample: Sample) -> bytes:
    """One sample's landscape with captions, as a PNG file: the factual sample, its units and spares, farthest first."""
    first = enlarge(sample.factual, TILE)
    height, width = first.shape[:2]
    gap, caption, margin = 12, 34, 24
    columns = max(1, (SHEET_WIDTH - 2 * margin + gap) // (width + gap))
    units = [
        _Tile(enlarge(picture, TILE), content.unit_ids[unit], f"{sample.distances[unit]:.1f}")
        for unit, picture in zip(sample.order, sample.pictures, strict=True)
    ]
    spares = [
        _Tile(enlarge(picture, TILE), f"spare {spare + 1}", f"{sample.spare_distances[spare]:.1f}")
        for spare, picture in zip(sample.spare_order, sample.spare_pictures, strict=True)
    ]
    some = "" if len(units) == len(content.unit_ids) else f" (the {len(units)} of largest distance)"
    sections = [("drawn by all components", [_Tile(first, "factual", sample.name)])]
    sections.append((f"without each of {counted(len(content.unit_ids), 'unit')}{some}, farthest first", units))
    if spares:
        total = len(content.spare_distances)
        some = "" if len(spares) == total else f" (the {len(spares)} of largest distance)"
        sections.append((f"under {counted(total, 'spare ablation')}{some}, which remove no unit", spares))
    columns = min(columns, max(len(tiles) for _, tiles in sections))
    columns = max(columns, min(10, (SHEET_WIDTH - 2 * margin) // (width + gap)))
    rows = [-(-len(tiles) // columns) for _, tiles in sections]
    heading = 40
    total_height = 2 * margin + 30 + sum(heading + count * (height + caption) for count in rows)
    sheet, pen = _blank(2 * margin + columns * (width + gap) - gap, total_height)
    title = f"Sample {sample.index}: radius {sample.radius:.1f}"
    if sample.spare_radius is not None:
        title += f", largest spare distance {sample.spare_radius:.1f}"
    pen.text((margin, margin - 6), title, INK, _font(18, bold=True))
    y = margin + 30
    for (name, tiles), count in zip(sections, rows, strict=True):
        pen.text((margin, y + 14), name, MUTED, _font(13))
        for k, tile in enumerate(tiles):
            x = margin + k % columns * (width + gap)
            top = y + heading + k // columns * (height + caption)
            _paste(sheet, pen, tile.pixels, x, top)
            _text(pen, x, top + height + 3, tile.name, INK, _font(11), width + gap - 8)
            _text(pen, x, top + height + 16, tile.value, MUTED, _font(11), width + gap - 8)
        y += heading + count * (height + caption)
    return _png(sheet, grey=sample.factual.shape[-1] == 1)


@dataclass(frozen=True, eq=False)
class _Tile:
    pixels: np.ndarray
    name: str
    value: str


# --- the story --------------------------------------------------------------------------------------------------


class Story:
    """One picture that tells the method: a column a sample, from the sample to what becomes of it."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.columns: list[tuple[Sample, list[np.ndarray]]] = []

    def add(self, sample: Sample) -> None:
        """Add a sample's column, if there still is room."""
        if len(self.columns) < STORY_SAMPLES:
            training = self.content.training_image(int(sample.image[sample.nearest]))
            self.columns.append((sample, [sample.factual, training, sample.without, *sample.spare_examples]))

    def png(self) -> bytes:
        """The picture, as a PNG file."""
        code = self.content.code
        labels = [
            ("The sample", f"drawn by all {code.components} components" if code else "drawn by all components"),
            ("Its nearest training unit", "among all it was trained on"),
            ("Same noise, without that unit", "by the components that never saw it"),
        ]
        spares = len(self.columns[0][1]) - len(labels)
        labels += [
            ("Same noise, spare ablation 1", "as many components gone,\nbut no unit")
            if k == 0
            else ("", f"spare ablation {k + 1}")
            for k in range(min(spares, SPARE_EXAMPLES))
        ]
        rows = len(labels)
        height, width = enlarge(self.columns[0][1][0], STORY_TILE).shape[:2]
        margin, gap, label, head = 28, 14, 310, 30
        breaks = [0, 0, 0, 18, 18, 18]  # space before the spares
        sheet, pen = _blank(
            2 * margin + label + len(self.columns) * (width + gap) - gap,
            2 * margin + head + rows * (height + gap) - gap + (18 if spares else 0),
        )
        for row, (title, line) in enumerate(labels):
            y = margin + head + row * (height + gap) + breaks[row]
            lines = line.count("\n") + 1 if line else 0
            top = y + (height - 25 * bool(title) - 19 * lines) // 2
            pen.text((margin, top), title, INK, _font(17, bold=True))
            pen.multiline_text((margin, top + 25 * bool(title)), line, MUTED, _font(14), spacing=4)
        for column, (sample, tiles) in enumerate(self.columns):
            x = margin + label + column * (width + gap)
            _text(pen, x, margin + 4, sample.name, MUTED, _font(14), width + gap)
            for row, pixels in enumerate(tiles):
                y = margin + head + row * (height + gap) + breaks[row]
                _paste(sheet, pen, enlarge(pixels, STORY_TILE), x, y)
        if spares:
            y = margin + head + 3 * (height + gap) + 9 - gap // 2
            pen.line([(margin, y), (sheet.width - margin, y)], RULE)
        return _png(sheet, grey=self.columns[0][0].factual.shape[-1] == 1)


# --- drawing ----------------------------------------------------------------------------------------------------


def _blank(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    from PIL import Image, ImageDraw

    sheet = Image.new("RGB", (width, height), "white")
    return sheet, ImageDraw.Draw(sheet)


def _paste(sheet: Image.Image, pen: ImageDraw.ImageDraw, pixels: np.ndarray, x: int, y: int) -> None:
    from PIL import Image

    height, width = pixels.shape[:2]
    sheet.paste(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), (x, y))
    pen.rectangle([x - 1, y - 1, x + width, y + height], outline=RULE)  # shows where a white picture ends


def _text(
    pen: ImageDraw.ImageDraw,
    x: int,
    y: int,
    text: str,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
    width: int,
) -> None:
    """One line, cut in the middle where it is too wide."""
    text = _one_line(text)
    if font.getlength(text) > width:
        keep = next(k for k in range(min(len(text), 200) - 1, -1, -1) if _fits(text, k, font, width) or k == 0)
        text = _cut(text, keep)
    pen.text((x, y), text, colour, font)


def _cut(text: str, keep: int) -> str:
    """The first and last characters, `keep` in all: the end often is what tells ids apart."""
    last = keep // 2
    return f"{text[: keep - last]}…{text[len(text) - last :]}"


def _fits(text: str, keep: int, font: ImageFont.FreeTypeFont, width: int) -> bool:
    return font.getlength(_cut(text, keep)) <= width


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


@lru_cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: the same letters everywhere."""
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _png(sheet: Image.Image, *, grey: bool) -> bytes:
    """As a file; a third of the bytes if all pictures on it are grey."""
    buffer = io.BytesIO()
    (sheet.convert("L") if grey else sheet).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
