"""Reasons: how many are asked for, and which features they are."""

import numpy as np
import pytest

from bento.reasons import reasons, reasons_asked
from ml_platform.serving.contract import RequestInvalid


@pytest.mark.parametrize(("query", "most"), [(b"", 0), (b"reasons=1", 1), (b"reasons=20", 20), (b"reasons=05", 5)])
def test_query_says_how_many(query: bytes, most: int) -> None:
    assert reasons_asked(query) == most


@pytest.mark.parametrize(
    ("query", "path", "found"),
    [
        (b"reasons=0", "query.reasons", "'0'"),
        (b"reasons=21", "query.reasons", "'21'"),
        (b"reasons=-1", "query.reasons", "'-1'"),
        (b"reasons=", "query.reasons", "''"),
        (b"reasons=many", "query.reasons", "'many'"),
        ("reasons=\u0663".encode(), "query.reasons", "Ù£"),
        (b"reasons=1&reasons=2", "query.reasons", "2 values"),
        (b"reason=5", "query.reason", "Did you mean 'reasons'"),
        (b"verbose=1&reasons=5", "query.verbose", "another parameter"),
    ],
)
def test_wrong_query_is_refused_with_its_path(query: bytes, path: str, found: str) -> None:
    with pytest.raises(RequestInvalid, match=found) as caught:
        reasons_asked(query)
    assert (caught.value.status, caught.value.path) == (422, path)


def test_strongest_come_first_ties_keep_the_order_and_what_adds_nothing_is_no_reason() -> None:
    names, values = ["a", "b", "c", "d"], [{"a": 1, "b": None, "c": "x", "d": True}]
    added = np.array([[0.1, -0.3, 0.0, 0.3]])
    (told,) = reasons(names, values, added, 4)
    assert told == [
        {"feature": "b", "value": None, "contribution": -0.3},
        {"feature": "d", "value": True, "contribution": 0.3},
        {"feature": "a", "value": 1, "contribution": 0.1},
    ]
    assert reasons(names, values, added, 1) == [told[:1]]
