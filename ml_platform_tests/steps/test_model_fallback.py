"""The declared fallback of a model is one that it can give."""

from functools import cache
from typing import Any

import pytest
from pydantic import ValidationError

from ml_platform.components.loading import bound_model
from ml_platform.serving.serving_settings import Constant, ServingSettings
from ml_platform.steps.model_settings import ModelSettings
from ml_platform.tasks.catalog import as_task


@cache
def reference_model() -> dict[str, Any]:
    settings = bound_model("departure_risk").declared
    return {name: getattr(settings, name) for name in ModelSettings.model_fields}


def declared(fallback: Any, **changes: Any) -> ModelSettings:
    """Return the reference model with ``fallback`` and the attributes ``changes``."""
    return ModelSettings.model_validate({**reference_model(), "serving": {"fallback": fallback}, **changes})


def test_constant_of_a_task_that_answers_one_number_is_accepted() -> None:
    assert declared({"constant": 0.1}).serving == ServingSettings(fallback=Constant(constant=0.1))
    assert declared({"constant": -5}, task=as_task("regression")).task.name == "regression"


@pytest.mark.parametrize(
    ("fallback", "changes", "message"),
    [
        ({"constant": 1.5}, {}, "expected a probability, found 1.5"),
        ({"constant": "nan"}, {}, "finite number"),
        ({"constant": 0.1}, {"task": as_task({"type": "multiclass"})}, "answers one number, found multiclass"),
        ("previous", {"rollout": {"keep_previous_minutes": 0}}, "declare rollout.keep_previous_minutes above 0"),
        ("before", {}, "'unavailable' or 'previous'"),
    ],
)
def test_fallback_that_cannot_be_given_is_refused(fallback: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        declared(fallback, **changes)
