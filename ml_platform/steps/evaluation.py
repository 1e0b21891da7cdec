"""From candidates to a verdict and a champion: where training, evaluation, serving and registry meet.

Apart from the assets so that a verdict is a function of recorded things, and promotion reads it back from the record.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.data.atomic import write_bytes, write_json
from ml_platform.data.digest import content_hash
from ml_platform.data.lake import PARTITION, Lake
from ml_platform.data.partitions import month_bounds
from ml_platform.errors import listed
from ml_platform.evaluation.evidence import (
    BASE_RATE,
    CANDIDATE,
    CHAMPION,
    Evidence,
    SystemChecks,
    base_rate_prediction,
    bootstrap_blocks,
)
from ml_platform.evaluation.gates import evaluate_gates
from ml_platform.evaluation.metrics import Task, improvement
from ml_platform.evaluation.slices import SliceScore, worst_slices
from ml_platform.evaluation.summary import MetricSummary, flat_metrics, summarize_metrics
from ml_platform.evaluation.verdict import Verdict, build_verdict, store_verdict
from ml_platform.features import leak
from ml_platform.features.change_log import Window
from ml_platform.features.materialize import source_partitions
from ml_platform.features.online_store import OnlineStore
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import current_champion
from ml_platform.registry.manifest import Manifest
from ml_platform.registry.models import ModelError, ModelRegistry, ModelVersion
from ml_platform.registry.verdict_record import PromotionError, record_verdict
from ml_platform.serving.bento_build import BuiltBento
from ml_platform.steps.candidates import VALIDATION_PREFIX, read_prices, read_training_set, split_of
from ml_platform.steps.model import REQUEST_ONLY, BoundModel
from ml_platform.steps.packaging import model_directory, package_version, reference_rows
from ml_platform.training.candidate import fit_candidate
from ml_platform.training.model_directory import StoredModel, read_model
from ml_platform.training.splits import LABEL, Split
from ml_platform.training.trainer import TrainerSettings
from resources.home import Home

SLICE_METRIC: Mapping[Task, str] = {"classification": "log_loss", "regression": "rmse"}
"""The metric by which slices are shown."""


@dataclass(frozen=True)
class EvaluationResult:
    """The verdict on one version, and everything that the UI and the card show of it.

    ``metric_values`` are the candidate's metrics with their intervals, base rate and rows, under names that stay.
    """

    version: ModelVersion
    verdict: Verdict
    verdict_path: Path
    evidence: Evidence
    metrics: list[MetricSummary]
    metric_values: dict[str, float]
    slices: list[SliceScore]
    importance: dict[str, float]
    package: BuiltBento


def evaluate_candidate(
    model: BoundModel,
    versions: Mapping[str, ModelVersion],
    month: str,
    *,
    lake: Lake,
    registry: ModelRegistry,
    online: OnlineStore,
    folders: Home,
    audit: AuditLog,
    repository: Path,
    broken_contracts: list[str],
    now: datetime,
) -> EvaluationResult:
    """Score candidate, champion and baselines on the test rows of ``month`` and record the verdict on the candidate.

    Of several candidates the one with the best primary metric on the validation rows, of which its own fit had seen
    none, is judged. A candidate that is champion already is compared with the champion before it, so that judging it
    again gives the same verdict. ``broken_contracts`` are those of the data that were read.
    """
    if not versions:
        declared = [f"{model.name}/candidate_{name}" for name in model.declared.trainers]
        raise ModelError(
            f"Evaluation of '{model.name}', {month}",
            expected="a candidate of the month",
            found="none: each was skipped, or never made",
            fix=f"Materialize one of {listed(declared)}; a skipped one shows why.",
        )
    split = split_of(model, month, read_training_set(model, month, lake))
    version = max(versions.values(), key=lambda one: _validation_metric(model, registry.manifest(one)))
    fitted = _load_model(registry, version, folders.models)
    champion = _champion_to_compare(registry, audit, version)
    rows = reference_rows(model, month, lake)
    package, verified = package_version(model, version, rows, registry, online, folders, repository)
    stored = {CANDIDATE: fitted}
    if champion is not None:
        stored[CHAMPION] = _load_model(registry, champion, folders.models)
    predictions = {name: one.predict(split.test) for name, one in stored.items()}
    bounds = {name: one.calibration.bounds(predictions[name]) for name, one in stored.items()}
    predictions[BASE_RATE] = base_rate_prediction(predictions[CANDIDATE], float(split.known[LABEL].mean()))  # type: ignore[arg-type]
    if model.request_only:
        predictions[REQUEST_ONLY] = request_only(model, split, repository)
    evidence = Evidence(
        label=split.test[LABEL].cast(pl.Float64).to_numpy(),
        predictions=predictions,
        block=bootstrap_blocks(
            split.test,
            model.declared.evaluation.bootstrap.unit,
            time=model.declared.prediction_time.field,
            time_zone=model.declared.partitions.time_zone,
        ),
        slices=split.test.select(model.slice_fields) if model.slice_fields else None,
        candidate_is_newer=champion is not None and version.partition > champion.partition,
        champion_fitted_on_rows=champion is not None and champion.partition > month,
        system_checks=SystemChecks(
            leaks=leaking_features(model, month, lake),
            contract_violations=broken_contracts,
            latency_p99_ms=verified.latency_p99_ms,
            size_bytes=package.size_bytes,
        ),
        task=model.declared.task,
        bounds={name: ends for name, ends in bounds.items() if ends is not None},
        settings=model.declared.evaluation.bootstrap,
    )
    verdict = build_verdict(
        model=model.name,
        partition=month,
        candidate=version.content_digest,
        champion=None if champion is None else champion.content_digest,
        gates=evaluate_gates(model.gates, evidence),
        evidence=evidence.digest(),
        table=content_hash(evidence.to_table()),
        at=now,
    )
    write_bytes(evidence_path(folders, verdict), _parquet_bytes(evidence.to_table()))
    path = store_verdict(verdict, folders.verdicts)
    metrics = summarize_metrics(evidence)
    metric_values = {
        **flat_metrics(metrics),
        "base_rate": float(evidence.label.mean()),
        "rows": float(len(evidence.label)),
    }
    # Beside the verdict, for status and report: a read of one file instead of an evaluation.
    write_json(folders.verdict_metrics / f"{verdict.digest}.json", metric_values)
    record_verdict(audit, verdict.model_dump(), actor="gates", at=now)
    return EvaluationResult(
        version=version,
        verdict=verdict,
        verdict_path=path,
        evidence=evidence,
        metrics=metrics,
        metric_values=metric_values,
        slices=weakest_slices(model, evidence),
        importance=fitted.fitted.importance(),
        package=package,
    )


def weakest_slices(model: BoundModel, evidence: Evidence) -> list[SliceScore]:
    """Return the slices of the declared columns in which the candidate does worst, none where none are declared."""
    if evidence.slices is None:
        return []
    return worst_slices(
        evidence.label,
        evidence.predictions[CANDIDATE],
        evidence.slices,
        metric=SLICE_METRIC[evidence.task],
        minimum_support=model.declared.evaluation.minimum_support,
        task=evidence.task,
    )


def candidates_of(model: BoundModel, month: str, registry: ModelRegistry) -> dict[str, ModelVersion]:
    """Return the version that each declared trainer last came to for ``month``; one that made none is absent.

    That is not always the newest: where a declaration was taken back, training recognises what it had made before.
    """
    versions = [one for one in registry.versions(model.name) if one.partition == month]
    return {
        one.trainer: one
        for one in sorted(versions, key=lambda one: (one.chosen_at_ms, one.version))
        if one.trainer in model.declared.trainers
    }


def evidence_path(folders: Home, verdict: Verdict) -> Path:
    """Return where the table is kept that the gates of ``verdict`` saw: label, block, predictions, slices."""
    return folders.evidence / f"{verdict.evidence}.parquet"


def load_evidence(model: BoundModel, verdict: Verdict, folders: Home) -> Evidence:
    """Return the rows and predictions that the gates of ``verdict`` saw, without the measured facts.

    Raises :class:`~ml_platform.registry.verdict_record.PromotionError` when their table is gone or was changed.
    """
    path = evidence_path(folders, verdict)
    table = pl.read_parquet(path) if path.exists() else None
    if table is None or (verdict.table and content_hash(table) != verdict.table):
        raise PromotionError(
            f"Verdict on '{model.name}', {verdict.partition}",
            expected=f"the table that the gates saw, {path.name}",
            found="none" if table is None else "other rows than those",
            fix=f"Materialize {model.name}/evaluation for {verdict.partition} again.",
        )
    return Evidence.from_table(table, task=model.declared.task, settings=model.declared.evaluation.bootstrap)


def leaking_features(model: BoundModel, month: str, lake: Lake) -> list[str]:
    """Return the features of ``month`` that change when what became known later is scrambled (see `features.leak`)."""
    months = model.declared.partitions
    seen = sorted({name for view in model.stored_views for name in source_partitions(view, month, months)})
    sources = {}
    for name in sorted({source.dataset for view in model.stored_views for source in view.sources}):
        stored = lake.partitions(f"datasets/{name}")
        sources[name] = lake.scan(
            f"datasets/{name}", partitions=[each for each in seen if each in stored] if stored else None
        )
    examples = lake.scan(model.table, partitions=[month]).drop(PARTITION).select(*model.request_fields, "predict_at")
    window = Window(month_bounds(seen[0], months.time_zone)[0], month_bounds(month, months.time_zone)[1])
    report = leak.run_leak_test(model.feature_set, sources, examples, window, leak.choose_cuts(examples, 1))
    return list(dict.fromkeys(found.feature for found in report.leaks))


def request_only(model: BoundModel, split: Split, repository: Path) -> npt.NDArray[np.float64]:
    """Return what a model that sees the request alone predicts for the test rows: the least a candidate must beat."""
    names = [name for name in model.feature_set.feature_names if name.partition("__")[0] in model.request_only]
    settings = TrainerSettings(settings={"max_rounds": 200, "feature_fraction": 0.8})
    fitted = fit_candidate(split, names, settings, task=model.declared.task, prices=read_prices(repository))
    return fitted.predict(split.test)


def _parquet_bytes(table: pl.DataFrame) -> bytes:
    buffer = BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def _load_model(registry: ModelRegistry, version: ModelVersion, models_root: Path) -> StoredModel:
    return read_model(model_directory(registry, version, models_root))


def _validation_metric(model: BoundModel, manifest: Manifest) -> float:
    metric = model.primary_metric
    value = manifest.metrics.get(f"{VALIDATION_PREFIX}{metric}")
    # A version registered without its results can only be judged where it is the only one.
    return float("-inf") if value is None else improvement(metric, value, 0.0)


def _champion_to_compare(registry: ModelRegistry, audit: AuditLog, version: ModelVersion) -> ModelVersion | None:
    champion = current_champion(audit, version.name)
    if champion is None:
        return None
    number = champion.previous_version if champion.version == version.version else champion.version
    return None if number is None else registry.version(version.name, number)
