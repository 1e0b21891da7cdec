"""Declarations of views: contradictions are rejected, and names follow the view."""

from typing import Any

import pytest
from pydantic import ValidationError

from ml_platform.features.view import FeatureView

BASE: dict[str, Any] = {
    "name": "v",
    "entity": ["k"],
    "features": [{"name": "x", "description": "…"}],
    "function": "m:f",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": [{"name": "k", "description": "…"}]}, "named twice"),
        ({"features": [{"name": "known_at", "description": "…"}]}, "reserved"),
        ({"inputs": ["w"]}, "only a request view takes 'inputs'"),
        ({"fields": ["due"]}, "only a request view takes 'inputs' and 'fields'"),
        ({"kind": "request"}, "a request view takes no entity"),
        ({"features": [{"name": "x", "description": "…", "derived_from": ["flights.due"]}]}, "in none of its sources"),
        ({"features": []}, "at least 1 item"),
        ({"tolerance": 5}, "Did you mean 'tolerance_minutes'"),
    ],
)
def test_contradictory_declaration_is_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FeatureView.model_validate(BASE | changes)


def test_columns_are_prefixed_with_the_view_and_include_its_age() -> None:
    view = FeatureView.model_validate(BASE | {"age": True})
    assert list(view.columns) == ["v__x", "v__age_minutes"]
    assert view.feature_names == ["v__x", "v__age_minutes"]
    assert FeatureView.model_validate(BASE).feature_names == ["v__x"]


def test_declared_code_version_names_the_table() -> None:
    assert FeatureView.model_validate(BASE | {"code_version": "7"}).table == "features/v/7"
