"""The profiles of landed partitions and the findings about them, in the state store.

Records are only added. Of each partition the last contents are kept, and all reads use an index, so the cost of a
landing does not grow with the age of the dataset.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ml_platform.data.partition_profile import PartitionProfile
from ml_platform.state.schema import WHOLE, landing_profiles
from ml_platform.state.store import StateStore

KEPT_CONTENTS = 40
"""Records that are kept of one partition; those of a table without partitions are its comparable ones."""

_COLUMNS = landing_profiles.c


@dataclass(frozen=True)
class LandingRecord:
    """One landing of a partition ("": no partitions); ``content`` is None for rows that were not published.

    ``findings`` are plain records with the keys subject, kind, column, severity, what, how_bad and since.
    """

    dataset: str
    partition: str
    content: str | None
    landed_at: str
    state: str
    reason: str | None
    profile: PartitionProfile
    findings: list[dict[str, Any]]


def record_landing(
    state: StateStore,
    dataset: str,
    partition: str | None,
    profile: PartitionProfile,
    *,
    content: str | None,
    judged: str,
    reason: str | None,
    findings: Sequence[dict[str, Any]],
) -> None:
    """Record a landing in the current transaction; the same content with the same result adds nothing."""
    name = WHOLE if partition is None else partition
    values = {
        "content": content,
        "state": judged,
        "reason": reason,
        "findings": json.dumps(list(findings), default=str),
    }
    own = sa.and_(_COLUMNS.dataset == dataset, _COLUMNS.partition == name)
    with state.write() as connection:
        last = connection.execute(sa.select(landing_profiles).where(own).order_by(_COLUMNS.id.desc()).limit(1))
        row = last.one_or_none()
        if row is not None and all(getattr(row, each) == value for each, value in values.items()):
            return
        connection.execute(
            sa.insert(landing_profiles).values(
                dataset=dataset,
                partition=name,
                landed_at=profile.landed_at.isoformat(),
                profile=profile.model_dump_json(exclude_defaults=True),
                **values,
            )
        )
        kept = sa.select(_COLUMNS.id).where(own).order_by(_COLUMNS.id.desc()).offset(KEPT_CONTENTS).limit(1)
        oldest = connection.scalar(kept)
        if oldest is not None:
            connection.execute(sa.delete(landing_profiles).where(own, _COLUMNS.id <= oldest))


def published_landings(state: StateStore, dataset: str, partitions: Iterable[str]) -> dict[str, LandingRecord]:
    """Return the last published landing of each of ``partitions`` that has one."""
    names = list(partitions)
    if not names:
        return {}
    last = (
        sa.select(sa.func.max(_COLUMNS.id))
        .where(_COLUMNS.dataset == dataset, _COLUMNS.partition.in_(names), _COLUMNS.content.is_not(None))
        .group_by(_COLUMNS.partition)
    )
    found = _records(state, sa.select(landing_profiles).where(_COLUMNS.id.in_(last)))
    return {each.partition: each for each in found}


def last_contents(state: StateStore, dataset: str, partition: str | None, count: int) -> list[LandingRecord]:
    """Return the last ``count`` published contents of one partition, the latest first."""
    query = (
        sa.select(landing_profiles)
        .where(
            _COLUMNS.dataset == dataset,
            _COLUMNS.partition == (WHOLE if partition is None else partition),
            _COLUMNS.content.is_not(None),
        )
        .order_by(_COLUMNS.id.desc())
        .limit(count)
    )
    contents: dict[str | None, LandingRecord] = {}
    for each in _records(state, query):
        contents.setdefault(each.content, each)
    return list(contents.values())


def last_landings(state: StateStore, dataset: str, count: int = 1) -> list[LandingRecord]:
    """Return the last ``count`` landings of ``dataset`` in the order of landing, the latest first."""
    query = sa.select(landing_profiles).where(_COLUMNS.dataset == dataset)
    return _records(state, query.order_by(_COLUMNS.id.desc()).limit(count))


def has_landed(state: StateStore, dataset: str, *, after: str = "", before: str = "") -> bool:
    """Return whether a published partition sorts after ``after``, or before ``before``; for partitions of time."""
    bound = _COLUMNS.partition > after if after else _COLUMNS.partition < before
    query = sa.select(_COLUMNS.id).where(_COLUMNS.dataset == dataset, bound, _COLUMNS.content.is_not(None)).limit(1)
    with state.read() as connection:
        return connection.scalar(query) is not None


def forget_landings(state: StateStore, dataset: str, partitions: Sequence[str]) -> None:
    """Delete the records of ``partitions``, which have left the lake."""
    chosen = sa.and_(_COLUMNS.dataset == dataset, _COLUMNS.partition.in_(list(partitions)))
    with state.write() as connection:
        connection.execute(sa.delete(landing_profiles).where(chosen))


def _records(state: StateStore, query: "sa.Select[Any]") -> list[LandingRecord]:
    with state.read() as connection:
        rows = connection.execute(query).all()
    return [
        LandingRecord(
            row.dataset,
            row.partition,
            row.content,
            row.landed_at,
            row.state,
            row.reason,
            PartitionProfile.model_validate_json(row.profile),
            json.loads(row.findings),
        )
        for row in rows
    ]
