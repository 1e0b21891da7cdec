"""Selects the features that moved each prediction most, for requests with ``?reasons=5``.

The contributions of the model's own method are used if they take at most 3 ms a row, and those along the decision paths
of its trees otherwise. The answer names the method, and a request may choose it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qsl

import numpy as np

from bento.scorer import Features, PathScorer, Scorer, Scores
from ml_platform.errors import did_you_mean, listed
from ml_platform.serving.request_contract import (
    MAX_REASONS,
    REASON_METHODS,
    FieldError,
    InvalidRequestError,
    ReasonMethod,
)

PARAMETER, METHOD_PARAMETER = "reasons", "reasons_method"

MAX_MILLISECONDS = 3.0
"""Expected time of the full method for one row above which the paths are used, unless the request chooses."""


@dataclass(frozen=True)
class RequestedReasons:
    """The number of reasons that a request wants for each row, and the method that it prefers."""

    count: int
    method: ReasonMethod | None = None


def requested_reasons(query: bytes) -> RequestedReasons | None:
    """Return the reasons that the query string ``query`` requests; None without a number of them.

    Raises :class:`InvalidRequestError` (422) for another parameter, a repeated one, a number outside 1 to 20, or an
    unknown method.
    """
    if not query:
        return None
    parameters = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    known = [PARAMETER, METHOD_PARAMETER]
    for name, _ in parameters:
        if name not in known:
            hint = did_you_mean(name, known).strip()
            raise _invalid_query(FieldError(f"query.{name[:60]}", f"only {listed(known)}", "another parameter", hint))
    count = _only_value(parameters, PARAMETER, f"one whole number from 1 to {MAX_REASONS}", _is_count)
    method = _only_value(parameters, METHOD_PARAMETER, f"one of {listed(REASON_METHODS)}", _is_method)
    return None if count is None else RequestedReasons(int(count), cast("ReasonMethod | None", method))


def row_contributions(
    scorer: Scorer, features: Features, method: ReasonMethod | None = None
) -> tuple[Scores, ReasonMethod]:
    """Return the contributions (rows, features) to the scores of ``features``, and the method that gave them.

    It is the preferred ``method``; full for a model without decision paths.
    """
    if isinstance(scorer, PathScorer):
        slow = scorer.contribution_milliseconds > MAX_MILLISECONDS
        if method == "path" or (slow and method is None):
            return scorer.path_contributions(features), "path"
    return scorer.contributions(features), "full"


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


def _only_value(
    parameters: Sequence[tuple[str, str]], name: str, expected: str, is_valid: Callable[[str], bool]
) -> str | None:
    """Return the value of the parameter ``name``, None without one."""
    values = [text for each, text in parameters if each == name]
    if not values:
        return None
    if len(values) > 1 or not is_valid(values[0]):
        found = f"{len(values)} values" if len(values) > 1 else f"'{values[0][:60]}'"
        raise _invalid_query(FieldError(f"query.{name}", expected, found))
    return values[0]


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= MAX_REASONS


def _is_method(text: str) -> bool:
    return text in REASON_METHODS


def _invalid_query(error: FieldError) -> InvalidRequestError:
    return InvalidRequestError(422, "query", [error])
