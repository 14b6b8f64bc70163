"""A report on a universe: one self-contained page, and pictures beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .._runtime.outputs import OutputKind, check_folder, clear_folder
from ..errors import SettingsError, option

if TYPE_CHECKING:
    from ..runs.run import Run
    from ..universes.reader import Universe

PAGE = "report.html"

REPORT = OutputKind(
    what="report",
    marker="report.json",
    recognises=lambda value: value["kind"] == "ablatable report",
    files=(r"report\.(json|html)|landscape-\d+\.png|(radii|story)\.png|summary\.csv",),
    finished=PAGE,
)
"""What a report's folder holds."""


def write_report(
    universe: Universe | str | Path, out: str | Path, *, run: str | Path | Run | None = None, overwrite: bool = False
) -> Path:
    """Write a report on a finished universe.

    Into the folder `out` go

    - `report.html`: one page that opens from disk and asks for nothing; written last, so it is there when all is;
    - `landscape-<sample>.png`: a captioned contact sheet of each sample's counterfactuals, farthest first;
    - `radii.png`: the histogram of radii; `story.png`: samples, nearest units, and what becomes of the samples;
    - `summary.csv`: one row per sample, see `nearest.summary`;
    - `report.json`: marks the folder as a report's.

    Large universes are shown in part, and the page says so (see the constants in `content` and `page`); the numbers
    are always over all of it. The same universe gives the same bytes.

    Args:
        universe: what to report on, or its place; its samples are taken to be pictures.
        out: a folder, made if it is not there.
        run: the run that the universe is of, if the page is to tell how its components were made.
        overwrite: replace a report that is there.

    Returns:
        The path of `report.html`.

    Raises:
        SettingsError: `out` holds a report and `overwrite` is not given, holds anything else, or cannot be written; or
            `run` is not the universe's run.
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
    write_atomic(page_path, page.html().encode())
    return page_path


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
