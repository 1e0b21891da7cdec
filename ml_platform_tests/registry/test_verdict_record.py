"""The last judged partitions of a model: each with its last verdict, read from the newest one on."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from ml_platform.data.canonical import value_digest
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.verdict_record import last_judged, record_verdict
from ml_platform.state.schema import verdicts
from ml_platform.state.store import StateStore

FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def judge(state: StateStore, model: str, partition: str, number: int, decision: str = "HOLD") -> None:
    content: dict[str, Any] = {
        "model": model,
        "partition": partition,
        "candidate": value_digest([model, partition, number]),
        "champion": None,
        "decision": decision,
        "gates": [],
        "evidence": value_digest(number),
    }
    verdict = {**content, "digest": value_digest(content)}
    at = FIRST + timedelta(minutes=number)
    record_verdict(AuditLog(state), verdict, {"number": float(number)}, actor="gates", at=at)


@pytest.mark.parametrize("limit", [1, 2, 5, 50])
def test_each_partition_has_its_last_verdict_and_those_judged_last_come_first(
    state_store: StateStore, limit: int
) -> None:
    chance, order = random.Random(4), list[tuple[str, int]]()
    for number in range(120):
        partition = f"2026-{chance.choice([1, 1, 1, 1, 2, 3, *range(4, 13)]):02d}"
        judge(state_store, "late", partition, number)
        judge(state_store, "other", partition, 1000 + number)
        order.append((partition, number))
    latest = dict(order)  # a later verdict replaces an earlier one of the partition
    expected = sorted(latest.items(), key=lambda each: each[1])[-limit:]

    found = last_judged(state_store, "late", limit)
    assert [(each.partition, int(each.metrics["number"])) for each in found] == expected
    assert {each.decision for each in found} == {"HOLD"}
    assert found[-1].at == FIRST + timedelta(minutes=expected[-1][1])


def test_model_without_a_verdict_has_no_judged_partition(state_store: StateStore) -> None:
    judge(state_store, "other", "2026-01", 1)
    assert last_judged(state_store, "late", 5) == []


def test_verdicts_of_earlier_years_are_not_read(state_store: StateStore) -> None:
    query = (
        sa.select(verdicts.c.partition, verdicts.c.sequence)
        .where(verdicts.c.model == "late", verdicts.c.sequence < 9)
        .order_by(verdicts.c.sequence.desc())
        .limit(4)
    )
    text = str(query.compile(compile_kwargs={"literal_binds": True}))
    with state_store.read() as connection:
        (plan,) = [row.detail for row in connection.execute(sa.text(f"EXPLAIN QUERY PLAN {text}"))]
    assert "USING COVERING INDEX ix_verdicts_model_sequence" in plan
