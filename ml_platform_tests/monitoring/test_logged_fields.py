"""Logged JSON is read in the types of the declaration."""

import json
from datetime import UTC, datetime

import polars as pl
import pytest

from ml_platform.monitoring.logged_fields import (
    PredictionLogError,
    unpack_json_column,
    with_features,
    with_request_fields,
)


def test_unpacking_an_absent_column_is_rejected() -> None:
    with pytest.raises(PredictionLogError, match="a column 'request' of JSON text, found columns score"):
        unpack_json_column(pl.DataFrame({"score": [0.5]}), "request")


REQUEST = {"flight": 15, "scheduled_departure": "2013-07-01T08:00:00-04:00"}


def test_request_fields_have_the_types_of_the_declaration() -> None:
    logged = pl.DataFrame({"request": [json.dumps(REQUEST)]})
    fields: dict[str, pl.DataType] = {"flight": pl.Int32(), "scheduled_departure": pl.Datetime("us", "UTC")}
    read = with_request_fields(logged, fields).select(list(fields))
    assert (read.rows(), read.dtypes) == ([(15, datetime(2013, 7, 1, 12, tzinfo=UTC))], list(fields.values()))


def test_request_fields_of_no_prediction_are_empty_columns() -> None:
    empty = pl.DataFrame(schema={"request": pl.String})
    assert with_request_fields(empty, {"flight": pl.Int32()}).schema == {"request": pl.String, "flight": pl.Int32}


def test_field_that_no_request_has_is_named() -> None:
    logged = pl.DataFrame({"request": [json.dumps(REQUEST)]})
    with pytest.raises(PredictionLogError, match=r"1 in no request: 'fligt'.*Did you mean 'flight'"):
        with_request_fields(logged, {"fligt": pl.Int32()})


def test_field_that_does_not_fit_its_type_is_rejected() -> None:
    logged = pl.DataFrame({"request": [json.dumps({"flight": "UA15"})]})
    with pytest.raises(PredictionLogError, match="expected flight: Int32, found"):
        with_request_fields(logged, {"flight": pl.Int32()})


def test_times_are_read_in_every_form_that_the_service_accepts() -> None:
    forms = ["2013-07-01T08:00:00-04:00", "2013-07-01T12:00:00Z", "2013-07-01T12:00:00.250000+00:00", None]
    logged = pl.DataFrame({"request": [json.dumps({"due": form}) for form in forms]})
    noon = datetime(2013, 7, 1, 12, tzinfo=UTC)
    read = with_request_fields(logged, {"due": pl.Datetime("us", "UTC")})["due"]
    assert read.to_list() == [noon, noon, noon.replace(microsecond=250_000), None]


def test_features_have_the_types_of_their_views() -> None:
    logged = pl.DataFrame({"features": ['{"delays__mean": null, "leg__model": null}', '{"delays__mean": 0.1}']})
    read = with_features(logged, {"delays__mean": pl.Float32(), "leg__model": pl.String()}).drop("features")
    assert read.dtypes == [pl.Float32, pl.String]
    assert read["delays__mean"].to_list() == [None, pytest.approx(0.1)]
