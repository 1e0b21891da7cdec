"""Reports as metadata: the tables of periods, columns and looks whose rows have unequal fields."""

from datetime import timedelta
from typing import Any

import polars as pl

from ml_platform.components.check_results import drift_metadata
from ml_platform.components.metadata import records_table
from ml_platform.components.performance_results import performance_metadata
from ml_platform.evaluation.look import Look, looks_table
from ml_platform.monitoring.drift_report import ColumnDrift, DriftReport
from ml_platform.steps.monitoring import DriftResult
from ml_platform_tests.monitoring.test_performance import JULY, month, performance_of


def records(table: Any) -> list[dict[str, Any]]:
    return [dict(record.data) for record in table.records]


def test_period_without_enough_labels_stands_beside_one_that_is_judged() -> None:
    few = month(right=1, wrong=0, unknown=30, start=JULY + timedelta(days=40))
    shown = performance_metadata(performance_of(pl.concat([month(right=80, wrong=20), few])))
    judged, open_period = records(shown["by_period"])
    assert (judged["share_right"], open_period["share_right"]) == (0.8, None)
    assert (judged["labelled"], open_period["labelled"]) == (100, 1)
    assert shown["share_right"] == 0.8


def test_column_that_was_not_evaluated_stands_beside_one_that_was() -> None:
    evaluated = ColumnDrift(
        name="distance",
        role="feature",
        kind="number",
        effect=0.2,
        limit=0.1,
        p_value=0.001,
        stability_index=0.3,
        windows_flagged=2,
        windows_evaluated=3,
        shifted=True,
        null_rate_reference=0.0,
        null_rate_current=0.0,
        nulls_changed=False,
        unseen_share=0.0,
        unseen_examples=[],
        unseen_appeared=False,
    )
    empty = evaluated.model_copy(update={"name": "empty", "effect": None, "p_value": None, "stability_index": None})
    report = DriftReport(
        columns=[empty, evaluated],
        rows_reference=100,
        rows_current=100,
        compared_reference=100,
        compared_current=100,
        expected_rows=None,
        volume_changed=False,
        windows_evaluated=3,
    )
    shown = records(drift_metadata(DriftResult(report, None, None))["columns"])
    assert [(row["column"], row["distance"]) for row in shown] == [("empty", None), ("distance", 0.2)]


def test_looks_before_and_after_a_gate_was_declared_are_one_table() -> None:
    first = Look(
        number=1,
        window="2013-04",
        until="2013-05-01",
        rows=60,
        pooled_rows=60,
        blocks=2,
        cases=20,
        level=0.025,
        spent=0.025,
        estimates={},
    )
    numbers = {"improvement": 0.1, "low": 0.05, "high": 0.15}
    second = first.model_copy(update={"number": 2, "estimates": {"paired_test_auc": numbers}})
    shown = records(records_table(looks_table([first, second])))
    assert [row["paired_test_auc"] for row in shown] == [None, "+0.1000 (+0.0500 to +0.1500)"]
