"""Compares two versions of a model: on rows that neither was fitted on, and by what they were made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.data.lake import Lake
from ml_platform.errors import PlatformError
from ml_platform.evaluation.evidence import CANDIDATE, CHAMPION, Evidence, bootstrap_blocks
from ml_platform.evaluation.reliability import reliability_bins
from ml_platform.evaluation.slices import SliceComparison, SliceSettings, compare_slices
from ml_platform.evaluation.summary import resampled
from ml_platform.evaluation.version_comparison import (
    Change,
    ComparedRows,
    MetricComparison,
    Reliability,
    VersionComparison,
    VersionSummary,
)
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.manifest import Manifest
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.verdict_record import latest_verdict_about
from ml_platform.steps.candidates import fitted_examples, recorded_split
from ml_platform.steps.model import BoundModel
from ml_platform.steps.own_features import GivenRows, VersionFiles, own_rows, stored_views
from ml_platform.tasks.metrics import Bounds
from ml_platform.tasks.task import Task
from ml_platform.training.model_directory import StoredModel, read_model
from ml_platform.training.splits import LABEL
from ml_platform.training.training_set import EXAMPLE_ID

USAGE = ("wall_seconds", "cpu_seconds", "gpu_seconds", "peak_memory_bytes", "cost")
"""Metrics of the run of a fit that belong to its cost."""

SIDES = (CHAMPION, CANDIDATE)
"""Names of the first and the second version among the predictions of the evidence."""


def compare_versions(
    model: BoundModel,
    first: ModelVersion,
    second: ModelVersion,
    *,
    registry: ModelRegistry,
    lake: Lake,
    audit: AuditLog,
    directory_of: Callable[[ModelVersion], Path],
    bento_of: Callable[[ModelVersion], Path | None],
) -> VersionComparison:
    """Return the comparison of ``second`` with ``first``, two versions of ``model``.

    ``directory_of`` returns a folder with the verified files of a version, and ``bento_of`` that of its verified bento
    (None: it has none). The rows are the test rows of the version that saw the later data, without those on which the
    other was fitted, tuned or calibrated. Both predict them from their own features (see :mod:`~.own_features`), and
    the intervals of the differences are paired by the blocks that the model declares (Efron 1982; see
    :mod:`~ml_platform.evaluation.bootstrap`). Without such rows, for example after a change of the code of a feature
    whose log is gone, the reason is part of the result. Raises :class:`~ml_platform.registry.models.ModelError` when
    the files of a version are missing.
    """
    manifests = registry.manifest(first), registry.manifest(second)
    folders = directory_of(first), directory_of(second)
    stored = read_model(folders[0]), read_model(folders[1])
    files = [
        VersionFiles(manifest, one, folder, partial(bento_of, version))
        for manifest, one, folder, version in zip(manifests, stored, folders, (first, second), strict=True)
    ]
    try:
        evidence, rows = _evidence(model, (first, second), files, lake)
        found = _measured(model, evidence)
        reason = ""
    except PlatformError as error:
        rows, found, reason = None, _Measured([], [], []), f"No rows suit both: {error}"
    features = [list(each.encoder.feature_names) for each in stored]
    return VersionComparison(
        model=model.name,
        first=_summary(first, manifests[0], stored[0], registry, audit),
        second=_summary(second, manifests[1], stored[1], registry, audit),
        rows=rows,
        not_paired=reason,
        metrics=found.metrics,
        slice_metric=stored[1].task.slice_metric,
        slices=found.slices,
        reliability=found.reliability,
        importance=_importance(*(each.fitted.importance() for each in stored)),
        added_features=[name for name in features[1] if name not in features[0]],
        removed_features=[name for name in features[0] if name not in features[1]],
        **vars(manifest_changes(*manifests)),
    )


@dataclass(frozen=True)
class ManifestChanges:
    """The differences of two manifests: settings of the fit, data, and libraries that the lock does not pin."""

    settings: list[Change]
    data: list[Change]
    libraries: list[Change]


def manifest_changes(first: Manifest, second: Manifest) -> ManifestChanges:
    """Return what ``first`` and ``second`` do not share."""
    manifests = first, second
    return ManifestChanges(
        settings=_changes(*(_flat(_settings(each)) for each in manifests)),
        data=_changes(*(_data(each) for each in manifests)),
        libraries=_changes(*(each.libraries for each in manifests)),
    )


class VersionsNotComparableError(PlatformError):
    """Raised inside a comparison when no rows suit both versions."""


@dataclass(frozen=True)
class _Measured:
    metrics: list[MetricComparison]
    slices: list[SliceComparison]
    reliability: list[Reliability]


def _evidence(
    model: BoundModel,
    versions: tuple[ModelVersion, ModelVersion],
    files: Sequence[VersionFiles],
    lake: Lake,
) -> tuple[Evidence, ComparedRows]:
    """Return both predictions of the compared rows, the second as candidate; raises if no rows suit both."""
    manifests, stored = (files[0].manifest, files[1].manifest), (files[0].stored, files[1].stored)
    task = stored[1].task
    if stored[0].task.name != task.name:
        raise _not_comparable(model, "one task", f"{stored[0].task.name} and {task.name}")
    later = _later(model, manifests)
    test = recorded_split(model, manifests[later], lake).test
    if not model.declared.split.is_by_time:
        # Rows of a table keep no order of time: the other version may have been fitted on some of them.
        seen = fitted_examples(model, manifests[1 - later], lake)
        test = test.filter(~pl.col(EXAMPLE_ID).is_in(seen.implode()))
        if test.is_empty():
            raise _not_comparable(model, "rows that neither was fitted on", "none among the test rows")
    table = model.pinned_training_set(manifests[later].tables)[0]
    given = GivenRows(test, table, stored_views(files[later].directory))
    predictions = [
        task.aligned(each.stored.predict(own_rows(model, each, given, lake).rows), each.stored.task) for each in files
    ]
    bounds = {name: one.calibration.bounds(each) for name, one, each in zip(SIDES, stored, predictions, strict=True)}
    evidence = evidence_on(
        model,
        test,
        task,
        dict(zip(SIDES, predictions, strict=True)),
        {side: ends for side, ends in bounds.items() if ends is not None},
    )
    blocks, unit = len(np.unique(evidence.block)), model.declared.evaluation.bootstrap.unit
    return evidence, ComparedRows(versions[later].version, manifests[later].partition, test.height, blocks, unit)


def evidence_on(
    model: BoundModel,
    test: pl.DataFrame,
    task: Task,
    predictions: Mapping[str, npt.NDArray[np.float64]],
    bounds: Mapping[str, Bounds],
) -> Evidence:
    """Return the evidence of ``predictions`` of the rows ``test`` by name, with the declared blocks and slices."""
    declared = model.declared
    return Evidence(
        label=task.encode(test[LABEL], f"Test rows of '{model.name}'"),
        predictions=predictions,
        block=bootstrap_blocks(
            test,
            declared.evaluation.bootstrap.unit,
            time="" if declared.prediction_time is None else declared.prediction_time.field,
            time_zone="UTC" if declared.partitions is None else declared.partitions.time_zone,
        ),
        slices=test.select(model.slice_fields) if model.slice_fields else None,
        task=task,
        bounds=bounds,
        context=task.context(test),
        settings=declared.evaluation.bootstrap,
        metrics=model.own_metrics,
    )


def _later(model: BoundModel, manifests: tuple[Manifest, Manifest]) -> int:
    """Return the place of the version with the later data, the second one of two with the same."""
    first, second = (each.partition for each in manifests)
    if model.has_time:
        return 0 if model.partitions.precedes(second, first) else 1
    created = [datetime.fromisoformat(each.created_at) for each in manifests]
    return 0 if created[0] > created[1] else 1


def metric_comparisons(evidence: Evidence) -> list[MetricComparison]:
    """Return each metric of the champion (first) and the candidate (second) of ``evidence``; a side may be absent."""
    resamples = resampled(evidence)
    champion, candidate = (resamples.points.get(side, {}) for side in SIDES)
    metrics = []
    for name in dict.fromkeys([*candidate, *champion]):
        first = resamples.interval(CHAMPION, name) if name in champion else None
        second = resamples.interval(CANDIDATE, name) if name in candidate else None
        both = first is not None and second is not None
        improvement = resamples.difference(CANDIDATE, CHAMPION, name) if both else None
        metrics.append(MetricComparison(name, resamples.is_higher_better(name), first, second, improvement))
    return metrics


def slice_comparisons(model: BoundModel, evidence: Evidence) -> list[SliceComparison]:
    """Return the comparison of candidate and champion in each slice of ``model`` with enough rows, the weakest first.

    It is by the metric of slices of the task; without declared slices or a champion there is none.
    """
    if not model.slice_fields or CHAMPION not in evidence.predictions:
        return []
    declared = {
        "columns": model.slice_fields,
        "metric": evidence.task.slice_metric,
        "margin": 0.0,
        "minimum_support": model.declared.evaluation.minimum_support,
    }
    compared, _ = compare_slices(evidence, SliceSettings.model_validate(declared), CHAMPION)
    # With a margin of 0, the test of two equal predictions has nothing to decide on.
    proven = [replace(each, proven_worse=each.proven_worse and each.difference.value < 0) for each in compared]
    return sorted(proven, key=lambda each: each.difference.value)


def _measured(model: BoundModel, evidence: Evidence) -> _Measured:
    return _Measured(metric_comparisons(evidence), slice_comparisons(model, evidence), _reliability(evidence))


def _reliability(evidence: Evidence) -> list[Reliability]:
    task, label = evidence.task, evidence.label
    first, second = (task.probabilities(label, evidence.predictions[name]) for name in SIDES)
    return [
        Reliability(name, reliability_bins(*first[name]), reliability_bins(*second[name]))
        for name in second
        if name in first
    ]


def _summary(
    version: ModelVersion, manifest: Manifest, stored: StoredModel, registry: ModelRegistry, audit: AuditLog
) -> VersionSummary:
    verdict = latest_verdict_about(audit, version.name, version.content_digest)
    return VersionSummary(
        version=version.version,
        partition=manifest.partition,
        first_partition=manifest.first_month,
        trainer=manifest.trainer,
        decision=None if verdict is None else str(verdict.content["decision"]),
        created_at=manifest.created_at,
        data_clock=manifest.data_clock,
        training_rows=manifest.training_rows,
        tables=manifest.tables,
        commit=manifest.code.commit,
        device=manifest.hardware.device,
        threshold=None if manifest.threshold is None else manifest.threshold["value"],
        features=tuple(stored.encoder.feature_names),
        tested={name: value for name, value in manifest.metrics.items() if not name.startswith("validation_")},
        usage=_usage(version, registry),
    )


def _usage(version: ModelVersion, registry: ModelRegistry) -> dict[str, float]:
    from mlflow.exceptions import MlflowException

    try:
        metrics = registry.tracking.client.get_run(version.run_id).data.metrics
    except MlflowException:
        return {}
    return {name: float(metrics[name]) for name in USAGE if name in metrics}


def _importance(first: Mapping[str, float], second: Mapping[str, float]) -> list[Change]:
    names = dict.fromkeys([*second, *first])
    found = [Change(name, first.get(name), second.get(name)) for name in names]
    return sorted(found, key=lambda each: -max(each.first or 0.0, each.second or 0.0))


def _settings(manifest: Manifest) -> dict[str, Any]:
    """Return the settings of the fit, with the result of a search, and the other declared ones."""
    return {
        "trainer": {**manifest.parameters, **(manifest.fitted or {})},
        "declared": manifest.declared or {},
        "threshold_rule": manifest.threshold_rule or {},
        "seed": manifest.seeds,
    }


def _data(manifest: Manifest) -> dict[str, Any]:
    return {
        "partition": manifest.partition,
        "first_partition": manifest.first_month,
        "training_rows": manifest.training_rows,
        "data_clock": manifest.data_clock,
        "code": manifest.code.sha256[:12],
        "lock": None if manifest.lock is None else manifest.lock[:12],
        **manifest.tables,
    }


def _changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Change]:
    names = dict.fromkeys([*first, *second])
    return [Change(name, first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _not_comparable(model: BoundModel, expected: str, found: str) -> VersionsNotComparableError:
    return VersionsNotComparableError(
        f"Versions of '{model.name}'", expected=expected, found=found, fix="Compare their own test results."
    )
