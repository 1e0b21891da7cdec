"""Export of an evaluation for DVC: metrics as flat JSON, curves and feature importance as CSV."""

from pathlib import Path

import polars as pl

from ml_platform.console.arguments import ArgumentError
from ml_platform.data.atomic import write_bytes, write_json
from resources.home import Home

ROC_POINTS = 200
"""Maximal number of points of the ROC curve in the file."""

MAX_FEATURES = 30
"""Number of features in the importance table, most important first."""


def write_evaluation_report(home: Home, model: str, window: str, metrics: Path, plots: Path) -> None:
    """Write the figures of the latest verdict on ``window``: ``metrics`` (JSON), and tables (CSV) in ``plots``.

    They are computed from the evidence of the gates. The tables are the feature importance, the quality by the arrival
    of facts where it was measured, the looks at a candidate that was judged again, and, for a task with probabilities,
    the ROC and reliability curves. Raises :class:`~ml_platform.console.arguments.ArgumentError` when a file cannot be
    written.
    """
    from ml_platform.components import loading
    from ml_platform.components.stores import open_home_stores
    from ml_platform.evaluation.evidence import CANDIDATE
    from ml_platform.evaluation.look import looks_table
    from ml_platform.evaluation.reliability import reliability_bins
    from ml_platform.registry.verdict_record import verdict_metrics
    from ml_platform.steps.evaluation import load_evidence
    from ml_platform.steps.freshness import curve_table
    from ml_platform.steps.packaging import model_directory
    from ml_platform.steps.promotion import evaluated_version, latest_verdict
    from ml_platform.training.model_directory import read_model

    bound = loading.bound_model(model)
    stores = open_home_stores(home)
    verdict = latest_verdict(bound, window, stores)
    stored = read_model(model_directory(evaluated_version(bound, verdict, stores.registry), stores))
    evidence = load_evidence(bound, verdict, home)
    label, predicted = evidence.label, evidence.predictions[CANDIDATE]
    tables = {
        "importance": pl.DataFrame(
            list(stored.fitted.importance().items())[:MAX_FEATURES], schema=["feature", "importance"], orient="row"
        )
    }
    for name, (truth, probability) in evidence.task.probabilities(label, predicted).items():
        suffix = f"_{name}" if evidence.task.output_names else ""
        bins = reliability_bins(truth, probability)
        tables[f"roc{suffix}"] = _roc(truth, probability)
        tables[f"reliability{suffix}"] = pl.DataFrame(
            {"mean_score": [b.predicted for b in bins], "observed_share": [b.observed for b in bins]}
        )
    if len(verdict.looks) > 1:
        tables["looks"] = pl.DataFrame(looks_table(verdict.looks))
    curve = curve_table(verdict_metrics(stores.audit.state, verdict.digest), bound.arrivals)
    if curve:
        tables["freshness"] = pl.DataFrame(curve)
    try:
        write_json(
            metrics,
            evidence.task.score(label, predicted, evidence.bounds.get(CANDIDATE), context=evidence.context)
            | evidence.task.summary(label),
        )
        for name, table in tables.items():
            write_bytes(plots / f"{name}.csv", table.write_csv().encode())
    except OSError as error:
        raise ArgumentError(
            f"Report on '{model}', {window}",
            expected=f"writable paths: {metrics} and {plots}",
            found=str(error),
            fix="Choose other paths with --metrics and --plots.",
        ) from error


def _roc(label: object, scores: object) -> pl.DataFrame:
    ordered = pl.DataFrame({"label": label, "score": scores}).sort("score", descending=True)
    curve = ordered.select(
        ((1 - pl.col("label")).cum_sum() / (1 - pl.col("label")).sum()).alias("false_positive_rate"),
        (pl.col("label").cum_sum() / pl.col("label").sum()).alias("true_positive_rate"),
    )
    return curve.gather_every(max(1, curve.height // ROC_POINTS))
