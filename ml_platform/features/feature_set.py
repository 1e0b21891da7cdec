"""The features of a model: an ordered set of views with two reads that return the same values.

`as_of` reads change logs for training, `online` reads a store for serving. Both take the same steps:

1. Request views without inputs run on the fields of the row. They may derive keys, such as the hour of day.
2. Stored views are read by their entity columns: fields of the row, or values of step 1 without the view's prefix.
3. Request views with inputs run on the fields, the values of the views that they name, and `as_of`.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from ml_platform.data.lake import Lake
from ml_platform.data.references import load_function
from ml_platform.data.settings import RENAMED_ATTRIBUTES
from ml_platform.data.stored_names import with_current_names
from ml_platform.errors import did_you_mean, listed
from ml_platform.features import change_log
from ml_platform.features.feature_layout import FeatureLayout
from ml_platform.features.online_store import LookupColumns, OnlineStore
from ml_platform.features.point_in_time import (
    CHUNK_ROWS,
    AsOfReader,
    apply_pushdown,
    change_log_of,
    chunk_bounds,
    iterate_chunks,
    validate_examples,
)
from ml_platform.features.served_features import ServedFeatures
from ml_platform.features.view import AS_OF, INSTANT, PREDICT_AT, FeatureView, ViewError


class FeatureSet:
    """Feature views in declared order.

    The constructor pins the code versions of the views. A set stored as `features.json` beside a model therefore keeps
    reading the logs and snapshots of the code that the model was trained on.
    """

    def __init__(self, views: Sequence[FeatureView], leave_out: Sequence[str] = ()) -> None:
        """Make a set of ``views``; models do not get the features in ``leave_out`` (as ``<view>__<column>``).

        Raises :class:`ViewError` when a view occurs twice, an input does not run before its view, or ``leave_out`` has
        a name that is not a feature.
        """
        self.views = [view.pinned() for view in views]
        self.leave_out = list(leave_out)
        self.stored = [view for view in self.views if view.kind == "stored"]
        self._views_before_lookup = [view for view in self.views if view.kind == "request" and not view.inputs]
        self._views_after_lookup = [view for view in self.views if view.kind == "request" and view.inputs]
        self._derived = {name: view.column(name) for view in self._views_before_lookup for name in view.dtypes}
        self._validate()

    @cached_property
    def feature_names(self) -> list[str]:
        """Columns that a model gets, in the order of the views and of their features."""
        return [name for view in self.views for name in view.feature_names if name not in self.leave_out]

    @cached_property
    def layout(self) -> FeatureLayout:
        """Positions of the features in the reads of :meth:`serve`."""
        request_views = (*self._views_before_lookup, *self._views_after_lookup)
        request_dtypes = {name: dtype for view in request_views for name, dtype in view.columns.items()}
        return FeatureLayout(self.stored, request_dtypes, self.feature_names)

    @cached_property
    def fields(self) -> list[str]:
        """Request fields that the features need, sorted, without entity columns that a request view derives."""
        keys = {key for view in self.stored for key in view.entity if key not in self._derived}
        return sorted(keys | {field for view in self.views for field in view.fields})

    def as_of(
        self,
        examples: pl.LazyFrame,
        logs: Mapping[str, pl.LazyFrame],
        *,
        known_before: Mapping[str, datetime] | None = None,
        chunk_rows: int = CHUNK_ROWS,
    ) -> pl.LazyFrame:
        """Return ``examples`` with all features as known at the ``predict_at`` of each row, lazily and in chunks.

        ``examples``: the request fields, ``predict_at`` (with a time zone) and any other columns. The views do not see
        the other columns, which come back unchanged. A column ``as_of``, where present, replaces predict_at as the time
        of the read. ``logs``: a change log for each stored view, by name; see :meth:`logs`. The result is sorted by
        the time of the read, ties in the given order; use ``.sink_parquet`` for a result larger than memory. For the
        rules of the join, ``known_before`` and ``chunk_rows`` see :mod:`ml_platform.features.point_in_time`.

        Raises :class:`ViewError` when a field, a log or a column is missing, or the result of a request view does not
        match its declaration.
        """
        given = dict(examples.collect_schema())
        self._require_fields(given)
        validate_examples(given, [])
        clock = AS_OF if AS_OF in given else PREDICT_AT
        dtypes = {name: dtype for view in self.views for name, dtype in view.columns.items()}
        schema = given | {PREDICT_AT: INSTANT, clock: INSTANT} | {name: dtypes[name] for name in self.feature_names}

        def batches(
            with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
        ) -> Iterator[pl.DataFrame]:
            bounds = chunk_bounds(examples, chunk_rows, clock)
            readers = [
                AsOfReader(view, change_log_of(view, logs), known_before, single_chunk=not bounds)
                for view in self.stored
            ]
            for chunk in iterate_chunks(examples, bounds, clock):
                before = self._run_views_before_lookup(chunk)
                keys = self._entity_keys(chunk, before, chunk[clock])
                read = pl.concat([before, *(reader.read(keys) for reader in readers)], how="horizontal")
                values = self._run_views_after_lookup(chunk, read, chunk[clock])
                yield apply_pushdown(chunk.hstack(values.select(self.feature_names)), with_columns, predicate)

        return register_io_source(batches, schema=schema)

    def online(self, rows: pl.DataFrame, store: OnlineStore) -> pl.DataFrame:
        """Return the features of ``rows`` (request fields and ``predict_at``) from the current snapshots, in order."""
        return self.serve(rows, store).frame

    def serve(self, rows: pl.DataFrame, store: OnlineStore) -> ServedFeatures:
        """Return the features of ``rows`` with the data needed to recompute them; one lookup reads all views.

        The facts are the last published ones. Their age is measured at ``as_of``: the later of predict_at and the
        store's latest watermark. A fact older than its view's tolerance counts as missing, as in :meth:`as_of`.
        """
        self._require_fields(rows.schema)
        validate_examples(rows.schema, [])
        request_values = self._run_views_before_lookup(rows)
        keys = self._entity_keys(rows, request_values, rows[PREDICT_AT])
        entity_keys = {name: keys[name].to_list() for name in keys.columns if name != PREDICT_AT}
        found = store.lookup(self.stored, entity_keys, rows.height)
        as_of = found.as_of(rows[PREDICT_AT])
        ages = found.ages(as_of)
        for view, stored, inputs in self._inputs:
            read = found.table(ages, stored)
            if len(inputs) > read.width:
                read = read.hstack(request_values).select(inputs)
            seen = pl.DataFrame([*(rows[name] for name in (*view.fields, PREDICT_AT)), as_of])
            request_values = request_values.hstack(_run_request_view(view, seen.hstack(read)))
        return ServedFeatures(self.layout, request_values, found, as_of)

    @cached_property
    def _inputs(self) -> list[tuple[FeatureView, LookupColumns, list[str]]]:
        """Each request view with inputs, its input columns in a lookup, and all its input columns in declared order."""
        views = {view.name: view for view in self.views}
        found = []
        for view in self._views_after_lookup:
            inputs = [column for name in view.inputs for column in views[name].columns]
            found.append((view, self.layout.lookup_columns(inputs), inputs))
        return found

    def logs(self, lake: Lake, versions: Mapping[str, int] | None = None) -> dict[str, pl.LazyFrame]:
        """Return the change log of each stored view, at the version that ``versions`` has for it, or the latest."""
        return {view.name: change_log.read(view, lake, (versions or {}).get(view.name)) for view in self.stored}

    def versions(self, lake: Lake) -> dict[str, int]:
        """Return the latest table version of each stored view, for a manifest to pin; absent tables are left out."""
        found = {view.name: lake.version(view.table) for view in self.stored}
        return {name: version for name, version in found.items() if version is not None}

    def to_dict(self) -> dict[str, object]:
        """Return the set as plain data for `features.json`; :meth:`from_dict` returns an equal set."""
        return {"views": [view.model_dump() for view in self.views], "leave_out": self.leave_out}

    @classmethod
    def from_dict(cls, stored_set: Mapping[str, object]) -> "FeatureSet":
        """Return the set that :meth:`to_dict` wrote, with its pinned code versions.

        Sets written before version 0.2.0 use older names for some attributes of their sources; these are translated.
        """
        views = [
            FeatureView.model_validate(_with_current_attributes(view))
            for view in stored_set["views"]  # type: ignore[attr-defined]
        ]
        return cls(views, stored_set["leave_out"])  # type: ignore[arg-type]

    def _run_views_before_lookup(self, rows: pl.DataFrame) -> pl.DataFrame:
        parts = [
            _run_request_view(view, _select_columns(rows, [*view.fields, PREDICT_AT]))
            for view in self._views_before_lookup
        ]
        # Concatenating no frames would lose the height.
        return pl.concat(parts, how="horizontal") if parts else pl.DataFrame(height=rows.height)

    def _entity_keys(self, rows: pl.DataFrame, before: pl.DataFrame, read_at: pl.Series) -> pl.DataFrame:
        keys = sorted({key for view in self.stored for key in view.entity})
        columns = [before[self._derived[key]].alias(key) if key in self._derived else rows[key] for key in keys]
        return pl.DataFrame([*columns, read_at.cast(INSTANT).alias(PREDICT_AT)])

    def _run_views_after_lookup(self, rows: pl.DataFrame, read: pl.DataFrame, as_of: pl.Series) -> pl.DataFrame:
        named = {view.name: view for view in self.views}
        for view in self._views_after_lookup:
            inputs = [column for name in view.inputs for column in named[name].columns]
            seen = [*_select_columns(rows, [*view.fields, PREDICT_AT]).get_columns(), as_of.alias(AS_OF)]
            read = read.hstack(
                _run_request_view(view, pl.DataFrame([*seen, *_select_columns(read, inputs).get_columns()]))
            )
        return read

    def _require_fields(self, schema: Mapping[str, pl.DataType]) -> None:
        absent = [field for field in self.fields if field not in schema]
        if absent:
            raise ViewError(
                "Rows of a feature set",
                expected=f"the fields {listed(self.fields, limit=30)}",
                found=f"no {listed(absent)} among {listed(schema, limit=30)}",
                fix=f"Add these fields.{did_you_mean(absent[0], schema)}",
            )

    def _validate(self) -> None:
        names = [view.name for view in self.views]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ViewError(
                "Feature set", expected="each view once", found=f"{listed(twice)} twice", fix="Remove the repetition."
            )
        ready = {view.name for view in (*self._views_before_lookup, *self.stored)}
        for view in self._views_after_lookup:
            unready = [name for name in view.inputs if name not in ready]
            if unready:
                raise ViewError(
                    f"Feature view '{view.name}'",
                    expected="inputs among the views of the set that run before it",
                    found=f"{listed(unready)}; before it run {listed(sorted(ready), limit=30)}",
                    fix=f"Add the view to the set, or move it before this view.{did_you_mean(unready[0], names)}",
                )
            ready.add(view.name)
        feature_names = [name for view in self.views for name in view.feature_names]
        unknown = [name for name in self.leave_out if name not in feature_names]
        if unknown:
            raise ViewError(
                "Feature set, leave_out",
                expected="names of features",
                found=listed(unknown),
                fix=f"Write them as <view>__<column>.{did_you_mean(unknown[0], feature_names)}",
            )


def _with_current_attributes(view: Mapping[str, Any]) -> dict[str, Any]:
    sources = [with_current_names(source, RENAMED_ATTRIBUTES) for source in view.get("sources", [])]
    return {**view, "sources": sources}


def _run_request_view(view: FeatureView, seen: pl.DataFrame) -> pl.DataFrame:
    """Run a request view's function on ``seen`` and check its result against the declaration: columns and height."""
    frame = load_function(view.function)(seen)
    if not isinstance(frame, pl.DataFrame) or frame.height != seen.height:
        raise ViewError(
            f"Feature view '{view.name}', function {view.function}",
            expected=f"a DataFrame of {seen.height} rows, one for each input row",
            found=f"{frame.height} rows" if isinstance(frame, pl.DataFrame) else type(frame).__name__,
            fix="Return one row for each input row, in the same order.",
        )
    if set(frame.columns) != set(view.dtypes):
        absent = [name for name in view.dtypes if name not in frame.columns]
        extra = [name for name in frame.columns if name not in view.dtypes]
        raise ViewError(
            f"Feature view '{view.name}', function {view.function}",
            expected=f"the columns {listed(view.dtypes, limit=50)}",
            found=f"{len(absent)} missing ({listed(absent)}) and {len(extra)} not declared ({listed(extra)})",
            fix="Fix the function or the declared features.",
        )
    found = pl.DataFrame([_typed(frame[name], dtype) for name, dtype in view.dtypes.items()])
    found.columns = list(view.columns)
    return found


def _typed(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    return column if column.dtype == dtype else column.cast(dtype)


def _select_columns(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    # The query engine is avoided: for one row it costs more than all other steps together.
    return pl.DataFrame([frame[name] for name in names]) if names else pl.DataFrame(height=frame.height)
