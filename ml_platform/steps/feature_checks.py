"""Features held against what they should be: those of a training set before it is believed, those served afterwards.

Where the feature room meets the training set, the registry and the prediction log; apart from the assets so that the
command line and tests look by the same steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ml_platform.data.lake import PARTITION, Lake
from ml_platform.features import skew
from ml_platform.features.late_fields import LateField, availability_for_examples, late_fields
from ml_platform.features.leak import choose_cuts
from ml_platform.features.leakage_screen import LeakageScreenReport, screen_for_leakage
from ml_platform.features.skew import SkewReport
from ml_platform.features.view import AS_OF, PREDICT_AT
from ml_platform.monitoring.logged_fields import with_features, with_request_fields
from ml_platform.monitoring.prediction_log import predictions_table
from ml_platform.registry.models import ModelRegistry
from ml_platform.serving.request_contract import RequestContract
from ml_platform.steps.model import BoundModel
from ml_platform.steps.packaging import features_of, model_directory
from ml_platform.training.training_set import LABEL
from resources.home import Home

MIN_MONTHS = 2
"""Months without which a split by time and one by chance say the same."""

LABEL_VALUES = 2
CUTS = 3


@dataclass(frozen=True)
class NotEvaluated:
    """Why there is nothing to judge yet."""

    reason: str


def screen_training_set(model: BoundModel, lake: Lake) -> LeakageScreenReport | NotEvaluated:
    """Return what the leakage_screen says of all months that the training set holds."""
    months = lake.partitions(model.table) if lake.exists(model.table) else []
    if model.declared.task != "classification":
        return NotEvaluated("The leakage_screen ranks labels of two values; this model predicts a number.")
    if len(months) < MIN_MONTHS:
        return NotEvaluated(f"of {MIN_MONTHS} months that a split by time needs there is {len(months)}.")
    features = model.feature_set.feature_names
    rows = lake.scan(model.table).select(*features, LABEL, PREDICT_AT).drop_nulls(LABEL).collect()
    if rows[LABEL].n_unique() != LABEL_VALUES:
        return NotEvaluated(
            f"The label has {rows[LABEL].n_unique()} values in {len(months)} months; two can be ranked."
        )
    return screen_for_leakage(rows, features, LABEL, model.declared.monitors.leakage_screen)


def check_late_fields(model: BoundModel, lake: Lake) -> list[LateField] | NotEvaluated:
    """Return the request fields that are known only after the prediction, as seen in the newest month."""
    months = lake.partitions(model.table) if lake.exists(model.table) else []
    if not months:
        return NotEvaluated("No training set yet.")
    declared = model.declared.examples
    sources = {
        name: lake.scan(f"datasets/{name}", partitions=months[-1:]).drop(PARTITION).collect()
        for name in declared.sources
    }
    examples = lake.scan(model.table, partitions=[months[-1]]).select(PREDICT_AT)
    return late_fields(
        model.examples_function,
        sources,
        availability_for_examples(model.feature_set, declared.available_from),
        model.request_fields,
        model.declared.prediction_time,
        choose_cuts(examples, CUTS),
    )


def check_skew(
    model: BoundModel, lake: Lake, registry: Callable[[], ModelRegistry], folders: Home
) -> SkewReport | NotEvaluated:
    """Recompute a sample of the newest logged predictions, each by the features of the version that made it.

    ``registry`` is asked for only where something was logged: most homes have no MLflow server to wait for.
    """
    table = predictions_table(model.name)
    if not lake.exists(table):
        return NotEvaluated("Nothing was predicted yet.")
    sample = skew.sample_predictions(lake.scan(table).drop(PARTITION), model.declared.monitors.skew)
    if sample.is_empty():
        return NotEvaluated("No logged prediction says up to when its features were known.")
    reports = []
    for (version,), rows in sample.group_by("version", maintain_order=True):
        model_version = registry().version(model.name, int(str(version)))
        directory = model_directory(registry(), model_version, folders.models)
        features = features_of(directory)
        contract = RequestContract.model_validate_json((directory / "contract.json").read_text())
        types = {name: dtype for view in features.views for name, dtype in view.columns.items()}
        typed = with_request_fields(rows, {name: contract.dtypes[name] for name in features.fields})
        unpacked = with_features(typed, {name: types[name] for name in features.feature_names})
        logged = unpacked.select(
            *("request_id", "row", "version", "role", *features.fields),
            *(PREDICT_AT, AS_OF, skew.WATERMARKS, *features.feature_names),
        )
        reports.append(skew.compare_features(features, logged, features.logs(lake)))
    return skew.merge_reports(reports)
