"""The features of a model: which views, in which order, read in two ways that give the same values.

`as_of` reads change logs for training, `online` reads a store for serving. Both take the same steps:

1. request views without inputs run on the fields of the row (they may derive keys, such as the hour of day);
2. stored views are read by their entity columns: fields of the row, or values of step 1 by their bare name;
3. request views with inputs run on the fields, the values of the views they name, and `as_of`.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from ml_platform.data.lake import Lake
from ml_platform.data.references import load_function
from ml_platform.errors import did_you_mean, listed
from ml_platform.features import change_log
from ml_platform.features.encoder import Encoder
from ml_platform.features.online import Columns, OnlineStore
from ml_platform.features.point_in_time import (
    CHUNK_ROWS,
    AsOfReader,
    check_examples,
    chunk_bounds,
    in_chunks,
    log_of,
    narrowed,
)
from ml_platform.features.served import Plan, Served
from ml_platform.features.view import AS_OF, INSTANT, PREDICT_AT, FeatureView, ViewError


class FeatureSet:
    """Feature views in a declared order; reading them needs nothing else.

    The versions of the views' code are pinned when the set is made: a set written to `features.json` beside a model
    keeps reading the logs and snapshots that the model was trained on.
    """

    def __init__(self, views: Sequence[FeatureView], leave_out: Sequence[str] = ()) -> None:
        """Make a set of ``views``; features named in ``leave_out`` (as ``<view>__<column>``) are not given to models.

        Raises :class:`ViewError` when a name occurs twice, an input or an entity column comes from nowhere, or
        ``leave_out`` names no feature.
        """
        self.views = [view.pinned() for view in views]
        self.leave_out = list(leave_out)
        self.stored = [view for view in self.views if view.kind == "stored"]
        self._before = [view for view in self.views if view.kind == "request" and not view.inputs]
        self._after = [view for view in self.views if view.kind == "request" and view.inputs]
        self._derived = {name: view.column(name) for view in self._before for name in view.dtypes}
        self._plans: dict[int, tuple[Encoder, Plan]] = {}
        self._check()

    @cached_property
    def feature_names(self) -> list[str]:
        """The columns that a model sees, in the order of the views and of their features."""
        return [name for view in self.views for name in view.feature_names if name not in self.leave_out]

    @cached_property
    def stored_columns(self) -> Columns:
        """Where the features of stored views lie in a lookup of :attr:`stored`."""
        requested = set(self.requested_columns)
        return Columns.of(self.stored, [name for name in self.feature_names if name not in requested])

    @cached_property
    def requested_columns(self) -> list[str]:
        """The columns of all request views, in the order in which they are computed."""
        return list(self._dtypes_requested)

    @cached_property
    def places_of_features(self) -> list[int]:
        """Where each feature lies in a row of :attr:`requested_columns` followed by :attr:`stored_columns`."""
        known = {name: place for place, name in enumerate([*self.requested_columns, *self.stored_columns.dtypes])}
        return [known[name] for name in self.feature_names]

    @cached_property
    def fields(self) -> list[str]:
        """The fields of a request that the features need, sorted; entity columns derived by a request view left out."""
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
        """Return ``examples`` with all features as known at each one's ``predict_at``, lazily and in chunks.

        ``examples``: the request fields, ``predict_at`` (with a time zone) and any other columns, which the views do
        not get to see and which come back untouched. ``logs``: a change log for each stored view, by name; see
        :meth:`logs`. Sorted by predict_at, ties as given; use ``.sink_parquet`` where the result is larger than memory.
        Rules of the join, ``known_before`` and ``chunk_rows``: see :mod:`ml_platform.features.point_in_time`.

        Raises :class:`ViewError` when a field, a log or a column is missing, or a request view breaks its promise.
        """
        given = dict(examples.collect_schema())
        self._demand_fields(given)
        check_examples(given, [])
        clock = AS_OF if AS_OF in given else PREDICT_AT
        dtypes = {name: dtype for view in self.views for name, dtype in view.columns.items()}
        schema = given | {PREDICT_AT: INSTANT, clock: INSTANT} | {name: dtypes[name] for name in self.feature_names}

        def batches(
            with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
        ) -> Iterator[pl.DataFrame]:
            bounds = chunk_bounds(examples, chunk_rows, clock)
            whole = not bounds
            readers = [AsOfReader(view, log_of(view, logs), known_before, whole=whole) for view in self.stored]
            for chunk in in_chunks(examples, bounds, clock):
                before = self._requested(chunk)
                keys = self._keyed(chunk, before, chunk[clock])
                read = pl.concat([before, *(reader.read(keys) for reader in readers)], how="horizontal")
                values = self._derive(chunk, read, chunk[clock])
                yield narrowed(chunk.hstack(values.select(self.feature_names)), with_columns, predicate)

        return register_io_source(batches, schema=schema)

    def online(self, rows: pl.DataFrame, store: OnlineStore) -> pl.DataFrame:
        """Return the features of ``rows`` (request fields and ``predict_at``) as published now, in their order."""
        return self.serve(rows, store).frame

    def serve(self, rows: pl.DataFrame, store: OnlineStore) -> Served:
        """Return the features of ``rows`` with what is needed to recompute them; one lookup for all views.

        The facts are the last ones published; their age is measured at ``as_of``: predict_at, or the store's newest
        watermark where that is later. Beyond a view's tolerance they count as missing, as they do offline.
        """
        self._demand_fields(rows.schema)
        check_examples(rows.schema, [])
        known = self._requested(rows)
        keys = self._keyed(rows, known, rows[PREDICT_AT])
        wanted = {name: keys[name].to_list() for name in keys.columns if name != PREDICT_AT}
        found = store.lookup(self.stored, wanted, rows.height)
        as_of = found.as_of(rows[PREDICT_AT])
        ages = found.ages(as_of)
        for view, stored, inputs in self._inputs:
            read = found.table(ages, stored)
            if len(inputs) > read.width:
                read = read.hstack(known).select(inputs)
            seen = pl.DataFrame([*(rows[name] for name in (*view.fields, PREDICT_AT)), as_of])
            known = known.hstack(_computed(view, seen.hstack(read)))
        return Served(self, known, found, as_of)

    @cached_property
    def _inputs(self) -> list[tuple[FeatureView, Columns, list[str]]]:
        """For each request view with inputs: those in a lookup, and the names of all, in declared order."""
        named = {view.name: view for view in self.views}
        found = []
        for view in self._after:
            wanted = [column for name in view.inputs for column in named[name].columns]
            stored = [name for name in wanted if name not in self._dtypes_requested]
            found.append((view, Columns.of(self.stored, stored), wanted))
        return found

    def plan(self, encoder: Encoder) -> Plan:
        """Return where the features of ``encoder`` come from; made once for each encoder."""
        held = self._plans.get(id(encoder))
        if held is None or held[0] is not encoder:
            held = encoder, self._planned(encoder)
            self._plans[id(encoder)] = held
        return held[1]

    def _planned(self, encoder: Encoder) -> Plan:
        stored: dict[str, tuple[int, int, pl.DataType]] = {}
        for place, view in enumerate(self.stored):
            for name, dtype in view.dtypes.items():
                stored[view.column(name)] = (len(stored), place, dtype)
        aged = {view.age_column: place for place, view in enumerate(self.stored)}
        numbers, texts, ages, requested = [], [], [], []
        for place, name in enumerate(encoder.feature_names):
            if name in aged:
                ages.append((place, aged[name]))
            elif name not in stored:
                encoder.demand_kind(name, self._dtypes_requested[name])
                requested.append((place, self.requested_columns.index(name), name))
            elif stored[name][2] == pl.String:
                texts.append((place, *stored[name][:2], name))
            else:
                numbers.append((place, *stored[name][:2]))
        table = np.array(numbers, dtype=np.int64).reshape(-1, 3)
        return Plan(table[:, 0], table[:, 1], table[:, 2], texts, ages, requested)

    @cached_property
    def _dtypes_requested(self) -> dict[str, pl.DataType]:
        return {name: dtype for view in (*self._before, *self._after) for name, dtype in view.columns.items()}

    def logs(self, lake: Lake, versions: Mapping[str, int] | None = None) -> dict[str, pl.LazyFrame]:
        """Return the change log of each stored view, as of ``versions`` (view → version of its table) where given."""
        return {view.name: change_log.read(view, lake, (versions or {}).get(view.name)) for view in self.stored}

    def versions(self, lake: Lake) -> dict[str, int]:
        """Return the newest version of each stored view's table: what a manifest pins. Absent tables are left out."""
        found = {view.name: lake.version(view.table) for view in self.stored}
        return {name: version for name, version in found.items() if version is not None}

    def to_dict(self) -> dict[str, object]:
        """Return the set as plain data for `features.json`; :meth:`from_dict` gives back an equal one."""
        return {"views": [view.model_dump() for view in self.views], "leave_out": self.leave_out}

    @classmethod
    def from_dict(cls, held: Mapping[str, object]) -> "FeatureSet":
        """Return the set that :meth:`to_dict` described, with the code versions that it had then."""
        views = [FeatureView.model_validate(view) for view in held["views"]]  # type: ignore[attr-defined]
        return cls(views, held["leave_out"])  # type: ignore[arg-type]

    def _requested(self, rows: pl.DataFrame) -> pl.DataFrame:
        parts = [_computed(view, _picked(rows, [*view.fields, PREDICT_AT])) for view in self._before]
        # A frame without columns would lose the height.
        return pl.concat(parts, how="horizontal") if parts else pl.DataFrame(height=rows.height)

    def _keyed(self, rows: pl.DataFrame, before: pl.DataFrame, read_at: pl.Series) -> pl.DataFrame:
        keys = sorted({key for view in self.stored for key in view.entity})
        columns = [before[self._derived[key]].alias(key) if key in self._derived else rows[key] for key in keys]
        return pl.DataFrame([*columns, read_at.cast(INSTANT).alias(PREDICT_AT)])

    def _derive(self, rows: pl.DataFrame, read: pl.DataFrame, as_of: pl.Series) -> pl.DataFrame:
        named = {view.name: view for view in self.views}
        for view in self._after:
            inputs = [column for name in view.inputs for column in named[name].columns]
            seen = [*_picked(rows, [*view.fields, PREDICT_AT]).get_columns(), as_of.alias(AS_OF)]
            read = read.hstack(_computed(view, pl.DataFrame([*seen, *_picked(read, inputs).get_columns()])))
        return read

    def _demand_fields(self, schema: Mapping[str, pl.DataType]) -> None:
        absent = [field for field in self.fields if field not in schema]
        if absent:
            raise ViewError(
                "Rows of a feature set",
                expected=f"the fields {listed(self.fields, limit=30)}",
                found=f"no {listed(absent)} among {listed(schema, limit=30)}",
                mend=f"Add them.{did_you_mean(absent[0], schema)}",
            )

    def _check(self) -> None:
        names = [view.name for view in self.views]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ViewError("Feature set", expected="each view once", found=f"{listed(twice)} twice", mend="Drop one.")
        ready = {view.name for view in (*self._before, *self.stored)}
        for view in self._after:
            unready = [name for name in view.inputs if name not in ready]
            if unready:
                raise ViewError(
                    f"Feature view '{view.name}'",
                    expected="inputs among the views of the set that run before it",
                    found=f"{listed(unready)}; before it run {listed(sorted(ready), limit=30)}",
                    mend=f"Add the view to the set, or order them.{did_you_mean(unready[0], names)}",
                )
            ready.add(view.name)
        known = [name for view in self.views for name in view.feature_names]
        unknown = [name for name in self.leave_out if name not in known]
        if unknown:
            raise ViewError(
                "Feature set, leave_out",
                expected="names of features",
                found=listed(unknown),
                mend=f"Write them as <view>__<column>.{did_you_mean(unknown[0], known)}",
            )


def _computed(view: FeatureView, seen: pl.DataFrame) -> pl.DataFrame:
    """Run a request view's function and hold it to its declaration: columns, types, height."""
    frame = load_function(view.function)(seen)
    if not isinstance(frame, pl.DataFrame) or frame.height != seen.height:
        raise ViewError(
            f"Feature view '{view.name}', function {view.function}",
            expected=f"a DataFrame of {seen.height} rows, one for each row asked",
            found=f"{frame.height} rows" if isinstance(frame, pl.DataFrame) else type(frame).__name__,
            mend="Return one row for each row, in the same order.",
        )
    if set(frame.columns) != set(view.dtypes):
        absent = [name for name in view.dtypes if name not in frame.columns]
        extra = [name for name in frame.columns if name not in view.dtypes]
        raise ViewError(
            f"Feature view '{view.name}', function {view.function}",
            expected=f"the columns {listed(view.dtypes, limit=50)}",
            found=f"{len(absent)} missing ({listed(absent)}) and {len(extra)} not declared ({listed(extra)})",
            mend="Mend the function or the declared features.",
        )
    found = pl.DataFrame([_typed(frame[name], dtype) for name, dtype in view.dtypes.items()])
    found.columns = list(view.columns)
    return found


def _typed(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    return column if column.dtype == dtype else column.cast(dtype)


def _picked(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    # Without the query engine, which costs a request of one row more than everything else.
    return pl.DataFrame([frame[name] for name in names]) if names else pl.DataFrame(height=frame.height)
