"""Features read online: as a matrix for a model, as records for a log, or as a table, each made when it is asked for.

Apart from the set that reads them because a service answers first and does the rest when there is time.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ml_platform.features.encoder import Encoder
from ml_platform.features.online import FEW_ROWS, Lookup
from ml_platform.features.view import INSTANT

if TYPE_CHECKING:
    from ml_platform.features.feature_set import FeatureSet

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Served:
    """Features read online, and what is needed to read the very same ones offline later.

    ``as_of`` (n instants) is the time that ages are measured from; ``watermarks`` says up to when each view's facts
    were known to the store. Keep both beside the features of a prediction: `skew.py` recomputes from them.

    What is made of the facts is made when it is asked for. A service takes :meth:`encoded` for its model at once, and
    :meth:`records` for its log when there is time; ``frame`` is the same for whoever works with tables.
    """

    def __init__(self, feature_set: "FeatureSet", requested: pl.DataFrame, found: Lookup, as_of: pl.Series) -> None:
        """Keep what was read: ``requested`` are the columns of the request views, ``found`` those of the stored."""
        self.as_of = as_of
        self.watermarks = found.watermarks
        self._feature_set = feature_set
        self._requested = requested
        self._found = found

    @cached_property
    def ages_minutes(self) -> np.ndarray:
        """The age of what each stored view gave (n × views, float64); NaN: nothing, or something stale."""
        return self._found.ages(self.as_of)

    @cached_property
    def views(self) -> list[str]:
        """The stored views, in the order of the ages."""
        return [view.name for view in self._found.views]

    @cached_property
    def frame(self) -> pl.DataFrame:
        """The features: n rows in the order of the request, columns in the order of the set."""
        stored = self._found.table(self.ages_minutes, self._feature_set.stored_columns)
        held = {column.name: column for column in (*self._requested.get_columns(), *stored.get_columns())}
        return pl.DataFrame([held[name] for name in self._feature_set.feature_names])

    @cached_property
    def ages(self) -> pl.DataFrame:
        """The same ages as a table (a column per view, float32), null for NaN."""
        return pl.DataFrame(
            [
                pl.Series(name, self.ages_minutes[:, place], nan_to_null=True).cast(pl.Float32)
                for place, name in enumerate(self.views)
            ]
        )

    def records(self) -> list[dict[str, Any]]:
        """Return ``frame.to_dicts()``; for a few rows without the frame, which would cost more than the answer."""
        if len(self.as_of) > FEW_ROWS:
            return self.frame.to_dicts()
        features = self._feature_set
        stored = self._found.plain(self.ages_minutes, features.stored_columns)
        instants = [at for at, _, dtype in features.stored_columns.others if dtype == INSTANT]
        for row in stored:
            for at in instants:
                row[at] = None if row[at] is None else _EPOCH + timedelta(microseconds=row[at])
        places = features.places_of_features
        return [
            dict(zip(features.feature_names, map((*asked, *read).__getitem__, places), strict=True))
            for asked, read in zip(self._requested_rows, stored, strict=True)
        ]

    def age_records(self) -> list[dict[str, float | None]]:
        """Return ``ages.to_dicts()`` in the same way."""
        rounded = self.ages_minutes.astype(np.float32).tolist()
        return [
            {name: None if age != age else age for name, age in zip(self.views, row, strict=True)} for row in rounded
        ]

    def encoded(self, encoder: Encoder) -> np.ndarray:
        """Return what ``encoder.transform(self.frame)`` returns, without making the frame: float32, (n, features)."""
        matrix = np.full((len(self.as_of), len(encoder.feature_names)), np.nan, dtype=np.float32)
        ages = self.ages_minutes
        usable = ~np.isnan(ages)
        plan = self._feature_set.plan(encoder)
        if len(plan.columns):
            numbers = self._found.values[:, plan.columns]
            matrix[:, plan.places] = np.where(usable[:, plan.views], numbers, np.nan)
        for place, column, view, name in plan.texts:
            codes = encoder.codes(name)
            known = [codes.get(text, np.nan) for text in self._found.categories.get(name, [])]
            raw = self._found.values[:, column]
            present = usable[:, view] & ~np.isnan(raw)
            matrix[present, place] = np.asarray(known, dtype=np.float32)[raw[present].astype(np.int64)]
        if plan.ages:
            matrix[:, [place for place, _ in plan.ages]] = ages[:, [view for _, view in plan.ages]]
        if len(matrix) <= FEW_ROWS:
            for place, at, name in plan.requested:
                read = encoder.codes(name).get if name in encoder.categories else None
                for line, row in zip(matrix, self._requested_rows, strict=True):
                    value = row[at] if read is None else read(row[at])
                    line[place] = np.nan if value is None else value
        else:
            for place, _, name in plan.requested:
                matrix[:, place] = encoder.encoded(name, self._requested[name])
        matrix[np.isinf(matrix)] = np.nan
        return matrix

    @cached_property
    def _requested_rows(self) -> list[tuple[Any, ...]]:
        return self._requested.rows() if self._requested.width else [()] * len(self.as_of)


@dataclass(frozen=True)
class Plan:
    """Where an encoder's features come from: columns of a lookup, ages, columns of request views."""

    places: np.ndarray
    columns: np.ndarray
    views: np.ndarray
    texts: list[tuple[int, int, int, str]]
    ages: list[tuple[int, int]]
    requested: list[tuple[int, int, str]]
