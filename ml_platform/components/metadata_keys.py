"""The table of metadata keys of assets and checks, with meaning and unit; the reference page is generated from it.

A key in angle brackets represents several keys, such as one per metric. ``ml_platform_tests/test_docs_site.py``
compares the table with the code: every recorded key is listed, and every listed key is recorded.
"""

from collections.abc import Mapping
from typing import NamedTuple


class MetadataKey(NamedTuple):
    """One key, its meaning in a sentence, and its unit if it is a number with a unit."""

    key: str
    meaning: str
    unit: str = ""


_TABLE = (
    MetadataKey("dagster/row_count", "Rows written to the partition.", "rows"),
    MetadataKey("table_version", "Version of the Delta table after the write."),
    MetadataKey("content_sha256", "Digest of the written rows; equal rows have an equal digest."),
    MetadataKey("size_bytes", "Size of the partition's files.", "bytes"),
)

_CODE = MetadataKey(
    "covered_code",
    "Functions that the code version covers, a digest of each declared setting, and definitions that do not count.",
)

_RESOURCES = (
    MetadataKey("device", "Device of the step: cpu, or the name of the GPU."),
    MetadataKey(
        "wall_seconds",
        "Elapsed time of the step, which may make several partitions; of a candidate's fit.",
        "seconds",
    ),
    MetadataKey("cpu_seconds", "Processor time, summed over cores.", "seconds"),
    MetadataKey("gpu_seconds", "Time in which GPU kernels ran, summed over GPUs; 0 without NVML.", "seconds"),
    MetadataKey("peak_memory_bytes", "Highest resident memory of the process so far.", "bytes"),
    MetadataKey("bytes_written", "Bytes that the process sent to storage; 0 where the system does not count.", "bytes"),
    MetadataKey("cost", "Cost by the prices in params.yaml.", "see currency"),
    MetadataKey("currency", "Currency of the cost."),
)

_METRICS = (
    MetadataKey("<metric>", "Value of a metric, for example auc, log_loss, brier, ece, rmse.", "of the metric"),
)

_VERSION = MetadataKey("version", "Number of the version in the model registry.")
_RUN = MetadataKey("mlflow_run", "Link to the MLflow run of the version.")

METADATA_KEYS: Mapping[str, tuple[MetadataKey, ...]] = {
    "datasets/<name>": (
        MetadataKey("dagster/column_schema", "Columns with type, description, unit and nullability."),
        MetadataKey("dagster/table_name", "Table in the lake."),
        _CODE,
        MetadataKey("keys", "Columns that together identify a row of a partition."),
        MetadataKey("loader", "Function that reads a landed file."),
        MetadataKey("source", "Description of the declared source."),
        MetadataKey("event_time", "Column with the time of the event, if declared."),
        *_TABLE,
        MetadataKey("landed_sha256", "Digest of the landed file that was read; the landing sensor compares it."),
        MetadataKey("landed_size_bytes", "Size of the landed file.", "bytes"),
        MetadataKey("data_docs", "Link to the Data Docs of the partition's expectations."),
        MetadataKey("quality", "As usual, info, warning, critical or not judged, with the reason."),
        MetadataKey("quality_measures", "Table of measures: value, usual value, largest usual value, severity."),
        *_RESOURCES,
    ),
    "datasets/<name>, checks landed, schema, expectations": (
        MetadataKey("rows", "Rows that were checked.", "rows"),
        MetadataKey("checked_rules", "Rules that were checked."),
        MetadataKey("broken_rules", "Rules that were broken."),
        MetadataKey("data_docs <partition>", "Link to the Data Docs of a partition; 'whole' without partitions."),
        MetadataKey("violations", "Table of broken rules: partition, column, rule, count, examples, message."),
    ),
    "datasets/<name>, check quality": (
        MetadataKey("judged_partitions", "Partitions of the run that were compared with others."),
        MetadataKey("not_judged_partitions", "Partitions of the run that could not be judged."),
        MetadataKey("not_judged", "Why the first of these could not be judged."),
        MetadataKey("worst_severity", "Highest severity of a finding, or none."),
        MetadataKey("findings", "Table of findings: subject, kind, column, severity, what, how_bad, since."),
    ),
    "features/<view>, stored": (
        MetadataKey("dagster/column_schema", "Entity columns, known_at and features with type, description and unit."),
        MetadataKey(
            "dagster/column_lineage", "Source columns from which each feature is derived; recorded once per run."
        ),
        MetadataKey("dagster/table_name", "Table of the change log, with the code version in its name."),
        _CODE,
        MetadataKey("entity", "Key columns of the view."),
        MetadataKey("lookback_days", "Number of days before the partition that the function also reads.", "days"),
        MetadataKey(
            "function", "Function that returns the facts of the change log, or the features of a request view."
        ),
        MetadataKey("tolerance_minutes", "Maximum age of a value that is still used, if declared.", "minutes"),
        *_TABLE,
        MetadataKey("duplicates", "Rows left out because an equal row is kept.", "rows"),
        MetadataKey("superseded", "Facts left out because a later row has the same entity and known_at.", "rows"),
        MetadataKey("before_window", "Facts left out because they belong to an earlier partition.", "rows"),
        MetadataKey("after_clock", "Facts left out because they become known after the partition.", "rows"),
        MetadataKey("first_after_clock", "First fact that becomes known after the partition: view, entity, time."),
        MetadataKey("late_facts", "Facts older than the latest one of the partition's previous write.", "rows"),
        MetadataKey("first_late_fact", "First late fact: view, entity, time."),
        MetadataKey("online_entities", "Entities in the published online snapshot."),
        MetadataKey("online_watermark", "Time up to which the snapshot contains all known facts (ISO 8601, UTC)."),
        MetadataKey(
            "online_published",
            "Whether this run published the snapshot; a snapshot with a later watermark is not replaced.",
        ),
        *_RESOURCES,
    ),
    "features/<view>, request": (
        _CODE,
        MetadataKey("features", "Number of features.", "features"),
        MetadataKey("inputs", "Views whose values the function takes."),
        *_RESOURCES,
    ),
    "<model>/training_set": (
        MetadataKey("dagster/table_name", "Table of the training set, with the code version in its name."),
        MetadataKey("dagster/column_schema", "Example, label, request fields and features with type and description."),
        _CODE,
        MetadataKey("features", "Number of features.", "features"),
        *_TABLE,
        *_RESOURCES,
        MetadataKey("labelled", "Rows with a label, where labels are a dataset of their own.", "rows"),
        MetadataKey("unlabelled", "Rows whose label is not known yet.", "rows"),
        MetadataKey("labels_until", "Time until which the labels have landed without a gap."),
        MetadataKey("labels_due", "Time at which all labels of the partition are due."),
        MetadataKey(
            "label_rows_without_example", "Label rows known within the partition that match no example.", "rows"
        ),
    ),
    "<model>/training_set, check known_in_time": (
        MetadataKey("late_fields", "Request fields that are known only after the prediction."),
        MetadataKey("examples", "Table of rows with a late field."),
    ),
    "<model>/training_set, check leakage_screen": (
        MetadataKey("auc_random_split", "AUC of the small model on a random split.", "AUC"),
        MetadataKey("auc_time_split", "AUC of the small model on a split by time.", "AUC"),
        MetadataKey("auc_gap", "auc_random_split minus auc_time_split.", "AUC"),
        MetadataKey("best_feature_alone", "Feature with the highest AUC alone."),
        MetadataKey("best_auc_alone", "AUC of that feature alone.", "AUC"),
        MetadataKey("rows", "Rows that were screened.", "rows"),
        MetadataKey("auc_alone", "Table with the AUC of every feature alone."),
    ),
    "<model>/candidate_<trainer>": (
        _CODE,
        MetadataKey("content_digest", "Digest of the model directory without its manifest."),
        MetadataKey("manifest", "Inputs of the version: tables, code, lock file, parameters, seeds and hardware."),
        MetadataKey("train_rows", "Rows that the model was fitted on.", "rows"),
        MetadataKey(
            "late_rows", "Rows whose label became known during the validation window; only the refit uses them.", "rows"
        ),
        MetadataKey("validation_rows", "Rows for early stopping, tuning and calibration.", "rows"),
        MetadataKey("test_rows", "Rows of the candidate's window, on which it is evaluated.", "rows"),
        MetadataKey("embargoed_rows", "Rows left out because their label was not known in time.", "rows"),
        MetadataKey("unlabelled_<part>_rows", "Rows of a part without a label.", "rows"),
        MetadataKey(
            "queued", "Reason why the MLflow run and the version wait in the outbox: the tracking server is down."
        ),
        _VERSION,
        _RUN,
        MetadataKey("skipped", "Reason why nothing was fitted: no GPU, or unchanged inputs."),
        *_RESOURCES,
        MetadataKey("rounds", "Boosting rounds or epochs of the final fit."),
        MetadataKey("notes", "Remarks about the fit for the owner, for example a feature without values."),
        MetadataKey(
            "threshold", "Score from which the endpoint answers true; only for a classification.", "score, 0 to 1"
        ),
        MetadataKey("threshold_rule", "Declared rule by which the threshold was chosen on the validation rows."),
        MetadataKey("importance", "Plot of the importance of each feature, as a share of the total."),
        MetadataKey("loss_curve", "Plot of the validation loss by round or epoch."),
        MetadataKey("trials", "Table of the search: number, state, loss, rounds, seconds, settings."),
    ),
    "<model>/evaluation": (
        MetadataKey("summary", "The verdict, its reasons, the metrics with intervals, and links, as Markdown."),
        _CODE,
        _VERSION,
        _RUN,
        MetadataKey("decision", "The verdict: PROMOTE, HOLD or REJECT."),
        MetadataKey("reasons", "Reasons of the gates that did not pass."),
        MetadataKey(
            "labels_needed", "Approximate number of additional labels that would decide a HOLD; 0 otherwise.", "labels"
        ),
        MetadataKey("data_needed", "Length of data that has so many labels at the rate of the last window."),
        *_METRICS,
        MetadataKey("<metric>_low", "Lower end of the metric's confidence interval.", "of the metric"),
        MetadataKey("<metric>_high", "Upper end of the metric's confidence interval.", "of the metric"),
        MetadataKey("base_rate", "Mean of the labels.", "share, 0 to 1"),
        MetadataKey("<metric>_<model>", "Metric of the champion or a baseline on the same rows.", "of the metric"),
        MetadataKey("<metric>_delay_<delay>", "Metric if each fact arrived after this delay.", "of the metric"),
        MetadataKey("looks", "Table of the looks at the candidate: window, rows, blocks, level, improvement."),
        MetadataKey("freshness", "Table of metrics by the arrival of facts, the declared one first."),
        MetadataKey("rows", "Rows that were scored.", "rows"),
        MetadataKey("bento_latency_p99_ms", "99th percentile of one-row latency of the bento.", "milliseconds"),
        MetadataKey("bento_size_bytes", "Size of the bento.", "bytes"),
        MetadataKey("verdict", "Digest of the recorded verdict."),
        MetadataKey("request_only_baseline", "Why there is no such baseline: the model itself has only such features."),
        MetadataKey("reliability", "Plot of predicted and observed shares."),
        MetadataKey("reliability_<class>", "The same plot of one of several classes."),
        MetadataKey("improvement", "Plot of the improvement over the champion, with intervals."),
        MetadataKey("weakest_slices", "Table of the slices with the worst score: column, value, rows, score."),
        *_RESOURCES,
    ),
    "<model>/evaluation, observation of a window that is left out": (
        MetadataKey("skipped", "Reason why the window is never evaluated."),
    ),
    "<model>/evaluation, observation of a decision on retraining": (
        MetadataKey("action", "The decision on retraining."),
        MetadataKey("decided_by", "The policy, or the person who lets a stopped training start again."),
        MetadataKey("reason", "The findings that decided."),
        MetadataKey("because", "Findings of all rules of the policy: rule, effect, text and numbers, as JSON."),
    ),
    "<model>/evaluation, checks of the gates": (
        MetadataKey("<metric>", "Metric of the candidate if there is no champion.", "of the metric"),
        MetadataKey(
            "improvement", "Improvement of the candidate over the champion; negative is worse.", "of the metric"
        ),
        MetadataKey("low", "Lower end of the interval.", "of the metric"),
        MetadataKey("high", "Upper end of the interval.", "of the metric"),
        MetadataKey("bound", "Bound that the interval must exceed.", "of the metric"),
        MetadataKey("p_value", "One-sided p-value against the bound, or that of perfect calibration."),
        MetadataKey(
            "<prefix><number>_over_<baseline>",
            "The same numbers against a baseline; with the prefix 'average_precision_' for rare positives.",
            "of the metric",
        ),
        MetadataKey("value", "Measured value of a gate with a limit.", "of the metric, milliseconds or megabytes"),
        MetadataKey("limit", "Limit of that gate.", "as value"),
        MetadataKey("ece", "Expected calibration error without the part of chance.", "share, 0 to 1"),
        MetadataKey("ece_low", "Lower end of its interval.", "share, 0 to 1"),
        MetadataKey("ece_high", "Upper end of its interval.", "share, 0 to 1"),
        MetadataKey("bias", "Mean probability minus base rate.", "share, -1 to 1"),
        MetadataKey("slices", "Slices that were compared."),
        MetadataKey("proven_worse", "Slices that are shown to be worse by more than the margin."),
        MetadataKey("not_proven_safe", "Slices that are not shown to be safe."),
        MetadataKey("worst_improvement", "Smallest improvement of a slice; negative is worse.", "of the metric"),
        MetadataKey("small_slices", "Slices below the support, compared in one test."),
        MetadataKey("small_slices_p_value", "P-value of: no small slice is worse."),
        MetadataKey("cases", "Rows of the rarer class, where they are too few for a comparison.", "rows"),
        MetadataKey("minimum_cases", "Rows of the rarer class from which a comparison decides.", "rows"),
        MetadataKey("found", "Features with a leak, or messages of broken contracts."),
    ),
    "<model>/model_card": (
        _VERSION,
        MetadataKey("model_card", "Link to the page of the model card."),
        _RUN,
        MetadataKey("markdown", "Model card as Markdown."),
        *_RESOURCES,
    ),
    "<model>/champion": (
        _VERSION,
        MetadataKey("previous_version", "Version that was champion before; 0 for none."),
        MetadataKey("champion_since", "Time at which the version became champion (ISO 8601)."),
        MetadataKey("decided_by", "Dagster run or person that made the decision."),
        MetadataKey("approved_by", "People whose approvals counted."),
        MetadataKey("reason", "Reason of the decision."),
        MetadataKey("release", "Result of the DVC release, or the reason why there is none."),
        MetadataKey("model_card", "Link to the page of the model card."),
        MetadataKey("card_written", "Whether the model card was updated, or the reason why not."),
        *_RESOURCES,
    ),
    "<model>/champion, check approved": (
        _VERSION,
        MetadataKey("state", "'waits as challenger', 'rejected', 'on hold' or 'refused by its gates'."),
    ),
    "<model>/champion, check reproducible": (
        _VERSION,
        MetadataKey("environment_differences", "Differences in code, lock file or machine since the training."),
        MetadataKey("comparisons", "Table of comparisons: item, recorded value, rebuilt value, equal."),
    ),
    "<model>/bento": (
        _VERSION,
        MetadataKey("tag", "BentoML's tag of the bento."),
        MetadataKey("path", "Folder of the bento."),
        MetadataKey("size_bytes", "Size of the bento.", "bytes"),
        MetadataKey(
            "verified_rows", "Number of reference rows on which the bento reproduced the training scores.", "rows"
        ),
        MetadataKey("latency_p50_ms", "Median of one-row latency in the smoke test.", "milliseconds"),
        MetadataKey("latency_p99_ms", "99th percentile of one-row latency in the smoke test.", "milliseconds"),
        MetadataKey("sbom", "Bill of materials of the bento (CycloneDX): its libraries with version and licence."),
        MetadataKey("libraries", "Libraries that the bento needs, with those that they bring along.", "libraries"),
        MetadataKey("signed_by", "Id of the key that signed the files of the bento (first digits)."),
        *_RESOURCES,
    ),
    "<model>/bento, check compatible_contract": (
        MetadataKey("stable", "Version that serves, with which the contract was compared, or 'none'."),
        MetadataKey("changes", "Table of the changes that break apps, and whether each is intended."),
    ),
    "<model>/bento, check load_test": (
        MetadataKey("outcome", "pass, fail, or noisy: the machine was too busy for a decision."),
        MetadataKey("tested_at", "When the test ended; a bento that has passed is not tested again."),
        MetadataKey("rate", "Declared load.", "requests per second"),
        MetadataKey("limit_p99_ms", "Highest p99 beyond that of a bare endpoint.", "milliseconds"),
        MetadataKey("turns", "Table of the turns of service and bare endpoint: requests, errors, p50 and p99."),
    ),
    "<model>/rollout": (
        MetadataKey("generation", "Generation of the desired state; every change raises it by one."),
        MetadataKey("stable", "Version that answers by default, or 'none'."),
        MetadataKey("candidate", "Version that answers a share of the requests, or 'none'."),
        MetadataKey("shadow", "Version that receives a copy of the requests, or 'none'."),
        MetadataKey("weights", "Share of the requests by role.", "percent"),
        MetadataKey("scaling", "Table of the last changes of the replicas: time, version, numbers, load, target."),
        *_RESOURCES,
    ),
    "<model>/champion and <model>/rollout, event of a decision without a run": (
        _VERSION,
        MetadataKey("action", "Decision: promote, roll_back, restore, retire, approve, reject or approve step."),
        MetadataKey("decided_by", "Person or process that made the decision."),
        MetadataKey("reason", "Reason of the decision."),
        MetadataKey("evidence", "Digest of the evidence on which a version was approved or rejected."),
    ),
    "<model>/rollout, observation of a rollout in steps": (
        MetadataKey("outcome", "Outcome of the rollout: running, completed, rolled_back or superseded."),
        MetadataKey("step", "Number of the current step, and of all steps."),
        MetadataKey("next", "Condition of the next step, or the reason of the outcome."),
        MetadataKey("desired", "Table of the two versions with their answers and the share of the requests."),
        MetadataKey("observed", "State of the services of the model, as serving reports it."),
        MetadataKey("errors", "Errors of the candidate in this step.", "answers"),
        MetadataKey("evidence", "Evidence against the candidate, by guardrail; enough of it rolls it back."),
        MetadataKey("course", "Plot of both versions over the rollout."),
    ),
    "<model>/predictions": (
        MetadataKey("dagster/table_name", "Table of the logged predictions."),
        MetadataKey("dagster/row_count", "Predictions in the table.", "rows"),
        MetadataKey("represented", "Predictions for which these rows stand, the sum of their weights.", "rows"),
        MetadataKey("lines", "Complete lines of the log that were read.", "lines"),
        MetadataKey("added", "Predictions that this run added.", "rows"),
        MetadataKey(
            "duplicates", "Logged predictions that the table already contained, or that were logged twice.", "rows"
        ),
        MetadataKey("corrupt", "Lines that were moved to the quarantine table.", "lines"),
        MetadataKey("pending_bytes", "Bytes after the last complete line.", "bytes"),
        MetadataKey("partitions", "Days (UTC, by the time of logging) of the table that changed."),
        MetadataKey("lost", "Predictions that killed services had answered and not written yet, in all.", "rows"),
        MetadataKey("dropped", "Predictions that services did not write, for example on a full disk, in all.", "rows"),
        *_RESOURCES,
    ),
    "<model>/predictions, check skew": (
        MetadataKey("predictions_compared", "Logged predictions that were recomputed.", "rows"),
        MetadataKey("features_compared", "Features that were recomputed.", "features"),
        MetadataKey("features_differing", "Features with another value than logged.", "features"),
        MetadataKey("mismatches", "Table of differing values: prediction, feature, logged value, recomputed value."),
    ),
    "<model>/predictions, checks prediction_gaps, store_staleness, feature_age": (
        MetadataKey("findings", "Table of findings: subject, kind, column, severity, what, how_bad, since."),
        MetadataKey("judged_hours", "Hours whose usual traffic is known, of prediction_gaps.", "hours"),
        MetadataKey("views", "Table of the views: hours behind, and the limit, of the other two."),
    ),
    "<model>/outcomes": (
        MetadataKey("dagster/table_name", "Table of the outcomes."),
        *_TABLE,
        MetadataKey("labelled", "Predictions whose outcome is known.", "rows"),
        MetadataKey("reason", "Reason why there are no outcomes."),
        *_RESOURCES,
    ),
    "<model>/performance": (
        MetadataKey("periods", "Periods with predictions."),
        MetadataKey("predictions", "Predictions of the stable version in all periods.", "rows"),
        MetadataKey("labelled", "Predictions whose outcome is known.", "rows"),
        MetadataKey("reason", "Reason why no period was evaluated."),
        MetadataKey("by_period", "Table with a row per period and version: coverage, metrics, expectation."),
        MetadataKey("by_slice", "Table with a row per slice of the latest evaluated period: labels and metrics."),
        MetadataKey("by_group", "Table with a row per rate and group of the fairness gates, with intervals."),
        MetadataKey("by_arm", "Table with a row per candidate or shadow of that period, beside the stable version."),
        MetadataKey("version", "Version of the latest evaluated period."),
        MetadataKey("period", "First day of the latest evaluated period."),
        MetadataKey("quality_over_time", "Plot of promised, estimated and realised values by period."),
        MetadataKey("estimated_period", "First day of the latest period, whose labels need not be known."),
        MetadataKey("estimated_<metric>", "Metric that is expected in that period, without labels.", "of the metric"),
        MetadataKey("estimated_<metric>_low", "Lower end of its interval.", "of the metric"),
        MetadataKey("estimated_<metric>_high", "Upper end of its interval.", "of the metric"),
        MetadataKey("estimates_unreliable", "Metrics whose earlier estimates missed the realised values too often."),
        MetadataKey("track_record", "Table of the earlier estimates by metric: periods, within interval, mean error."),
        MetadataKey("not_estimated", "Reason why nothing is estimated."),
        MetadataKey("maturity", "Share of the labels of the period that should be known by now.", "share, 0 to 1"),
        MetadataKey("label_state", "complete, or marked, corrected or withheld because the labels leave doubts."),
        MetadataKey("doubts", "Reasons why the known labels of the period may mislead."),
        *_METRICS,
        MetadataKey("<metric>_low", "Lower end of the metric's confidence interval.", "of the metric"),
        MetadataKey("<metric>_high", "Upper end of the metric's confidence interval.", "of the metric"),
        *_RESOURCES,
    ),
    "<model>/performance, check performance_regression": (
        MetadataKey(
            "shortfall_<metric>",
            "Difference by which the metric is worse than in the evaluation; negative is better.",
            "of the metric",
        ),
        MetadataKey("doubts", "Reasons why the period is not judged as good: labels that are due are missing."),
    ),
    "<model>/performance, check concept_drift": (
        MetadataKey("metric", "Loss that is followed."),
        MetadataKey("by_inputs", "Change of the loss by the mix of the predictions: estimated minus promised."),
        MetadataKey("by_relation", "Change that it does not explain: realised minus estimated."),
        MetadataKey("unexplained_periods", "Last periods, of at most three, that are worse than their estimate."),
    ),
    "<model>/scores": (
        MetadataKey("dagster/table_name", "Table of the scores; the digest of its columns is part of its name."),
        _CODE,
        *_TABLE,
        MetadataKey("version", "Version that scored the partition."),
        MetadataKey("degraded", "Scored rows that lack something or break a rule.", "rows"),
        MetadataKey("refused", "Rows that the contract refuses, and that are not scored.", "rows"),
        *_RESOURCES,
    ),
    "<model>/scores, check all_rows_scored": (
        MetadataKey("refused", "Rows that are not scored in the partitions of the run.", "rows"),
        MetadataKey("examples", "Table of up to 10 such rows: partition, row, reason, message."),
    ),
    "<model>/drift": (
        MetadataKey("decision", "Result: steady, notice, alert or not evaluated."),
        MetadataKey("reason", "Reason of the decision, or why the check is not applicable."),
        MetadataKey("features", "Features that were compared.", "features"),
        MetadataKey("drifted_features", "Features that drifted.", "features"),
        MetadataKey("drifted", "Names of the columns that drifted, scores included."),
        MetadataKey(
            "gradual", "Names of the features that are far from all earlier rows but those of the last window."
        ),
        MetadataKey("not_judged", "Names of the columns of which a change could not have been found."),
        MetadataKey("nulls_changed", "Columns whose share of nulls changed.", "columns"),
        MetadataKey("unseen_appeared", "Columns with unseen categories beyond the limit.", "columns"),
        MetadataKey("volume_changed", "Whether the number of rows is outside the expected range."),
        MetadataKey("rows_reference", "Rows of the earlier windows.", "rows"),
        MetadataKey("rows_current", "Rows of the window.", "rows"),
        MetadataKey("compared_reference", "Rows of the earlier windows whose values were compared: a sample.", "rows"),
        MetadataKey("compared_current", "Rows of the window whose values were compared: a sample.", "rows"),
        MetadataKey("logged_rows", "Logged predictions whose nulls were compared; 0 means too few.", "rows"),
        MetadataKey("logged_nulls", "Features with more nulls in the log than in earlier windows."),
        MetadataKey("expected_rows", "Mean number of rows of the earlier windows.", "rows"),
        MetadataKey("largest_effect", "Largest distance of any column.", "distance, 0 to 1"),
        MetadataKey("score_effect", "Distance of the scores.", "distance, 0 to 1"),
        MetadataKey("score_limit", "Limit of that distance.", "distance, 0 to 1"),
        MetadataKey("scored_by_version", "Version whose scores were compared."),
        MetadataKey("not_scored", "Why the champion has no scores: the values of its own features cannot be had."),
        MetadataKey(
            "columns",
            "Table of the columns: statistic, distance, threshold, p-value, reference, windows, nulls, unseen share.",
        ),
        MetadataKey("report", "Link to the drift report with plots of the columns."),
        *_RESOURCES,
    ),
    "<model>/drift, check no_drift": (
        MetadataKey("decision", "Result: steady, notice, alert or not evaluated."),
        MetadataKey("drifted", "Number of columns that drifted.", "columns"),
    ),
    "<domain>/not_loaded": (MetadataKey("error", "Errors of a domain that does not load, with file and line."),),
    "platform/housekeeping": (
        MetadataKey("items", "Number of removed items of all kinds."),
        MetadataKey("freed_bytes", "Space that the cleaning freed.", "bytes"),
        MetadataKey("kinds", "Table of the kinds: items, freed bytes, oldest, examples."),
        MetadataKey("model_versions", "Model versions that were removed."),
        MetadataKey("problems", "Errors of kinds that could not be cleaned; the others were."),
        MetadataKey("reason", "Reason why nothing was cleaned: another cleaning or a backup runs."),
        *_RESOURCES,
    ),
}
"""The keys of each asset and check, in the order in which they are recorded."""
