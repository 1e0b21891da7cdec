"""Dates, durations, decimals, vectors, lists and binaries in requests: read exactly, or refused by path."""

import json
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from ml_platform.data.exact_json import json_value
from ml_platform.monitoring.logged_fields import PredictionLogError, with_request_fields
from ml_platform.serving.openapi import openapi_document
from ml_platform.serving.request_contract import InvalidRequestError, RequestContract, RequestField

FIELDS: list[dict[str, Any]] = [
    {"name": "day", "type": "date", "examples": ["2026-01-31"]},
    {"name": "wait", "type": "duration", "nullable": True},
    {"name": "price", "type": "decimal", "scale": 2},
    {"name": "embedding", "type": "vector", "size": 3, "nullable": True},
    {"name": "tags", "type": "list", "items": "string"},
    {"name": "visits", "type": "list", "items": "date"},
    {"name": "photo", "type": "binary", "max_bytes": 4, "nullable": True},
]
CONTRACT = RequestContract(model="items", fields=[RequestField.model_validate(each) for each in FIELDS])
ROW: dict[str, Any] = {
    "day": "2026-01-31",
    "wait": "PT1H30M",
    "price": "12345678901234567890.10",
    "embedding": [1, 2.5, -3e-2],
    "tags": ["a", "b"],
    "visits": ["2026-01-30"],
    "photo": "AP+AfQ==",
}
OTHER: dict[str, Any] = {
    "day": "1999-12-31",
    "wait": 0.1,
    "price": 2.5,
    "embedding": None,
    "tags": [],
    "visits": [],
    "photo": None,
}


def body(*rows: dict[str, Any]) -> bytes:
    return json.dumps({"rows": list(rows)}).encode()


@pytest.mark.parametrize("copies", [1, 20])
def test_values_are_read_exactly_in_few_rows_and_in_many(copies: int) -> None:
    frame = CONTRACT.validate(body(*[ROW, OTHER] * copies)).frame()

    assert frame.schema == CONTRACT.dtypes
    assert frame.height == 2 * copies
    assert frame.row(0) == (
        date(2026, 1, 31),
        timedelta(minutes=90),
        Decimal("12345678901234567890.10"),
        [1.0, 2.5, pytest.approx(-0.03)],
        ["a", "b"],
        [date(2026, 1, 30)],
        b"\x00\xff\x80\x7d",
    )
    assert frame.row(1) == (date(1999, 12, 31), timedelta(milliseconds=100), Decimal("2.50"), None, [], [], None)


@pytest.mark.parametrize(
    ("changes", "path", "found"),
    [
        ({"day": "2026-02-30"}, "rows[1].day", "a string '2026-02-30'"),
        ({"day": "0001-01-01"}, "rows[1].day", "a string '0001-01-01'"),
        ({"day": 20260131}, "rows[1].day", "an int 20260131"),
        ({"day": None}, "rows[1].day", "null"),
        ({"wait": "P1M"}, "rows[1].wait", "a string 'P1M'"),
        ({"wait": 1e-7}, "rows[1].wait", "a float 1e-07"),
        ({"wait": 10**40}, "rows[1].wait", "a float 1e+40"),
        ({"wait": float("nan")}, "rows[1].wait", "a float nan"),
        ({"wait": True}, "rows[1].wait", "a flag True"),
        ({"price": "1.005"}, "rows[1].price", "a string '1.005'"),
        ({"price": 123456789012345.67}, "rows[1].price", "a float 123456789012345.67"),
        ({"price": "1e5"}, "rows[1].price", "a string '1e5'"),
        ({"price": "9" * 5000}, "rows[1].price", "a string '999"),
        ({"price": float("inf")}, "rows[1].price", "a float inf"),
        ({"embedding": [1, 2]}, "rows[1].embedding", "a list of 2"),
        ({"embedding": [1, 2, float("nan")]}, "rows[1].embedding[2]", "a float nan"),
        ({"embedding": [1, 1e39, 3]}, "rows[1].embedding[1]", "a float 1e+39"),
        ({"embedding": [True, 2, 3]}, "rows[1].embedding[0]", "a flag True"),
        ({"embedding": [[1], 2, 3]}, "rows[1].embedding[0]", "a list of 1"),
        ({"embedding": "[1, 2, 3]"}, "rows[1].embedding", "a string"),
        ({"embedding": {"0": 1}}, "rows[1].embedding", "an object of 1"),
        ({"tags": ["a", None]}, "rows[1].tags[1]", "null"),
        ({"tags": ["a", ["b"]]}, "rows[1].tags[1]", "a list of 1"),
        ({"tags": ["a"] * 10_001}, "rows[1].tags", "a list of 10001"),
        ({"visits": ["2026-01-30", "x"]}, "rows[1].visits[1]", "a string 'x'"),
        ({"photo": "AAECAwQ="}, "rows[1].photo", "a string 'AAECAwQ='"),  # five bytes
        ({"photo": "A" * 5000}, "rows[1].photo", "a string 'AAA"),
        ({"photo": "AA=="[:3]}, "rows[1].photo", "a string 'AA='"),
        ({"photo": "A-_="}, "rows[1].photo", "a string 'A-_='"),
        ({"photo": "AA EC"}, "rows[1].photo", "a string 'AA EC'"),
        ({"photo": [0, 255]}, "rows[1].photo", "a list of 2"),
    ],
)
def test_wrong_value_is_named_by_its_path(changes: dict[str, Any], path: str, found: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        CONTRACT.validate(body(ROW, ROW | changes))

    (detail,) = error.value.details
    assert (error.value.status, detail.path) == (422, path)
    assert detail.found.startswith(found)


def test_logged_requests_and_own_requests_give_the_values_of_the_request() -> None:
    frame = CONTRACT.validate(body(ROW, OTHER)).frame()
    logged = pl.DataFrame({"request": [json.dumps(ROW), json.dumps(OTHER)]})

    assert with_request_fields(logged, CONTRACT.dtypes).drop("request").equals(frame)
    sent = [{name: json_value(value) for name, value in row.items()} for row in frame.to_dicts()]
    assert CONTRACT.validate(body(*sent)).frame().equals(frame)
    with pytest.raises(PredictionLogError, match="day: Date"):
        with_request_fields(pl.DataFrame({"request": ['{"day": "soon"}']}), {"day": pl.Date()})


def test_openapi_describes_sizes_and_items() -> None:
    properties = openapi_document(CONTRACT, "1")["components"]["schemas"]["Row"]["properties"]

    assert properties["embedding"] == {
        "type": ["array", "null"],
        "items": {"type": "number"},
        "minItems": 3,
        "maxItems": 3,
    }
    assert properties["wait"]["type"] == ["number", "string", "null"]
    dates = {"type": "string", "format": "date", "description": "In the years 1685 to 2254."}
    assert properties["visits"]["items"] == dates
    assert properties["photo"] == {"type": ["string", "null"], "contentEncoding": "base64", "maxLength": 8}


def test_field_is_complete_and_an_old_contract_is_written_as_before() -> None:
    with pytest.raises(ValidationError, match="declare 'size'"):
        RequestField(name="x", type="vector")
    with pytest.raises(ValidationError, match="is not a date: a string 'x'"):
        RequestField(name="x", type="date", examples=["x"])
    with pytest.raises(ValidationError, match="declare 'max_bytes'"):
        RequestField(name="x", type="binary")
    photo = RequestField(name="x", type="binary", max_bytes=1000)
    with pytest.raises(ValidationError, match="1000 bytes are 1336 in base64, and a request has at most 1200"):
        RequestContract(model="items", fields=[photo], max_bytes=1200)
    assert set(RequestField(name="x", type="int").model_dump()) == {
        "name",
        "type",
        "description",
        "nullable",
        "examples",
    }


def test_example_of_every_field_is_a_right_request() -> None:
    example = {field.name: field.example for field in CONTRACT.fields}

    assert example["day"] == "2026-01-31"
    assert CONTRACT.validate(body(example)).frame()["embedding"].to_list() == [[0.0, 0.0, 0.0]]
