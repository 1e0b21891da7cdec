"""The comparison of two versions of a model as one typed result, for a notebook, the command line and a page."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from ml_platform.evaluation.bootstrap import Difference, Interval
from ml_platform.evaluation.reliability import ReliabilityBin
from ml_platform.evaluation.slices import SliceComparison


@dataclass(frozen=True)
class VersionSummary:
    """One side of a comparison: what the version was made of, and what its training measured.

    ``first_partition`` is the first one of the training set that was read (None: all), ``partition`` the last one.
    ``decision`` is that of its last verdict, None: not judged. ``tested`` are the metrics on its own test rows.
    ``usage`` has the seconds, the peak memory (bytes) and the cost of the fit; it is empty when the run was deleted.
    """

    version: int
    partition: str
    first_partition: str | None
    trainer: str
    decision: str | None
    created_at: str
    data_clock: str
    training_rows: int
    tables: Mapping[str, int]
    commit: str | None
    device: str
    threshold: float | None
    features: tuple[str, ...]
    tested: Mapping[str, float]
    usage: Mapping[str, float]


@dataclass(frozen=True)
class ComparedRows:
    """The rows on which both versions predicted: test rows of ``version``, in ``blocks`` blocks of the bootstrap."""

    version: int
    partition: str
    rows: int
    blocks: int
    unit: str


@dataclass(frozen=True)
class MetricComparison:
    """One metric of both versions on the same rows. A positive ``improvement`` means that the second is better.

    A side is None where the metric has no value, for example coverage without predicted intervals.
    """

    metric: str
    higher_is_better: bool
    first: Interval | None
    second: Interval | None
    improvement: Difference | None

    @property
    def differs(self) -> bool:
        """Whether the interval of the improvement leaves out 0."""
        found = self.improvement
        return found is not None and not found.low <= 0 <= found.high


@dataclass(frozen=True)
class Reliability:
    """Bins of similar probability of both versions for one class, in order of probability."""

    name: str
    first: list[ReliabilityBin]
    second: list[ReliabilityBin]


@dataclass(frozen=True)
class Change:
    """A setting, a table or a library that the versions do not share; None: that version has none."""

    name: str
    first: Any
    second: Any


@dataclass(frozen=True)
class VersionComparison:
    """Two versions of ``model``. ``rows`` is None, and ``not_paired`` says why, when no rows suit both.

    Then ``metrics``, ``slices`` and ``reliability`` are empty, and :attr:`VersionSummary.tested` has the numbers of
    each version on rows of its own. The slices are compared by ``slice_metric``, the weakest first, with flags that are
    adjusted for their number. ``importance`` has the shares of all features of both, by the larger one; None: not a
    feature of it.
    """

    model: str
    first: VersionSummary
    second: VersionSummary
    rows: ComparedRows | None
    not_paired: str
    metrics: list[MetricComparison]
    slice_metric: str
    slices: list[SliceComparison]
    reliability: list[Reliability]
    importance: list[Change]
    added_features: list[str]
    removed_features: list[str]
    settings: list[Change]
    data: list[Change]
    libraries: list[Change]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        found: dict[str, Any] = dataclasses.asdict(self)
        return found

    def metrics_table(self) -> pl.DataFrame:
        """Return one row for each metric: both values with the ends of their intervals, and the improvement."""
        rows = [
            {
                "metric": each.metric,
                **_ends("first", each.first),
                **_ends("second", each.second),
                **_ends("improvement", each.improvement),
            }
            for each in self.metrics
        ]
        numbers = {
            f"{side}{end}": pl.Float64 for side in ("first", "second", "improvement") for end in ("", "_low", "_high")
        }
        return pl.DataFrame(rows, schema={"metric": pl.String, **numbers})

    def slices_table(self) -> pl.DataFrame:
        """Return one row for each slice: the improvement of :attr:`slice_metric`, and whether it is proven worse."""
        rows = [
            {"column": each.column, "value": each.value, "rows": each.rows, **_ends("improvement", each.difference)}
            | {"proven_worse": each.proven_worse}
            for each in self.slices
        ]
        ends = {f"improvement{end}": pl.Float64 for end in ("", "_low", "_high")}
        schema = {"column": pl.String, "value": pl.String, "rows": pl.Int64, **ends, "proven_worse": pl.Boolean}
        return pl.DataFrame(rows, schema=schema)

    def importance_table(self) -> pl.DataFrame:
        """Return one row for each feature: its share of the importance in both versions."""
        rows = [{"feature": each.name, "first": each.first, "second": each.second} for each in self.importance]
        return pl.DataFrame(rows, schema={"feature": pl.String, "first": pl.Float64, "second": pl.Float64})

    def __repr__(self) -> str:
        with pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, tbl_rows=20, tbl_cols=12):
            return f"{self._title}\n{self.metrics_table() if self.metrics else self.not_paired}"

    def _repr_html_(self) -> str:
        with pl.Config(tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, tbl_rows=20, tbl_cols=12):
            return f"<p>{self._title}</p>{self.metrics_table()._repr_html_() if self.metrics else self.not_paired}"

    @property
    def _title(self) -> str:
        found = f"{self.model}: version {self.first.version} (first) and version {self.second.version} (second)"
        rows = self.rows
        return found if rows is None else f"{found} on {rows.rows:,} test rows of {rows.partition}"


def _ends(name: str, found: Interval | Difference | None) -> dict[str, float | None]:
    if found is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
