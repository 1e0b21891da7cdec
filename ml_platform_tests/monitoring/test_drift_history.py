"""The drift of the last partitions of a model, in the state store."""

from benchmarks.home_page import drift_report
from ml_platform.monitoring.drift_history import (
    COLUMNS_KEPT,
    PARTITIONS_KEPT,
    DriftSummary,
    drift_history,
    move_drift_history,
    record_drift,
)
from ml_platform.state.store import StateStore

EFFECTS = {"price": 0.25, "colour": 0.05}


def test_summary_has_the_effect_of_each_column_over_its_limit(state_store: StateStore) -> None:
    record_drift(state_store, "sales", "2013-02", drift_report(EFFECTS), ["2013-01", "2013-02"])
    (found,) = drift_history(state_store, "sales")
    assert (found.partition, found.decision, found.drifted) == ("2013-02", "notice", ["price"])
    assert found.columns == {"price": 2.5, "colour": 0.5}
    assert found.reason.startswith("Notice: features shifted (1 of 2): 'price'")
    assert drift_history(state_store, "other") == []


def test_partitions_are_in_order_and_the_last_result_of_each_counts(state_store: StateStore) -> None:
    order = ["first", "second", "third"]
    for partition in ("third", "first", "second"):
        record_drift(state_store, "sales", partition, drift_report(EFFECTS), order)
    record_drift(state_store, "sales", "first", drift_report({"price": 0.01}), order)
    found = drift_history(state_store, "sales")
    assert [each.partition for each in found] == order
    assert [each.decision for each in found] == ["steady", "notice", "notice"]


def test_partitions_and_columns_are_bounded(state_store: StateStore) -> None:
    order = [f"{at:03d}" for at in range(PARTITIONS_KEPT + 2)]
    wide = {f"column_{at}": 0.01 for at in range(COLUMNS_KEPT + 5)}
    for partition in order:
        record_drift(state_store, "sales", partition, drift_report(wide), order)
    found = drift_history(state_store, "sales")
    assert [each.partition for each in found] == order[2:]
    assert len(found[-1].columns) == COLUMNS_KEPT


def test_summary_of_an_earlier_version_is_read() -> None:
    stored = {"partition": "2013-01", "decision": "steady", "reason": "Steady.", "columns": {"x": 0.2}, "drifted": []}
    assert (DriftSummary.model_validate(stored).gradual, DriftSummary.model_validate(stored).not_judged) == ([], [])


def test_renamed_model_keeps_its_history(state_store: StateStore) -> None:
    record_drift(state_store, "old", "2013-01", drift_report(EFFECTS), ["2013-01"])
    move_drift_history(state_store, "old", "new")
    assert [each.partition for each in drift_history(state_store, "new")] == ["2013-01"]
    assert drift_history(state_store, "old") == []
