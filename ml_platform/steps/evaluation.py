"""The evaluation of a window: choose a candidate, score it on the test rows, evaluate the gates, record the verdict.

Promotion and model card read verdict and evidence back from their records, so neither depends on this run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path

import polars as pl

from ml_platform.data.atomic import write_bytes
from ml_platform.data.digest import content_hash
from ml_platform.data.lake import PARTITION, Lake
from ml_platform.errors import listed
from ml_platform.evaluation.evidence import (
    CANDIDATE,
    Evidence,
    SystemChecks,
    bootstrap_blocks,
)
from ml_platform.evaluation.gates import evaluate_gates
from ml_platform.evaluation.look import Look, LookWindow, next_look
from ml_platform.evaluation.slices import SliceScore, worst_slices
from ml_platform.evaluation.summary import MetricSummary, flat_metrics, summarize_metrics
from ml_platform.evaluation.verdict import Verdict, build_verdict
from ml_platform.features import leak
from ml_platform.features.change_log import Window
from ml_platform.registry.champion_history import current_champion
from ml_platform.registry.manifest import Manifest
from ml_platform.registry.models import ModelError, ModelRegistry, ModelVersion
from ml_platform.registry.promotion import require_champion
from ml_platform.registry.verdict_record import PromotionError, record_verdict
from ml_platform.serving.bento_build import BuiltBento
from ml_platform.steps.candidates import (
    VALIDATION_PREFIX,
    read_training_set,
    split_of,
)
from ml_platform.steps.closed_window import require_closed_window
from ml_platform.steps.freshness import curve_delays, flat_curve, freshness_curve
from ml_platform.steps.model import BoundModel
from ml_platform.steps.packaging import PackageResult, package_version
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.scoring import ComparedVersions, ModelScores, has_newer_data, score_models, stored_model
from ml_platform.tasks.own_metric import is_higher_better
from ml_platform.training.splits import LABEL, TimeSplit, split_times
from resources.home import Home


@dataclass(frozen=True)
class EvaluationResult:
    """The verdict on one version, and the results that the UI and the model card show.

    ``metric_values`` maps stable names to the candidate's metrics, their interval ends, its metrics for other delays of
    facts, the base rate and the number of rows.
    """

    version: ModelVersion
    verdict: Verdict
    evidence: Evidence
    metrics: list[MetricSummary]
    metric_values: dict[str, float]
    slices: list[SliceScore]
    package: BuiltBento


def evaluate_candidate(
    model: BoundModel, window: str, stores: PlatformStores, *, broken_contracts: Sequence[str], now: datetime
) -> EvaluationResult:
    """Evaluate the best candidate of ``window`` on the test rows of the window and record the verdict.

    The candidate's bento is built, verified and recorded on the way; its size and latency are part of the
    evidence. ``broken_contracts`` lists the contract violations of the data that the model read. Raises
    :class:`~ml_platform.registry.models.ModelError` when the window has no candidate, and
    :class:`~ml_platform.serving.bento_sources.BentoError` when the bento cannot be built or scores differently. Raises
    :class:`~ml_platform.steps.closed_window.OpenWindowError` while it is open at ``now``. Raises
    :class:`~ml_platform.steps.own_features.OwnFeaturesError` for a candidate of other code whose features are gone.
    """
    require_closed_window(model, window, stores.lake, now)
    compared = compared_versions(model, window, stores)
    split = split_of(model, window, read_training_set(model, window, stores.lake))
    packaged = package_version(model, compared.candidate, window, stores)
    checks = system_checks(model, compared.candidate, window, packaged, stores, broken_contracts)
    scores = score_models(model, split, compared, stores)
    evidence = collect_evidence(model, split.test, compared, scores, checks)
    metrics, metric_values = described(evidence)
    if curve_delays(model) and not scores.candidate_reads_other_code:
        # The points are read by today's views.
        curve = freshness_curve(model, stored_model(compared.candidate, stores), split.test, evidence, stores.lake)
        metric_values |= flat_curve(curve)
    verdict = record_evaluation(model, compared, evidence, metric_values, stores, now)
    return EvaluationResult(
        version=compared.candidate,
        verdict=verdict,
        evidence=evidence,
        metrics=metrics,
        metric_values=metric_values,
        slices=weakest_slices(model, evidence),
        package=packaged.package,
    )


def described(evidence: Evidence) -> tuple[list[MetricSummary], dict[str, float]]:
    """Return the metrics of ``evidence`` with their intervals, and the same as numbers by stable names."""
    metrics = summarize_metrics(evidence)
    summary = evidence.task.summary(evidence.label)
    return metrics, {**flat_metrics(metrics), **summary, "rows": float(len(evidence.label))}


def compared_versions(model: BoundModel, window: str, stores: PlatformStores) -> ComparedVersions:
    """Return the best candidate of ``window`` and the champion; raises as :func:`choose_candidate`."""
    candidate = choose_candidate(model, window, stores.registry)
    return ComparedVersions(candidate, _champion_to_compare(stores, candidate))


def system_checks(
    model: BoundModel,
    candidate: ModelVersion,
    window: str,
    packaged: PackageResult,
    stores: PlatformStores,
    broken_contracts: Sequence[str],
) -> SystemChecks:
    """Return the measurements of ``candidate`` besides its predictions; the leak check reads the rows of ``window``."""
    threshold = stores.registry.manifest(candidate).threshold
    return SystemChecks(
        leaks=leaking_features(model, window, stores.lake),
        contract_violations=list(broken_contracts),
        latency_p99_ms=packaged.verified.latency_p99_ms,
        size_bytes=packaged.package.size_bytes,
        importance=stored_model(candidate, stores).fitted.importance(),
        threshold=None if threshold is None else float(threshold["value"]),
    )


def choose_candidate(model: BoundModel, window: str, registry: ModelRegistry) -> ModelVersion:
    """Return the candidate of ``window`` with the best primary metric on its validation rows.

    The metric comes from the fit that had not seen these rows. Raises :class:`ModelError` when the window has no
    candidate.
    """
    versions = candidates_of(model, window, registry)
    if not versions:
        declared = [f"{model.name}/candidate_{name}" for name in model.declared.trainers]
        raise ModelError(
            f"Evaluation of '{model.name}', {window}",
            expected="a candidate of the window",
            found="none: each candidate was skipped or never materialized",
            fix=f"Materialize one of {listed(declared)}; the metadata of a skipped candidate give the reason.",
        )
    return max(versions.values(), key=lambda one: _validation_metric(model, registry.manifest(one)))


def candidates_of(model: BoundModel, window: str, registry: ModelRegistry) -> dict[str, ModelVersion]:
    """Return the current version of each declared trainer for ``window``; a trainer without a version is absent.

    The current version is not always the latest: after a declaration is reverted, training finds the earlier version.
    """
    versions = [one for one in registry.versions(model.name) if one.partition == window]
    return {
        one.trainer: one
        for one in sorted(versions, key=lambda one: (one.chosen_at_ms, one.version))
        if one.trainer in model.declared.trainers
    }


def collect_evidence(
    model: BoundModel, test: pl.DataFrame, compared: ComparedVersions, scores: ModelScores, checks: SystemChecks
) -> Evidence:
    """Return the evidence on the rows ``test``: labels, predictions, bootstrap blocks, slices and ``checks``."""
    declared, champion = model.declared, compared.champion
    return Evidence(
        label=scores.task.encode(test[LABEL], f"Test rows of '{model.name}'"),
        predictions=scores.predictions,
        block=bootstrap_blocks(
            test,
            declared.evaluation.bootstrap.unit,
            time="" if declared.prediction_time is None else declared.prediction_time.field,
            time_zone="UTC" if declared.partitions is None else declared.partitions.time_zone,
        ),
        slices=test.select(model.slice_fields) if model.slice_fields else None,
        candidate_is_newer=champion is not None and has_newer_data(model, compared.candidate, champion),
        champion_fitted_on_rows=scores.champion_fitted_on_rows,
        unscored_champion=scores.unscored_champion,
        feature_notes=scores.feature_notes,
        system_checks=checks,
        task=scores.task,
        bounds=scores.bounds,
        context=scores.context,
        settings=declared.evaluation.bootstrap,
        metrics=model.own_metrics,
    )


def record_evaluation(
    model: BoundModel,
    compared: ComparedVersions,
    evidence: Evidence,
    metric_values: Mapping[str, float],
    stores: PlatformStores,
    now: datetime,
    *,
    earlier: Sequence[Look] = (),
    window: LookWindow | None = None,
    judged: Verdict | None = None,
) -> Verdict:
    """Evaluate the gates, store evidence, verdict and ``metric_values``, and return the verdict.

    The evidence is written first, so a verdict on record always has its evidence. ``earlier`` are the looks before this
    one, and ``window`` is the one that it adds (None: that of the candidate). If the last verdict ``judged`` has the
    same evidence, looks and decision, it is returned and nothing is recorded.
    """
    table, gates = evidence.to_table(), evaluate_gates(model.gates, evidence)
    window = window or own_window(model, compared.candidate.partition, len(evidence.label))
    error = 1 - model.declared.evaluation.bootstrap.confidence
    looks = [] if window is None else [*earlier, next_look(earlier, window, evidence, gates, error)]
    verdict = build_verdict(
        model=model.name,
        partition=compared.candidate.partition,
        candidate=compared.candidate.content_digest,
        champion=None if compared.champion is None else compared.champion.content_digest,
        gates=gates,
        evidence=evidence.digest(),
        table=content_hash(table),
        at=now,
        looks=looks,
        maximum_looks=model.maximum_looks,
        labels_per_day=None if window is None else labels_per_day(model, earlier, window),
    )
    if judged is not None and _says_the_same(judged, verdict):
        return judged
    write_bytes(evidence_path(stores.home, verdict), _parquet_bytes(table))
    record_verdict(
        stores.audit,
        verdict.model_dump(),
        metric_values,
        version=compared.candidate.version,
        actor="gates",
        at=now,
    )
    return verdict


def own_window(model: BoundModel, partition: str, rows: int) -> LookWindow | None:
    """Return the window on which the candidate of ``partition`` is judged first; None where no window follows it."""
    if not isinstance(model.declared.split, TimeSplit) or not model.has_time:
        return None
    times = split_times(partition, model.partitions, model.declared.split)
    return LookWindow(partition, rows, times.test_end.isoformat())


def labels_per_day(model: BoundModel, earlier: Sequence[Look], window: LookWindow) -> float | None:
    """Return the labelled rows per day of ``window``, which begins where ``earlier`` ends; None if that is unknown."""
    split = model.declared.split
    if not isinstance(split, TimeSplit):
        return None
    times = split_times(window.partition, model.partitions, split)
    start = max([times.test_start, *(datetime.fromisoformat(each.until) for each in earlier[-1:])])
    days = (times.test_end - start) / timedelta(days=1)
    return window.rows / days if days > 0 else None


def weakest_slices(model: BoundModel, evidence: Evidence) -> list[SliceScore]:
    """Return the slices in which the candidate scores worst; an empty list when the model declares no slices."""
    if evidence.slices is None:
        return []
    return worst_slices(
        evidence.label,
        evidence.predictions[CANDIDATE],
        evidence.slices,
        metric=evidence.task.slice_metric,
        minimum_support=model.declared.evaluation.minimum_support,
        task=evidence.task,
        context=evidence.context,
    )


def evidence_path(home: Home, verdict: Verdict) -> Path:
    """Return the path of the evidence table of ``verdict``: label, block, predictions and slices of each test row."""
    return home.evidence / f"{verdict.evidence}.parquet"


def load_evidence(model: BoundModel, verdict: Verdict, home: Home) -> Evidence:
    """Return the rows and predictions on which the gates of ``verdict`` were evaluated, without the system checks.

    Raises :class:`~ml_platform.registry.verdict_record.PromotionError` when the evidence table is missing or changed.
    """
    path = evidence_path(home, verdict)
    table = pl.read_parquet(path) if path.exists() else None
    if table is None or (verdict.table and content_hash(table) != verdict.table):
        raise PromotionError(
            f"Verdict on '{model.name}', {verdict.partition}",
            expected=f"the evidence table of the verdict, {path.name}",
            found="no table" if table is None else "other rows",
            fix=f"Materialize {model.name}/evaluation for {verdict.partition} again.",
        )
    return Evidence.from_table(
        table, task=model.declared.task, settings=model.declared.evaluation.bootstrap, metrics=model.own_metrics
    )


def leaking_features(model: BoundModel, window: str, lake: Lake) -> list[str]:
    """Return the features of ``window`` that change when later facts are scrambled (see `features.leak`).

    There are none without stored views, and none in a model without time, which has no later facts.
    """
    if not model.stored_views or not model.has_time:
        return []
    start, end = model.partitions.bounds(window)
    window_start, sources = start, {}
    lookback = timedelta(days=max((view.lookback_days for view in model.stored_views), default=0))
    for name in sorted({source.dataset for view in model.stored_views for source in view.sources}):
        table, scheme = f"datasets/{name}", model.dataset_scheme(name)
        stored = set(lake.partitions(table))
        if scheme is None or not stored:
            sources[name] = lake.scan(table)
            continue
        seen = scheme.covering(start - lookback, end)
        window_start = min(window_start, scheme.bounds(seen[0])[0]) if seen else window_start
        sources[name] = lake.scan(table, partitions=[key for key in seen if key in stored])
    examples = lake.scan(model.table, partitions=[window]).drop(PARTITION).select(*model.request_fields, "predict_at")
    read = Window(window_start, end)
    report = leak.run_leak_test(model.feature_set, sources, examples, read, leak.choose_cuts(examples, 1))
    return list(dict.fromkeys(found.feature for found in report.leaks))


def _champion_to_compare(stores: PlatformStores, version: ModelVersion) -> ModelVersion | None:
    """Return the champion, or its predecessor when ``version`` is the champion: a repeated evaluation is equal."""
    champion = current_champion(stores.audit, version.name)
    if champion is None:
        return None
    if champion.version != version.version:
        return require_champion(stores.registry, champion)
    number = champion.previous_version
    return None if number is None else stores.registry.version(version.name, number)


def _validation_metric(model: BoundModel, manifest: Manifest) -> float:
    metric = model.primary_metric
    value = manifest.metrics.get(f"{VALIDATION_PREFIX}{metric}")
    # A version registered without results is chosen only when it is the only candidate.
    if value is None:
        return float("-inf")
    return value if is_higher_better(metric, model.own_metrics) else -value


def _says_the_same(judged: Verdict, verdict: Verdict) -> bool:
    return (judged.evidence, judged.decision, judged.looks) == (verdict.evidence, verdict.decision, verdict.looks)


def _parquet_bytes(table: pl.DataFrame) -> bytes:
    buffer = BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()
