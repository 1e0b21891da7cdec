"""`ml-platform render kubernetes`: the folder of the release, its commit, and the objects of its values."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ml_platform.components.project import read_project
from ml_platform.console import kubernetes
from ml_platform.data.canonical import directory_digest
from ml_platform.serving.desired_state import DesiredState, ServedVersion, change_desired_state
from ml_platform.serving.kubernetes_release import Form, GitSource, ReleaseFileError, service_name
from ml_platform_tests.deploy.conftest import Render, finished, tool
from ml_platform_tests.deploy.kubernetes_schemas import KubernetesSchemas
from ml_platform_tests.deploy.test_helm_chart import named, of_kind
from resources.home import Home
from resources.profiles import REPOSITORY
from resources.state import open_state

NOW = 1_800_000_000.0
SOURCE = GitSource("https://git.example.org/ml/platform", "main", "releases/kubernetes")
RISK, CREDIT = "departure_risk", "credit_default"


def served(model: str, version: int) -> ServedVersion:
    return ServedVersion(version=str(version), bento=f"bentos/{model}/{version}-ab12cd34ef56")


def canary(model: str) -> DesiredState:
    weights = {"stable": 90, "candidate": 10}
    return DesiredState(stable=served(model, 4), candidate=served(model, 5), weights=weights)


def alone(model: str, version: int) -> DesiredState:
    return DesiredState(stable=served(model, version), weights={"stable": 100})


def desire(home: Home, model: str, desired: DesiredState) -> None:
    change_desired_state(open_state(home), model, lambda now: desired.model_copy(update={"generation": now.generation}))


@pytest.fixture(scope="module", autouse=True)
def project() -> Iterator[None]:
    """Read the declarations once: they do not change here."""
    found = read_project(REPOSITORY)
    patch = pytest.MonkeyPatch()
    patch.setattr(kubernetes, "read_project", lambda _: found)
    yield
    patch.undo()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    desire(home, RISK, canary(RISK))
    desire(home, CREDIT, alone(CREDIT, 1))
    return home


def render_release(home: Home, out: Path, form: Form = "envoy", **options: bool) -> kubernetes.WrittenRelease:
    return kubernetes.render(home, out, form=form, now=NOW, source=SOURCE, **options)


def test_a_repeated_render_writes_nothing(home: Home, tmp_path: Path) -> None:
    out = tmp_path / "release"
    first = render_release(home, out)
    assert first.written == [
        *("aviation/application.yaml", "aviation/values.yaml"),
        *("credit/application.yaml", "credit/values.yaml", "ml-platform/application.yaml"),
    ]
    digest = directory_digest(out)
    assert render_release(home, out) == kubernetes.WrittenRelease([], [], [])
    assert directory_digest(out) == digest


def test_files_of_a_domain_that_left_are_removed_and_those_of_people_stay(home: Home, tmp_path: Path) -> None:
    out = tmp_path / "release"
    render_release(home, out)
    (out / "credit" / "settings.yaml").write_text("domains: {}\n")
    desire(home, CREDIT, DesiredState())
    found = render_release(home, out)
    assert found.removed == ["credit/application.yaml", "credit/values.yaml"]
    assert found.changes == ["credit_default: version 1 (100 %) → none"]
    assert [each.name for each in (out / "credit").iterdir()] == ["settings.yaml"]


def test_an_undeclared_model_stops_before_anything_is_written(home: Home, tmp_path: Path) -> None:
    desire(home, "lost", alone("lost", 1))
    with pytest.raises(ReleaseFileError, match="lost"):
        render_release(home, tmp_path / "release")
    assert not (tmp_path / "release").exists()


def test_a_promotion_is_a_commit(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ada@example.org")
    out = tmp_path / "repository" / "releases" / "kubernetes"
    out.mkdir(parents=True)
    assert finished("git", "-C", out, "init", "--quiet", tmp_path / "repository").returncode == 0
    assert kubernetes.commit(out, render_release(home, out)) is not None
    desire(home, RISK, alone(RISK, 5))
    (tmp_path / "repository" / "other.txt").write_text("of somebody else")

    found = render_release(home, out)
    committed = kubernetes.commit(out, found)

    assert found.written == ["aviation/values.yaml"]
    shown = finished("git", "-C", out, "show", "--stat", "--format=%H%n%s", "HEAD").stdout.splitlines()
    assert shown[:2] == [
        committed,
        "release: departure_risk: version 4 (90 %) + version 5 (10 %) → version 5 (100 %)",
    ]
    assert "1 file changed" in shown[-1]
    assert kubernetes.commit(out, render_release(home, out)) is None


@pytest.mark.parametrize("form", ["envoy", "kserve"])
def test_manifests_are_valid_and_serve_what_is_desired(
    home: Home, tmp_path: Path, schemas: KubernetesSchemas, monkeypatch: pytest.MonkeyPatch, form: Form
) -> None:
    monkeypatch.setenv("PATH", f"{tool('helm').parent}{os.pathsep}{os.environ['PATH']}")
    out = tmp_path / "release"
    out.mkdir()
    (out / "shared.yaml").write_text("bentoRegistry: registry.example.org/models\n")
    (tmp_path / "release" / "aviation").mkdir()
    gpu = {"domains": {"aviation": {"models": {RISK: {"gpus": 1}}}}}
    (out / "aviation" / "settings.yaml").write_text(yaml.safe_dump(gpu))

    render_release(home, out, form, manifests=True)

    objects = [each for each in yaml.safe_load_all((out / "aviation" / "manifests.yaml").read_text()) if each]
    applications = [yaml.safe_load(file.read_text()) for file in sorted(out.glob("*/application.yaml"))]
    assert len(applications) == 3
    assert schemas.problems([*objects, *applications]) == []
    if form == "envoy":
        (rule,) = named(objects, "HTTPRoute", "departure-risk")["spec"]["rules"]
        assert [(each["name"], each["weight"]) for each in rule["backendRefs"]] == [
            (service_name(RISK, served(RISK, 4)), 90),
            (service_name(RISK, served(RISK, 5)), 10),
        ]
        pods = [each["spec"]["template"]["spec"] for each in of_kind(objects, "Deployment")]
    else:
        pods = [named(objects, "InferenceService", "departure-risk")["spec"]["predictor"]]
        assert pods[0]["canaryTrafficPercent"] == 10
    images = {pod["containers"][0]["image"] for pod in pods}
    assert "registry.example.org/models/departure_risk:5-ab12cd34ef56" in images
    assert {pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for pod in pods} == {1}
    before = directory_digest(out)
    assert render_release(home, out, form, manifests=True).written == []
    assert directory_digest(out) == before


def test_values_of_a_domain_leave_out_the_platform(home: Home, tmp_path: Path, render: Render) -> None:
    render_release(home, tmp_path)
    objects = render(yaml.safe_load((tmp_path / "credit" / "values.yaml").read_text()))
    assert {each["metadata"].get("namespace", "ml-credit") for each in objects} == {"ml-credit"}
