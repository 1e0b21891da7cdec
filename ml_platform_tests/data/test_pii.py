"""Values of PII columns are masked wherever rows, values or errors are shown."""

import polars as pl

from ml_platform.data.pii import MASK, shown, shown_error, shown_rows, without_pii

ROWS = pl.DataFrame({"id": [1, 2], "email": ["alice@example.org", None], "born": [1931, 1983]})


def test_rows_show_the_values_of_other_columns_only() -> None:
    assert shown_rows(ROWS, ["email", "born"]) == [
        {"id": 1, "email": MASK, "born": MASK},
        {"id": 2, "email": MASK, "born": MASK},
    ]


def test_value_computed_from_a_pii_column_and_another_one_is_masked() -> None:
    assert shown(1932, ["id", "born"], ["born"]) == MASK
    assert shown(1932, ["id"], ["born"]) == 1932
    assert shown(1932, "id", []) == 1932


def test_rows_without_pii_keep_their_types() -> None:
    assert without_pii(ROWS, ["email", "born"]).rows() == [(1, None, None), (2, None, None)]
    assert without_pii(ROWS, ["email", "born"]).schema == ROWS.schema
    assert without_pii(ROWS, []).equals(ROWS)


def test_error_of_custom_code_shows_type_and_place_and_its_message_only_without_pii_columns() -> None:
    try:
        ROWS["email"].cast(pl.Int64)
    except pl.exceptions.InvalidOperationError as raised:
        error = raised
    hidden, open_ = shown_error(error, ["email"]), shown_error(error, [])

    assert "alice" in open_
    assert "alice" not in hidden
    assert hidden.startswith("InvalidOperationError in ")
    assert hidden.endswith(f": {MASK}")
