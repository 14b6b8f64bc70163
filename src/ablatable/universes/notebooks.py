"""What a notebook shows of a universe, drawn completely or screened: tables, figures, and a line of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .landscapes import Landscapes, as_pandas, table

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure


class InNotebooks(Landscapes):
    """The views that `Universe` and `Screen` share."""

    def to_polars(self) -> pl.DataFrame:
        """Every counterfactual's distance, null where it was not drawn: columns sample, seed, unit, drawn, distance."""
        return table(self)

    def to_pandas(self) -> Any:
        """`to_polars`, as a pandas data frame."""
        return as_pandas(self.to_polars())

    def show(self, sample: int = 0, *, top: int = 6) -> Figure:
        """A figure of one sample and the counterfactuals farthest from it, beside the units removed."""
        from .figures import show

        return show(self, sample, top=top)

    def plot_landscape(self, sample: int = 0) -> Figure:
        """A figure of how far each unit's removal moves one sample, beside the spares' distances."""
        from .figures import plot_landscape

        return plot_landscape(self, sample)

    def __repr__(self) -> str:
        from .showing import summary

        return f"{type(self).__name__}({self.url!r}: {summary(self)})"

    def _repr_html_(self) -> str:
        from .showing import html

        return html(self)
