"""The drift of the last partitions of a model, in the state store, for pages that show a series.

The report of each partition is a page and the metadata of its asset; a series would have to read all of them.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ml_platform.monitoring.drift_report import Decision, DriftReport
from ml_platform.state.cursors import delete_cursors, read_cursor, write_cursor
from ml_platform.state.store import StateStore

PARTITIONS_KEPT = 36
COLUMNS_KEPT = 25
"""Columns kept of a partition: scores first, then those with the largest effect over their limit."""

_PREFIX = "drift/"


class DriftSummary(BaseModel):
    """The drift of one partition: the decision with its reason, and the effect of each column over its limit."""

    model_config = ConfigDict(frozen=True)

    partition: str
    decision: Decision
    reason: str
    columns: dict[str, float] = Field(description="Effect divided by limit, by column; above 1 the change is large.")
    drifted: list[str]
    gradual: list[str] = []
    not_judged: list[str] = []


def record_drift(state: StateStore, model: str, partition: str, report: DriftReport, order: Sequence[str]) -> None:
    """Store the summary of ``report`` on ``partition``; it replaces an earlier one of the same partition.

    ``order`` has the stored partitions of the model in order; the summaries of other ones come before them. The last
    :data:`PARTITIONS_KEPT` summaries are kept.
    """
    columns = [each for each in report.columns if each.effect is not None and each.limit > 0]
    summary = DriftSummary(
        partition=partition,
        decision=report.decision,
        reason=report.reason,
        columns={each.name: round((each.effect or 0.0) / each.limit, 3) for each in columns[:COLUMNS_KEPT]},
        drifted=report.drifted[:COLUMNS_KEPT],
        gradual=report.gradual[:COLUMNS_KEPT],
        not_judged=report.not_judged[:COLUMNS_KEPT],
    )
    places = {name: place for place, name in enumerate(order)}
    with state.write():
        stored = {each["partition"]: each for each in _stored(state, model)}
        stored[partition] = summary.model_dump(mode="json")
        ordered = sorted(stored.values(), key=lambda each: places.get(each["partition"], -1))
        write_cursor(state, f"{_PREFIX}{model}", ordered[-PARTITIONS_KEPT:])


def drift_history(state: StateStore, model: str) -> list[DriftSummary]:
    """Return the stored summaries of ``model`` in the order of their partitions; empty when none was measured."""
    return [DriftSummary.model_validate(each) for each in _stored(state, model)]


def move_drift_history(state: StateStore, old: str, new: str) -> None:
    """Give the summaries of the model ``old`` to ``new``, in the current transaction if one is open."""
    with state.write():
        write_cursor(state, f"{_PREFIX}{new}", _stored(state, old))
        delete_cursors(state, [f"{_PREFIX}{old}"])


def _stored(state: StateStore, model: str) -> list[dict[str, Any]]:
    return list(read_cursor(state, f"{_PREFIX}{model}") or [])
