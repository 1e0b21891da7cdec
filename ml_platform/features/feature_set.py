"""The features of a model: an ordered set of views with two reads that return the same values.

`as_of` reads change logs for training, `online` reads a store for serving. Both take the same steps:

1. Request views without inputs run on the fields of the row. They may derive keys, such as the hour of day.
2. Stored views are read by their entity columns: fields of the row, or values of step 1 without the view's prefix.
3. Request views with inputs run on the fields, the values of the views that they name, and `as_of`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import polars as pl
from polars.io.plugins import register_io_source

from ml_platform.data.settings import RENAMED_ATTRIBUTES
from ml_platform.data.stored_names import with_current_names
from ml_platform.errors import did_you_mean, listed
from ml_platform.features import change_log
from ml_platform.features.key_types import KeyType, key_type_of, typed_key
from ml_platform.features.online_store import OnlineStore
from ml_platform.features.point_in_time import (
    CHUNK_ROWS,
    AsOfReader,
    apply_pushdown,
    change_log_of,
    chunk_bounds,
    facts_for_keys,
    iterate_chunks,
    validate_examples,
)
from ml_platform.features.request_values import checked_values, run_request_view, select_columns
from ml_platform.features.row_columns import RowColumns
from ml_platform.features.served_features import ServedFeatures
from ml_platform.features.serving_plan import ServingPlan
from ml_platform.features.transformers.transformer import FeatureTransformer, transformer_input
from ml_platform.features.view import AS_OF, INSTANT, PREDICT_AT, FeatureView, ViewError

if TYPE_CHECKING:
    # A bento carries this module, and reads no lake.
    from ml_platform.data.lake import Lake


_LATER_ATTRIBUTES = ("key_types", "arrivals", "fitted", "parameters", "takes")
"""Attributes of views that earlier releases did not write."""


class FeatureSet:
    """Feature views in declared order.

    The constructor pins the code versions of the views. A set stored as `features.json` beside a model therefore keeps
    reading the logs and snapshots of the code that the model was trained on.
    """

    def __init__(
        self,
        views: Sequence[FeatureView],
        leave_out: Sequence[str] = (),
        transformers: Mapping[str, FeatureTransformer] | None = None,
    ) -> None:
        """Make a set of ``views``; models do not get the features in ``leave_out`` (as ``<view>__<column>``).

        The name of a vector stands for all of its components. ``transformers`` are those of a fitted model, by view.
        Without them, the set leaves out the values of fitted views: a training set has only what they read.

        Raises :class:`ViewError` when a view occurs twice, an input does not run before its view, two views declare
        different types for a key, a request view derives a key of another type, or ``leave_out`` has a name that is not
        a feature.
        """
        self.views = [view.pinned() for view in views]
        vectors = {view.column(each.name): each for view in views for each in view.features if each.size is not None}
        self.leave_out = [
            column
            for name in leave_out
            for column in (
                [name.removesuffix(vectors[name].name) + each for each in vectors[name].columns]
                if name in vectors
                else [name]
            )
        ]
        self.stored = [view for view in self.views if view.kind == "stored"]
        self.fitted = [view for view in self.views if view.fitted is not None]
        self.transformers = dict(transformers or {})
        requested = [view for view in self.views if view.kind == "request" and view.fitted is None]
        self._views_before_lookup = [view for view in requested if not view.inputs]
        self._views_after_lookup = [view for view in requested if view.inputs]
        self._views_after_lookup += [view for view in self.fitted if view.name in self.transformers]
        self._derived = {name: view.column(name) for view in self._views_before_lookup for name in view.dtypes}
        self._validate()

    @cached_property
    def feature_names(self) -> list[str]:
        """Columns that a model gets, in the order of the views and of their features.

        A set without transformers leaves out the columns of fitted views.
        """
        return [
            name
            for view in self.views
            if view.fitted is None or view.name in self.transformers
            for name in view.feature_names
            if name not in self.leave_out
        ]

    @cached_property
    def training_columns(self) -> list[str]:
        """Columns of a training set that views compute: the features, then what only fitted views read."""
        read = [column for view in self.fitted for column in self.read_columns(view) if column not in view.fields]
        features = [name for view in self.views if view.fitted is None for name in view.feature_names]
        return list(dict.fromkeys([*(name for name in features if name not in self.leave_out), *read]))

    @property
    def prediction_columns(self) -> list[str]:
        """Columns of a training set from which a model predicts: its own, and the fields that fitted views read."""
        fields = [field for view in self.fitted for field in view.fields]
        return list(dict.fromkeys([*self.training_columns, *fields]))

    def read_columns(self, view: FeatureView) -> list[str]:
        """Return the columns that the transformer of a fitted ``view`` gets: its fields, and the values of its inputs.

        Ages are left out: they belong to a read, and not to an entity.
        """
        inputs = [each.column(name) for each in self.views if each.name in view.inputs for name in each.dtypes]
        return [*view.fields, *inputs]

    def with_transformers(self, transformers: Mapping[str, FeatureTransformer]) -> "FeatureSet":
        """Return the set with the values of its fitted views, which ``transformers`` (by view) compute."""
        return FeatureSet(self.views, self.leave_out, transformers)

    def only(self, names: Collection[str]) -> "FeatureSet":
        """Return the set with the features of the views ``names`` alone; it keeps the views that these read."""
        kept = set(names)
        for view in reversed(self.views):  # the inputs of a view come before it
            kept |= set(view.inputs) if view.name in kept else set()
        views = [view for view in self.views if view.name in kept]
        left = [name for view in views for name in view.feature_names if view.name not in names]
        left += [name for view in views for name in view.feature_names if view.name in names and name in self.leave_out]
        transformers = {name: each for name, each in self.transformers.items() if name in kept}
        return FeatureSet(views, left, transformers)

    def transformed(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return ``rows`` of a training set with the columns of the fitted views; unchanged if it has them already."""
        absent = [view for view in self.fitted if not set(view.columns) <= set(rows.columns)]
        return rows.hstack([column for view in absent for column in self._run_fitted(view, rows).get_columns()])

    @cached_property
    def key_types(self) -> dict[str, KeyType]:
        """Declared type of each key of the stored views; keys without a declared type are absent."""
        return {name: key_type for view in self.stored for name, key_type in view.key_types.items()}

    @cached_property
    def key_fields(self) -> list[str]:
        """Keys of the stored views that are fields of a request, sorted; request views derive the others."""
        return sorted({key for view in self.stored for key in view.entity if key not in self._derived})

    @cached_property
    def pii_columns(self) -> frozenset[str]:
        """Request fields, keys and features (as ``<view>__<column>``) whose values identify a person.

        A feature of a request view does if one of the view's fields or inputs does. Unlike the views' code versions,
        this is not stored beside a model: the contracts of today apply.
        """
        return self.pii_columns_with(())

    def pii_columns_with(self, request_fields: Collection[str]) -> frozenset[str]:
        """Return :attr:`pii_columns` if ``request_fields`` identify a person too."""
        found = {*request_fields, *(name for view in self.views for name in view.pii_columns)}
        for view in self.read_order:
            names = set(view.dtypes) if view.kind == "request" and self.reads(view) & found else view.pii_names
            found |= {*(names & set(view.entity)), *(view.column(name) for name in names if name in view.dtypes)}
        return frozenset(found)

    @property
    def read_order(self) -> list[FeatureView]:
        """The views in the order in which they are read; those that need a transformer which is absent come last."""
        others = [view for view in self.fitted if view.name not in self.transformers]
        return [*self._views_before_lookup, *self.stored, *self._views_after_lookup, *others]

    def reads(self, view: FeatureView) -> set[str]:
        """Return the request fields that a request ``view`` reads, and the columns of its inputs."""
        inputs = (column for each in self.views if each.name in view.inputs for column in each.columns)
        return {*view.fields, *inputs}

    @cached_property
    def serving_plan(self) -> ServingPlan:
        """The steps of :meth:`serve`, with all that does not depend on the rows resolved."""
        named = {view.name: view for view in self.views}
        inputs = {
            view.name: [column for column in self.read_columns(view) if column not in view.fields]
            if view.fitted is not None
            else [column for name in view.inputs for column in named[name].columns]
            for view in self._views_after_lookup
        }
        return ServingPlan(
            self.stored,
            self._views_before_lookup,
            self._views_after_lookup,
            inputs,
            self._derived,
            self._keys,
            self.feature_names,
            self.transformers,
        )

    @cached_property
    def fields(self) -> list[str]:
        """Request fields that the features need, sorted, without entity columns that a request view derives."""
        return sorted({*self.key_fields} | {field for view in self.views for field in view.fields})

    def as_of(
        self,
        examples: pl.LazyFrame,
        logs: Mapping[str, pl.LazyFrame],
        *,
        known_before: Mapping[str, datetime] | None = None,
        chunk_rows: int = CHUNK_ROWS,
    ) -> pl.LazyFrame:
        """Return ``examples`` with the features that had arrived at the ``predict_at`` of each row, lazily, in chunks.

        ``examples``: the request fields, ``predict_at`` (with a time zone) and any other columns. The views do not see
        the other columns, which come back unchanged. A column ``as_of``, where present, replaces predict_at as the time
        of the read. ``logs``: a change log for each stored view, by name; see :meth:`logs`. The result is sorted by
        the time of the read, ties in the given order; use ``.sink_parquet`` for a result larger than memory. For the
        rules of the join, ``known_before`` and ``chunk_rows`` see :mod:`ml_platform.features.point_in_time`.

        Raises :class:`ViewError` when a field, a log or a column is missing, or the result of a request view does not
        match its declaration. Raises :class:`.key_types.KeyTypeError` when keys have another type than declared, or
        than the facts.
        """
        given = dict(examples.collect_schema())
        self._require_fields(given)
        validate_examples(given, [])
        clock = AS_OF if AS_OF in given else PREDICT_AT
        dtypes = {name: dtype for view in self.views for name, dtype in view.columns.items()}
        names = list(dict.fromkeys([*self.feature_names, *self.training_columns]))
        schema = given | {PREDICT_AT: INSTANT, clock: INSTANT} | {name: dtypes[name] for name in names}

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
                yield apply_pushdown(chunk.hstack(values.select(names)), with_columns, predicate)

        return register_io_source(batches, schema=schema)

    def facts_of(self, rows: pl.DataFrame, logs: Mapping[str, pl.LazyFrame]) -> dict[str, pl.LazyFrame]:
        """Return, in memory, the part of each of ``logs`` that :meth:`as_of` may read for ``rows``, by view.

        Few rows that are read several times, such as with several watermarks, then cost one pass over each log. Raises
        as :meth:`as_of`.
        """
        clock = rows[AS_OF if AS_OF in rows.columns else PREDICT_AT]
        keys = self._entity_keys(rows, self._run_views_before_lookup(rows), clock)
        parts = [facts_for_keys(view, change_log_of(view, logs), keys) for view in self.stored]
        read = pl.collect_all(parts, engine="streaming")
        return {view.name: facts.lazy() for view, facts in zip(self.stored, read, strict=True)}

    def online(self, rows: pl.DataFrame, store: OnlineStore) -> pl.DataFrame:
        """Return the features of ``rows`` (request fields and ``predict_at``) from the current snapshots, in order."""
        return self.serve(rows, store).frame

    def serve(self, rows: pl.DataFrame, store: OnlineStore) -> ServedFeatures:
        """Return the features of ``rows`` with the data needed to recompute them; one lookup reads all views.

        The facts are the last published ones. Their age is measured at ``as_of``: the later of predict_at and the
        store's latest watermark. A fact older than its view's tolerance counts as missing, as in :meth:`as_of`.

        Raises :class:`.key_types.KeyTypeError` when keys have another type than declared, or than the published facts.
        """
        self._require_fields(rows.schema)
        validate_examples(rows.schema, [])
        typed = [self._typed_key(key, rows[key]) for key in self.key_fields]
        return self.serving_plan.serve(RowColumns.of_table(rows.with_columns(typed)), store)

    def logs(self, lake: "Lake", versions: Mapping[str, int] | None = None) -> dict[str, pl.LazyFrame]:
        """Return the change log of each stored view, at the version that ``versions`` has for it, or the latest."""
        return {view.name: change_log.read(view, lake, (versions or {}).get(view.name)) for view in self.stored}

    def versions(self, lake: "Lake") -> dict[str, int]:
        """Return the latest table version of each stored view, for a manifest to pin; absent tables are left out."""
        found = {view.name: lake.version(view.table) for view in self.stored}
        return {name: version for name, version in found.items() if version is not None}

    def to_dict(self) -> dict[str, object]:
        """Return the set as plain data for `features.json`; :meth:`from_dict` returns an equal set."""
        # Undeclared attributes are left out, so that a model of an earlier version can be written again unchanged.
        fields = FeatureView.model_fields
        later = {name: fields[name].get_default(call_default_factory=True) for name in _LATER_ATTRIBUTES}
        views = [
            view.model_dump(exclude={name for name, default in later.items() if getattr(view, name) == default})
            for view in self.views
        ]
        return {"views": views, "leave_out": self.leave_out}

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
            run_request_view(view, select_columns(rows, [*view.fields, PREDICT_AT]))
            for view in self._views_before_lookup
        ]
        # Concatenating no frames would lose the height.
        return pl.concat(parts, how="horizontal") if parts else pl.DataFrame(height=rows.height)

    @cached_property
    def _keys(self) -> list[str]:
        return sorted({key for view in self.stored for key in view.entity})

    def entity_keys(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the keys by which stored views are read for ``rows``, one column per key, and ``predict_at``."""
        return self._entity_keys(rows, self._run_views_before_lookup(rows), rows[PREDICT_AT])

    def _entity_keys(self, rows: pl.DataFrame, before: pl.DataFrame, read_at: pl.Series) -> pl.DataFrame:
        columns = []
        for key in self._keys:
            column = before[self._derived[key]].alias(key) if key in self._derived else rows[key]
            columns.append(self._typed_key(key, column))
        return pl.DataFrame([*columns, read_at.cast(INSTANT).alias(PREDICT_AT)])

    def _typed_key(self, key: str, column: pl.Series) -> pl.Series:
        return typed_key(column, self.key_types.get(key), f"Rows of a feature set, key '{key}'")

    def _run_views_after_lookup(self, rows: pl.DataFrame, read: pl.DataFrame, as_of: pl.Series) -> pl.DataFrame:
        named = {view.name: view for view in self.views}
        for view in self._views_after_lookup:
            if view.fitted is not None:
                read = read.hstack(self._run_fitted(view, rows.select(view.fields).hstack(read)))
                continue
            inputs = [column for name in view.inputs for column in named[name].columns]
            seen = [*select_columns(rows, [*view.fields, PREDICT_AT]).get_columns(), as_of.alias(AS_OF)]
            read = read.hstack(
                run_request_view(view, pl.DataFrame([*seen, *select_columns(read, inputs).get_columns()]))
            )
        return read

    def _run_fitted(self, view: FeatureView, rows: pl.DataFrame) -> pl.DataFrame:
        seen = transformer_input(rows, self.read_columns(view), view.fields)
        return checked_values(view, self.transformers[view.name].transform(seen), rows.height)

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
        for view in (*self._views_after_lookup, *(each for each in self.fitted if each.name not in self.transformers)):
            unready = [name for name in view.inputs if name not in ready]
            if unready:
                raise ViewError(
                    f"Feature view '{view.name}'",
                    expected="inputs among the views of the set that run before it",
                    found=f"{listed(unready)}; before it run {listed(sorted(ready), limit=30)}",
                    fix=f"Add the view to the set, or move it before this view.{did_you_mean(unready[0], names)}",
                )
            if view.fitted is None:
                ready.add(view.name)
        self._validate_key_types()
        feature_names = [name for view in self.views for name in view.feature_names]
        unknown = [name for name in self.leave_out if name not in feature_names]
        if unknown:
            raise ViewError(
                "Feature set, leave_out",
                expected="names of features",
                found=listed(unknown),
                fix=f"Write them as <view>__<column>.{did_you_mean(unknown[0], feature_names)}",
            )

    def _validate_key_types(self) -> None:
        for view in self.stored:
            for key, declared in view.key_types.items():
                if self.key_types[key] != declared:
                    raise ViewError(
                        f"Feature view '{view.name}', key '{key}'",
                        expected=f"one type of the key in all views; another view declares {self.key_types[key]}",
                        found=declared,
                        fix="Declare the same type in key_types, or give one of the keys another name.",
                    )
        for view in self._views_before_lookup:
            for key in [name for name in view.dtypes if name in self._keys]:
                derived, declared_type = key_type_of(view.dtypes[key]), self.key_types.get(key)
                if derived is None or derived != (declared_type or derived):
                    raise ViewError(
                        f"Feature view '{view.name}', feature '{key}', which is a key of other views",
                        expected=f"a feature of key type {declared_type or 'string, int or bool'}",
                        found=str(view.dtypes[key]),
                        fix="Declare an integer type, category or boolean, as the key has in key_types.",
                    )


def _with_current_attributes(view: Mapping[str, Any]) -> dict[str, Any]:
    sources = [with_current_names(source, RENAMED_ATTRIBUTES) for source in view.get("sources", [])]
    return {**view, "sources": sources}
