"""The requests of a window: rows of one arrival together, in order of data time, with ids that follow from the plan."""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from ml_platform.console.replay.steps import ReplayError
from ml_platform.data.arrival import Arrival, cut_offs
from ml_platform.features.prediction_time import PredictionTime
from ml_platform.features.view import PREDICT_AT

if TYPE_CHECKING:
    import httpx

Request = tuple[str, list[dict[str, Any]]]
"""The id of a request, and its rows as JSON values."""

RETRY_SECONDS = 0.2


def requests_of(
    window: str, rows: pl.DataFrame, prediction_time: PredictionTime, arrivals: Sequence[Arrival], maximum_rows: int
) -> list[Request]:
    """Return the requests for ``rows`` (one column per request field), in order of their prediction times.

    The rows of a request may use the facts of the same arrival. The same rows give the same ids.
    """
    timed = rows.with_columns(prediction_time.expression().dt.convert_time_zone("UTC")).sort(
        PREDICT_AT, maintain_order=True
    )
    marks = [cut_offs([each], timed[PREDICT_AT]).alias(f"_arrival_{place}") for place, each in enumerate(arrivals)]
    grouped = timed.with_columns(marks)
    names = [each.name for each in marks]
    groups = grouped.group_by(names, maintain_order=True) if names else [((), grouped)]
    parts = [
        group.slice(at, maximum_rows).select(rows.columns)
        for _, group in groups
        for at in range(0, group.height, maximum_rows)
    ]
    return [(f"{request_prefix(window)}{number:05d}", _json_rows(part)) for number, part in enumerate(parts)]


def request_prefix(window: str) -> str:
    """Return the begin of the ids of the requests of ``window``."""
    return f"replay-{window}-"


def send(
    client: "httpx.Client", path: str, requests: Sequence[Request], wait: Callable[[], None], seconds: float
) -> None:
    """Send each request until it is answered; ``wait`` is called before a repetition.

    A request is repeated while nothing serves, for up to ``seconds``. Raises :class:`ReplayError` for an answer that a
    repetition cannot change.
    """
    for request_id, rows in requests:
        deadline = time.monotonic() + seconds
        while (problem := _problem_of(client, path, request_id, rows)) is not None:
            wait()
            if time.monotonic() > deadline:
                raise ReplayError(
                    f"Request '{request_id}'",
                    expected=f"an answer within {seconds:.0f} s",
                    found=problem,
                    fix="See `ml-platform status` and the logs of the services, then repeat the command.",
                )
            time.sleep(RETRY_SECONDS)


def _problem_of(client: "httpx.Client", path: str, request_id: str, rows: list[dict[str, Any]]) -> str | None:
    import httpx

    try:
        answer = client.post(path, json={"rows": rows}, headers={"x-request-id": request_id})
    except httpx.TransportError as error:
        return str(error) or type(error).__name__
    if answer.status_code == httpx.codes.OK:
        return None
    text = f"{answer.status_code}: {answer.text[:300]}"
    if answer.status_code < 500 and answer.status_code not in (httpx.codes.NOT_FOUND, httpx.codes.TOO_MANY_REQUESTS):
        raise ReplayError(
            f"Request '{request_id}'", expected="valid rows", found=text, fix="Correct the rows of the domain's replay."
        )
    return text


def _json_rows(rows: pl.DataFrame) -> list[dict[str, Any]]:
    return [dict(_json_values(row)) for row in rows.iter_rows(named=True)]


def _json_values(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        yield name, value.isoformat() if isinstance(value, datetime) else value
