"""What universes have in common, drawn completely or screened: any analysis that takes `Landscapes` takes both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..data.distance import native_to_scaled
from ..data.units import Units
from ..errors import DataError, SettingsError
from .settings import UniverseSettings

if TYPE_CHECKING:
    import polars as pl


class Landscapes(Protocol):
    """Factual samples, and for each the counterfactuals that were drawn.

    Attributes:
        url: where it is.
        settings: what it was made from.
        unit_ids: the units' names.
        seeds: one per sample.
    """

    url: str
    settings: UniverseSettings
    unit_ids: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def factual(self) -> np.ndarray:
        """Factual samples, uint8 (samples, H, W, C)."""
        ...

    @property
    def training(self) -> Units:
        """The training data."""
        ...

    def sample_parts(self) -> list[slice]:
        """Slices that cover the samples, each of those that are stored together."""
        ...

    def counterfactuals(self, sample: int, rows: np.ndarray) -> np.ndarray:
        """One sample under some ablations (rows, ascending), uint8 (rows, H, W, C); black where it was not drawn."""
        ...

    def drawn(self, *, samples: slice = slice(None)) -> np.ndarray:
        """Whether the counterfactual of each unit was drawn: bool (units, samples)."""
        ...

    def landscape(self, sample: int) -> np.ndarray:
        """One sample under every ablation, spares too: uint8 (ablations, H, W, C), masked where it was not drawn."""
        ...

    def distances(self, *, scaled: bool = True, samples: slice = slice(None)) -> np.ndarray:
        """Distance of each unit's counterfactual: float32 (units, samples), NaN where it was not drawn."""
        ...

    def spare_distances(self, *, scaled: bool = True, samples: slice = slice(None)) -> np.ndarray:
        """Distance under each spare codeword's ablation: float32 (spares, samples)."""
        ...

    def radius(self, *, scaled: bool = True) -> np.ndarray:
        """The largest distance of a counterfactual that was drawn: float32 (samples,)."""
        ...

    def influence(self, sample: int, *, scaled: bool = True) -> pl.DataFrame:
        """Units by how far their removal moves one sample, the farthest first."""
        ...


def ranked(units: tuple[str, ...], distances: np.ndarray, **columns: np.ndarray) -> pl.DataFrame:
    """Units by distance, the farthest first: rank (from 1), unit, distance, and further columns."""
    import polars as pl

    order = np.argsort(-distances, kind="stable")
    return pl.DataFrame(
        {
            "rank": np.arange(1, len(order) + 1),
            "unit": [units[k] for k in order],
            "distance": distances[order],
            **{name: values[order] for name, values in columns.items()},
        }
    )


def in_unit(distances: np.ndarray, settings: UniverseSettings, scaled: bool) -> np.ndarray:
    """Distances in the paper's unit (images scaled to 256 x 256 x 3), or native ones."""
    return distances if scaled else distances / np.float32(native_to_scaled(settings.shape))


def table(landscapes: Landscapes) -> pl.DataFrame:
    """Every counterfactual, one row each.

    Columns: sample (from 0), seed, unit, drawn, distance (float32, in the paper's unit; null where it was not drawn).
    """
    import polars as pl

    samples, units = len(landscapes.seeds), len(landscapes.unit_ids)
    distances = pl.Series(landscapes.distances().T.ravel()).fill_nan(None)
    return pl.DataFrame(
        {
            "sample": np.repeat(np.arange(samples), units),
            "seed": np.repeat(np.array(landscapes.seeds), units),
            "unit": pl.Series(landscapes.unit_ids).gather(np.tile(np.arange(units), samples)),
            "drawn": landscapes.drawn().T.ravel(),
            "distance": distances,
        }
    )


def as_pandas(frame: pl.DataFrame) -> Any:
    """The same table for pandas; `SettingsError` if that is not installed."""
    try:
        import pandas as pd
    except ImportError as error:
        raise SettingsError("pandas is not installed; pip install pandas, or use .to_polars()") from error
    return pd.DataFrame(frame.to_dict(as_series=False))


def checked_sample(sample: int, seeds: tuple[int, ...]) -> int:
    """A sample's index; `DataError` if there is no such sample."""
    if not 0 <= sample < len(seeds):
        raise DataError(
            f"there is no sample {sample}; samples are counted from 0 to {len(seeds) - 1} "
            f"(seeds {seeds[0]} to {seeds[-1]})"
        )
    return int(sample)


def place_of(universe: Any, what: str = "a universe") -> str | Path:
    """Where a universe is: a path, or an object that was opened there.

    Raises:
        SettingsError: it is something else; the message says what to write.
    """
    if isinstance(universe, (str, Path)):
        return universe
    if isinstance(url := getattr(universe, "url", None), str):
        return url
    kind = type(universe).__name__
    if kind in ("Run", "AblatablePipeline"):
        hint = "draw one with ab.enumerate_universe(run, seeds=range(8), out='u.zarr')"
    else:
        hint = "give its path, for example Universe.open('u.zarr')"
    raise SettingsError(f"{what} was expected here, and this is a {kind}; {hint}")
