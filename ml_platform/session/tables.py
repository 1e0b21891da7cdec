"""Tables of a session: read on demand, and handed over as Polars, pandas or Arrow."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SHOWN_ROWS = 5


class Table:
    """Rows of the home. They are read when they are needed, as of the time at which the session made the object."""

    def __init__(self, title: str, rows: pl.LazyFrame) -> None:
        self.title = title
        self._rows = rows

    def scan(self) -> pl.LazyFrame:
        """Return the rows as a lazy Polars frame: filter and select first, so that less is read."""
        return self._rows

    def to_polars(self) -> pl.DataFrame:
        """Return all rows. Times are in UTC, a null is null."""
        return self.scan().collect()

    def to_pandas(self) -> "pd.DataFrame":
        """Return all rows; a whole number with nulls becomes a float with NaN, as pandas has it."""
        return self.to_polars().to_pandas()

    def to_arrow(self) -> "pa.Table":
        """Return all rows as an Arrow table."""
        return self.to_polars().to_arrow()

    @cached_property
    def columns(self) -> Mapping[str, pl.DataType]:
        """The type of each column, in order."""
        return dict(self.scan().collect_schema())

    def __len__(self) -> int:
        return int(self.scan().select(pl.len()).collect().item())

    def __repr__(self) -> str:
        return f"{self._summary}\n{self.scan().head(SHOWN_ROWS).collect()}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(self._summary)}</p>{self.scan().head(SHOWN_ROWS).collect()._repr_html_()}"

    @property
    def _summary(self) -> str:
        return f"{self.title}: {len(self):,} rows, {len(self.columns)} columns"


@dataclass(frozen=True)
class TrainingSplit:
    """The parts of a training set as its candidate uses them.

    ``counts`` has the number of rows of each part, and of the rows that no part has, by the reason.
    """

    train: Table
    validation: Table
    test: Table
    counts: Mapping[str, int]


class TrainingSet(Table):
    """The rows from which the candidate of a partition is made: request fields, features and ``label``."""

    def __init__(
        self,
        title: str,
        rows: pl.LazyFrame,
        feature_names: list[str],
        split: Callable[[pl.DataFrame], TrainingSplit],
    ) -> None:
        super().__init__(title, rows)
        self.feature_names = feature_names
        self._split = split

    def split(self) -> TrainingSplit:
        """Return the rows in train, validation and test as declared; raises the error of a part without rows."""
        return self._split(self.to_polars())
