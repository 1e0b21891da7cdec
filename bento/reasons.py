"""Why a prediction is what it is: the features that moved it most, for whoever asks with ``?reasons=5``."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from bento.scorer import Scores
from ml_platform.errors import did_you_mean
from ml_platform.serving.contract import MAX_REASONS, FieldError, RequestInvalid

PARAMETER = "reasons"


def reasons_asked(query: bytes) -> int:
    """Return how many reasons the ``query`` of an address asks for; 0 when it asks for none.

    Raises :class:`RequestInvalid` (422) for another parameter, one given twice, or a number beyond 1 to 20.
    """
    if not query:
        return 0
    given = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    for name, _ in given:
        if name != PARAMETER:
            hint = did_you_mean(name, [PARAMETER]).strip()
            raise _refused(FieldError(f"query.{name[:60]}", f"only '{PARAMETER}'", "another parameter", hint))
    numbers = [text for _, text in given]
    expected = f"one whole number from 1 to {MAX_REASONS}"
    if len(numbers) != 1:
        raise _refused(FieldError(f"query.{PARAMETER}", expected, f"{len(numbers)} values"))
    text = numbers[0]
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= MAX_REASONS):
        raise _refused(FieldError(f"query.{PARAMETER}", expected, f"'{text[:60]}'"))
    return int(text)


def reasons(
    names: Sequence[str], values: Sequence[Mapping[str, Any]], contributions: Scores, most: int
) -> list[list[dict[str, Any]]]:
    """Return for each row the ``most`` features with the largest absolute contributions, largest first.

    ``values`` are the rows' features as served (null: nothing was known), ``contributions`` has shape (rows, features)
    in the order of ``names``. Features that add nothing are no reason; ties keep the order of the features.

    >>> reasons(["rain", "hour"], [{"rain": 0.5, "hour": 7}], np.array([[0.25, -0.5]]), 1)
    [[{'feature': 'hour', 'value': 7, 'contribution': -0.5}]]
    """
    order = np.argsort(-np.abs(contributions), axis=1, kind="stable")[:, :most].tolist()
    return [
        [
            {"feature": names[at], "value": row[names[at]], "contribution": float(added[at])}
            for at in places
            if added[at] != 0
        ]
        for row, added, places in zip(values, contributions, order, strict=True)
    ]


def _refused(found: FieldError) -> RequestInvalid:
    return RequestInvalid(422, "query", [found])
