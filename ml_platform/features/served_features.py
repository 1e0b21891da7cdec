"""Features read online, as a matrix for a model, as records for a log, or as a table.

Each form is computed on first use: a service encodes the matrix first, and makes the records after its response.
"""

from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from ml_platform.features.encoder import Encoder
from ml_platform.features.feature_layout import FeatureLayout
from ml_platform.features.online_store import FEW_ROWS, LookupResult
from ml_platform.features.view import INSTANT

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ServedFeatures:
    """Features read online, with the data needed to read the same features offline later.

    ``as_of`` (n instants) is the time at which ages are measured. ``watermarks`` has, for each view, the instant before
    which the store knew all facts. Log both beside the features of a prediction: `skew.py` recomputes from them.

    :meth:`encode` returns the matrix for a model, :meth:`records` the rows for a log, ``frame`` the table.
    """

    def __init__(
        self, layout: FeatureLayout, request_columns: pl.DataFrame, lookup: LookupResult, as_of: pl.Series
    ) -> None:
        """Keep the reads: ``request_columns`` from the request views, ``lookup`` from the stored views."""
        self.as_of = as_of
        self.watermarks = lookup.watermarks
        self._layout = layout
        self._request_columns = request_columns
        self._lookup = lookup

    @cached_property
    def ages_minutes(self) -> np.ndarray:
        """Age of the fact of each stored view (n × views, float64); NaN without a fact or for a stale one."""
        return self._lookup.ages(self.as_of)

    @cached_property
    def views(self) -> list[str]:
        """Names of the stored views, in the order of the ages."""
        return [view.name for view in self._lookup.views]

    @cached_property
    def frame(self) -> pl.DataFrame:
        """Features as a table: n rows in the order of the request, columns in the order of the set."""
        stored = self._lookup.table(self.ages_minutes, self._layout.stored_columns)
        columns = {column.name: column for column in (*self._request_columns.get_columns(), *stored.get_columns())}
        return pl.DataFrame([columns[name] for name in self._layout.feature_names])

    @cached_property
    def ages(self) -> pl.DataFrame:
        """Ages in minutes as a table (one float32 column per view), with null for NaN."""
        return pl.DataFrame(
            [
                pl.Series(name, self.ages_minutes[:, position], nan_to_null=True).cast(pl.Float32)
                for position, name in enumerate(self.views)
            ]
        )

    def records(self) -> list[dict[str, Any]]:
        """Return ``frame.to_dicts()``; for a few rows without building the frame, which would dominate the cost."""
        if len(self.as_of) > FEW_ROWS:
            return self.frame.to_dicts()
        layout = self._layout
        stored = self._lookup.plain_rows(self.ages_minutes, layout.stored_columns)
        instants = [position for position, _, dtype in layout.stored_columns.other_positions if dtype == INSTANT]
        for row in stored:
            for position in instants:
                row[position] = None if row[position] is None else _EPOCH + timedelta(microseconds=row[position])
        positions = layout.feature_positions
        return [
            dict(zip(layout.feature_names, map((*requested, *stored_values).__getitem__, positions), strict=True))
            for requested, stored_values in zip(self._request_rows, stored, strict=True)
        ]

    def age_records(self) -> list[dict[str, float | None]]:
        """Return ``ages.to_dicts()`` without building the table."""
        rounded = self.ages_minutes.astype(np.float32).tolist()
        return [
            {name: None if age != age else age for name, age in zip(self.views, row, strict=True)} for row in rounded
        ]

    def encode(self, encoder: Encoder) -> np.ndarray:
        """Return ``encoder.transform(self.frame)`` without building the frame: float32, (n, features)."""
        matrix = np.full((len(self.as_of), len(encoder.feature_names)), np.nan, dtype=np.float32)
        ages = self.ages_minutes
        usable = ~np.isnan(ages)
        plan = self._layout.lookup_plan(encoder)
        if len(plan.columns):
            numbers = self._lookup.values[:, plan.columns]
            matrix[:, plan.positions] = np.where(usable[:, plan.views], numbers, np.nan)
        for position, column, view, name in plan.texts:
            codes = encoder.codes(name)
            known = [codes.get(text, np.nan) for text in self._lookup.categories.get(name, [])]
            raw = self._lookup.values[:, column]
            present = usable[:, view] & ~np.isnan(raw)
            matrix[present, position] = np.asarray(known, dtype=np.float32)[raw[present].astype(np.int64)]
        if plan.ages:
            matrix[:, [position for position, _ in plan.ages]] = ages[:, [view for _, view in plan.ages]]
        if len(matrix) <= FEW_ROWS:
            for position, column, name in plan.request_columns:
                code_of = encoder.codes(name).get if name in encoder.categories else None
                for line, row in zip(matrix, self._request_rows, strict=True):
                    value = row[column] if code_of is None else code_of(row[column])
                    line[position] = np.nan if value is None else value
        else:
            for position, _, name in plan.request_columns:
                matrix[:, position] = encoder.encode_column(name, self._request_columns[name])
        matrix[np.isinf(matrix)] = np.nan
        return matrix

    @cached_property
    def _request_rows(self) -> list[tuple[Any, ...]]:
        return self._request_columns.rows() if self._request_columns.width else [()] * len(self.as_of)
