"""Properties that a bound model derives from its declaration: the primary metric, the slice fields and the gates."""

import numpy as np
import pytest

from ml_platform.evaluation.evidence import Evidence
from ml_platform.features.unknown_fields import without_fields
from ml_platform.features.view import FeatureView
from ml_platform.serving.request_contract import RequestField
from ml_platform.steps.model import BoundModel
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


def test_request_field_of_a_pii_column_is_hashed_unless_it_is_declared_otherwise() -> None:
    declared = delivery_model().declared
    request = [field.model_dump() | {"pii": "drop" if field.name == "distance" else None} for field in declared.request]
    plain = delivery_model()
    found = BoundModel(
        declared.model_copy(update={"request": [RequestField(**each) for each in request]}), plain.views, ["shop"]
    )
    assert found.contract.pii_fields == {"shop": "hash", "distance": "drop"}
    assert set(found.contract.hashed_fields) == {"shop"}
    assert {"shop", "distance"} <= found.pii_columns
    # The contract of a model without such fields is that of earlier releases.
    assert plain.contract.pii_fields == {}
    assert "pii" not in plain.contract.model_dump_json()


def test_features_of_a_dropped_field_are_dropped_and_other_features_of_persons_are_hashed() -> None:
    def view(name: str, **changes: object) -> FeatureView:
        feature = {"name": "x", "type": "float32", "description": "…"}
        return FeatureView.model_validate(
            {"name": name, "function": "m:f", "code_version": "1", "features": [feature], **changes}
        )

    request = {"kind": "request"}
    views = [
        view("of_shop", fields=["shop"], **request),
        view("of_distance", fields=["distance"], **request),
        view("of_both", fields=["shop"], inputs=["of_distance"], **request),
        view("of_time", fields=["ordered_at"], **request),
        view("of_facts", entity=["shop"], pii_columns=["x"]),
    ]
    declared = delivery_model().declared
    treatments = {"shop": "hash", "distance": "drop"}
    fields = [RequestField(**field.model_dump() | {"pii": treatments.get(field.name)}) for field in declared.request]
    found = BoundModel(declared.model_copy(update={"request": fields}), views)
    assert found.contract.pii_features == {
        "of_both__x": "drop", "of_distance__x": "drop", "of_facts__x": "hash", "of_shop__x": "hash",
    }  # fmt: skip
    hidden = found.contract.pii_fields
    assert [each.name for each in without_fields(found.feature_set, hidden, ["shop"]).views] == ["of_time", "of_facts"]
    assert [each.name for each in without_fields(found.feature_set, hidden).views] == ["of_time"]
