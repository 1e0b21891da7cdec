"""Reasons of a prediction: their number in the query, and their features."""

import numpy as np
import pytest

from bento.reasons import RequestedReasons, requested_reasons, row_contributions, strongest_reasons
from bento.scorer import Features, Scores
from ml_platform.serving.request_contract import InvalidRequestError


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", None),
        (b"reasons_method=path", None),
        (b"reasons=1", RequestedReasons(1)),
        (b"reasons=20", RequestedReasons(20)),
        (b"reasons=05", RequestedReasons(5)),
        (b"reasons_method=path&reasons=3", RequestedReasons(3, "path")),
        (b"reasons=3&reasons_method=full", RequestedReasons(3, "full")),
    ],
)
def test_query_gives_the_number_and_the_method_of_reasons(query: bytes, expected: RequestedReasons | None) -> None:
    assert requested_reasons(query) == expected


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
        (b"reasons=5&reasons_method=paths", "query.reasons_method", "one of 'full', 'path', found 'paths'"),
        (b"reasons_method=", "query.reasons_method", "one of 'full', 'path', found ''"),
        (b"reasons=5&reasons_method=path&reasons_method=path", "query.reasons_method", "2 values"),
    ],
)
def test_wrong_query_is_rejected_with_its_path(query: bytes, path: str, found: str) -> None:
    with pytest.raises(InvalidRequestError, match=found) as caught:
        requested_reasons(query)
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


class Trees:
    """A model with full contributions of 1, which take ``contribution_milliseconds``, and path contributions of 2."""

    def __init__(self, contribution_milliseconds: float) -> None:
        self.contribution_milliseconds = contribution_milliseconds

    def predict(self, features: Features) -> Scores:
        return np.zeros((len(features), 1))

    def contributions(self, features: Features) -> Scores:
        return np.ones(features.shape)

    def path_contributions(self, features: Features) -> Scores:
        return np.full(features.shape, 2.0)


class NoTrees:
    def predict(self, features: Features) -> Scores:
        return np.zeros((len(features), 1))

    def contributions(self, features: Features) -> Scores:
        return np.ones(features.shape)


def test_path_is_used_where_the_full_method_takes_too_long_or_on_request() -> None:
    row = np.zeros((1, 2), dtype=np.float32)
    used = {
        (milliseconds, method): row_contributions(Trees(milliseconds), row, method)[1]
        for milliseconds in (2.9, 3.1)
        for method in (None, "full", "path")
    }
    assert list(used.values()) == ["full", "full", "path", "path", "full", "path"]
    assert row_contributions(Trees(3.1), row)[0].tolist() == [[2.0, 2.0]]
    assert row_contributions(NoTrees(), row, "path")[1] == "full"
