"""Commands that estimate counterfactuals instead of drawing them: differential."""

from __future__ import annotations

from .._runtime.execution import Execution
from .common import Device, Json, RunPath, UniverseUrl, Workers, app, print_json, print_table, say


@app.command()
def differential(
    run: RunPath,
    universe_url: UniverseUrl,
    workers: Workers = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Differentiate a universe's samples by the ensemble's weights; compare the estimates with the exact pictures."""
    import polars as pl

    from ..universes.differential import differentiate_universe

    table = differentiate_universe(run, universe_url, execution=Execution(workers, device)).compare()
    if as_json:
        print_json(table.to_dicts())
        return
    print_table(table, title="First-order counterfactuals beside the exact ones")
    means = table.select(pl.col("error", "rank_correlation", "top_found", "top_tenth", "radius_ratio").mean()).row(0)
    say(
        "mean over samples: relative error {:.2f}, rank correlation {:.2f}, top unit found {:.0%}, "
        "in the estimates' top tenth {:.0%}, radius estimated at {:.2f} times the exact one".format(*means)
    )
