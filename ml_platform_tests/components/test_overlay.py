"""An overlay replaces declared values in one deployment, and is as strict as a declaration."""

from pathlib import Path

import pytest
from pydantic import Field

from ml_platform.components.overlay import OVERLAY_VARIABLE, Overlay, OverlayError, read_overlay
from ml_platform.components.sensor_interval import INTERVAL_VARIABLE, sensor_seconds
from ml_platform.data.settings import Settings
from ml_platform.steps.model_settings import RetrainingSettings


class Declared(Settings):
    name: str = "late"
    rows: int = 5
    retraining: RetrainingSettings = Field(default_factory=lambda: RetrainingSettings.model_validate({}))


def declared(**retraining: object) -> Declared:
    return Declared.model_validate({"retraining": retraining})


def overlay(**changes: object) -> Overlay:
    return Overlay.model_validate({"models": {"late": changes}})


def test_an_object_replaces_only_the_values_that_it_names() -> None:
    policy = {"new_data": {"every_windows": 2}, "max_age_days": 70}
    found = overlay(retraining={"policy": {"max_age_days": 30}}).applied(declared(policy=policy, on_backlog="newest"))
    assert found.retraining == declared(policy=policy | {"max_age_days": 30}, on_backlog="newest").retraining


def test_null_removes_a_declared_policy() -> None:
    found = overlay(retraining={"policy": None}).applied(declared(policy={"max_age_days": 70}))
    assert found.retraining.policy is None


def test_other_models_keep_their_values() -> None:
    found = Overlay.model_validate({"models": {"other": {"rows": 9}}}).applied(declared())
    assert found == declared()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retrainin": {}}, "'late', attribute 'retrainin'.*Did you mean 'retraining'"),
        ({"rows": "many"}, "'late', attribute 'rows'.*valid integer"),
        ({"retraining": {"polcy": None}}, "attribute 'retraining'.*polcy"),
    ],
)
def test_wrong_values_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(OverlayError, match=message):
        overlay(**changes).applied(declared())


def test_domains_choose_what_is_loaded() -> None:
    assert [name for name in ("bikes", "aviation") if Overlay(domains=["bikes"]).includes(name)] == ["bikes"]
    assert Overlay().includes("aviation")


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_overlay() == Overlay()
    file = tmp_path / "overlay.yaml"
    file.write_text("domains: [bikes]\n")
    monkeypatch.setenv(OVERLAY_VARIABLE, str(file))
    assert read_overlay().domains == ["bikes"]
    file.write_text("domain: bikes\n")
    with pytest.raises(OverlayError, match=r"overlay\.yaml.*domain"):
        read_overlay()


def test_a_deployment_shortens_the_interval_of_sensors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sensor_seconds(60) == 60
    monkeypatch.setenv(INTERVAL_VARIABLE, "20")
    assert [sensor_seconds(60), sensor_seconds(10)] == [20, 10]
