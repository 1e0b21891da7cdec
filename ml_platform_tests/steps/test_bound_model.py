"""Properties that a bound model derives from its declaration: the primary metric and the slice fields."""

import pytest

from ml_platform_tests.components.delivery_model import delivery_minutes_model, delivery_model


@pytest.mark.parametrize(
    ("changes", "metric"),
    [
        ({"task": "binary", "evaluation": {}}, "auc"),
        ({"task": "regression", "evaluation": {}}, "rmse"),
        ({"task": "regression", "evaluation": {"primary_metric": "mae"}}, "mae"),
    ],
)
def test_primary_metric_follows_the_task_unless_it_is_declared(changes: dict[str, object], metric: str) -> None:
    assert delivery_model(**changes).primary_metric == metric


def test_slice_fields_are_the_declared_fields_and_those_of_the_gates() -> None:
    gates = [{"type": "slices", "columns": ["shop", "distance"]}, {"type": "leak"}]
    assert delivery_model(gates=gates).slice_fields == ["shop", "distance"]
    assert delivery_model(gates=gates, evaluation={"slices": ["ordered_at", "shop"]}).slice_fields == [
        "ordered_at",
        "shop",
        "distance",
    ]
    assert delivery_minutes_model().slice_fields == []
