"""Request lookup: which version answered a request, from which data it was made, and who promoted it.

It reads the prediction logs and the audit log, and needs neither a model nor MLflow.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from ml_platform.data.lake import Lake
from ml_platform.errors import PlatformError
from ml_platform.monitoring.log_lines import read_records
from ml_platform.monitoring.prediction_days import day_of
from ml_platform.monitoring.prediction_log import predictions_table
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import ChampionRecord, champion_history

MAX_DAYS = 92
"""Days of logged predictions that a lookup searches when it does not know the time of the request."""

SAME_REQUEST = timedelta(minutes=5)
"""Time within which several versions log their answers to one request."""


class UnknownRequestError(PlatformError):
    """Raised for a request without a logged prediction."""


@dataclass(frozen=True)
class RequestAnswer:
    """The answer of one version to a request: its role, its number of rows, and the promotion of the version.

    ``champion_record`` is None for a version that was not champion at that time, such as a canary or a shadow.
    """

    version: str
    role: str
    rows: int
    predict_at: datetime
    logged_at: datetime
    champion_record: ChampionRecord | None


def lookup_request(
    model: str,
    request_id: str,
    *,
    lake: Lake,
    logs: Sequence[Path],
    audit: AuditLog,
    near: datetime | None = None,
) -> list[RequestAnswer]:
    """Return the answers to ``request_id`` by version, the stable version first.

    The predictions of ``model`` are searched by the day on which they were logged, the latest day first, at most
    :data:`MAX_DAYS` days. With ``near``, the time of the request, only that UTC day and its neighbours are read. Of a
    request id that a client used on several days the latest day counts. The ``logs`` of the services, whose latest
    lines may not be ingested yet, are searched last.

    Raises :class:`UnknownRequestError` when none of these contains the request.
    """
    days = _days_to_search(predictions_table(model), lake, near)
    predictions = _lake_predictions(predictions_table(model), request_id, lake, days) or list(
        _log_predictions(logs, request_id)
    )
    if not predictions:
        searched = f" from {days[-1]} to {days[0]}" if days else ""
        raise UnknownRequestError(
            f"Request '{request_id}' of '{model}'",
            expected="a logged prediction",
            found=f"no prediction in the lake ({len(days)} days{searched}) or in the logs of the services",
            fix="Use the id in the response header x-request-id; a rejected request has no prediction. For an older "
            "request, give its time.",
        )
    records = champion_history(audit, model)
    answers = []
    for role, version in sorted(
        {(role, version) for role, version, _, _ in predictions}, key=lambda one: one[0] != "stable"
    ):
        rows = [each for each in predictions if each[:2] == (role, version)]
        logged_at = max(each[3] for each in rows)
        champion_records = [one for one in records if str(one.version) == version and one.since <= logged_at]
        answers.append(
            RequestAnswer(
                version, role, len(rows), rows[0][2], logged_at, champion_records[-1] if champion_records else None
            )
        )
    return answers


def _days_to_search(table: str, lake: Lake, near: datetime | None) -> list[str]:
    """Return the partitions to search, the latest first."""
    days = sorted(lake.partitions(table), reverse=True)
    if near is None:
        return days[:MAX_DAYS]
    wanted = {day_of(near + timedelta(days=shift)) for shift in (-1, 0, 1)}
    return [day for day in days if day in wanted]


def _lake_predictions(
    table: str, request_id: str, lake: Lake, days: Sequence[str]
) -> list[tuple[str, str, datetime, datetime]]:
    for position, day in enumerate(days):
        found = _predictions_of_day(table, request_id, lake, day)
        if found:
            # A shadow may have answered the same request on the other side of midnight.
            before = days[position + 1 : position + 2]
            earlier = [each for one in before for each in _predictions_of_day(table, request_id, lake, one)]
            since = min(each[3] for each in found) - SAME_REQUEST
            return [*(each for each in earlier if each[3] >= since), *found]
    return []


def _predictions_of_day(table: str, request_id: str, lake: Lake, day: str) -> list[tuple[str, str, datetime, datetime]]:
    found = lake.scan(table, partitions=[day]).filter(pl.col("request_id") == request_id)
    return found.select("role", "version", "predict_at", "logged_at").collect(engine="streaming").rows()


def _log_predictions(logs: Sequence[Path], request_id: str) -> Iterator[tuple[str, str, datetime, datetime]]:
    for path in logs:
        for found in read_records(path, request_id.encode()):
            if found["request_id"] == request_id:
                yield found["role"], found["version"], found["predict_at"], found["logged_at"]
