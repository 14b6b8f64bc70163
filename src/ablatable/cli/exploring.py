"""The command that writes and serves a page on which visitors remove units: explore."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import choices
from .common import Json, Overwrite, RunPath, app, example
from .groups import Asked, grouped
from .output import next_step, print_json, quoted, say

if TYPE_CHECKING:
    from ..diffusion.sampling_settings import Sampling

_SAMPLING, _SERVING = "Sampling, without a universe", "Serving"


@dataclass(frozen=True)
class OwnDrawing:
    """How samples are drawn, where no universe says it."""

    sampler: Annotated[
        choices.Sampler | None,
        typer.Option(
            metavar="NAME",
            help=f"How samples are drawn: {choices.told(choices.Sampler)}.",
            show_default="ddpm",
            rich_help_panel=_SAMPLING,
        ),
    ] = None
    steps: Annotated[
        int | None, typer.Option(min=1, help="Sampling steps.", show_default="25", rich_help_panel=_SAMPLING)
    ] = None
    clip: Annotated[
        bool | None,
        typer.Option(
            "--clip/--no-clip",
            help="Bring the image that each step predicts into the range of images.",
            show_default="clip",
            rich_help_panel=_SAMPLING,
        ),
    ] = None

    def sampling(self, guidance: float = 1.0) -> Sampling | None:
        """As the library takes it; None if nothing was asked for."""
        from ..diffusion.sampling_settings import Sampling
        from ..explorer.site import STEPS

        given = {field.name: getattr(self, field.name) for field in fields(self)}
        given["guidance"] = None if guidance == 1 else guidance
        chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return Sampling(**{"steps": STEPS, **chosen}) if chosen else None


@app.command(
    epilog=example(
        "ablatable explore runs/digits --universe u.zarr --out site", "ablatable explore runs/digits --out site --serve"
    )
)
@grouped
def explore(
    run: RunPath,
    out: Annotated[Path, typer.Option(help="Folder for the page; if it holds this page, it is kept.")],
    universe: Annotated[
        str | None, typer.Option(help="A universe of the run; its exact images and tests are put on the page.")
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="One sample per seed: 0-9, or 1,5,7.", show_default="0-7", rich_help_panel=_SAMPLING),
    ] = None,
    drawing: OwnDrawing = OwnDrawing(),
    asked: Asked = Asked(),
    max_mb: Annotated[
        float, typer.Option(min=0, help="Megabytes that may be sent to a browser; beyond it, a server draws.")
    ] = 60,
    webgpu: Annotated[
        bool, typer.Option("--webgpu", help="Let browsers use their GPU where it is faster; adds 6.7 MB to the page.")
    ] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the page on 127.0.0.1 and open it.", rich_help_panel=_SERVING)
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.", rich_help_panel=_SERVING)
    ] = 0,
    browser: Annotated[bool, typer.Option(help="Open a browser.", rich_help_panel=_SERVING)] = True,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a page that runs the ensemble in any browser: remove units and watch the same noise denoise again."""
    from ..diffusion.sampling import parse_seeds
    from ..explorer.site import serve_site, write_explorer

    site = write_explorer(
        run,
        out=out,
        universe=universe,
        seeds=None if seeds is None else parse_seeds(seeds),
        sampling=drawing.sampling(asked.guidance),
        conditions=asked.conditions(),
        max_mb=max_mb,
        webgpu=webgpu,
        overwrite=overwrite,
    )
    if as_json:
        print_json({"site": str(site.path), "bytes": site.bytes, "needs_server": site.needs_server})
    else:
        say(f"{site.path}: the page, {site.bytes / 1e6:.1f} MB{', was there' if site.was_there else ''}")
        if site.samples < site.of:
            say(f"the stored images of {site.samples} of {site.of} samples fit into --max-mb {max_mb:g}")
        if site.needs_server:
            say(
                f"a browser cannot run this ensemble within --max-mb {max_mb:g}: with --serve, it draws on this machine"
            )
        if not serve:
            again = ["ablatable", "explore", str(run), *(["--universe", universe] if universe else [])]
            next_step(f"{' '.join(map(quoted, again))} --out {quoted(out)} --serve")
    if serve:
        serve_site(run, site, port=port, open_browser=browser, announce=say)
