"""Checks of features: leakage and late fields in a training set, and skew between training and serving.

The assets, the command line and the tests call the same functions.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import polars as pl

from ml_platform.data.lake import PARTITION, Lake
from ml_platform.data.pii import MASK
from ml_platform.features import skew
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.late_fields import LateField, availability_for_examples, late_fields
from ml_platform.features.leak import choose_cuts
from ml_platform.features.leakage_screen import LeakageScreenReport, screen_for_leakage
from ml_platform.features.skew import SkewReport
from ml_platform.features.unknown_fields import without_fields
from ml_platform.features.view import AS_OF, PREDICT_AT
from ml_platform.monitoring.hashed_fields import HashedFields
from ml_platform.monitoring.logged_fields import (
    hashed_values,
    logged_requests,
    with_features,
    with_hashed_features,
    with_request_fields,
)
from ml_platform.monitoring.prediction_log import predictions_table
from ml_platform.serving.request_contract import RequestContract
from ml_platform.steps.model import BoundModel
from ml_platform.steps.own_features import computable_here
from ml_platform.steps.packaging import features_of, model_directory
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.pseudonyms import home_key
from ml_platform.training.labels import LABEL
from ml_platform.training.training_set import EXAMPLE_ID

MIN_PARTITIONS = 2
"""Windows that the leakage screen needs: within one window, a split by time and a random split do not differ."""

LABEL_VALUES = 2
_VALUE = "value of the key"

CUTS = 3
"""Number of times at which late fields are looked for."""


@dataclass(frozen=True)
class NotEvaluated:
    """A check that could not be evaluated, with the reason."""

    reason: str


NOT_APPLICABLE = NotEvaluated("Not applicable: the model has no time.")


def screen_training_set(model: BoundModel, lake: Lake) -> LeakageScreenReport | NotEvaluated:
    """Return the leakage screen of the latest windows in the training set, as many as the monitor declares.

    Not evaluated for a task whose label has not two values,
    below :data:`MIN_PARTITIONS` partitions, and for a label without exactly two values. Rows
    without a label are left out.
    """
    if not model.has_time:
        return NOT_APPLICABLE
    partitions = model.partitions.sort(lake.partitions(model.table))
    if not model.declared.task.has_two_values:
        task = model.declared.task.name
        return NotEvaluated(f"The leakage screen ranks labels with two values; the task of this model is {task}.")
    if len(partitions) < MIN_PARTITIONS:
        return NotEvaluated(
            f"Partitions in the training set: {len(partitions)}; a split by time needs {MIN_PARTITIONS}."
        )
    limits = model.declared.monitors.leakage_screen
    partitions = partitions[-limits.reference_partitions :]
    features = model.feature_set.feature_names
    if not features:
        return NotEvaluated("Transformers compute all features of this model; the screen reads stored ones.")
    rows = (
        lake.scan(model.table, partitions=partitions).select(*features, LABEL, PREDICT_AT).drop_nulls(LABEL).collect()
    )
    if rows[LABEL].n_unique() != LABEL_VALUES:
        return NotEvaluated(
            f"The label has {rows[LABEL].n_unique()} values in {len(partitions)} windows; the leakage screen needs two."
        )
    return screen_for_leakage(rows, features, LABEL, limits)


def check_late_fields(model: BoundModel, lake: Lake) -> list[LateField] | NotEvaluated:
    """Return the request fields that become known only after the prediction, found in the latest window."""
    prediction_time = model.declared.prediction_time
    if prediction_time is None:
        return NOT_APPLICABLE
    partitions = model.partitions.sort(lake.partitions(model.table))
    if not partitions:
        return NotEvaluated("The training set has no windows yet.")
    declared = model.declared.examples
    sources = {
        name: lake.scan(f"datasets/{name}", partitions=model.example_partitions(name, partitions[-1]))
        .drop(PARTITION, strict=False)
        .collect()
        for name in declared.sources
    }
    examples = lake.scan(model.table, partitions=[partitions[-1]]).select(PREDICT_AT)
    found = late_fields(
        model.examples_function,
        sources,
        availability_for_examples(model.feature_set, declared.available_from),
        model.request_fields,
        prediction_time,
        choose_cuts(examples, CUTS),
    )
    return [replace(each, examples=_shown_examples(each, model.pii_columns)) for each in found]


def check_skew(model: BoundModel, stores: PlatformStores) -> SkewReport | NotEvaluated:
    """Recompute the features of a sample of the latest logged predictions and compare them with the logged values.

    The features are those of the version that made the prediction. The registry is opened only when predictions were
    logged, so that a home without predictions needs no tracking server.
    """
    lake = stores.lake
    table = predictions_table(model.name)
    if not lake.exists(table):
        return NotEvaluated("Nothing was predicted yet.")
    days = reversed(lake.partitions(table))
    latest_first = (lake.scan(table, partitions=[day]).drop(PARTITION) for day in days)
    sample = skew.sample_predictions(latest_first, model.declared.monitors.skew)
    if sample.is_empty():
        return NotEvaluated("No logged prediction has the watermarks of its features.")
    reports = []
    for (version,), rows in sample.group_by("version", maintain_order=True):
        directory = model_directory(stores.registry.version(model.name, int(str(version))), stores)
        contract = RequestContract.model_validate_json((directory / "contract.json").read_text())
        report = _skew_of_version(model, rows, features_of(directory), contract.dtypes, stores)
        if report is not None:
            reports.append(report)
    if not reports:
        return NotEvaluated(
            "All features have other code here, or are computed from request fields that the log hides."
        )
    return skew.merge_reports(reports)


def _skew_of_version(
    model: BoundModel,
    rows: pl.DataFrame,
    features: FeatureSet,
    dtypes: Mapping[str, pl.DataType],
    stores: PlatformStores,
) -> SkewReport | None:
    """Return the report of the predictions ``rows`` of one version; None when no feature can be recomputed.

    Request views whose code is another one here are left out: the endpoint ran that of its bento.
    A stored view is read by a hashed key, whose value is found among the keys of its facts. Features that a request
    view computes from a hidden field are left out, because the log has no value to compute them from.
    """
    features = computable_here(features, model.feature_set)
    hidden = model.pii_fields
    keys = {name for name in features.key_fields if hidden.get(name) == "hash"}
    features = without_fields(features, hidden, keys)
    if not features.feature_names:
        return None
    logs = features.logs(stores.lake)
    types = {name: dtype for view in features.views for name, dtype in view.columns.items()}
    hashed = [name for name in features.feature_names if name in model.pii_features]
    fields = {name: dtypes[name] for name in features.fields}
    typed = with_request_fields(rows, {name: dtype for name, dtype in fields.items() if name not in keys})
    typed = with_features(typed, {name: types[name] for name in features.feature_names if name not in hashed})
    if hashed or keys & set(fields):
        key = home_key(stores.home)
        typed = with_hashed_features(typed, {name: types[name] for name in hashed}, key)
        found = HashedFields(key, {name: fields[name] for name in sorted(keys & set(fields))})
        typed = typed.with_columns(_known_keys(name, rows, features, logs, found) for name in found.dtypes)
    logged = typed.select(
        *("request_id", "row", "version", "role", *features.fields),
        *(PREDICT_AT, AS_OF, skew.WATERMARKS, *features.feature_names),
    )

    def as_logged(recomputed: pl.DataFrame) -> pl.DataFrame:
        return recomputed.with_columns(key.of_feature(recomputed[name]) for name in hashed)

    return skew.compare_features(features, logged, logs, model.pii_columns, as_logged)


def _known_keys(
    name: str, rows: pl.DataFrame, features: FeatureSet, logs: Mapping[str, pl.LazyFrame], hashed: HashedFields
) -> pl.Series:
    """Return the values of the hashed key ``name`` of logged ``rows``; null for one that has no fact in ``logs``."""
    pseudonyms = hashed_values(name, logged_requests(rows), hashed).to_frame()
    wanted = pseudonyms[name].unique().implode()
    found = []
    for view in (each for each in features.stored if name in each.entity):
        known = logs[view.name].select(pl.col(name).unique()).collect()[name].drop_nulls()
        values = known.cast(hashed.dtypes[name])
        both = pl.DataFrame({name: hashed.of_column(name, known), _VALUE: values})
        found.append(both.filter(pl.col(name).is_in(wanted)))
    return pseudonyms.join(pl.concat(found).unique(name), on=name, how="left", maintain_order="left")[_VALUE].rename(
        name
    )


def _shown_examples(late: LateField, pii_columns: Collection[str]) -> list[dict[str, object]]:
    if late.field not in pii_columns:
        return late.examples
    # An example_id is often made of the fields of its row.
    return [example | dict.fromkeys(("value", EXAMPLE_ID), MASK) for example in late.examples]
