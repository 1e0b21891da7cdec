"""The release for Kubernetes is a function of the desired states: its values, its bytes, and its changes."""

import dataclasses
from typing import Any

import pytest
import yaml

from ml_platform.serving.desired_state import DesiredState, ServedVersion
from ml_platform.serving.kubernetes_release import (
    GitSource,
    ReleaseFileError,
    release_changes,
    release_files,
)
from ml_platform.serving.serving_settings import ReplicaSettings, ServingSettings

NOW = 1_800_000_000
SOURCE = GitSource("https://git.example.org/ml/platform", "main", "releases/kubernetes")


def served(model: str, version: int) -> ServedVersion:
    return ServedVersion(version=str(version), bento=f"bentos/{model}/{version}-ab12cd34ef56")


RISK = "departure_risk"
CANARY = DesiredState(
    stable=served(RISK, 4), candidate=served(RISK, 5), weights={"stable": 90, "candidate": 10}, generation=7
)
ALONE = DesiredState(stable=served("credit.default", 1), weights={"stable": 100}, generation=1)
STATES = {RISK: CANARY, "credit.default": ALONE}
DOMAINS = {RISK: "aviation", "credit.default": "credit"}


def settings_of(version: ServedVersion) -> ServingSettings:
    if version == CANARY.candidate:
        return ServingSettings(timeout_seconds=2.5)
    if version == CANARY.stable:
        return ServingSettings(timeout_seconds=1, replicas=ReplicaSettings(min=2, max=6, down_seconds=60))
    return ServingSettings()


def files(states: dict[str, DesiredState] = STATES, **options: Any) -> dict[str, str]:
    return release_files(states, DOMAINS, settings_of, form="envoy", **{"now": NOW, **options})


def values(domain: str, model: str, **options: Any) -> dict[str, Any]:
    loaded = yaml.safe_load(files(**options)[f"{domain}/values.yaml"])
    assert loaded["platform"] == {"enabled": False}
    return dict(loaded["domains"][domain]["models"][model])


def test_each_domain_has_a_file_with_its_models_only() -> None:
    assert set(files()) == {"aviation/values.yaml", "credit/values.yaml"}
    assert list(yaml.safe_load(files()["credit/values.yaml"])["domains"]["credit"]["models"]) == ["credit.default"]


def test_canary_has_its_weight_and_its_bento() -> None:
    assert values("aviation", RISK) == {
        "versions": [{"version": "4", "bento": "4-ab12cd34ef56"}, {"version": "5", "bento": "5-ab12cd34ef56"}],
        "routes": [
            {"role": "stable", "version": "4", "bento": "4-ab12cd34ef56", "weight": 90},
            {"role": "candidate", "version": "5", "bento": "5-ab12cd34ef56", "weight": 10},
        ],
        "timeoutSeconds": 2.5,
        "replicas": {"min": 2, "max": 6, "downSeconds": 60},
    }


def test_replicas_of_a_model_that_declares_none_are_those_of_the_chart() -> None:
    assert "replicas" not in values("credit", "credit.default")


def test_shadow_and_successor_are_kept() -> None:
    state = ALONE.model_copy(
        update={"shadow": served("credit.default", 2), "successor": "credit.loss", "deprecated_since": 1_790_000_000}
    )
    found = values("credit", "credit.default", states={"credit.default": state})
    assert found["shadow"] == "2-ab12cd34ef56"
    assert found["successor"] == {"model": "credit.loss", "since": 1_790_000_000}
    assert [each["version"] for each in found["versions"]] == ["1", "2"]
    assert [each["version"] for each in found["routes"]] == ["1"]


@pytest.mark.parametrize(("until", "versions"), [(NOW + 1, ["1", "0"]), (NOW - 1, ["1"])])
def test_previous_version_runs_without_requests_until_its_time(until: int, versions: list[str]) -> None:
    state = ALONE.model_copy(update={"previous": served("credit.default", 0), "previous_until": until})
    found = values("credit", "credit.default", states={"credit.default": state})
    assert [each["version"] for each in found["versions"]] == versions
    assert len(found["routes"]) == 1


def test_equal_states_give_equal_bytes() -> None:
    turned = dict(reversed(STATES.items()))
    assert files(turned, now=NOW + 86_400, source=SOURCE) == files(source=SOURCE)


def test_generation_alone_changes_nothing() -> None:
    assert files({**STATES, RISK: CANARY.model_copy(update={"generation": 8})}) == files()


def test_a_model_without_versions_has_no_place() -> None:
    assert set(files({**STATES, RISK: DesiredState(generation=3)})) == {"credit/values.yaml"}


def test_a_served_model_that_is_not_declared_stops_the_release() -> None:
    with pytest.raises(ReleaseFileError, match=r"none for 'lost'|none for lost"):
        files({"lost": DesiredState(stable=served("lost", 1), weights={"stable": 100})})


def test_two_models_with_one_name_in_kubernetes_stop_the_release() -> None:
    both = {name: DesiredState(stable=served("x", 1), weights={"stable": 100}) for name in ("a.b", "a_b")}
    with pytest.raises(ReleaseFileError, match="a-b-1-ab12cd34ef56"):
        release_files(both, dict.fromkeys(both, "a"), settings_of, form="envoy", now=NOW)


def test_a_name_that_is_too_long_stops_the_release() -> None:
    name = "m" * 60
    state = DesiredState(stable=served(name, 1), weights={"stable": 100})
    with pytest.raises(ReleaseFileError, match="at most 63 characters"):
        release_files({name: state}, {name: "a"}, settings_of, form="envoy", now=NOW)


def test_applications_follow_the_release_of_their_domain() -> None:
    found = files(source=SOURCE)
    assert set(found) == {
        *("aviation/values.yaml", "aviation/application.yaml"),
        *("credit/values.yaml", "credit/application.yaml", "ml-platform/application.yaml"),
    }
    spec = yaml.safe_load(found["aviation/application.yaml"])["spec"]
    assert spec["source"]["path"] == "deploy/helm/ml-platform"
    assert spec["source"]["helm"]["valueFiles"] == [
        "../../../releases/kubernetes/shared.yaml",
        "../../../releases/kubernetes/aviation/values.yaml",
        "../../../releases/kubernetes/aviation/settings.yaml",
    ]
    other = files(source=dataclasses.replace(SOURCE, revision="stage"))
    assert yaml.safe_load(other["aviation/application.yaml"])["spec"]["source"]["targetRevision"] == "stage"


def test_changes_name_models_and_shares() -> None:
    after = {**STATES, RISK: DesiredState(stable=served(RISK, 5), weights={"stable": 100})}
    assert release_changes(files(), files(after)) == [
        "departure_risk: version 4 (90 %) + version 5 (10 %) → version 5 (100 %)"
    ]
    assert release_changes({}, files({"credit.default": ALONE})) == ["credit.default: none → version 1 (100 %)"]
    assert release_changes(files(), files()) == []
