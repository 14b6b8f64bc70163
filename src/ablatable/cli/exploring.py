"""The command that writes and serves an explorer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Json, Overwrite, RunPath, app, print_json, say


@app.command()
def explore(
    run: RunPath,
    out: Annotated[Path, typer.Option(help="folder for the site; if it holds this site, it is kept")],
    universe: Annotated[str | None, typer.Option(help="a universe of the run: its exact pictures and tests")] = None,
    seeds: Annotated[str | None, typer.Option(help="samples on the page, without a universe; 0-7 if not given")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddpm, ddim or dpmsolver++; without a universe")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="sampling steps; without a universe, 25")] = None,
    max_mb: Annotated[float, typer.Option(min=0, help="the most megabytes that are sent to a browser")] = 60,
    serve: Annotated[bool, typer.Option("--serve", help="serve the site on 127.0.0.1 and open it")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="of --serve; 0 takes a free one")] = 0,
    browser: Annotated[bool, typer.Option(help="with --serve, open a browser")] = True,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write a page that runs the ensemble in any browser: remove units and watch the same noise denoise again."""
    from ..diffusion.sampling import parse_seeds
    from ..diffusion.sampling_settings import Sampling
    from ..explorer.site import MANIFEST, STEPS, serve_site, write_explorer

    site = write_explorer(
        run,
        out=out,
        universe=universe,
        seeds=None if seeds is None else parse_seeds(seeds),
        sampling=None if sampler is None and steps is None else Sampling(sampler or "ddpm", steps or STEPS),
        max_mb=max_mb,
        overwrite=overwrite,
    )
    if as_json:
        print_json({"site": str(site.path), "bytes": site.bytes, "needs_server": site.needs_server})
    else:
        say(f"{site.path / 'index.html'}: {site.bytes / 1e6:.1f} MB{' (was there)' if site.was_there else ''}")
        if site.samples < site.of:
            say(f"stored pictures of {site.samples} of {site.of} samples fit into --max-mb {max_mb:g}")
        if site.needs_server:
            say(f"the ensemble is more than --max-mb {max_mb:g}: the page works with --serve only, which draws here")
        elif not serve:
            say(f"any static host can serve {site.path}; --serve does on this machine ({MANIFEST} says what it holds)")
    if serve:
        serve_site(run, site, port=port, open_browser=browser, announce=say)
