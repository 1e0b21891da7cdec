"""Vectors and lists of a stored table follow the contract; a change that would lose a value is refused by name."""

from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest

from ml_platform.data.contract import ColumnRule, Contract
from ml_platform.data.evolution import EvolutionError, EvolutionRequest, column_changes
from ml_platform.data.lake import Lake

STORED = pl.DataFrame(
    {
        "id": [1, 2, 3],
        "place": pl.Series([[0.5, 0.1], None, [3.0, 4.0]], dtype=pl.Array(pl.Float32, 2)),
        "counts": pl.Series([[1, 2], [], None], dtype=pl.List(pl.Int64)),
        "days": pl.Series([[date(2024, 1, 2)], None, []], dtype=pl.List(pl.Date)),
        "paid": [True, False, None],
    }
)
VECTOR: dict[str, Any] = {"type": "vector", "size": 2}


def items(name: str) -> dict[str, Any]:
    return {"type": "list", "items": name}


DECLARED: dict[str, dict[str, Any]] = {
    "id": {"type": "integer"},
    "place": VECTOR,
    "counts": items("integer"),
    "days": items("date"),
    "paid": {"type": "boolean"},
}


def evolved(columns: dict[str, dict[str, Any]], request: EvolutionRequest = EvolutionRequest()) -> pl.DataFrame:  # noqa: B008
    rules = [
        ColumnRule.model_validate({"name": name, "description": name, "nullable": True} | each)
        for name, each in columns.items()
    ]
    return column_changes("shops", STORED.schema, Contract(columns=rules), request).apply(STORED, "2024-01")


def test_vectors_and_lists_are_added_renamed_and_dropped() -> None:
    columns = {"id": {"type": "integer"}, "spot": VECTOR, "sizes": VECTOR, "tags": items("string"), "later": VECTOR}
    request = EvolutionRequest({"place": "spot"}, {"sizes": "[1, 2.5]", "tags": '["a"]'}, ["counts", "days", "paid"])

    rows = evolved(columns, request)

    assert rows["spot"].equals(STORED["place"])
    assert rows["sizes"].to_list() == [[1.0, 2.5]] * 3
    assert rows["tags"].to_list() == [["a"]] * 3
    assert (rows["later"].null_count(), rows["later"].dtype) == (3, pl.Array(pl.Float32, 2))


@pytest.mark.parametrize(
    ("column", "wider", "values"),
    [
        ("counts", items("float"), [[1.0, 2.0], [], None]),
        ("counts", items("string"), [["1", "2"], [], None]),
        ("days", items("timestamp"), [[datetime(2024, 1, 2, tzinfo=UTC)], None, []]),
        ("days", items("string"), [["2024-01-02"], None, []]),
        ("place", items("float"), [[0.5, 0.10000000149011612], None, [3.0, 4.0]]),  # 0.1 in 32 bits
        ("paid", {"type": "string"}, ["true", "false", None]),
    ],
)
def test_wider_type_keeps_each_value(column: str, wider: dict[str, Any], values: list[Any]) -> None:
    assert evolved(DECLARED | {column: wider})[column].to_list() == values


@pytest.mark.parametrize(
    ("column", "declared", "message"),
    [
        ("place", VECTOR | {"size": 3}, "'place'.*found vector of 3 components in the contract, which may lose"),
        ("place", items("integer"), "'place'.*found list of integer in the contract, which may lose"),
        ("counts", VECTOR, "'counts'.*found vector of 2 components in the contract, which may lose"),
        ("counts", items("boolean"), "'counts'.*found list of boolean in the contract, which may lose"),
        ("counts", {"type": "integer"}, "'counts'.*found integer in the contract, which may lose"),
        ("id", items("integer"), "'id'.*found list of integer in the contract, which may lose"),
    ],
)
def test_type_that_may_lose_items_is_refused(column: str, declared: dict[str, Any], message: str) -> None:
    with pytest.raises(EvolutionError, match=message):
        evolved(DECLARED | {column: declared})


def test_item_that_the_wider_type_cannot_hold_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    large = STORED.with_columns(pl.Series("counts", [[1], [2**53 + 1], None], dtype=pl.List(pl.Int64)))
    monkeypatch.setattr(f"{__name__}.STORED", large)

    with pytest.raises(EvolutionError, match=r"partition 2024-01, column 'counts'.*found 1 rows that would change"):
        evolved(DECLARED | {"counts": items("float")})


@pytest.mark.parametrize("text", ["[1]", "[1, 2, 3]", "[]", "[1, null]", "[1, NaN]", "[1, 1e300]", "1, 2", '["a", 1]'])
def test_fill_that_is_no_vector_of_the_declared_size_is_refused(text: str) -> None:
    with pytest.raises(EvolutionError, match=r"--fill spot=.*expected a value of type vector of 2 components"):
        evolved(DECLARED | {"spot": VECTOR}, EvolutionRequest(fills={"spot": text}))


@pytest.mark.parametrize("text", ["[1.5]", "[null]", "1", "[1, [2]]"])
def test_fill_that_is_no_list_of_the_declared_items_is_refused(text: str) -> None:
    with pytest.raises(EvolutionError, match=r"--fill more=.*expected a value of type list of integer"):
        evolved(DECLARED | {"more": items("integer")}, EvolutionRequest(fills={"more": text}))


def test_evolved_vectors_are_read_from_the_lake_and_earlier_versions_have_their_own(tmp_path: Any) -> None:
    lake = Lake.standalone(tmp_path)
    lake.write("datasets/shops", STORED, "2024-01")
    columns = {"id": {"type": "integer"}, "spot": items("float"), "more": VECTOR | {"size": 3}}
    rows = evolved(columns, EvolutionRequest({"place": "spot"}, {"more": "[1,2,3]"}, ["counts", "days", "paid"]))
    version = lake.version("datasets/shops")
    stored = lake.stage("datasets/shops", rows, "2024-01")
    replaced = [each.id for each in lake.catalog.segments("datasets/shops")]
    with lake.state.write():
        lake.catalog.record("datasets/shops", rows.clear(), partitioned=True, added=[stored.segment], replaced=replaced)

    assert lake.scan("datasets/shops").drop("partition").collect().equals(rows)
    assert lake.scan("datasets/shops", version).drop("partition").collect().equals(STORED)
