"""Metadata of the assets in the UI: columns with descriptions, kinds and tags."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform import components
from ml_platform.components.loading import bound_model
from ml_platform.components.metadata import records_table, training_set_schema
from ml_platform.definitions import defs


@pytest.fixture(scope="module")
def graph() -> Any:
    return defs().resolve_asset_graph()


def test_training_set_describes_every_column() -> None:
    model = bound_model("departure_risk")
    columns = {column.name: column for column in training_set_schema(model).columns}

    assert list(columns)[:5] == ["example_id", "predict_at", "label", "label_known_at", "carrier"]
    assert set(model.feature_set.feature_names) | set(model.request_fields) < set(columns)
    assert columns["system__overdue_30m"].description == (
        "Flights out of New York at the gate now, more than 30 minutes past their schedule [flights]"
    )
    assert columns["tailnum"].constraints.nullable
    assert [name for name, column in columns.items() if not column.description] == []


def test_every_table_has_a_column_schema(graph: Any) -> None:
    tables = [
        node
        for node in graph.asset_nodes
        if node.key.path[0] in ("datasets", "features") or node.key.path[-1] == "training_set"
    ]
    assert len(tables) > 20
    assert [node.key for node in tables if "dagster/column_schema" not in node.metadata] == []


def test_every_asset_has_a_kind_and_a_tag(graph: Any) -> None:
    assert [node.key for node in graph.asset_nodes if not node.kinds or not node.tags] == []


CELLS = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=3)
ROWS = st.lists(st.dictionaries(st.sampled_from("abcd"), CELLS), max_size=5)


@settings(deadline=None)
@given(ROWS, st.lists(st.sampled_from("xa"), unique=True))
def test_table_of_rows_with_unequal_fields_keeps_every_value_and_adds_nulls(
    rows: list[dict[str, Any]], names: list[str]
) -> None:
    table = records_table(rows, names)
    columns = [column.name for column in table.schema.columns]
    assert sorted(columns) == sorted({*names, *(name for row in rows for name in row)})
    assert columns[: len(names)] == names
    for record, row in zip(table.records, rows, strict=True):
        assert {name: value for name, value in record.data.items() if name in row} == row
        assert {record.data[name] for name in columns if name not in row} <= {None}


def test_type_of_a_column_is_that_of_its_values() -> None:
    table = records_table([{"n": 1, "mixed": 1}, {"n": None, "mixed": "x", "share": 0.5}, {"ok": True}], ["empty"])
    assert {column.name: column.type for column in table.schema.columns} == {
        "empty": "string",
        "n": "int",
        "mixed": "string",
        "share": "float",
        "ok": "bool",
    }


def test_every_table_of_the_ui_is_made_by_the_one_function() -> None:
    package = Path(components.__file__).parent
    made = [path.name for path in package.rglob("*.py") if "MetadataValue.table(" in path.read_text()]
    assert made == ["metadata.py"]
