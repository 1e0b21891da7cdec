"""Properties that a bound model derives from its declaration: the primary metric, the slice fields and the gates."""

import numpy as np
import pytest

from ml_platform.evaluation.evidence import Evidence
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


def test_undeclared_baseline_gate_compares_average_precision_where_positives_are_rare() -> None:
    (gate,) = [each for each in delivery_model(gates=[{"type": "leak"}]).gates if each.type == "baseline"]
    label = np.zeros(2000)
    label[::50] = 1
    scores = {"candidate": np.where(label == 1, 0.5, 0.01), "base_rate": np.full(2000, 0.02)}
    numbers = gate.evaluate(Evidence(label, scores, np.arange(2000) % 20)).numbers
    assert "improvement_over_base_rate" in numbers
    assert "average_precision_improvement_over_base_rate" in numbers
