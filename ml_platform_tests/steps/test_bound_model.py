"""What follows from a declaration without being written in it: the primary metric, and what slices are made by."""

import pytest

from ml_platform_tests.components.judged_model import judged_model, minutes_model


@pytest.mark.parametrize(
    ("changes", "metric"),
    [
        ({"task": "classification", "evaluation": {}}, "auc"),
        ({"task": "regression", "evaluation": {}}, "rmse"),
        ({"task": "regression", "evaluation": {"primary_metric": "mae"}}, "mae"),
    ],
)
def test_primary_metric_follows_the_task_unless_it_is_declared(changes: dict[str, object], metric: str) -> None:
    assert judged_model(**changes).primary_metric == metric


def test_slices_are_made_by_the_declared_fields_and_by_those_of_the_gates() -> None:
    gates = [{"type": "slices", "columns": ["shop", "distance"]}, {"type": "leak"}]
    assert judged_model(gates=gates).sliced == ["shop", "distance"]
    assert judged_model(gates=gates, evaluation={"slices": ["ordered_at", "shop"]}).sliced == [
        "ordered_at",
        "shop",
        "distance",
    ]
    assert minutes_model().sliced == []
