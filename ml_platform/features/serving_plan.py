"""How a service computes the features of requests: all that does not depend on a request is resolved once.

The features of n rows are one block (n × columns, float64): the columns of all stored views, their ages, and the
columns of request views in the order of their runs. Null is NaN, an instant is in microseconds, and a text of a stored
view is its position among the categories of the lookup. Texts of request views stand beside the block.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.features.history_store import HistoryStore
from ml_platform.features.key_types import key_type_of
from ml_platform.features.online_store import ABSENT, LookupResult, OnlineStore
from ml_platform.features.request_values import RequestViewRunner, ViewValues, checked_values
from ml_platform.features.row_columns import Column, Numbers, RowColumns, text_array
from ml_platform.features.served_features import BlockColumns, ServedFeatures
from ml_platform.features.transformers.transformer import FeatureTransformer, transformer_input
from ml_platform.features.typed_values import typed_series
from ml_platform.features.view import AS_OF, INSTANT, PREDICT_AT, FeatureView

Run = Callable[["_Reads"], None]


class ServingPlan:
    """The steps from the fields of a request to its features, for one feature set."""

    def __init__(
        self,
        stored: Sequence[FeatureView],
        before_lookup: Sequence[FeatureView],
        after_lookup: Sequence[FeatureView],
        input_columns: Mapping[str, Sequence[str]],
        derived_keys: Mapping[str, str],
        keys: Sequence[str],
        feature_names: Sequence[str],
        transformers: Mapping[str, FeatureTransformer],
    ) -> None:
        """Make the plan of a feature set.

        ``input_columns`` has the input columns of each view of ``after_lookup``, ``derived_keys`` the column of each
        key that a request view computes, and ``keys`` all keys of the stored views.
        """
        self.stored = stored
        self.columns = BlockColumns(stored, [*before_lookup, *after_lookup], feature_names)
        dtypes = {key: self.columns.dtypes[name] for key, name in derived_keys.items()}
        self._keys = [(key, derived_keys.get(key), key_type_of(dtypes[key]) if key in dtypes else None) for key in keys]
        self._before = [self._request_run(view, []) for view in before_lookup]
        self._after = [
            self._fitted_run(view, input_columns[view.name], transformers[view.name])
            if view.fitted is not None
            else self._request_run(view, input_columns[view.name])
            for view in after_lookup
        ]
        self._tolerances = np.array(
            [np.inf if view.tolerance_minutes is None else view.tolerance_minutes for view in stored]
        )

    def serve(self, rows: RowColumns, store: OnlineStore) -> ServedFeatures:
        """Return the features of ``rows``; one lookup in ``store`` reads all stored views.

        The facts are the last published ones, or with a history those of the prediction time. Their age is measured at
        the later of the prediction time and the store's latest watermark. A fact older than its view's tolerance counts
        as missing.
        """
        reads = _Reads(rows, self.columns)
        for run in self._before:
            run(reads)
        keys = {key: self._key_values(reads, key, column, kind) for key, column, kind in self._keys}
        if isinstance(store, HistoryStore):
            found = store.lookup_as_of(self.stored, keys, rows.predict_at)
        else:
            found = store.lookup(self.stored, keys, rows.height)
        reads.take_lookup(found, self._tolerances)
        for run in self._after:
            run(reads)
        return reads.served()

    def _key_values(self, reads: "_Reads", key: str, column: str | None, key_type: str | None) -> Sequence[Any]:
        if column is None:
            return reads.rows.values[key]
        place = self.columns.places[column]
        if key_type == "string":
            return reads.texts[place]
        convert = bool if key_type == "bool" else int
        return [None if value != value else convert(value) for value in reads.block[:, place].tolist()]

    def _request_run(self, view: FeatureView, inputs: Sequence[str]) -> Run:
        """Return the step that runs a view's function; ``inputs`` are the columns of other views that it gets."""
        runner, start, fields = (
            RequestViewRunner(view),
            self.columns.places[next(iter(view.columns))],
            list(view.fields),
        )
        places, dtypes = self.columns.places, self.columns.dtypes
        numbers = [name for name in inputs if dtypes[name] != pl.String]
        number_places = np.array([places[name] for name in numbers], dtype=np.int64)
        texts = [(name, places[name]) for name in inputs if dtypes[name] == pl.String]
        has_inputs = bool(view.inputs)

        def run_arrays(reads: "_Reads") -> None:
            rows, block = reads.rows, reads.block
            seen: dict[str, Column] = {name: rows.array(name) for name in fields}
            seen[PREDICT_AT] = reads.predict_at
            if has_inputs:
                seen[AS_OF] = reads.as_of
                seen.update(zip(numbers, block.take(number_places, axis=1).T, strict=True))
                for name, place in texts:
                    seen[name] = text_array(reads.served().text(place))
            reads.put(start, runner.of_arrays(seen, rows.height))

        def run_table(reads: "_Reads") -> None:
            seen = [*(reads.rows.column(name) for name in fields), typed_series(PREDICT_AT, reads.predict_at, INSTANT)]
            if has_inputs:
                read = reads.served()
                seen += [typed_series(AS_OF, reads.as_of, INSTANT), *(read.column(name) for name in inputs)]
            reads.put(start, _of_table(runner.of_table(pl.DataFrame(seen))))

        return run_arrays if view.takes == "arrays" else run_table

    def _fitted_run(self, view: FeatureView, inputs: Sequence[str], transformer: FeatureTransformer) -> Run:
        start, fields = self.columns.places[next(iter(view.columns))], list(view.fields)
        columns = [*fields, *inputs]

        def run(reads: "_Reads") -> None:
            read = reads.served()
            columns_of_fields = [reads.rows.column(name) for name in fields]
            seen = pl.DataFrame([*columns_of_fields, *(read.column(name) for name in inputs)])
            found = transformer.transform(transformer_input(seen, columns, fields))
            reads.put(start, _of_table(checked_values(view, found, reads.rows.height)))

        return run


class _Reads:
    """The block of one call of :meth:`ServingPlan.serve`, filled step by step."""

    def __init__(self, rows: RowColumns, columns: BlockColumns) -> None:
        self.rows, self.columns = rows, columns
        self.block = columns.empty_block(rows.height)
        self.texts: dict[int, list[str | None]] = {}
        self.predict_at: Numbers = rows.predict_at.astype(np.float64)
        self.as_of: Numbers = self.predict_at
        self.ages: Numbers
        self.has_fact: npt.NDArray[np.bool_]
        self._found: LookupResult | None = None

    def put(self, start: int, values: ViewValues) -> None:
        self.block[:, start : start + values.numbers.shape[1]] = values.numbers
        for place, texts in values.texts.items():
            self.texts[start + place] = texts

    def take_lookup(self, found: LookupResult, tolerances: Numbers) -> None:
        self._found = found
        self.as_of = found.as_of(self.predict_at)
        self.ages = found.ages(self.as_of, tolerances)
        self.has_fact = found.known_at != ABSENT
        width = found.values.shape[1]
        self.block[:, :width] = found.values
        stale = self.has_fact & np.isnan(self.ages)
        if stale.any():
            self.block[:, :width][stale[:, self.columns.views]] = np.nan
        # An age is a feature of 32 bits.
        self.block[:, width : width + self.ages.shape[1]] = self.ages.astype(np.float32)

    def served(self) -> ServedFeatures:
        found = self._found
        return ServedFeatures(
            self.columns,
            self.block,
            self.texts,
            ages=self.ages,
            found=self.has_fact,
            as_of=self.as_of,
            watermarks={} if found is None else found.watermarks,
            categories={} if found is None else found.categories,
        )


def _of_table(values: pl.DataFrame) -> ViewValues:
    """Return the ``values`` of a view in the form of the block."""
    numbers = np.full((values.height, values.width), np.nan)
    texts: dict[int, list[str | None]] = {}
    for place, column in enumerate(values.iter_columns()):
        if column.dtype == pl.String:
            texts[place] = column.to_list()
        else:
            numbers[:, place] = column.to_physical().cast(pl.Float64).to_numpy()
    return ViewValues(numbers, texts)
