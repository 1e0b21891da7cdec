"""The code and the declared settings that determine a candidate, as its manifest records them.

They decide whether a candidate is fitted again. A change of dashboards, documentation, gates, monitors or of another
model's code leaves them as they are.
"""

from typing import Any

from ml_platform.data.canonical import value_digest
from ml_platform.data.code_dependencies import code_digest
from ml_platform.features.view import FeatureView
from ml_platform.steps.model import BoundModel
from ml_platform.training.trainer import BUILT_IN, TrainerSettings, scorer_of, trainers_of

FIT_CODE = (
    "ml_platform.steps.candidates:read_training_set",
    "ml_platform.steps.candidates:split_of",
    "ml_platform.training.candidate:fit_candidate",
    "ml_platform.steps.candidates:candidate_results",
    "ml_platform.training.model_directory:write_model",
)
"""The functions that make a registered model of a training set: order of rows, split, fit, threshold and files."""

LEFT_OUT = (
    # A table of all trainers: the digest covers the declared one only.
    "ml_platform.training.trainer:BUILT_IN",
    # The content hash covers the rows of the lake, and `declared_inputs` covers the settings of the model.
    "ml_platform.data.lake:Lake",
    "ml_platform.steps.model:BoundModel",
    # Names of temporary files, times and costs of a fit do not change the model.
    "ml_platform.data.scratch:scratch_prefix",
    "ml_platform.training.resource_usage:measure_resources",
    "ml_platform.training.resource_usage:ResourceUsage",
    "ml_platform.training.resource_usage:PriceList",
)
"""Definitions that the functions of the fit name, and on which the model does not depend."""


READ_SETTINGS = (
    "name",
    "kind",
    "entity",
    "key_types",
    "function",
    "fields",
    "inputs",
    "tolerance_minutes",
    "age",
    "code_version",
)
"""Settings of a view on which the value of a read depends. Besides, the names and types of its features count."""

LATER_SETTINGS = ("takes",)
"""Further settings, which count where they are declared: candidates of earlier releases had none."""

FITTED_SETTINGS = ("fitted", "parameters")
"""Further settings of a view that is fitted with each candidate."""


def code_of_candidate(model: BoundModel, declared: TrainerSettings) -> str:
    """Return the digest of the code that determines the candidate of ``model`` that ``declared`` fits.

    The digest covers the split, the fit, calibration, the choice of the threshold, the files of the model and the
    classes of the trainers, and classes of the team's own that the fit uses. It covers the examples function and the
    feature views by their code versions. The code of a scorer does not count, because only a bento runs it.
    """
    return value_digest([code_digest(*fit_code(model, declared)), model.code_version])


def fit_code(model: BoundModel, declared: TrainerSettings) -> tuple[list[str], list[str]]:
    """Return the entry points of the code that fits with ``declared``, and the definitions that do not count."""
    trainers = trainers_of(declared)
    references = [BUILT_IN.get(trainer, trainer) for trainer in trainers]
    scorers = [scorer for scorer in map(scorer_of, trainers) if scorer]
    own = [each.reference for each in [*model.own_primary_metric.values(), *declared.own_classes]]
    return [*FIT_CODE, *references, *own], [*LEFT_OUT, *scorers]


def candidate_version(model: BoundModel, declared: TrainerSettings) -> str:
    """Return the code version of a candidate: ``<digest of the code>-<digest of the declaration>``.

    With the content of the training set, it decides whether a candidate is fitted again.
    """
    return f"{code_of_candidate(model, declared)[:12]}-{value_digest(candidate_settings(model, declared))[:8]}"


def candidate_settings(model: BoundModel, declared: TrainerSettings) -> dict[str, Any]:
    """Return all declared settings that determine a candidate, by attribute of the model."""
    threshold = model.declared.threshold.model_dump(exclude_none=True) if model.declared.task.has_threshold else None
    trainer = {f"trainer.{name}": value for name, value in declared.declared_inputs().items()}
    return {**trainer, **declared_inputs(model), "threshold": threshold}


def declared_inputs(model: BoundModel) -> dict[str, Any]:
    """Return the declared settings that determine a candidate besides those of its trainer and its threshold.

    These are the task, the split with its time zone, and the views as training and serving read them. The content hash
    of the training set covers windows, sources and the times at which values become known. Descriptions, gates,
    evaluation and monitors do not determine the model, except a primary metric of the team's own, which the manifest
    records.
    """
    declared = model.declared
    own = {name: metric.model_dump(mode="json") for name, metric in model.own_primary_metric.items()}
    return {
        **({"primary_metric": own} if own else {}),
        "task": declared.task.model_dump(mode="json"),
        "split": declared.split.declared_inputs(),
        **({"time_zone": declared.partitions.time_zone} if declared.partitions is not None else {}),
        "features": model.feature_set.feature_names,
        "views": [_read_settings(view) for view in model.feature_set.views],
    }


def _read_settings(view: FeatureView) -> dict[str, Any]:
    fitted = FITTED_SETTINGS if view.fitted is not None else ()
    settings = view.model_dump(
        mode="json", include={*READ_SETTINGS, *fitted, *(view.model_fields_set & {*LATER_SETTINGS})}
    )
    return settings | {"features": {feature.name: feature.full_type for feature in view.features}}
