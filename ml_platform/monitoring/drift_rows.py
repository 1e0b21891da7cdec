"""Reads the rows of a drift check: a bounded sample of large tables, with the exact numbers of rows and nulls.

Distances need some ten thousand rows, so the rest of a large table would only cost memory. Shares of nulls and the
volume are compared on all rows; both are counts, which one streaming pass finds.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from ml_platform.data.lake import PARTITION

_HASHES = 2**64
"""Number of values of a hash."""


@dataclass(frozen=True)
class Totals:
    """Number of rows of a side, and of nulls (or NaN) in each of its columns."""

    rows: int
    nulls: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DriftRows:
    """Rows to compare, and the totals of each partition, of which ``rows`` may be a sample."""

    rows: pl.DataFrame
    totals: Mapping[str, Totals]

    def totals_of(self, partitions: Collection[str]) -> Totals:
        """Return the totals of these ``partitions`` together; those that were not read count nothing."""
        found = [total for key, total in self.totals.items() if key in partitions]
        names = found[0].nulls if found else {}
        return Totals(
            sum(each.rows for each in found), {name: sum(each.nulls[name] for each in found) for name in names}
        )


def read_drift_rows(
    table: pl.LazyFrame, *, window: str, key: str, columns: Sequence[str], limit: int, window_limit: int, seed: int
) -> DriftRows:
    """Return the rows of ``table``, or of more than ``limit`` rows a sample of about that size.

    A row belongs to the sample when the hash of its ``key`` with ``seed`` is below a threshold: whatever the order and
    the files of the rows, the sample is the same, and each partition has the same share of it. The partition ``window``
    has a larger share where it would otherwise have less than ``window_limit`` rows. The totals of ``columns`` are
    exact. The memory that is needed depends on ``limit`` and not on the rows.
    """
    nulls = {f"nulls_{at}": _is_null(name, table).sum() for at, name in enumerate(columns)}
    counts = table.select(PARTITION, *columns).group_by(PARTITION).agg(pl.len().alias("rows"), **nulls)
    totals = {
        row[PARTITION]: Totals(row["rows"], {name: row[f"nulls_{at}"] for at, name in enumerate(columns)})
        for row in counts.collect(engine="streaming").to_dicts()
    }
    rows = sum(each.rows for each in totals.values())
    if rows <= limit:
        return DriftRows(table.collect(), totals)
    share = limit / rows
    own_rows = totals[window].rows if window in totals else 0
    own_share = min(1.0, max(share, window_limit / max(own_rows, 1)))
    threshold = pl.when(pl.col(PARTITION) == window).then(_below(own_share)).otherwise(_below(share))
    sample = table.filter(pl.col(key).hash(seed) <= threshold).collect(engine="streaming")
    return DriftRows(sample.sort(PARTITION, key), totals)


def _is_null(name: str, table: pl.LazyFrame) -> pl.Expr:
    column = pl.col(name)
    return column.is_null() | column.is_nan() if table.collect_schema()[name].is_float() else column.is_null()


def _below(share: float) -> pl.Expr:
    return pl.lit(min(int(share * _HASHES), _HASHES - 1), dtype=pl.UInt64)
