"""Selects the features that moved each prediction most, for requests with ``?reasons=5``."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from bento.scorer import Scores
from ml_platform.errors import did_you_mean
from ml_platform.serving.request_contract import MAX_REASONS, FieldError, InvalidRequestError

PARAMETER = "reasons"


def requested_reason_count(query: bytes) -> int:
    """Return the number of reasons that the query string ``query`` requests; 0 when it is empty.

    Raises :class:`InvalidRequestError` (422) for another parameter, a repeated one, or a number outside 1 to 20.
    """
    if not query:
        return 0
    parameters = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    for name, _ in parameters:
        if name != PARAMETER:
            hint = did_you_mean(name, [PARAMETER]).strip()
            raise _invalid_query(FieldError(f"query.{name[:60]}", f"only '{PARAMETER}'", "another parameter", hint))
    values = [text for _, text in parameters]
    expected = f"one whole number from 1 to {MAX_REASONS}"
    if len(values) != 1:
        raise _invalid_query(FieldError(f"query.{PARAMETER}", expected, f"{len(values)} values"))
    text = values[0]
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= MAX_REASONS):
        raise _invalid_query(FieldError(f"query.{PARAMETER}", expected, f"'{text[:60]}'"))
    return int(text)


def strongest_reasons(
    feature_names: Sequence[str], values: Sequence[Mapping[str, Any]], contributions: Scores, count: int
) -> list[list[dict[str, Any]]]:
    """Return, for each row, the ``count`` features with the largest absolute contributions, largest first.

    ``values`` are the rows' features as served (null: no fact was known). ``contributions`` has shape (rows, features)
    in the order of ``feature_names``. Features that contribute 0 are left out; ties keep the order of the features.

    >>> strongest_reasons(["rain", "hour"], [{"rain": 0.5, "hour": 7}], np.array([[0.25, -0.5]]), 1)
    [[{'feature': 'hour', 'value': 7, 'contribution': -0.5}]]
    """
    order = np.argsort(-np.abs(contributions), axis=1, kind="stable")[:, :count].tolist()
    return [
        [
            {"feature": feature_names[index], "value": row[feature_names[index]], "contribution": float(added[index])}
            for index in indices
            if added[index] != 0
        ]
        for row, added, indices in zip(values, contributions, order, strict=True)
    ]


def _invalid_query(error: FieldError) -> InvalidRequestError:
    return InvalidRequestError(422, "query", [error])
