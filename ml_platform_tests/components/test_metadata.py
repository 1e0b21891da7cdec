"""Metadata of the assets in the UI: columns with descriptions, kinds and tags."""

from typing import Any

import pytest

from ml_platform.components.loading import bound_model
from ml_platform.components.metadata import training_set_schema
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
