"""The content hash ignores layout and depends on every value."""

from datetime import UTC, datetime
from pathlib import Path
from random import Random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.data.digest import DigestError, content_hash

TABLE = pl.DataFrame(
    {
        "number": [1, 2, None],
        "text": ["a", None, "ab"],
        "real": [0.5, float("nan"), None],
        "at": [datetime(2013, 1, 1, tzinfo=UTC), None, datetime(2013, 1, 2, tzinfo=UTC)],
        "flag": [True, False, None],
    }
)


def test_order_of_rows_columns_and_chunks_does_not_change_the_hash() -> None:
    shuffled = pl.concat([TABLE[2:], TABLE[:2]], rechunk=False).select(reversed(TABLE.columns))

    assert content_hash(shuffled) == content_hash(TABLE)


def test_row_groups_of_a_file_do_not_change_the_hash(tmp_path: Path) -> None:
    many, one = tmp_path / "many.parquet", tmp_path / "one.parquet"
    TABLE.write_parquet(many, row_group_size=1)
    TABLE.write_parquet(one, compression="snappy")

    assert content_hash(pl.read_parquet(many)) == content_hash(pl.read_parquet(one)) == content_hash(TABLE)


@pytest.mark.parametrize(
    "changed",
    [
        TABLE.with_columns(number=pl.Series([1, 3, None])),
        TABLE.with_columns(number=pl.Series([1, 2, 0])),
        TABLE.with_columns(text=pl.Series(["", None, "aab"])),
        TABLE.with_columns(text=pl.Series(["a", "", "ab"])),
        TABLE.with_columns(real=pl.Series([0.5, None, None], dtype=pl.Float64)),
        TABLE.with_columns(flag=pl.Series([True, False, False])),
        TABLE.with_columns(pl.col("number").cast(pl.Int32)),
        TABLE.rename({"number": "count"}),
        pl.concat([TABLE, TABLE[:1]]),
        TABLE[:2],
    ],
)
def test_every_change_of_content_changes_the_hash(changed: pl.DataFrame) -> None:
    assert content_hash(changed) != content_hash(TABLE)


def test_zero_has_no_sign_and_categories_hash_like_their_text() -> None:
    assert content_hash(pl.DataFrame({"x": [-0.0]})) == content_hash(pl.DataFrame({"x": [0.0]}))
    assert content_hash(pl.DataFrame({"x": ["a"]}, schema={"x": pl.Categorical})) == content_hash(
        pl.DataFrame({"x": ["a"]})
    )


def test_lists_and_vectors_count_their_items_in_order_and_their_lengths() -> None:
    tables = [
        pl.DataFrame({"x": pl.Series(rows, dtype=dtype)})
        for rows, dtype in (
            ([[1.0], [2.0, 3.0]], pl.List(pl.Float64)),
            ([[1.0, 2.0], [3.0]], pl.List(pl.Float64)),
            ([[1.0], [3.0, 2.0]], pl.List(pl.Float64)),
            ([[1.0], [2.0, None]], pl.List(pl.Float64)),
            ([[1.0], None], pl.List(pl.Float64)),
            ([[1.0], []], pl.List(pl.Float64)),
            ([[1.0, 2.0]], pl.List(pl.Float32)),
            ([[1.0, 2.0]], pl.Array(pl.Float32, 2)),
        )
    ]

    assert len({content_hash(table) for table in tables}) == len(tables)
    assert content_hash(tables[0]) == content_hash(tables[0].reverse())
    assert content_hash(pl.DataFrame({"x": [[0.0]]})) == content_hash(pl.DataFrame({"x": [[-0.0]]}))


def test_lists_of_lists_are_rejected() -> None:
    with pytest.raises(DigestError, match=r"Column 'x': expected a scalar type, or a list of one, found List"):
        content_hash(pl.DataFrame({"x": [[[1]]]}))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=3), st.none() | st.integers(-5, 5)), max_size=8), st.randoms())
def test_any_permutation_has_the_same_hash(rows: list[tuple[str, int | None]], random: Random) -> None:
    schema = {"key": pl.String, "value": pl.Int64}
    shuffled = list(rows)
    random.shuffle(shuffled)

    assert content_hash(pl.DataFrame(shuffled, schema, orient="row")) == content_hash(
        pl.DataFrame(rows, schema, orient="row")
    )
