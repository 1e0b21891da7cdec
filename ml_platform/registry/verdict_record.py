"""The recorded verdicts: each is stored with its metrics and audit record in one transaction, and verified when read.

The registry trusts the digest and the audit record, not the process that evaluated.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy.engine import Connection

from ml_platform.data.canonical import canonical_json, value_digest
from ml_platform.errors import PlatformError
from ml_platform.registry.audit import AuditLog, AuditRecord
from ml_platform.registry.champion_history import ChampionRecord
from ml_platform.registry.models import ModelVersion
from ml_platform.state.schema import audit_records, verdicts
from ml_platform.state.store import StateStore, time_text

VERDICT_KIND = "verdict"


class PromotionError(PlatformError):
    """Raised when a version cannot become champion, or a champion or verdict is missing."""


class _GateRecord(BaseModel):
    model_config = ConfigDict(extra="allow")

    name: str
    passed: bool


class VerdictRecord(BaseModel):
    """The fields of a stored verdict that promotion reads; the other fields count only for the digest."""

    model_config = ConfigDict(extra="allow")

    model: str
    partition: str
    candidate: str
    champion: str | None
    decision: str
    gates: list[_GateRecord]
    evidence: str
    digest: str


@dataclass(frozen=True)
class StoredVerdict:
    """A verdict as it was recorded, as JSON values, and the metrics of its evaluation by name."""

    digest: str
    sequence: int
    """Number of its audit record."""
    content: Mapping[str, Any]
    metrics: Mapping[str, float]


def record_verdict(
    audit: AuditLog,
    verdict: Mapping[str, Any],
    metrics: Mapping[str, float],
    *,
    version: int | None = None,
    actor: str,
    at: datetime,
) -> AuditRecord:
    """Store a verdict (JSON values) with its metrics and record it in the audit log, in one transaction.

    Promotion accepts only recorded verdicts. A verdict that is recorded already is not recorded again; its audit record
    is returned. The record of a verdict with looks also has the last look, the windows and the compared champion.
    ``version`` is the number of the candidate in the registry, if it is known.
    """
    facts = {name: verdict[name] for name in ("model", "partition", "candidate", "decision", "evidence", "digest")}
    if version is not None:
        facts["version"] = version
    if looks := verdict.get("looks"):
        windows = [look["window"] for look in looks]
        facts |= {"champion": verdict["champion"], "labels_needed": verdict["labels_needed"]}
        facts |= {"look": {**looks[-1], "windows": windows}}
    with audit.state.write() as connection:
        sequence = connection.scalar(sa.select(verdicts.c.sequence).where(verdicts.c.digest == verdict["digest"]))
        if sequence is not None:
            return audit.record(sequence)
        record = audit.append(VERDICT_KIND, actor=actor, at=at, facts=facts)
        _insert_verdict(connection, verdict, metrics, record)
    return record


def stored_verdict(state: StateStore, digest: str) -> StoredVerdict:
    """Return the verdict with the digest ``digest``.

    Raises :class:`PromotionError` when it is not stored, cannot be read, or its content has another digest.
    """
    with state.read() as connection:
        row = connection.execute(sa.select(verdicts).where(verdicts.c.digest == digest)).one_or_none()
    if row is None:
        raise _invalid_verdict(digest, "a stored verdict", "none")
    return StoredVerdict(digest, row.sequence, _verified_content(row.verdict, digest), json.loads(row.metrics))


def latest_verdict_of(audit: AuditLog, model: str, partition: str) -> StoredVerdict | None:
    """Return the verdict on the candidate of ``partition`` that was recorded last, or None; raises as the above."""
    return _latest_recorded(audit, (verdicts.c.model == model) & (verdicts.c.partition == partition))


def latest_verdict_on_model(audit: AuditLog, model: str) -> StoredVerdict | None:
    """Return the verdict on any candidate of ``model`` that was recorded last, or None; raises as the above."""
    return _latest_recorded(audit, verdicts.c.model == model)


def verdicts_on_model(audit: AuditLog, model: str) -> list[StoredVerdict]:
    """Return all verdicts on candidates of ``model`` in the order of their records; raises as the above."""
    query = sa.select(verdicts).where(verdicts.c.model == model).order_by(verdicts.c.sequence)
    with audit.state.read() as connection:
        rows = connection.execute(query).all()
    found = [
        StoredVerdict(row.digest, row.sequence, _verified_content(row.verdict, row.digest), json.loads(row.metrics))
        for row in rows
    ]
    for each in found:
        _require_recorded(audit, each)
    return found


def judged_partitions(state: StateStore, model: str, after: str | None = None) -> dict[str, str]:
    """Return the digest of the verdict that was recorded last on each partition of ``model``.

    Only partitions whose keys are after ``after`` as text are read, so that earlier verdicts cost nothing; None: all.
    """
    judged = verdicts.c.model == model
    if after is not None:
        judged = sa.and_(judged, verdicts.c.partition > after)
    last = sa.select(sa.func.max(verdicts.c.sequence)).where(judged).group_by(verdicts.c.partition)
    query = sa.select(verdicts.c.partition, verdicts.c.digest)
    with state.read() as connection:
        rows = connection.execute(query.where(judged, verdicts.c.sequence.in_(last))).all()
    return {row.partition: row.digest for row in rows}


def last_judged_partition(state: StateStore, model: str) -> str | None:
    """Return the highest partition of ``model`` with a verdict, as text; None without any. One row is read."""
    with state.read() as connection:
        found: str | None = connection.scalar(
            sa.select(sa.func.max(verdicts.c.partition)).where(verdicts.c.model == model)
        )
    return found


def latest_verdict_on(audit: AuditLog, version: ModelVersion) -> StoredVerdict:
    """Return the verdict on ``version`` that was recorded last; approvals are bound to its evidence.

    Raises :class:`PromotionError` when the version has no verdict.
    """
    found = latest_verdict_about(audit, version.name, version.content_digest)
    if found is None:
        raise _promotion_error(
            version, "a verdict to approve or reject", "none", "Materialize the evaluation of the version first."
        )
    return found


@dataclass(frozen=True)
class JudgedPartition:
    """The last verdict on a partition: the content digest of the candidate, decision, metrics by name, and time."""

    partition: str
    candidate: str
    decision: str
    metrics: Mapping[str, float]
    at: datetime


def last_judged(state: StateStore, model: str, limit: int) -> list[JudgedPartition]:
    """Return the last verdict on each of the ``limit`` partitions of ``model`` that were judged last, oldest first.

    The verdicts themselves, which have all gates, are not read.
    """
    with state.read() as connection:
        sequences = _last_sequences(connection, model, limit)
        query = (
            sa.select(
                *(verdicts.c.partition, verdicts.c.candidate, verdicts.c.metrics, verdicts.c.recorded_at),
                audit_records.c.facts,
            )
            .join(audit_records, audit_records.c.sequence == verdicts.c.sequence)
            .where(verdicts.c.model == model, verdicts.c.sequence.in_(sequences))
            .order_by(verdicts.c.sequence.desc())
        )
        rows = connection.execute(query).all()
    return [
        JudgedPartition(
            row.partition,
            row.candidate,
            json.loads(row.facts)["decision"],
            json.loads(row.metrics),
            datetime.fromisoformat(row.recorded_at),
        )
        for row in reversed(rows)
    ]


def _last_sequences(connection: sa.Connection, model: str, limit: int) -> list[int]:
    """Return the number of the last verdict on each of the last ``limit`` partitions, from the newest verdict on.

    The index is read backwards in parts until enough partitions are found, so earlier years are not touched.
    """
    table, found, before = verdicts.c, dict[str, int](), None
    while len(found) < limit:
        query = sa.select(table.partition, table.sequence).where(table.model == model)
        if before is not None:
            query = query.where(table.sequence < before)
        rows = connection.execute(query.order_by(table.sequence.desc()).limit(2 * limit)).all()
        for partition, sequence in rows:
            found.setdefault(partition, sequence)
            before = sequence
        if len(rows) < 2 * limit:
            break
    return list(found.values())[:limit]


def latest_evidence_digest(audit: AuditLog, version: ModelVersion) -> str:
    """Return the digest of the evidence of the latest verdict on ``version``, to which approvals are bound.

    Raises :class:`PromotionError` when the version has no verdict.
    """
    return str(latest_verdict_on(audit, version).content["evidence"])


def latest_verdict_about(audit: AuditLog, model: str, content_digest: str) -> StoredVerdict | None:
    """Return the verdict on this content that was recorded last, or None; raises as :func:`stored_verdict`."""
    return _latest_recorded(audit, (verdicts.c.model == model) & (verdicts.c.candidate == content_digest))


def evidence_about(audit: AuditLog, model: str, content_digest: str) -> str | None:
    """Return the digest of the evidence of the latest verdict on this content; None without a verdict."""
    found = latest_verdict_about(audit, model, content_digest)
    return None if found is None else str(found.content["evidence"])


def partition_of_evidence(state: StateStore, evidence: str) -> str | None:
    """Return the partition of the candidate whose verdict has this evidence; None without such a verdict."""
    query = sa.select(verdicts.c.partition).where(verdicts.c.evidence == evidence).limit(1)
    with state.read() as connection:
        found: str | None = connection.scalar(query)
    return found


def verdict_metrics(state: StateStore, digest: str | None) -> dict[str, float]:
    """Return the metrics of the evaluation with the verdict ``digest``; empty when it is None or not stored."""
    with state.read() as connection:
        text = connection.scalar(sa.select(verdicts.c.metrics).where(verdicts.c.digest == digest))
    try:
        return {} if text is None else dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise PromotionError(
            f"Verdict {digest}",
            expected="its metrics as JSON",
            found=f"'{str(text)[:40]}'",
            fix="Restore the home from its backup: ml-platform restore.",
        ) from error


def load_verified_verdict(
    audit: AuditLog, version: ModelVersion, digest: str, champion: ChampionRecord | None
) -> VerdictRecord:
    """Return the verdict ``digest`` when it allows a promotion of ``version`` over ``champion``.

    Raises :class:`PromotionError`, which names the first condition that fails.
    """
    fix = "Materialize the evaluation again."
    stored = stored_verdict(audit.state, digest)
    _require_recorded(audit, stored)
    try:
        verdict = VerdictRecord.model_validate(stored.content)
    except ValidationError as error:
        raise _promotion_error(version, "a complete verdict", type(error).__name__, fix) from error
    names = [version.name, *audit.former_names(version.name)]
    if verdict.model not in names or verdict.candidate != version.content_digest:
        found = f"a verdict about '{verdict.model}' {verdict.candidate[:12]}"
        raise _promotion_error(version, f"a verdict about content {version.content_digest[:12]}", found, fix)
    failed = [gate.name for gate in verdict.gates if not gate.passed]
    if verdict.decision != "PROMOTE" or failed or not verdict.gates:
        found = f"{verdict.decision} (gates not passed: {', '.join(failed) or 'none'})"
        raise _promotion_error(version, "the verdict PROMOTE with all gates passed", found, "Improve the candidate.")
    compared, current = verdict.champion, champion.content_digest if champion else None
    if compared != current:
        found = f"a comparison with {compared[:12] if compared else 'no champion'}"
        raise _promotion_error(
            version,
            f"a comparison with the current champion ({current[:12] if current else 'no champion'})",
            found,
            fix,
        )
    return verdict


def import_verdict_files(audit: AuditLog, verdict_folder: Path, metrics_folder: Path) -> tuple[int, list[str]]:
    """Store the verdict files of the releases up to 0.1.0 that the audit log records.

    Returns the number of added verdicts, and one text for each recorded verdict whose file is missing or changed; these
    are left out, and promotions that used them stay in the audit log. The files are named by digest; an old verdict may
    have no metrics. A repeated import adds nothing.
    """
    added, problems = 0, []
    # Earlier releases recorded a repeated verdict again; the last record counts.
    latest = {str(record.facts["digest"]): record for record in audit.records(VERDICT_KIND)}
    for digest, record in latest.items():
        numbers = metrics_folder / f"{digest}.json"
        with audit.state.write() as connection:
            if connection.scalar(sa.select(verdicts.c.digest).where(verdicts.c.digest == digest)) is not None:
                continue
            try:
                content = _verified_content((verdict_folder / f"{digest}.json").read_bytes(), digest)
                metrics = json.loads(numbers.read_bytes()) if numbers.exists() else {}
            except (OSError, ValueError, PromotionError) as error:
                problems.append(str(error))
                continue
            _insert_verdict(connection, content, metrics, record)
            added += 1
    return added, problems


def _verified_content(text: str | bytes, digest: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(text)
        actual = value_digest({name: value for name, value in content.items() if name != "digest"})
    except (ValueError, AttributeError) as error:
        raise _invalid_verdict(digest, "a readable verdict", type(error).__name__) from error
    if not actual == content.get("digest") == digest:
        raise _invalid_verdict(digest, f"content with the digest {digest[:12]}", f"digest {actual[:12]}")
    return content


def _insert_verdict(
    connection: Connection, verdict: Mapping[str, Any], metrics: Mapping[str, float], record: AuditRecord
) -> None:
    connection.execute(
        verdicts.insert().values(
            digest=record.facts["digest"],
            sequence=record.sequence,
            model=verdict["model"],
            partition=verdict["partition"],
            candidate=verdict["candidate"],
            evidence=verdict["evidence"],
            verdict=canonical_json(verdict).decode(),
            metrics=canonical_json(metrics).decode(),
            recorded_at=time_text(record.at),
        )
    )


def _latest_recorded(audit: AuditLog, condition: sa.ColumnElement[bool]) -> StoredVerdict | None:
    query = sa.select(verdicts.c.digest).where(condition).order_by(verdicts.c.sequence.desc()).limit(1)
    with audit.state.read() as connection:
        digest = connection.scalar(query)
    if digest is None:
        return None
    found = stored_verdict(audit.state, digest)
    _require_recorded(audit, found)
    return found


def _require_recorded(audit: AuditLog, stored: StoredVerdict) -> None:
    """Raise :class:`PromotionError` unless the audit record of the verdict names its digest."""
    record = audit.record(stored.sequence)
    if record.kind != VERDICT_KIND or record.facts["digest"] != stored.digest:
        found = f"record {stored.sequence} of the kind '{record.kind}', which does not name it"
        raise _invalid_verdict(stored.digest, "a verdict in the audit log", found)


def _invalid_verdict(digest: str, expected: str, found: str) -> PromotionError:
    return PromotionError(
        f"Verdict {digest[:12]}",
        expected=expected,
        found=found,
        fix="Materialize the evaluation again; promotion ignores this verdict.",
    )


def _promotion_error(version: ModelVersion, expected: str, found: str, fix: str) -> PromotionError:
    return PromotionError(
        f"Promotion of '{version.name}' version {version.version}", expected=expected, found=found, fix=fix
    )
