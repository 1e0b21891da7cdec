"""Reasons of a prediction: their number in the query, and their features."""

import numpy as np
import pytest

from bento.reasons import requested_reason_count, strongest_reasons
from ml_platform.serving.request_contract import InvalidRequestError


@pytest.mark.parametrize(("query", "count"), [(b"", 0), (b"reasons=1", 1), (b"reasons=20", 20), (b"reasons=05", 5)])
def test_query_gives_the_number_of_reasons(query: bytes, count: int) -> None:
    assert requested_reason_count(query) == count


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
def test_wrong_query_is_rejected_with_its_path(query: bytes, path: str, found: str) -> None:
    with pytest.raises(InvalidRequestError, match=found) as caught:
        requested_reason_count(query)
    assert (caught.value.status, caught.value.path) == (422, path)


def test_strongest_reasons_come_first_ties_keep_the_order_and_zeros_are_left_out() -> None:
    names, values = ["a", "b", "c", "d"], [{"a": 1, "b": None, "c": "x", "d": True}]
    added = np.array([[0.1, -0.3, 0.0, 0.3]])
    (reasons,) = strongest_reasons(names, values, added, 4)
    assert reasons == [
        {"feature": "b", "value": None, "contribution": -0.3},
        {"feature": "d", "value": True, "contribution": 0.3},
        {"feature": "a", "value": 1, "contribution": 0.1},
    ]
    assert strongest_reasons(names, values, added, 1) == [reasons[:1]]
