"""Features as a service reads them: a block of numbers that becomes a matrix for a model, records, or a table."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.data.instants import instant_of
from ml_platform.features.encoder import Encoder
from ml_platform.features.row_columns import Numbers
from ml_platform.features.typed_values import plain_value, typed_series
from ml_platform.features.view import INSTANT, FeatureView

MAX_PLANS = 16
"""Encoders whose plans are kept; a service has one per model version that it serves."""


class BlockColumns:
    """The columns of a block of features, and the plans by which encoders read them.

    ``places`` and ``dtypes`` are by name of the column; ``views`` (columns of stored views) has the position of the
    view of each.
    """

    def __init__(
        self, stored: Sequence[FeatureView], requested: Sequence[FeatureView], feature_names: Sequence[str]
    ) -> None:
        """Lay out the columns of the ``stored`` views, their ages, and the columns of the ``requested`` views."""
        facts = {view.column(name): dtype for view in stored for name, dtype in view.dtypes.items()}
        ages: dict[str, pl.DataType] = {view.age_column: pl.Float32() for view in stored}
        computed = {name: dtype for view in requested for name, dtype in view.columns.items()}
        self.dtypes: dict[str, pl.DataType] = {**facts, **ages, **computed}
        self.places = {name: place for place, name in enumerate(self.dtypes)}
        self.width = len(self.dtypes)
        self.view_names = [view.name for view in stored]
        self.views = np.repeat(np.arange(len(stored)), [len(view.dtypes) for view in stored])
        self.feature_names = list(feature_names)
        self.feature_places = np.array([self.places[name] for name in feature_names], dtype=np.int64)
        self.stored_texts = frozenset(self.places[name] for name, dtype in facts.items() if dtype == pl.String)
        self.names = list(self.dtypes)
        self._one_empty_row = np.full((1, self.width), np.nan)
        self._plans: dict[int, tuple[Encoder, _EncoderPlan]] = {}

    def empty_block(self, rows: int) -> Numbers:
        """Return a block of ``rows`` rows in which every value is null."""
        return self._one_empty_row.copy() if rows == 1 else np.full((rows, self.width), np.nan)

    def encoder_plan(self, encoder: Encoder) -> "_EncoderPlan":
        """Return the places of the features of ``encoder``, computed once for each of the last :data:`MAX_PLANS`."""
        cached = self._plans.get(id(encoder))
        if cached is None or cached[0] is not encoder:
            for name in encoder.feature_names:
                encoder.require_kind(name, self.dtypes[name])
            places = np.array([self.places[name] for name in encoder.feature_names], dtype=np.int64)
            texts = [
                (position, self.places[name], name)
                for position, name in enumerate(encoder.feature_names)
                if self.dtypes[name] == pl.String
            ]
            text_positions = np.array([position for position, _, _ in texts], dtype=np.int64)
            cached = encoder, _EncoderPlan(places, texts, text_positions)
            # Other threads read the dictionary meanwhile, so it is replaced and never changed.
            kept = [each for each in self._plans.values() if each[0] is not encoder]
            self._plans = {id(each[0]): each for each in [*kept[-(MAX_PLANS - 1) :], cached]}
        return cached[1]


class _EncoderPlan(NamedTuple):
    """Place in the block of each feature, and (position, place, name) of each feature of text."""

    places: np.ndarray
    texts: list[tuple[int, int, str]]
    text_positions: np.ndarray


class ServedFeatures:
    """Features read online for n rows, with the data needed to read the same features offline later.

    ``block`` (n × columns, float64) is laid out by ``columns``; ``texts`` has the texts of request views by place.
    ``ages`` (n × stored views) are minutes, NaN without a usable fact, measured at ``as_of`` (n, microseconds);
    ``found`` (n × stored views) tells whether the store has a fact, however old.
    ``watermarks`` has, for each view, the instant before which the store knew all facts. Log both beside the features
    of a prediction: `skew.py` recomputes from them.
    """

    def __init__(
        self,
        columns: BlockColumns,
        block: Numbers,
        texts: Mapping[int, list[str | None]],
        *,
        ages: Numbers,
        found: npt.NDArray[np.bool_],
        as_of: Numbers,
        watermarks: Mapping[str, datetime],
        categories: Mapping[str, list[str]],
    ) -> None:
        self.columns, self.block, self.texts = columns, block, texts
        self.ages_minutes, self.found, self.as_of_microseconds = ages, found, as_of
        self.watermarks, self.categories = watermarks, categories

    @property
    def views(self) -> list[str]:
        """Names of the stored views, in the order of the ages."""
        return self.columns.view_names

    @property
    def as_of(self) -> pl.Series:
        """The instant at which ages are measured, for each row."""
        return typed_series("as_of", self.as_of_microseconds, INSTANT)

    def part(self, start: int, stop: int) -> "ServedFeatures":
        """Return the features of rows ``start`` up to ``stop``."""
        return ServedFeatures(
            self.columns,
            self.block[start:stop],
            {place: texts[start:stop] for place, texts in self.texts.items()},
            ages=self.ages_minutes[start:stop],
            found=self.found[start:stop],
            as_of=self.as_of_microseconds[start:stop],
            watermarks=self.watermarks,
            categories=self.categories,
        )

    @property
    def frame(self) -> pl.DataFrame:
        """Features as a table: n rows in the order of the request, columns in the order of the set."""
        return pl.DataFrame([self.column(name) for name in self.columns.feature_names])

    @property
    def ages(self) -> pl.DataFrame:
        """Ages in minutes as a table (one float32 column per view), with null for NaN."""
        return pl.DataFrame(
            [typed_series(name, self.ages_minutes[:, place], pl.Float32()) for place, name in enumerate(self.views)]
        )

    def column(self, name: str) -> pl.Series:
        """Return one column of the block in its type."""
        place, dtype = self.columns.places[name], self.columns.dtypes[name]
        if dtype == pl.String:
            return pl.Series(name, self.text(place), pl.String)
        return typed_series(name, self.block[:, place], dtype)

    def text(self, place: int) -> list[str | None]:
        """Return the values (n) of the column of text at ``place`` of the block."""
        if place not in self.columns.stored_texts:
            return self.texts[place]
        known = self.categories.get(self.columns.names[place], [])
        return [None if code != code else known[int(code)] for code in self.block[:, place].tolist()]

    def missing(self) -> list[dict[str, list[str]]] | None:
        """Return for each row the stored views without a fact (``missing``) and with an old one only (``stale``).

        A kind without a view is left out. None: every row has a usable fact of every view.
        """
        unusable = np.isnan(self.ages_minutes)
        if not unusable.any():
            return None
        rows: list[dict[str, list[str]]] = []
        for absent, found in zip(unusable.tolist(), self.found.tolist(), strict=True):
            kinds: dict[str, list[str]] = {"missing": [], "stale": []}
            for view, is_absent, is_found in zip(self.views, absent, found, strict=True):
                if is_absent:
                    kinds["stale" if is_found else "missing"].append(view)
            rows.append({kind: views for kind, views in kinds.items() if views})
        return rows

    def unknown_texts(self, encoder: Encoder, matrix: np.ndarray) -> list[list[str]] | None:
        """Return for each row the features whose text ``encoder`` did not meet in training; None: no row has one.

        ``matrix`` is :meth:`encode` of the rows: a known text has a code there, so only the others are looked at.
        """
        found: list[list[str]] | None = None
        plan = self.columns.encoder_plan(encoder)
        without_codes = np.isnan(matrix.take(plan.text_positions, axis=1))
        if not without_codes.any():
            return None
        for (_, place, name), without_code in zip(plan.texts, without_codes.T.tolist(), strict=True):
            rows = [row for row, is_without in enumerate(without_code) if is_without]
            texts = self.text(place) if rows else []
            for row in rows:
                if texts[row] is not None:
                    found = found or [[] for _ in range(len(self.block))]
                    found[row].append(name)
        return found

    def records(self) -> list[dict[str, Any]]:
        """Return ``frame.to_dicts()``; for a few rows without building the frame, which would dominate the cost."""
        columns = self.columns
        rows: list[list[Any]] = [
            [None if value != value else value for value in row]
            for row in self.block[:, columns.feature_places].tolist()
        ]
        for position, name in enumerate(columns.feature_names):
            dtype = columns.dtypes[name]
            if dtype == pl.String:
                for row, text in zip(rows, self.text(columns.places[name]), strict=True):
                    row[position] = text
                continue
            convert = plain_value(dtype)
            if convert is None:
                continue
            for row in rows:
                value = row[position]
                if value is not None:
                    row[position] = instant_of(value) if dtype == INSTANT else convert(value)
        return [dict(zip(columns.feature_names, row, strict=True)) for row in rows]

    def age_records(self) -> list[dict[str, float | None]]:
        """Return ``ages.to_dicts()`` without building the table."""
        rounded = self.ages_minutes.astype(np.float32).tolist()
        return [
            {name: None if age != age else age for name, age in zip(self.views, row, strict=True)} for row in rounded
        ]

    def encode(self, encoder: Encoder) -> np.ndarray:
        """Return ``encoder.transform(self.frame)`` without building the frame: float32, (n, features)."""
        plan = self.columns.encoder_plan(encoder)
        matrix: np.ndarray = self.block.take(plan.places, axis=1).astype(np.float32)
        for position, place, name in plan.texts:
            codes = encoder.codes(name)
            texts = self.text(place)
            if len(texts) == 1:
                # A list would become an array first.
                matrix[0, position] = np.nan if texts[0] is None else codes.get(texts[0], np.nan)
            else:
                matrix[:, position] = [np.nan if text is None else codes.get(text, np.nan) for text in texts]
        infinite = np.isinf(matrix)
        if infinite.any():
            matrix[infinite] = np.nan
        return matrix
