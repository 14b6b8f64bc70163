"""Results that are tables, as polars and pandas frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import SettingsError

if TYPE_CHECKING:
    import polars as pl


class Tabular:
    """A result with a table: `.to_polars()` and `.to_pandas()`. Whatever derives from it has a method `table`."""

    def table(self) -> pl.DataFrame:
        """The result as a data frame; each class says which columns."""
        raise NotImplementedError

    def to_polars(self) -> pl.DataFrame:
        """`table()`, as a polars data frame."""
        return self.table()

    def _repr_html_(self) -> str:
        """For notebooks: the table."""
        return self.table()._repr_html_()

    def to_pandas(self) -> Any:
        """`table()`, as a pandas data frame; `SettingsError` if pandas is not installed."""
        try:
            return self.table().to_pandas()
        except ImportError as error:
            raise SettingsError("pandas is not installed; pip install pandas, or use .to_polars()") from error
