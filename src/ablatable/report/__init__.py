"""A report on a universe: one self-contained page, and pictures beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from .._runtime.outputs import OutputKind, check_folder, clear_folder
from ..errors import SettingsError, option

if TYPE_CHECKING:
    from ..runs.run import Run
    from ..universes.reader import Universe

PAGE, NOTEBOOK = "report.html", "report.ipynb"

REPORT = OutputKind(
    what="report",
    marker="report.json",
    recognises=lambda value: value["kind"] == "ablatable report",
    files=(r"report\.(json|html|ipynb)|landscape-\d+\.png|(radii|story)\.png|summary\.csv",),
    finished=PAGE,
)
"""What a report's folder holds."""


def write_report(
    universe: Universe | str | Path,
    out: str | Path,
    *,
    run: str | Path | Run | None = None,
    explorer: str | Path | None = None,
    notebook: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a report on a finished universe.

    Into the folder `out` go

    - `report.html`: one page that opens from disk and asks for nothing; written last, so it is there when all is;
    - `landscape-<sample>.png`: a captioned contact sheet of each sample's counterfactuals, farthest first;
    - `radii.png`: the histogram of radii; `story.png`: samples, nearest units, and what becomes of the samples;
    - `summary.csv`: one row per sample, see `nearest.summary`;
    - `report.ipynb`: with `notebook`, the page as the output of a notebook's cell;
    - `report.json`: marks the folder as a report's.

    Large universes are shown in part, and the page says so (see the constants in `content` and `page`); the numbers
    are always over all of it. The same universe gives the same bytes.

    Args:
        universe: what to report on, or its place; its samples are taken to be pictures.
        out: a folder, made if it is not there.
        run: the run that the universe is of, if the page is to tell how its components were made, and to lead with the
            witness test.
        explorer: the folder of an explorer that `write_explorer` made, or its address, to which the page links.
        notebook: write a notebook too.
        overwrite: replace a report that is there.

    Returns:
        The path of `report.html`.

    Raises:
        SettingsError: there is no page in `explorer`; `out` holds a report and `overwrite` is not given, holds anything
            else, or cannot be written; or `run` is not the universe's run.
        StoreError: the universe or the run cannot be read, or `out` cannot be written.
    """
    from .._runtime.files import write_atomic, write_json
    from ..analysis.nearest import summary
    from ..universes.reader import Universe
    from .content import Content
    from .figures import Story, contact_sheet, radii_plot
    from .page import Page

    folder, universe = Path(out), Universe.open(universe)
    page_path = folder / PAGE
    opened = _opened(run, universe)
    link = None if explorer is None else _link(explorer, folder)
    check_folder(folder, REPORT)
    if page_path.exists() and not overwrite:
        raise SettingsError(
            f"{page_path} is already there; choose another {option('out')}, "
            f"or replace it with {option('overwrite', True)}"
        )
    clear_folder(folder, REPORT)  # sheets of an earlier report may be more than the new one's
    write_json(folder / REPORT.marker, {"kind": "ablatable report"})
    content = Content(universe, opened)
    page, story = Page(content, opened), Story(content)
    for sample in content.samples():
        page.add(sample)
        story.add(sample)
        write_atomic(folder / f"landscape-{sample.index}.png", contact_sheet(content, sample))
    write_atomic(folder / "radii.png", radii_plot(content))
    write_atomic(folder / "story.png", story.png())
    write_atomic(folder / "summary.csv", summary(universe, content.nearest).write_csv().encode())
    html = page.html(link)
    if notebook:
        from .notebook import as_notebook

        write_atomic(folder / NOTEBOOK, as_notebook(html, universe.url).encode())
    write_atomic(page_path, html.encode())
    return page_path


def _link(explorer: str | Path, folder: Path) -> str:
    """The address of an explorer's page, as seen from a report's folder."""
    if str(explorer).startswith(("http://", "https://")):
        return str(explorer)
    page = Path(explorer) / "index.html"
    if not page.is_file():
        raise SettingsError(f"{explorer} is no explorer: there is no index.html in it; give the folder of one")
    return quote(os.path.relpath(page.resolve(), folder.resolve()))


def _opened(run: str | Path | Run | None, universe: Universe) -> Run | None:
    from ..runs.run import Run

    if run is None:
        return None
    opened = run if isinstance(run, Run) else Run(run)
    if opened.digest != universe.settings.run_sha256:
        raise SettingsError(
            f"{universe.url} is not a universe of the run {opened.path}: it was made from run "
            f"{universe.settings.run_sha256}, this is {opened.digest}; give the run it was made from, or none"
        )
    return opened
