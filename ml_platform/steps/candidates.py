"""From a training set to a registered version: assemble the rows, fit a candidate, record the run, register it.

The assets, the reproduction of a version and the benchmarks call the same functions.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from ml_platform.data.canonical import directory_digest
from ml_platform.data.digest import content_hash
from ml_platform.data.lake import PARTITION, Lake, LakeError
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.pii import shown_error, without_pii
from ml_platform.data.scratch import scratch_folder
from ml_platform.errors import PlatformError, listed
from ml_platform.evaluation.plots import importance_plot
from ml_platform.features.feature_set import FeatureSet
from ml_platform.features.fitted_views import transformer_libraries
from ml_platform.features.view import FeatureView
from ml_platform.registry.champion_history import current_champion
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
from ml_platform.steps.arriving import arrived_end, record_parts, sources_of_parts
from ml_platform.steps.candidate_inputs import code_of_candidate, declared_inputs
from ml_platform.steps.closed_window import require_closed_window
from ml_platform.steps.labels import labels_table, landed_labels
from ml_platform.steps.model import BoundModel
from ml_platform.steps.pins import pin_tables
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.prices import read_prices
from ml_platform.steps.trials import log_search, trial_logger
from ml_platform.steps.untimed import key_of, read_untimed_set, read_untimed_version, write_untimed_set, written_at
from ml_platform.tasks.own_metric import OwnMetrics, own_scores
from ml_platform.tasks.task import Task
from ml_platform.training.candidate import (
    Candidate,
    declared_settings,
    fit_candidate,
    fitted_settings,
    most_rounds,
)
from ml_platform.training.fit_progress import FitProgress, Tell
from ml_platform.training.model_directory import write_model
from ml_platform.training.splits import LABEL, Split, TimeSplit, split_by_time
from ml_platform.training.table_splits import as_split, split_table
from ml_platform.training.threshold import ThresholdSettings, choose_threshold
from ml_platform.training.trainer import unlocked_packages
from ml_platform.training.training_set import EXAMPLE_ID, ExamplesError, NoExamplesError, assemble_training_set
from ml_platform.training.tuning import Trial
from ml_platform.training.untimed_set import assemble_untimed_set

if TYPE_CHECKING:
    from ml_platform.data.lake import TableVersion
    from ml_platform.registry.tracking import TrackedRun


VALIDATION_PREFIX = "validation_"
"""Prefix of the metrics in a manifest that were measured on the validation rows."""

FIT_SECONDS = 600.0
"""Time for which a candidate waits for another process that fits the same one."""


@dataclass(frozen=True)
class CandidateResult:
    """A version and its manifest; ``candidate`` is None when the same inputs had already given this version.

    ``version`` is None while the tracking server is down. The version is registered when the outbox is delivered, under
    ``content_digest``. ``counts`` gives the number of rows of train, validation and test.
    """

    version: ModelVersion | None
    content_digest: str
    manifest: Manifest
    counts: dict[str, int]
    candidate: Candidate | None


def build_training_sets(model: BoundModel, partitions: Sequence[str], lake: Lake) -> "dict[str, TableVersion]":
    """Assemble and store the training set of each window in ``partitions``; return the written versions by window.

    Raises :class:`~ml_platform.data.lake.LakeError` when a feature view lacks a window whose facts an example may read.
    This happens after a change of its code, until its windows are materialized again. Without a time of the examples,
    ``partitions`` is empty, and the one version is returned under its key.
    """
    if not model.has_time:
        frame = assemble_partition(model, "", lake, model.feature_set.logs(lake))
        version = write_untimed_set(model, frame, lake)
        return {key_of(version.sha256): version}
    scheme = model.partitions
    _require_facts(model, scheme.earliest(partitions), scheme.latest(partitions), lake)
    parts = sources_of_parts(model, partitions, lake)
    logs = model.feature_set.logs(lake)
    written = {
        window: lake.write(model.table, assemble_partition(model, window, lake, logs), window) for window in partitions
    }
    record_parts(model, partitions, parts, lake)
    return written


def assemble_partition(
    model: BoundModel,
    window: str,
    lake: Lake,
    logs: Mapping[str, pl.LazyFrame],
    *,
    features: FeatureSet | None = None,
    versions: Mapping[str, int] | None = None,
) -> pl.DataFrame:
    """Return the training set of ``window``: the model's examples with ``features`` (None: the declared features).

    ``versions`` maps tables to the versions to read; a table without an entry is read in its latest version.
    """
    tables = {name: f"datasets/{name}" for name in model.declared.examples.sources}
    sources = {
        name: lake.scan(table, (versions or {}).get(table), model.example_partitions(name, window))
        for name, table in tables.items()
    }
    prediction_time = model.declared.prediction_time
    try:
        examples = model.examples_function(sources)
        if prediction_time is None:
            return assemble_untimed_set(
                examples,
                features or model.feature_set,
                logs,
                model.contract.dtypes,
                model=model.name,
                kept=model.kept_columns,
            )
        return assemble_training_set(
            examples,
            features or model.feature_set,
            logs,
            model.contract.dtypes,
            prediction_time,
            model=model.name,
            partition=window,
            labels=landed_labels(model, window, lake, (versions or {}).get(labels_table(model) or "")),
        )
    except NoExamplesError as error:
        if prediction_time is None:
            raise
        empty = [tables[name] for name, source in sources.items() if source.limit(1).collect().is_empty()]
        raise _no_examples(error, window, empty) from error
    except Exception as error:
        if not model.pii_columns or isinstance(error, PlatformError):
            raise
        raise ExamplesError(
            f"Examples of '{model.name}', partition {window}",
            expected="a table from the examples function and the feature views",
            found=shown_error(error, model.pii_columns),
            fix="Fix the function. Its message is hidden, because its sources have columns that identify a person.",
        ) from None


def read_training_set(model: BoundModel, window: str, lake: Lake) -> pl.DataFrame:
    """Return the rows of ``window`` and of the earlier windows that its split needs, by prediction time and example_id.

    These are all earlier months unless the split declares ``train_months``. Raises
    :class:`~ml_platform.data.lake.LakeError` when a window is missing, because a model fitted on fewer windows than
    declared would not be recognised.
    """
    if not model.has_time:
        return read_untimed_set(model, window, lake)
    return _read_partitions(
        model, lake, (model.table, None), model.declared.split.first_partition(window, model.partitions), window
    )


def read_recorded_training_set(model: BoundModel, manifest: Manifest, lake: Lake, *, rebuilt: bool) -> pl.DataFrame:
    """Return the rows of the windows from which the version of ``manifest`` was made. Raises as the function above.

    They are read from the table version that the manifest pins, or from the current one in a lake that was ``rebuilt``.
    """
    table = (model.table, None) if rebuilt else model.pinned_training_set(manifest.tables)
    if not model.has_time:
        return read_untimed_version(lake, table)
    return _read_partitions(model, lake, table, manifest.first_month, manifest.partition)


def data_clock(model: BoundModel, lake: Lake) -> datetime:
    """Return the end of the latest partition in the training set: the time that counts as now for the data.

    If that partition is still arriving, it is the time until which it has arrived. Without a time of the examples, it
    is the time at which the training set was written.
    """
    if not model.has_time:
        return written_at(model, lake)
    return arrived_end(model, model.partitions.latest(lake.partitions(model.table)), lake)


def fitted_examples(model: BoundModel, manifest: Manifest, lake: Lake) -> pl.Series:
    """Return the ids of the examples on which the version of ``manifest`` was fitted, tuned or calibrated.

    The rows are those of its recorded training set, split as its manifest records. For splits that are not by time.
    """
    return recorded_split(model, manifest, lake).known[EXAMPLE_ID]


def recorded_split(model: BoundModel, manifest: Manifest, lake: Lake) -> Split:
    """Return the rows from which the version of ``manifest`` was made, split as it records.

    Raises :class:`~ml_platform.data.lake.LakeError` when its training set was cleaned.
    """
    frame = read_recorded_training_set(model, manifest, lake, rebuilt=False)
    settings = as_split((manifest.declared or {}).get("split", {}))
    if isinstance(settings, TimeSplit):
        return split_by_time(frame, manifest.partition, model.partitions, settings, model=model.name)
    stratified = model.declared.task.has_probabilities
    return split_table(frame, settings, subject=f"Model '{model.name}'", stratified=stratified)


def split_of(model: BoundModel, window: str, frame: pl.DataFrame) -> Split:
    """Return the rows of ``frame`` in train, validation and test for the candidate of ``window``, as declared."""
    declared = model.declared
    if isinstance(declared.split, TimeSplit):
        return split_by_time(frame, window, model.partitions, declared.split, model=model.name)
    # Classes are stratified; values of a regression are not, because most occur once.
    stratified = declared.task.has_probabilities
    return split_table(frame, declared.split, subject=f"Model '{model.name}', {window}", stratified=stratified)


def make_candidate(
    model: BoundModel,
    trainer: str,
    window: str,
    stores: PlatformStores,
    *,
    run: "TrackedRun",
    study_storage: str | None = None,
    dagster_run_id: str,
    now: datetime,
    tell: Tell = lambda _: None,
) -> CandidateResult:
    """Fit the candidate ``trainer`` of ``window``, record it in ``run`` and register the version.

    When the inputs (training set, code, lock, settings) are those of an earlier version, that version is returned and
    nothing is fitted. ``tell`` gets lines of progress, and ``run`` the declared settings at once and the losses while
    the fit runs. A hyperparameter search is stored in the database ``study_storage`` and continues there after a
    kill; each trial is a nested run. While the tracking server is down, run and version wait in its outbox.

    Of two processes that make the same candidate at once, the second waits and then finds the version of the first.
    Raises :class:`~ml_platform.state.store.StateLockedError`, which names the first, after ten minutes. Raises
    :class:`~ml_platform.steps.closed_window.OpenWindowError` while ``window`` is open at ``now``.
    """
    declared = model.declared.trainers[trainer]
    run.log_params(declared_settings(declared))
    require_closed_window(model, window, stores.lake, now)
    with stores.state.lock(f"candidate/{model.name}/{trainer}/{window}", seconds=FIT_SECONDS):
        return _make_candidate(
            model,
            trainer,
            window,
            stores,
            run=run,
            study_storage=study_storage,
            dagster_run_id=dagster_run_id,
            now=now,
            tell=tell,
        )


def candidate_results(
    candidate: Candidate, split: Split, threshold: ThresholdSettings, own: OwnMetrics | None = None
) -> dict[str, Any]:
    """Return the results that a rebuild must reproduce: metrics, decision threshold and predictions digest.

    The metrics are those of the test rows, and with the prefix ``validation_`` those of the validation rows. Validation
    metrics come from the fit that had not seen these rows, and several candidates are compared by them, so that the
    test window stays unseen. They use the scores before calibration: calibration is fitted on the validation rows, and
    would look better on them than it is. It hardly changes the ranking (auc). ``own`` are further metrics, of a team's
    own.
    """
    predictions, bounds = candidate.predict(split.test), candidate.calibration.bounds
    task = candidate.task
    labels = task.encode(split.validation[LABEL], "Training set, validation part")
    choice = None
    if task.has_threshold:
        calibrated = candidate.calibration.apply(candidate.validation_predictions)
        choice = choose_threshold(threshold, labels, calibrated)
    tested = task.encode(split.test[LABEL], "Training set, test part")
    test = task.score(tested, predictions, bounds(predictions), context=task.context(split.test))
    validated = task.score(
        labels,
        candidate.validation_predictions,
        bounds(candidate.validation_predictions),
        context=task.context(split.validation),
    )
    test, validated = test | task.summary(tested), validated | task.summary(labels)
    if own:
        test |= own_scores(own, tested, predictions)
        validated |= own_scores(own, labels, candidate.validation_predictions)
    return {
        "metrics": test | {f"{VALIDATION_PREFIX}{name}": value for name, value in validated.items()},
        "threshold": None if choice is None else choice.model_dump(),
        "predictions": predictions_digest(predictions),
    }


def model_inputs(features: FeatureSet, task: Task) -> list[str]:
    """Return the columns of a training set from which a version predicts and answers, for its signature."""
    return list(dict.fromkeys([*features.prediction_columns, *task.context_fields.values()]))


def _read_partitions(
    model: BoundModel, lake: Lake, table: tuple[str, int | None], first: str | None, last: str
) -> pl.DataFrame:
    scheme = model.partitions
    start = scheme.first if first is None else scheme.latest([scheme.first, first])
    return lake.scan(*table, scheme.between(start, last)).drop(PARTITION).sort("predict_at", "example_id").collect()


def _make_candidate(
    model: BoundModel,
    trainer: str,
    window: str,
    stores: PlatformStores,
    *,
    run: "TrackedRun",
    study_storage: str | None,
    dagster_run_id: str,
    now: datetime,
    tell: Tell,
) -> CandidateResult:
    frame = read_training_set(model, window, stores.lake)
    split = split_of(model, window, frame)
    planned_manifest = _planned_manifest(model, trainer, window, frame, stores, dagster_run_id, now)
    checkpoint = stores.home.models / "checkpoints" / model.name / trainer / window
    existing = _version_with_inputs(model, planned_manifest, stores)
    if existing is not None:
        run.set_tags({"ml_platform.skipped": f"unchanged inputs: version {existing.version}"})
        stores.registry.mark_chosen(existing, now)
        shutil.rmtree(checkpoint, ignore_errors=True)
        manifest = stores.registry.manifest(existing)
        pin_tables(stores.lake.catalog, model.name, existing.content_digest, manifest.tables)
        return CandidateResult(existing, existing.content_digest, manifest, split.counts(), None)
    declared = model.declared.trainers[trainer]
    progress = FitProgress(
        tell,
        lambda name, losses, first: run.log_curves({name: losses}, first),
        most=most_rounds(declared),
        trials=declared.tuning.trials if declared.tuning is not None else None,
    )
    log_trial = trial_logger(run)

    def on_trial(trial: Trial) -> None:
        log_trial(trial)
        progress.trial(trial)

    candidate = fit_candidate(
        split,
        model.feature_set.feature_names,
        declared,
        task=model.declared.task,
        prices=read_prices(stores.repository),
        checkpoint=checkpoint,
        study_storage=study_storage,
        report=progress,
        on_phase=progress.phase,
        on_trial=on_trial,
        feature_set=model.feature_set,
    )
    progress.complete([loss for _, loss in candidate.history])
    manifest = _completed_manifest(planned_manifest, model, candidate, split)
    version, content = _register(model, candidate, manifest, split, stores.registry, run)
    pin_tables(stores.lake.catalog, model.name, content, manifest.tables)
    # Remove the checkpoint last: a failure before this line would repeat the fit.
    shutil.rmtree(checkpoint, ignore_errors=True)
    return CandidateResult(version, content, manifest, split.counts(), candidate)


def _version_with_inputs(model: BoundModel, planned: Manifest, stores: PlatformStores) -> ModelVersion | None:
    """Return the version with the inputs of ``planned``; a manifest names the model as it was called when trained."""
    for name in (model.name, *stores.audit.former_names(model.name)):
        named = planned.model_copy(update={"model": name})
        found = find_version(stores.registry, model.name, named.inputs_digest())
        if found is not None:
            return found
    return None


def _no_examples(error: NoExamplesError, window: str, empty_tables: Sequence[str]) -> NoExamplesError:
    if empty_tables:
        found = f"none: {listed(empty_tables)} has no rows in {window}"
        fix = "Land the rows of this window, or declare partitions of the model that start after it."
    else:
        found = f"none, although all sources have rows in {window}"
        fix = "Correct the examples function that the model's defs.yaml names."
    return NoExamplesError(error.subject, expected=error.expected, found=found, fix=fix)


def _require_facts(model: BoundModel, first: str, last: str, lake: Lake) -> None:
    for view in model.stored_views:
        scheme = model.view_scheme(view)
        written = {key for key in lake.digests(view.table) if key is not None}
        # Reading a view without partitions, or without a table, raises an error of its own.
        if scheme is None or not written:
            continue
        needed = needed_facts(model, view, scheme, first, last)
        missing = [key for key in needed if key not in written]
        if missing:
            raise LakeError(
                f"Training set of '{model.name}', {first} to {last}",
                expected=f"the facts of features/{view.name}, code version {view.code_version}, since {needed[0]}",
                found=f"no facts of {listed(missing)}",
                fix="Materialize the view for these partitions: its code has changed since their last materialization.",
            )


def needed_facts(model: BoundModel, view: FeatureView, scheme: PartitionScheme, first: str, last: str) -> Sequence[str]:
    """Return the partitions of ``view`` whose facts examples from ``first`` to ``last`` may read."""
    if not scheme.is_timed:
        return scheme.names
    beginning = scheme.bounds(scheme.first)[0]
    if model.partitions.is_timed and view.tolerance_minutes:
        oldest = model.partitions.bounds(first)[0] - timedelta(minutes=view.tolerance_minutes)
        beginning = max(beginning, oldest)
    elif scheme == model.partitions or model.partitions.is_timed:
        beginning = max(beginning, model.partitions.bounds(model.partitions.first)[0])
    return scheme.covering(beginning, model.partitions.bounds(last)[1])


def _planned_manifest(
    model: BoundModel,
    trainer: str,
    window: str,
    frame: pl.DataFrame,
    stores: PlatformStores,
    dagster_run_id: str,
    now: datetime,
) -> Manifest:
    """Return the manifest as known before the fit: inputs, settings and environment, without results."""
    lake, repository = stores.lake, stores.repository
    champion = current_champion(stores.audit, model.name)
    declared = model.declared.trainers[trainer]
    tables = {model.table: lake.version(model.table) or 0}
    tables |= {table: lake.version(table) or 0 for table in (f"datasets/{name}" for name in model.example_datasets)}
    tables |= {view.table: model.feature_set.versions(lake)[view.name] for view in model.stored_views}
    return Manifest(
        model=model.name,
        partition=window,
        trainer=trainer,
        tables=tables,
        training_set=content_hash(frame),
        first_month=model.declared.split.first_partition(window, model.partitions) if model.has_time else None,
        training_rows=frame.height,
        code=collect_code(repository, code_of_candidate(model, declared)),
        lock=collect_lock(repository),
        parameters=declared.declared_inputs(),
        declared=declared_inputs(model),
        threshold_rule=(
            model.declared.threshold.model_dump(exclude_none=True) if model.declared.task.has_threshold else None
        ),
        seeds={"trainer": declared.seed},
        hardware=collect_hardware(),
        libraries=collect_libraries(
            [
                *unlocked_packages(declared),
                *transformer_libraries(model.feature_set.fitted),
                *model.locks(repository).domain_pins(),
            ]
        ),
        parent=None if champion is None else champion.content_digest,
        data_clock=data_clock(model, lake).isoformat(),
        dagster_run_id=dagster_run_id,
        created_at=now.isoformat(),
    )


def _completed_manifest(planned: Manifest, model: BoundModel, candidate: Candidate, split: Split) -> Manifest:
    return planned.model_copy(
        update={
            "hardware": collect_hardware(candidate.resource_usage.device),
            "fitted": candidate.declared.model_copy(update={"tuning": None}).declared_inputs(),
            **candidate_results(candidate, split, model.declared.threshold, model.own_primary_metric),
        }
    )


def _register(
    model: BoundModel,
    candidate: Candidate,
    manifest: Manifest,
    split: Split,
    registry: ModelRegistry,
    run: "TrackedRun",
) -> tuple[ModelVersion | None, str]:
    """Write the model directory, log the run and register the version; return it (None: queued) and its digest."""
    with scratch_folder(model.name) as scratch:
        directory = scratch / "model"
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
        inputs = model_inputs(model.feature_set, model.declared.task)
        example = without_pii(split.test.select(inputs).head(5), model.pii_columns)
        version = register_or_queue(registry, run, model.name, directory, input_example=example)
        return version, directory_digest(directory, leave_out=[MANIFEST_FILE])


def _log_run(run: "TrackedRun", candidate: Candidate, manifest: Manifest, split: Split) -> None:
    logged = declared_settings(candidate.declared)
    fitted = fitted_settings(candidate.declared, candidate.fitted)
    run.log_params({name: value for name, value in fitted.items() if name not in logged})
    run.set_tags({"manifest": manifest.digest(), "training_set": manifest.training_set})
    resource_usage = asdict(candidate.resource_usage)
    usage = {name: value for name, value in resource_usage.items() if isinstance(value, int | float)}
    run.log_metrics({**{name: float(count) for name, count in split.counts().items()}, **usage})
    run.log_bytes(importance_plot(candidate.fitted.importance()), "plots/importance.png")
    if candidate.tuning is not None:
        log_search(run, candidate.tuning)
