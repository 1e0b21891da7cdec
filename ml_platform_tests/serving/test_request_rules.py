"""Rules of requests: ranges, allowed values and comparisons; a breach is refused or marked."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from ml_platform.serving.openapi import openapi_document
from ml_platform.serving.request_contract import InvalidRequestError, RequestContract

FIELDS = [
    {"name": "origin", "type": "string", "nullable": True},
    {"name": "dest", "type": "string"},
    {"name": "leaves_at", "type": "datetime"},
    {"name": "arrives_at", "type": "datetime"},
    {"name": "seats", "type": "int", "nullable": True},
]
ROW = {
    "origin": "EWR",
    "dest": "LAX",
    "leaves_at": "2013-07-01T08:00:00-04:00",
    "arrives_at": "2013-07-01T11:00:00-07:00",
    "seats": 100,
}


def contract(*rules: dict[str, Any]) -> RequestContract:
    return RequestContract.model_validate({"model": "toy", "fields": FIELDS, "rules": list(rules)})


def validated(rule: dict[str, Any], *rows: dict[str, Any]) -> Any:
    body = json.dumps({"rows": [{**ROW, **row} for row in rows]}).encode()
    return contract({"name": "rule", **rule}).validate(body)


@pytest.mark.parametrize(
    ("rule", "right", "wrong", "expected"),
    [
        (
            {"field": "origin", "compare": "!=", "other": "dest"},
            {},
            {"dest": "EWR"},
            "a value != that of 'dest'",
        ),
        (
            {"field": "arrives_at", "compare": ">", "other": "leaves_at"},
            {},
            # An hour later on the clock of another zone, and two hours earlier.
            {"arrives_at": "2013-07-01T09:00:00-01:00"},
            "a value > that of 'leaves_at'",
        ),
        ({"field": "origin", "allowed": ["EWR", "JFK"]}, {"origin": "JFK"}, {"origin": "LAX"}, "one of EWR, JFK"),
        ({"field": "seats", "at_least": 1, "at_most": 900}, {"seats": 1}, {"seats": 901}, "at least 1 and at most 900"),
        (
            {"field": "leaves_at", "at_least": "1990-01-01T00:00:00Z"},
            {"leaves_at": "1990-01-01T00:00:00Z"},
            {"leaves_at": "1900-01-01T00:00:00Z"},
            "at least 1990-01-01T00:00:00+00:00",
        ),
    ],
)
def test_breach_is_refused_with_the_path_and_the_rule_or_marked(
    rule: dict[str, Any], right: dict[str, Any], wrong: dict[str, Any], expected: str
) -> None:
    assert validated(rule, right).flags == {}
    with pytest.raises(InvalidRequestError) as caught:
        validated(rule, right, wrong)
    (detail,) = caught.value.details
    assert (caught.value.status, caught.value.reason) == (422, "rule")
    assert (detail.path, detail.expected, detail.hint) == (f"rows[1].{rule['field']}", expected, "Rule 'rule'.")
    assert validated({**rule, "on_breach": "flag"}, right, wrong).flags == {1: ["rule"]}


def test_null_meets_every_rule() -> None:
    assert validated({"field": "origin", "allowed": ["EWR"]}, {"origin": None}).flags == {}
    assert validated({"field": "seats", "at_least": 1}, {"seats": None}).flags == {}
    assert validated({"field": "origin", "compare": "!=", "other": "dest"}, {"origin": None}).flags == {}


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"field": "orign", "allowed": ["EWR"]}, "no request field 'orign'"),
        ({"field": "seats", "compare": "<", "other": "dest"}, "only equal types compare"),
        ({"field": "origin", "at_least": 3}, "'origin' is a string, which has no order"),
        ({"field": "leaves_at", "at_least": "1990-01-01T00:00:00"}, "no value of type datetime, which needs an offset"),
        ({"field": "seats", "at_least": 1, "allowed": [1]}, "declare one of"),
        ({"field": "seats"}, "declare one of"),
        ({"field": "seats", "compare": "<"}, "declare one of"),
    ],
)
def test_rule_that_does_not_fit_the_fields_is_refused_when_declared(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        contract({"name": "rule", **rule})


def test_refused_breaches_are_in_the_openapi_page() -> None:
    rules: list[dict[str, Any]] = [
        {"name": "airports", "field": "origin", "allowed": ["EWR", "JFK"]},
        {"name": "seats", "field": "seats", "at_least": 1, "at_most": 900},
        {"name": "two", "field": "origin", "compare": "!=", "other": "dest"},
        {"name": "marked", "field": "dest", "allowed": ["LAX"], "on_breach": "flag"},
    ]
    row = openapi_document(contract(*rules), "1")["components"]["schemas"]["Row"]
    assert row["properties"]["origin"]["enum"] == ["EWR", "JFK", None]
    assert {"minimum": 1, "maximum": 900}.items() <= row["properties"]["seats"].items()
    assert "enum" not in row["properties"]["dest"]
    assert "`origin` != `dest`" in row["description"]


def test_text_beyond_its_length_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        validated({"field": "seats", "at_least": 1}, {"dest": "x" * 1_001})
    assert (caught.value.path, caught.value.details[0].found) == ("rows[0].dest", "1001 characters")


def test_contract_without_rules_is_written_as_by_earlier_releases() -> None:
    plain = RequestContract.model_validate({"model": "toy", "fields": FIELDS})
    assert {"rules", "max_past_minutes", "on_past"} & plain.model_dump().keys() == set()
    assert "max_length" not in plain.model_dump()["fields"][0]
    ruled = contract({"name": "seats", "field": "seats", "at_least": 1})
    assert RequestContract.model_validate_json(ruled.model_dump_json()) == ruled
