"""A partition that changes after a window was judged leaves a record of the decisions that it touches."""

from datetime import UTC, datetime
from pathlib import Path

from ml_platform.data.lake import TableVersion
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.verdict_record import VERDICT_KIND
from ml_platform.state.store import StateStore
from ml_platform.steps.late_arrivals import LATE_KIND, record_late_partitions
from ml_platform_tests.components.delivery_model import delivery_model

NOW = datetime(2013, 6, 1, tzinfo=UTC)


def audit_with_verdicts(folder: Path) -> AuditLog:
    audit = AuditLog(StateStore.in_folder(folder))
    for month, decision in (("2013-03", "HOLD"), ("2013-04", "PROMOTE")):
        facts = {"model": "late", "partition": month, "decision": decision}
        audit.append(VERDICT_KIND, actor="gates", at=NOW, facts=facts)
    return audit


def version(digest: str) -> TableVersion:
    return TableVersion("models/late/training_set/x", 3, 10, 100, digest)


def test_changed_partition_names_the_windows_that_read_it(tmp_path: Path) -> None:
    audit = audit_with_verdicts(tmp_path)
    earlier: dict[str | None, str] = {"2013-02": "a", "2013-03": "b", "2013-04": "c"}
    written = {"2013-02": version("new"), "2013-03": version("b"), "2013-04": version("other")}
    found = record_late_partitions(delivery_model(), earlier, written, audit, NOW)

    assert [(each.partition, each.judged) for each in found] == [
        ("2013-02", {"2013-03": "HOLD", "2013-04": "PROMOTE"}),
        ("2013-04", {"2013-04": "PROMOTE"}),
    ]
    assert [record.facts["partition"] for record in audit.records(LATE_KIND, "late")] == ["2013-02", "2013-04"]


def test_partition_after_all_verdicts_and_before_the_split_leaves_no_record(tmp_path: Path) -> None:
    audit = audit_with_verdicts(tmp_path)
    model = delivery_model(split={"train_months": 1, "minimum_rows": 10})
    # The candidate of March reads from December on: one month each of training, validation and margin.
    written = {"2013-05": version("new"), "2012-11": version("new")}

    assert record_late_partitions(model, {}, written, audit, NOW) == []
    assert audit.records(LATE_KIND) == []
