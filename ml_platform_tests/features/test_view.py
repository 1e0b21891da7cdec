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


def version(**changes: Any) -> str:
    declared: dict[str, Any] = BASE | {"sources": [{"dataset": "d", "columns": ["k"]}], "code_version": "7"}
    return FeatureView.model_validate(declared | changes).versioned().code_version


@pytest.mark.parametrize(
    "changes",
    [
        {"entity": ["j"]},
        {"entity": []},
        {"key_types": {"k": "int"}},
        {"lookback_days": 1},
        {"tolerance_minutes": 60},
        {"sources": [{"dataset": "e", "columns": ["k"]}]},
        {"sources": [{"dataset": "d", "columns": ["k"], "available_after_minutes": 5}]},
        {"features": [{"name": "x", "description": "…", "type": "int32"}]},
        {"features": [{"name": "y", "description": "…"}]},
        {"code_version": "8"},
    ],
)
def test_changed_declaration_is_a_new_code_version(changes: dict[str, Any]) -> None:
    assert version(**changes) != version()


@pytest.mark.parametrize(
    "changes",
    [
        {"description": "another"},
        {"owner": "team:other"},
        {"lookback_days": 0},
        {"tolerance_minutes": None},
        {"features": [{"name": "x", "description": "another", "unit": "minutes"}]},
        {"function": "m:g"},  # the declared version stands for the function
    ],
)
def test_texts_and_declared_defaults_are_the_same_code_version(changes: dict[str, Any]) -> None:
    assert version(**changes) == version()


def test_view_that_was_pinned_before_keeps_its_code_version() -> None:
    pinned = FeatureView.model_validate(BASE | {"code_version": "0123456789ab"})
    assert pinned.pinned() is pinned
    assert pinned.table == "features/v/0123456789ab"
    once = pinned.versioned()
    assert once.pinned() is once
    assert once.code_version.startswith("0123456789ab-")
