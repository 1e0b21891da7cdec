"""Request lookup: which version answered a request, from which data it was made, and who promoted it.

It reads the prediction logs and the audit log, and needs neither a model nor MLflow.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl
from pydantic import ValidationError

from ml_platform.data.lake import Lake
from ml_platform.errors import PlatformError
from ml_platform.monitoring.prediction_log import LoggedPrediction, predictions_table
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import ChampionRecord, champion_history


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
    model: str, request_id: str, *, lake: Lake, logs: Sequence[Path], audit: AuditLog
) -> list[RequestAnswer]:
    """Return the answers to ``request_id`` by version, the stable version first.

    The predictions table of ``model`` is searched first, then the ``logs`` of the services, whose latest lines may not
    be ingested yet. Raises :class:`UnknownRequestError` when neither contains the request.
    """
    predictions = _lake_predictions(predictions_table(model), request_id, lake) or list(
        _log_predictions(logs, request_id)
    )
    if not predictions:
        raise UnknownRequestError(
            f"Request '{request_id}' of '{model}'",
            expected="a logged prediction",
            found="no prediction in the lake or in the logs of the services",
            fix="Use the id in the response header x-request-id; a rejected request has no prediction.",
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


def _lake_predictions(table: str, request_id: str, lake: Lake) -> list[tuple[str, str, datetime, datetime]]:
    if not lake.exists(table):
        return []
    found = lake.scan(table).filter(pl.col("request_id") == request_id)
    return found.select("role", "version", "predict_at", "logged_at").collect().rows()


def _log_predictions(logs: Sequence[Path], request_id: str) -> Iterator[tuple[str, str, datetime, datetime]]:
    needle = request_id.encode()
    for path in logs:
        with path.open("rb") as lines:
            for line in lines:
                # Parse only lines that contain the id: parsing every line would take minutes.
                if needle in line and (prediction := _parse_line(line)) and prediction.request_id == request_id:
                    yield prediction.role, prediction.version, prediction.predict_at, prediction.logged_at


def _parse_line(line: bytes) -> LoggedPrediction | None:
    try:
        return LoggedPrediction.model_validate_json(line)
    except ValidationError:
        # Ingestion reports incomplete lines, so skip them here.
        return None
