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
    Facts,
    base_rate_prediction,
    blocks_of,
)
from ml_platform.evaluation.gates import judge_all
from ml_platform.evaluation.metrics import Task, improvement
from ml_platform.evaluation.slices import SliceScore, worst_slices
from ml_platform.evaluation.summary import MetricLine, plain_numbers, summarize
from ml_platform.evaluation.verdict import Verdict, give_verdict, store
from ml_platform.features import leak
from ml_platform.features.change_log import Window
from ml_platform.features.materialize import months_seen
from ml_platform.features.online import OnlineStore
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.championship import current
from ml_platform.registry.manifest import Manifest
from ml_platform.registry.models import ModelError, ModelRegistry, ModelVersion
from ml_platform.registry.verdict_record import PromotionRefused, record_verdict
from ml_platform.serving.package import Package
from ml_platform.steps.candidates import VALIDATION_PREFIX, prices_of, read_training_set, split_of
from ml_platform.steps.model import SCHEDULE_ONLY, BoundModel
from ml_platform.steps.packaging import model_directory, package_version, reference_rows
from ml_platform.training.candidate import fit_candidate
from ml_platform.training.model_directory import StoredModel, read_model
from ml_platform.training.splits import LABEL, Split
from ml_platform.training.trainer import TrainerSettings
from resources.home import Home

SLICE_METRIC: Mapping[Task, str] = {"classification": "log_loss", "regression": "rmse"}
"""The metric by which slices are shown."""


@dataclass(frozen=True)
class Judged:
    """The verdict on one version, and everything that the UI and the card show of it.

    ``numbers`` are the candidate's metrics with their intervals, base rate and rows, under names that stay.
    """

    version: ModelVersion
    verdict: Verdict
    verdict_path: Path
    evidence: Evidence
    metrics: list[MetricLine]
    numbers: dict[str, float]
    slices: list[SliceScore]
    importance: dict[str, float]
    package: Package


def judge(
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
) -> Judged:
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
            mend=f"Materialize one of {listed(declared)}; a skipped one shows why.",
        )
    split = split_of(model, month, read_training_set(model, month, lake))
    version = max(versions.values(), key=lambda one: _primary(model, registry.manifest(one)))
    fitted = _stored(registry, version, folders.models)
    champion = _opponent(registry, audit, version)
    rows = reference_rows(model, month, lake)
    package, verified = package_version(model, version, rows, registry, online, folders, repository)
    stored = {CANDIDATE: fitted}
    if champion is not None:
        stored[CHAMPION] = _stored(registry, champion, folders.models)
    predictions = {name: one.predict(split.test) for name, one in stored.items()}
    bounds = {name: one.calibration.bounds(predictions[name]) for name, one in stored.items()}
    predictions[BASE_RATE] = base_rate_prediction(predictions[CANDIDATE], float(split.known[LABEL].mean()))  # type: ignore[arg-type]
    if model.schedule_only:
        predictions[SCHEDULE_ONLY] = schedule_only(model, split, repository)
    evidence = Evidence(
        label=split.test[LABEL].cast(pl.Float64).to_numpy(),
        predictions=predictions,
        block=blocks_of(
            split.test,
            model.declared.evaluation.bootstrap.unit,
            time=model.declared.prediction_time.field,
            time_zone=model.declared.partitions.time_zone,
        ),
        slices=split.test.select(model.sliced) if model.sliced else None,
        newer=champion is not None and version.partition > champion.partition,
        seen_by_champion=champion is not None and champion.partition > month,
        facts=Facts(
            leaks=leaks_of(model, month, lake),
            contract_violations=broken_contracts,
            latency_p99_ms=verified.latency_p99_ms,
            size_bytes=package.size_bytes,
        ),
        task=model.declared.task,
        bounds={name: ends for name, ends in bounds.items() if ends is not None},
        settings=model.declared.evaluation.bootstrap,
    )
    verdict = give_verdict(
        model=model.name,
        partition=month,
        candidate=version.content_digest,
        champion=None if champion is None else champion.content_digest,
        gates=judge_all(model.gates, evidence),
        evidence=evidence.digest(),
        table=content_hash(evidence.table()),
        at=now,
    )
    write_bytes(evidence_file(folders, verdict), _parquet(evidence.table()))
    path = store(verdict, folders.verdicts)
    metrics = summarize(evidence)
    numbers = {**plain_numbers(metrics), "base_rate": float(evidence.label.mean()), "rows": float(len(evidence.label))}
    # Beside the verdict, for status and report: a read of one file instead of an evaluation.
    write_json(folders.verdict_metrics / f"{verdict.digest}.json", numbers)
    record_verdict(audit, verdict.model_dump(), actor="gates", at=now)
    return Judged(
        version=version,
        verdict=verdict,
        verdict_path=path,
        evidence=evidence,
        metrics=metrics,
        numbers=numbers,
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
    made = [one for one in registry.versions(model.name) if one.partition == month]
    return {
        one.trainer: one
        for one in sorted(made, key=lambda one: (one.chosen_at_ms, one.version))
        if one.trainer in model.declared.trainers
    }


def evidence_file(folders: Home, verdict: Verdict) -> Path:
    """Return where the table is kept that the gates of ``verdict`` saw: label, block, predictions, slices."""
    return folders.evidence / f"{verdict.evidence}.parquet"


def seen_evidence(model: BoundModel, verdict: Verdict, folders: Home) -> Evidence:
    """Return the rows and predictions that the gates of ``verdict`` saw, without the measured facts.

    Raises :class:`~ml_platform.registry.verdict_record.PromotionRefused` when their table is gone or was changed.
    """
    path = evidence_file(folders, verdict)
    table = pl.read_parquet(path) if path.exists() else None
    if table is None or (verdict.table and content_hash(table) != verdict.table):
        raise PromotionRefused(
            f"Verdict on '{model.name}', {verdict.partition}",
            expected=f"the table that the gates saw, {path.name}",
            found="none" if table is None else "other rows than those",
            mend=f"Materialize {model.name}/evaluation for {verdict.partition} again.",
        )
    return Evidence.of_table(table, task=model.declared.task, settings=model.declared.evaluation.bootstrap)


def leaks_of(model: BoundModel, month: str, lake: Lake) -> list[str]:
    """Return the features of ``month`` that change when what became known later is scrambled (see `features.leak`)."""
    months = model.declared.partitions
    seen = sorted({name for view in model.stored_views for name in months_seen(view, month, months)})
    sources = {}
    for name in sorted({source.dataset for view in model.stored_views for source in view.sources}):
        held = lake.partitions(f"datasets/{name}")
        sources[name] = lake.scan(
            f"datasets/{name}", partitions=[each for each in seen if each in held] if held else None
        )
    examples = lake.scan(model.table, partitions=[month]).drop(PARTITION).select(*model.request_fields, "predict_at")
    window = Window(month_bounds(seen[0], months.time_zone)[0], month_bounds(month, months.time_zone)[1])
    report = leak.check(model.feature_set, sources, examples, window, leak.choose_cuts(examples, 1))
    return list(dict.fromkeys(found.feature for found in report.leaks))


def schedule_only(model: BoundModel, split: Split, repository: Path) -> npt.NDArray[np.float64]:
    """Return what a model that sees the request alone predicts for the test rows: the least a candidate must beat."""
    names = [name for name in model.feature_set.feature_names if name.partition("__")[0] in model.schedule_only]
    plain = TrainerSettings(settings={"max_rounds": 200, "feature_fraction": 0.8})
    fitted = fit_candidate(split, names, plain, task=model.declared.task, prices=prices_of(repository))
    return fitted.predict(split.test)


def _parquet(table: pl.DataFrame) -> bytes:
    written = BytesIO()
    table.write_parquet(written)
    return written.getvalue()


def _stored(registry: ModelRegistry, version: ModelVersion, models_root: Path) -> StoredModel:
    return read_model(model_directory(registry, version, models_root))


def _primary(model: BoundModel, manifest: Manifest) -> float:
    metric = model.primary_metric
    value = manifest.metrics.get(f"{VALIDATION_PREFIX}{metric}")
    # A version registered without its results can only be judged where it is the only one.
    return float("-inf") if value is None else improvement(metric, value, 0.0)


def _opponent(registry: ModelRegistry, audit: AuditLog, version: ModelVersion) -> ModelVersion | None:
    champion = current(audit, version.name)
    if champion is None:
        return None
    number = champion.previous_version if champion.version == version.version else champion.version
    return None if number is None else registry.version(version.name, number)
