"""The encoder: the float matrix of a table of features."""

import math

import numpy as np
import polars as pl
import pytest

from ml_platform.features.encoder import Encoder, EncoderError

FRAME = pl.DataFrame({"carrier": ["UA", "AA", None], "delay": [1.5, None, 3.0], "late": [True, False, None]})
NAMES = ["delay", "carrier", "late"]


def test_columns_have_the_fitted_order_with_categories_as_codes() -> None:
    matrix = Encoder.fit(FRAME, NAMES).transform(FRAME)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, [[1.5, 1, 1], [np.nan, 0, 0], [3.0, np.nan, np.nan]])


def test_category_unknown_to_the_encoder_is_missing() -> None:
    encoder = Encoder.fit(FRAME, NAMES)
    assert math.isnan(encoder.transform(FRAME.with_columns(carrier=pl.lit("ZZ")))[0, 1])


def test_infinite_value_is_missing() -> None:
    encoder = Encoder.fit(FRAME, NAMES)
    assert math.isnan(encoder.transform(FRAME.with_columns(delay=pl.lit(math.inf)))[0, 0])


def test_encoder_read_from_json_gives_the_same_matrix() -> None:
    encoder = Encoder.fit(FRAME, NAMES)
    again = Encoder.from_json(encoder.to_json())
    assert again == encoder
    np.testing.assert_array_equal(again.transform(FRAME), encoder.transform(FRAME))


def test_category_indices_are_the_positions_of_categories() -> None:
    assert Encoder.fit(FRAME, NAMES).category_indices == [1]


def test_feature_with_only_nulls_is_missing_in_all_rows() -> None:
    frame = FRAME.with_columns(delay=pl.lit(None))
    assert np.isnan(Encoder.fit(frame, NAMES).transform(frame)[:, 0]).all()


def test_enum_is_encoded_like_the_same_text() -> None:
    enum = FRAME.with_columns(pl.col("carrier").cast(pl.Enum(["AA", "UA"])))
    encoder = Encoder.fit(FRAME, NAMES)
    np.testing.assert_array_equal(encoder.transform(enum), encoder.transform(FRAME))


def test_error_names_an_absent_feature_and_the_closest_column() -> None:
    with pytest.raises(EncoderError, match=r"1 absent: 'delays'.* Did you mean 'delay'"):
        Encoder.fit(FRAME, ["delays"])


def test_text_in_a_number_feature_is_rejected() -> None:
    encoder = Encoder.fit(FRAME, NAMES)
    with pytest.raises(EncoderError, match="'delay': expected a number, found String"):
        encoder.transform(FRAME.with_columns(delay=pl.lit("late")))


def test_instants_are_rejected_as_features() -> None:
    with pytest.raises(EncoderError, match="expected numbers, flags or categories, found 'at'"):
        Encoder.fit(FRAME.with_columns(at=pl.datetime(2013, 1, 1)), ["at"])


def test_json_of_another_format_is_rejected() -> None:
    with pytest.raises(EncoderError, match="found someone_else/7"):
        Encoder.from_json('{"format": "someone_else/7"}')
