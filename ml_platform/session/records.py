"""A list of typed records that shows itself as a table, and becomes one."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import polars as pl

if TYPE_CHECKING:
    import pandas as pd

R = TypeVar("R")


class Records(Sequence[R], Generic[R]):
    """Records of the dataclass ``kind``, in order; ``title`` says what they are."""

    def __init__(self, title: str, kind: type[R], records: Sequence[R]) -> None:
        self.title, self._kind, self._records = title, kind, tuple(records)

    @overload
    def __getitem__(self, place: int) -> R: ...

    @overload
    def __getitem__(self, place: slice) -> "Records[R]": ...

    def __getitem__(self, place: int | slice) -> "R | Records[R]":
        if isinstance(place, slice):
            return Records(self.title, self._kind, self._records[place])
        return self._records[place]

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[R]:
        return iter(self._records)

    def to_polars(self) -> pl.DataFrame:
        """Return one row for each record; a list of names is one text."""
        names = [each.name for each in fields(self._kind)]  # type: ignore[arg-type] # always a dataclass
        rows = [asdict(each) for each in self._records]  # type: ignore[call-overload] # always a dataclass
        return pl.DataFrame({name: [_cell(row[name]) for row in rows] for name in names}, strict=False)

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row for each record; a list of names is one text."""
        return self.to_polars().to_pandas()

    def __repr__(self) -> str:
        if not self._records:
            return f"{self.title}: none"
        with pl.Config(tbl_rows=50, tbl_cols=20, fmt_str_lengths=60, tbl_hide_column_data_types=True):
            return f"{self.title}\n{self.to_polars()}"

    def _repr_html_(self) -> str:
        if not self._records:
            return f"<p>{self.title}: none</p>"
        with pl.Config(tbl_rows=50, tbl_cols=20, fmt_str_lengths=60, tbl_hide_column_data_types=True):
            return f"<p>{self.title}</p>{self.to_polars()._repr_html_()}"


def _cell(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
