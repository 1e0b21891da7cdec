"""From a training set to a registered version: where training and registry meet.

Apart from the assets so that `reproduce` and the tests take exactly the same steps.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl
import yaml

from ml_platform.data.canonical import directory_digest
from ml_platform.data.digest import content_hash
from ml_platform.data.lake import PARTITION, Lake, LakeError
from ml_platform.data.partitions import month_bounds, months_between
from ml_platform.errors import listed
from ml_platform.evaluation.metrics import score_task
from ml_platform.evaluation.plots import importance_plot
from ml_platform.features.feature_set import FeatureSet
from ml_platform.registry.delivery import find_version, register_or_queue
from ml_platform.registry.manifest import (
    MANIFEST_FILE,
    Manifest,
    collect_code,
    collect_hardware,
    collect_libraries,
    collect_lock,
)
from ml_platform.registry.models import ModelRegistry, ModelVersion
from ml_platform.registry.reproduction import predictions_digest
from ml_platform.steps.model import BoundModel
from ml_platform.steps.trials import log_search, trial_logger
from ml_platform.training.candidate import Candidate, fit_candidate, fitted_settings
from ml_platform.training.model_directory import write_model
from ml_platform.training.resource_usage import PriceList
from ml_platform.training.splits import LABEL, Split, split_by_time
from ml_platform.training.threshold import ThresholdSettings, choose_threshold
from ml_platform.training.trainer import TrainerSettings, trainer_class
from ml_platform.training.training_set import assemble_training_set

if TYPE_CHECKING:
    from ml_platform.data.lake import TableVersion
    from ml_platform.registry.tracking import TrackedRun


VALIDATION_PREFIX = "validation_"
"""Before the names of metrics in a manifest that were measured on the validation rows."""


@dataclass(frozen=True)
class CandidateResult:
    """What a step made; ``candidate`` is None where the same inputs had already made the version.

    ``version`` is None while the tracking server is down: it is registered at delivery, under ``content_digest``.
    """

    version: ModelVersion | None
    content_digest: str
    manifest: Manifest
    counts: dict[str, int]
    candidate: Candidate | None


def build_training_sets(model: BoundModel, partitions: Sequence[str], lake: Lake) -> "dict[str, TableVersion]":
    """Assemble and store the training set of each month in ``partitions``; return what was written, by month.

    Raises :class:`~ml_platform.data.lake.LakeError` when a view lacks a month whose facts an example may read: after a
    change of its code, the months that are not made again yet.
    """
    _require_facts(model, min(partitions), max(partitions), lake)
    logs = model.feature_set.logs(lake)
    return {month: lake.write(model.table, assemble_partition(model, month, lake, logs), month) for month in partitions}


def assemble_partition(
    model: BoundModel,
    month: str,
    lake: Lake,
    logs: Mapping[str, pl.LazyFrame],
    *,
    features: FeatureSet | None = None,
    versions: Mapping[str, int] | None = None,
) -> pl.DataFrame:
    """Return the training set of ``month``: the model's examples with ``features``, its own where None.

    The datasets are read as of ``versions`` (version by table) where these name them, else as they stand.
    """
    tables = {name: f"datasets/{name}" for name in model.declared.examples.sources}
    sources = {name: lake.scan(table, (versions or {}).get(table), [month]) for name, table in tables.items()}
    return assemble_training_set(
        model.examples_function(sources),
        features or model.feature_set,
        logs,
        model.request_fields,
        model.declared.prediction_time,
        model=model.name,
        partition=month,
    )


def read_training_set(model: BoundModel, month: str, lake: Lake, pinned: tuple[str, int] | None = None) -> pl.DataFrame:
    """Return the rows of ``month`` and of all months before it, in the order in which they were predicted.

    ``pinned`` names another table and version than those of now. Raises :class:`~ml_platform.data.lake.LakeError` when
    a month is missing: a model of fewer months than declared would look like one of all.
    """
    table, version = pinned or (model.table, None)
    months = months_between(model.declared.partitions.start, month)
    return lake.scan(table, version, months).drop(PARTITION).sort("predict_at", "example_id").collect()


def data_clock(model: BoundModel, lake: Lake) -> datetime:
    """Return the end of the newest month whose examples have landed: the time that counts as now."""
    return month_bounds(lake.partitions(model.table)[-1], model.declared.partitions.time_zone)[1]


def split_of(model: BoundModel, month: str, frame: pl.DataFrame) -> Split:
    """Return train, validation and test of the candidate of ``month``."""
    declared = model.declared
    return split_by_time(frame, month, declared.partitions.time_zone, declared.split, model=model.name)


def make_candidate(
    model: BoundModel,
    trainer: str,
    month: str,
    *,
    lake: Lake,
    registry: ModelRegistry,
    run: "TrackedRun",
    repository: Path,
    checkpoint: Path,
    study_storage: str | None = None,
    dagster_run_id: str,
    parent: str | None = None,
    now: datetime,
) -> CandidateResult:
    """Fit the candidate ``trainer`` of ``month``, record the run and register the version.

    Unchanged inputs (training set, code, lock, settings) are recognised: the version that they made is returned, and
    nothing is fitted. A search for settings is kept in the database ``study_storage`` and goes on there after a kill;
    each of its trials is a nested run. ``parent`` is the content digest of the champion of now. While the tracking
    server is down, record and version wait in its outbox.
    """
    declared = model.declared.trainers[trainer]
    frame = read_training_set(model, month, lake)
    split = split_of(model, month, frame)
    planned_manifest = _planned_manifest(model, trainer, month, frame, lake, repository, dagster_run_id, parent, now)
    existing = find_version(registry, model.name, planned_manifest.inputs_digest())
    if existing is not None:
        run.set_tags({"ml_platform.skipped": f"unchanged inputs: version {existing.version}"})
        registry.mark_chosen(existing, now)
        shutil.rmtree(checkpoint, ignore_errors=True)
        return CandidateResult(existing, existing.content_digest, registry.manifest(existing), split.counts(), None)
    candidate = fit_candidate(
        split,
        model.feature_set.feature_names,
        declared,
        task=model.declared.task,
        prices=read_prices(repository),
        checkpoint=checkpoint,
        study_storage=study_storage,
        on_trial=trial_logger(run),
    )
    manifest = planned_manifest.model_copy(
        update={
            "hardware": collect_hardware(candidate.resource_usage.device),
            "fitted": _model_settings(candidate.declared.model_copy(update={"tuning": None})),
            **candidate_results(candidate, split, model.declared.threshold),
        }
    )
    with tempfile.TemporaryDirectory(prefix=f"{model.name}-") as scratch:
        directory = Path(scratch) / "model"
        write_model(
            directory,
            candidate,
            name=model.name,
            target=model.declared.target,
            threshold=None if manifest.threshold is None else manifest.threshold["value"],
            features=model.feature_set.to_dict(),
            contract=model.contract.model_dump(mode="json"),
        )
        (directory / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2))
        _log_run(run, candidate, manifest, split)
        example = split.test.select(model.feature_set.feature_names).head(5)
        version = register_or_queue(registry, run, model.name, directory, input_example=example)
        content = directory_digest(directory, leave_out=[MANIFEST_FILE])
    # Only now: what fails before this line would otherwise cost the fit again.
    shutil.rmtree(checkpoint, ignore_errors=True)
    return CandidateResult(version, content, manifest, split.counts(), candidate)


def candidate_results(candidate: Candidate, split: Split, threshold: ThresholdSettings) -> dict[str, Any]:
    """Return the results that a rebuild must reproduce: test metrics, decision threshold and predictions digest.

    Beside them the metrics of the validation rows (``validation_…``), by the fit that had not seen these: what several
    candidates are compared by, without looking at the test month. They are of the scores before calibration, which was
    fitted on these very rows and would look better on them than it is; ranking (auc) hardly changes by it.
    """
    predictions, bounds = candidate.predict(split.test), candidate.calibration.bounds
    labels = _label_array(split.validation)
    choice = None
    if candidate.task == "classification":
        calibrated = candidate.calibration.apply(candidate.validation_predictions)
        choice = choose_threshold(threshold, labels, calibrated)
    test = score_task(candidate.task, _label_array(split.test), predictions, bounds(predictions))
    validated = score_task(
        candidate.task,
        labels,
        candidate.validation_predictions,
        bounds(candidate.validation_predictions),
    )
    return {
        "metrics": test | {f"{VALIDATION_PREFIX}{name}": value for name, value in validated.items()},
        "threshold": None if choice is None else choice.model_dump(),
        "predictions": predictions_digest(predictions),
    }


def read_prices(repository: Path) -> PriceList:
    """Return the price list of `params.yaml`, the default one where it has none."""
    path = repository / "params.yaml"
    parameters: dict[str, Any] = yaml.safe_load(path.read_text()) if path.exists() else {}
    return PriceList.model_validate(parameters.get("prices", {}))


def _require_facts(model: BoundModel, first: str, last: str, lake: Lake) -> None:
    start, time_zone = model.declared.partitions.start, model.declared.partitions.time_zone
    for view in model.stored_views:
        written = [month for month in lake.digests(view.table) if month is not None]
        # A view without months, or without a table, is told of where it is read.
        if not written:
            continue
        tolerance = timedelta(minutes=view.tolerance_minutes) if view.tolerance_minutes else None
        oldest = month_bounds(first, time_zone)[0] - tolerance if tolerance else month_bounds(start, time_zone)[0]
        needed = [month for month in months_between(start, last) if month_bounds(month, time_zone)[1] > oldest]
        missing = [month for month in needed if month not in written]
        if missing:
            raise LakeError(
                f"Training set of '{model.name}', {first} to {last}",
                expected=f"the facts of features/{view.name}, code version {view.code_version}, since {needed[0]}",
                found=f"none of {listed(missing)}",
                fix="Materialize the view for these months: its code is newer than what was made of them.",
            )


def _planned_manifest(
    model: BoundModel,
    trainer: str,
    month: str,
    frame: pl.DataFrame,
    lake: Lake,
    repository: Path,
    dagster_run_id: str,
    parent: str | None,
    now: datetime,
) -> Manifest:
    declared = model.declared.trainers[trainer]
    tables = {model.table: lake.version(model.table) or 0}
    tables |= {
        table: lake.version(table) or 0 for table in (f"datasets/{name}" for name in model.declared.examples.sources)
    }
    tables |= {view.table: model.feature_set.versions(lake)[view.name] for view in model.stored_views}
    return Manifest(
        model=model.name,
        partition=month,
        trainer=trainer,
        tables=tables,
        training_set=content_hash(frame),
        training_rows=frame.height,
        code=collect_code(repository),
        lock=collect_lock(repository),
        parameters=_model_settings(declared),
        threshold_rule=(
            model.declared.threshold.model_dump(exclude_none=True) if model.declared.task == "classification" else None
        ),
        seeds={"trainer": declared.seed},
        hardware=collect_hardware(),
        libraries=collect_libraries(getattr(trainer_class(declared.trainer), "unlocked_packages", ())),
        parent=parent,
        data_clock=data_clock(model, lake).isoformat(),
        dagster_run_id=dagster_run_id,
        created_at=now.isoformat(),
    )


def _model_settings(declared: TrainerSettings) -> dict[str, Any]:
    """Return the settings that decide a model; where it is fitted does not."""
    return declared.model_dump(mode="json", exclude={"compute", "requires"})


def _label_array(rows: pl.DataFrame) -> npt.NDArray[np.float64]:
    return rows[LABEL].cast(pl.Float64).to_numpy()


def _log_run(run: "TrackedRun", candidate: Candidate, manifest: Manifest, split: Split) -> None:
    run.log_params(fitted_settings(candidate.declared, candidate.fitted))
    run.set_tags({"manifest": manifest.digest(), "training_set": manifest.training_set})
    resource_usage = asdict(candidate.resource_usage)
    usage = {name: value for name, value in resource_usage.items() if isinstance(value, int | float)}
    run.log_metrics({**{name: float(count) for name, count in split.counts().items()}, **usage})
    if candidate.history:
        run.log_curves({"validation_loss": [loss for _, loss in candidate.history]})
    run.log_bytes(importance_plot(candidate.fitted.importance()), "plots/importance.png")
    if candidate.tuning is not None:
        log_search(run, candidate.tuning)
