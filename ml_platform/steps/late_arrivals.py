"""Partitions that land or change after a window with them was judged: the audit log names the decisions they touch.

Nothing is judged again by itself. The record lets a person decide, and shows later why a repeated evaluation differs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ml_platform.data.lake import TableVersion
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.verdict_record import VERDICT_KIND
from ml_platform.steps.model import BoundModel

LATE_KIND = "late_partition"
"""Kind of the audit record of a partition that landed or changed after a verdict that read it."""


@dataclass(frozen=True)
class LatePartition:
    """A partition of a training set, and the judged partitions whose candidates read it, with their decisions."""

    partition: str
    judged: dict[str, str]


def record_late_partitions(
    model: BoundModel,
    earlier: Mapping[str | None, str],
    written: Mapping[str, TableVersion],
    audit: AuditLog,
    now: datetime,
) -> list[LatePartition]:
    """Record each of the ``written`` partitions whose rows differ from ``earlier`` and that a verdict has read.

    ``earlier`` are the content digests before the write; a partition that was absent counts as changed. A window is
    judged on the training set from the first partition of its split to its own. A model without time has none: each
    verdict names its rows.
    """
    if not model.has_time:
        return []
    changed = [key for key, version in written.items() if earlier.get(key) != version.sha256]
    if not changed:
        return []
    decisions = {str(record.facts["partition"]): record.facts for record in audit.records(VERDICT_KIND, model.name)}
    late = [LatePartition(key, _judged_with(model, key, decisions)) for key in model.partitions.sort(changed)]
    late = [each for each in late if each.judged]
    for each in late:
        facts = {"model": model.name, "partition": each.partition, "judged": each.judged}
        audit.append(LATE_KIND, actor="training_set", at=now, facts=facts)
    return late


def _judged_with(model: BoundModel, key: str, decisions: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {
        partition: str(facts["decision"])
        for partition, facts in decisions.items()
        # A candidate that waited was judged on later windows too.
        if _reads(model, partition, key) or key in facts.get("look", {}).get("windows", ())
    }


def _reads(model: BoundModel, judged: str, key: str) -> bool:
    scheme = model.partitions
    # Verdicts from before a change of the cadence were reached on other partitions.
    if not scheme.names_key(judged) or scheme.precedes(judged, key):
        return False
    first = model.declared.split.first_partition(judged, scheme)
    return first is None or not scheme.precedes(key, first)
