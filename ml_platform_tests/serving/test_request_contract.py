"""Validation of requests: each invalid one is rejected with its status and the path of the field."""

import itertools
import json
import pickle
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from ml_platform.serving import request_contract
from ml_platform.serving.openapi import openapi_document
from ml_platform.serving.request_contract import InvalidRequestError, RequestContract

FIELDS: list[dict[str, Any]] = [
    {"name": "carrier", "type": "string"},
    {"name": "flight", "type": "int"},
    {"name": "miles", "type": "float"},
    {"name": "codeshare", "type": "bool"},
    {"name": "tail", "type": "string", "nullable": True},
    {"name": "departs", "type": "datetime"},
]
ROW: dict[str, Any] = {
    "carrier": "UA",
    "flight": 7,
    "miles": 12,
    "codeshare": False,
    "tail": None,
    "departs": "2013-07-01T08:30:00-04:00",
}


def contract(**settings: Any) -> RequestContract:
    return RequestContract.model_validate({"model": "toy", "fields": FIELDS, **settings})


def body(*rows: Any) -> bytes:
    return json.dumps({"rows": list(rows)}).encode()


def rejected(data: bytes, **settings: Any) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        contract(**settings).validate(data)
    return caught.value


def test_error_keeps_its_details_between_processes() -> None:
    error = rejected(body(*[{**ROW, "flight": "x"}] * 30))
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), copied.has_more, len(copied.details)) == (InvalidRequestError, True, 10)
    assert (copied.status, copied.reason, copied.path) == (422, "field", "rows[0].flight")
    assert copied.details == error.details
    assert "More than 9 more values are wrong." in str(copied)
    assert copied.to_dict() == error.to_dict()


def test_valid_rows_become_a_table_in_the_declared_types() -> None:
    frame = contract().validate(body(ROW, {**ROW, "tail": "N1", "miles": 2.5})).frame()
    assert dict(frame.schema) == {
        "carrier": pl.String(),
        "flight": pl.Int64(),
        "miles": pl.Float64(),
        "codeshare": pl.Boolean(),
        "tail": pl.String(),
        "departs": pl.Datetime("us", "UTC"),
    }
    assert frame["tail"].to_list() == [None, "N1"]
    assert frame["miles"].to_list() == [12.0, 2.5]
    assert frame["departs"][0] == datetime(2013, 7, 1, 12, 30, tzinfo=UTC)


def test_few_and_many_rows_become_the_same_table() -> None:
    departs = "1958-07-01T08:30:00.000001+05:30"
    rows = [ROW, {**ROW, "tail": "é", "miles": -0.5, "codeshare": True, "departs": departs}]
    many = contract().validate(body(*rows * 50)).frame()
    assert contract().validate(body(*rows)).frame().equals(many[:2], null_equal=True)
    assert contract().validate(body(rows[1])).frame().equals(many[1])


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("carrier", 5, "an int 5"),
        ("carrier", None, "null"),
        ("flight", "7", "a string '7'"),
        ("flight", True, "a flag True"),
        ("flight", 7.0, "a float 7.0"),
        ("flight", 2**63, "beyond 64 bits"),
        ("miles", float("nan"), "not finite"),
        ("miles", float("inf"), "not finite"),
        ("miles", 10**400, "beyond 64 bits"),
        ("codeshare", 0, "an int 0"),
        ("tail", 3, "an int 3"),
        ("departs", "2013-07-01T08:30:00", "without an offset"),
        ("departs", "1 July", "not ISO 8601"),
        ("departs", "2013-02-30T08:30:00Z", "day is out of range"),
        ("departs", 1372681800, "an int 1372681800"),
        ("departs", "0001-01-01T00:00:00Z", "not in the years 1685 to 2254"),
        ("departs", "9999-12-31T23:59:59-14:00", "not in the years 1685 to 2254"),
    ],
)
def test_wrong_value_is_rejected_with_its_path(field: str, value: Any, found: str) -> None:
    error = rejected(body(ROW, {**ROW, field: value}))
    assert (error.status, error.path) == (422, f"rows[1].{field}")
    assert found in error.found


def test_missing_field_suggests_the_similar_field() -> None:
    row = {("carier" if name == "carrier" else name): value for name, value in ROW.items()}
    error = rejected(body(row))
    assert [each.path for each in error.details] == ["rows[0].carrier", "rows[0].carier"]
    assert error.details[0].hint == "Did you mean 'carier'?"
    assert error.details[1].hint == "Did you mean 'carrier'?"


def test_extra_field_is_rejected() -> None:
    assert rejected(body({**ROW, "color": "red"})).path == "rows[0].color"


def test_ten_wrong_values_are_listed_and_the_error_says_that_there_are_more() -> None:
    error = rejected(body(*[{**ROW, "flight": "x"}] * 30))
    assert len(error.details) == 10
    assert "More than 9 more values are wrong." in str(error)
    few = rejected(body(*[{**ROW, "flight": "x"}] * 3))
    assert (few.has_more, len(few.details)) == (False, 3)
    assert "2 more values are wrong." in str(few)


def test_search_for_wrong_values_ends_after_the_first_ten() -> None:
    # Rows after the tenth wrong value are never looked at: they are no rows.
    rows = [{**ROW, "flight": "x"}] * 11
    wrong = itertools.chain(rows, iter(lambda: pytest.fail("read on"), None))
    error = contract()._invalid_request(wrong)  # type: ignore[arg-type]
    assert len(error.details) == 10


@pytest.mark.parametrize(
    "row",
    [
        {**ROW, **{f"unknown_{number}": 1 for number in range(100_000)}},
        {f"unknown_{number}": 1 for number in range(100_000)},
        {**ROW, "x" * 3_000_000: 1},
    ],
    ids=["unknown fields", "no field", "long name"],
)
def test_error_of_a_row_with_many_or_long_names_is_small(row: dict[str, Any]) -> None:
    error = rejected(body(row), max_bytes=8 * 2**20)
    assert len(json.dumps(error.to_dict())) < 10_000
    assert len(error.details) <= 10


def test_valid_request_needs_no_search_for_near_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_contract, "did_you_mean", lambda *_: pytest.fail("searched"))
    assert contract().validate(body(ROW)).rows == [ROW]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"{'rows': []}",
        b"[" * 100_000,
        b"\xff",
        b'{"\\ud800": 1}',
        b'{"rows": ["\\udfff"]}',
        '{"rows": []}'.encode("utf-16"),
    ],
)
def test_body_that_is_not_json_is_rejected_with_status_400(data: bytes) -> None:
    assert (rejected(data).status, rejected(data).path) == (400, "body")


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b"[]", "body"),
        (b"{}", "rows"),
        (b'{"rows": []}', "rows"),
        (b'{"rows": 3}', "rows"),
        (b'{"rows": [3]}', "rows[0]"),
        (b'{"rows": [{}], "top": 1}', "top"),
    ],
)
def test_wrong_shape_is_rejected_with_its_path(data: bytes, path: str) -> None:
    assert (rejected(data).status, rejected(data).path) == (422, path)


def test_row_limit_is_the_declared_one() -> None:
    assert rejected(body(*[ROW] * 1001)).status == 413
    assert rejected(body(ROW, ROW), max_rows=1).status == 413
    assert len(contract(max_rows=2).validate(body(ROW, ROW)).rows) == 2


def test_byte_limit_is_the_declared_one() -> None:
    data = body(*[ROW] * 20)
    assert len(contract().validate(data).rows) == 20
    assert rejected(data, max_bytes=1024).status == 413


def test_openapi_schema_equals_the_validated_contract() -> None:
    document = openapi_document(contract(max_rows=7), "3")
    schemas = document["components"]["schemas"]
    assert list(document["paths"]) == ["/v1/toy/predict"]
    assert document["info"] == {"title": "toy", "version": "3"}
    assert schemas["Request"]["properties"]["rows"]["maxItems"] == 7
    assert schemas["Row"] == {
        "type": "object",
        "required": ["carrier", "flight", "miles", "codeshare", "tail", "departs"],
        "properties": {
            "carrier": {"type": "string", "maxLength": 1000},
            "flight": {"type": "integer", "format": "int64"},
            "miles": {"type": "number", "format": "double"},
            "codeshare": {"type": "boolean"},
            "tail": {"type": ["string", "null"], "maxLength": 1000},
            "departs": {"type": "string", "format": "date-time", "description": "In the years 1685 to 2254."},
        },
        "additionalProperties": False,
    }


def test_schema_has_example_and_description_and_a_wrong_example_is_rejected() -> None:
    field = {"name": "carrier", "type": "string", "description": "Airline", "examples": ["UA"]}
    document = openapi_document(RequestContract.model_validate({"model": "toy", "fields": [field]}), "1")
    schema = document["components"]["schemas"]["Row"]["properties"]["carrier"]
    assert schema == {"type": "string", "maxLength": 1000, "description": "Airline", "examples": ["UA"]}
    with pytest.raises(ValidationError, match="example 5 is not a string"):
        RequestContract.model_validate({"model": "toy", "fields": [{**field, "examples": [5]}]})


def test_prediction_time_must_name_a_time_that_is_never_null() -> None:
    timed = contract(prediction_time={"field": "departs", "minutes_before": 120})
    assert RequestContract.model_validate_json(timed.model_dump_json()) == timed
    with pytest.raises(ValidationError, match="Did you mean 'departs'"):
        contract(prediction_time={"field": "depart"})


def test_field_declared_twice_is_rejected() -> None:
    with pytest.raises(ValidationError, match="'carrier' declared twice"):
        RequestContract.model_validate({"model": "toy", "fields": [FIELDS[0], FIELDS[0]]})


def test_optional_field_may_be_absent_and_is_null_then() -> None:
    fields = [*FIELDS[:-1], {"name": "gate", "type": "string", "nullable": True, "optional": True}, FIELDS[-1]]
    optional = contract(fields=fields)
    valid = optional.validate(body(ROW, {**ROW, "gate": "B2"}))
    assert valid.columns["gate"] == [None, "B2"]
    assert [list(row) for row in valid.rows] == [[*ROW, "gate"]] * 2
    row = openapi_document(optional, "1")["components"]["schemas"]["Row"]
    assert row["required"] == list(ROW)
    assert row["properties"]["gate"]["type"] == ["string", "null"]
    with pytest.raises(InvalidRequestError) as caught:
        optional.validate(body(ROW, 7, {**ROW, "gates": "B2"}))
    assert [each.path for each in caught.value.details] == ["rows[1]", "rows[2].gates"]


def test_optional_field_that_is_never_null_is_refused() -> None:
    with pytest.raises(ValidationError, match="field 'gate': an optional field needs nullable: true"):
        contract(fields=[{"name": "gate", "type": "string", "optional": True}])


def test_contract_of_an_earlier_release_is_written_as_it_was() -> None:
    assert not {"optional", "max_length", "deprecated"} & contract().model_dump()["fields"][0].keys()
