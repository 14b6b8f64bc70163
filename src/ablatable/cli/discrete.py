"""Commands about pictures in black and white: unattributable."""

from __future__ import annotations

from typing import Annotated

import typer

from .common import Json, UniverseUrl, app, print_json, print_table, say


@app.command()
def unattributable(
    universe_url: UniverseUrl,
    top: Annotated[int, typer.Option(min=1, help="how many samples to print, those that fewest units move")] = 20,
    as_json: Json = False,
) -> None:
    """List the samples that are pixel for pixel the same without any unit, and how large their share is."""
    from ..analysis.unattributable import unattributable as find
    from ..universes.universe import Universe

    found = find(Universe.open(universe_url))
    low, high = found.interval()
    if as_json:
        print_json(
            {
                "samples": found.samples.tolist(),
                "seeds": [found.seeds[k] for k in found.samples],
                "share": found.share,
                "interval": [low, high],
                "table": found.table().to_dicts(),
            }
        )
        return
    print_table(found.table().head(top), title="Samples, those that fewest units move first")
    say(
        f"unattributable: {len(found.samples)} of {len(found.seeds)} samples "
        f"({100 * found.share:.1f} %, 95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
    )
    if found.pixels is None:
        say("these pictures have 256 levels, of which any change counts; 'ablatable universe --threshold 128' draws")
        say("them in black and white")
