"""Two domains with a namespace use the same names, each for its own tables, features, models and endpoints."""

import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest
from typer.testing import CliRunner

from ml_platform.cli import app
from ml_platform.components.dataset.component import Dataset
from ml_platform.components.feature_view.component import FeatureView
from ml_platform.components.feature_view.scaffolder import FeatureViewScaffolder, FeatureViewScaffoldParams
from ml_platform.components.model.component import Model
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.model.scaffolder import ModelScaffolder
from ml_platform.components.project import load_definitions_of, read_project
from ml_platform.console.runs import execute
from ml_platform.console.services import serving_processes
from ml_platform.data.landing import Landing
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import current_champion
from ml_platform.serving.desired_state import all_desired_states
from ml_platform.serving.processes import serve_temporarily
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform
from ml_platform_tests.components.project_loading import make_project
from ml_platform_tests.conftest import Importable

DATASET = """\
type: ml_platform.Dataset
attributes:
  name: report
  description: One row per order
  loader: shop.north.case.loaders:cases
  lookups: [{written}]
  keys: [id]
  owners: ["team:shop"]
  contract:
    columns:
      - {{name: id, type: integer, description: Number}}
"""
MONTHS = ("2024-01", "2024-02", "2024-03")
NAMESPACE = "namespace: true\n"


@pytest.fixture
def root(tmp_path: Path, importable: Importable) -> Path:
    """A project whose domains `north` and `south` both declare the dataset `case_cases` and the model `case`."""
    make_project(tmp_path, importable)
    for domain in ("north", "south"):
        add_model(tmp_path, domain, NAMESPACE)
    return tmp_path


def add_model(root: Path, domain: str, settings: str = "") -> None:
    (root / "shop" / domain).mkdir(parents=True)
    (root / "shop" / domain / "domain.yaml").write_text(settings)
    ModelScaffolder().scaffold(scaffold_request(root, domain, "case"))


def scaffold_request(root: Path, domain: str, name: str, dataset: str = "") -> Any:
    target = root / "shop" / domain / name
    target.mkdir()
    params = FeatureViewScaffoldParams(dataset=dataset)
    return dg.ScaffoldRequest(
        type_name="", target_path=target, scaffold_format="yaml", project_root=root, params=params
    )


def change(root: Path, domain: str, old: str, new: str, file: str = "case/defs.yaml") -> None:
    path = root / "shop" / domain / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_names_belong_to_their_domain(root: Path, tmp_path: Path) -> None:
    add_model(root, "plain")
    with open_platform(tmp_path / ".ml_platform") as made:
        project, loaded = load_definitions_of(root, dg.Definitions(resources=made.resources))
    graph = loaded.resolve_asset_graph()

    assert not project.not_loaded
    assert {each.name for each in project.components(Model)} == {"case", "north.case", "south.case"}
    assert {each.domain for each in project.components(Dataset)} == {"plain", "north", "south"}
    keys = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert {"datasets/case_cases", "datasets/north.case_cases", "features/south.case_desk"} <= keys
    assert {"case/champion", "north.case/champion", "south.case/champion"} <= keys
    names = {sensor.name for sensor in loaded.get_repository_def().sensor_defs}
    assert {"north__case_cases_landed", "south__case_new_window", "case_new_window"} <= names
    training_set = graph.get(dg.AssetKey(["north.case", "training_set"]))
    assert training_set.group_name == "north__case"
    assert {key.to_user_string() for key in training_set.parent_keys} == {
        "datasets/north.case_cases",
        "features/north.case_request",
        "features/north.case_desk",
    }


@pytest.mark.parametrize(
    ("settings", "written", "meant"),
    [
        (NAMESPACE, "case_cases", "third.case_cases"),
        (NAMESPACE, "north/case_cases", "north.case_cases"),
        (NAMESPACE, "plain/case_cases", "case_cases"),
        ("", "case_cases", "case_cases"),
        ("", "north/case_cases", "north.case_cases"),
        ("", "plain/case_cases", "case_cases"),
    ],
)
def test_reference_means_one_declaration(root: Path, settings: str, written: str, meant: str) -> None:
    add_model(root, "plain")
    (root / "shop/third").mkdir()
    (root / "shop/third/domain.yaml").write_text(settings)
    (root / "shop/third/defs.yaml").write_text(DATASET.format(written=written))

    datasets = {each.name: each for each in read_project(root).components(Dataset)}
    assert datasets["third.report" if settings else "report"].lookups == [meant]


@pytest.mark.parametrize(
    ("dataset", "written"), [("north.case_cases", "north/case_cases"), ("case_cases", "plain/case_cases")]
)
def test_scaffolded_view_names_the_domain_of_its_dataset(root: Path, dataset: str, written: str) -> None:
    add_model(root, "plain")
    request = scaffold_request(root, "south", "counted", dataset)
    FeatureViewScaffolder().scaffold(request)

    assert f"- dataset: {written}\n" in (request.target_path / "defs.yaml").read_text()
    assert 'sources["case_cases"]' in (request.target_path / "features.py").read_text()
    view = {each.name: each for each in read_project(root).components(FeatureView)}["south.counted"]
    assert [source.dataset for source in view.sources] == [dataset]


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        ("name: case_cases", "name: north.case_cases", ["expected a name without a domain", "Write 'case_cases'"]),
        ("sources: [case_cases]", "sources: [nroth/case_cases]", ["'nroth'", "Did you mean 'north'?"]),
        ("sources: [case_cases]", "sources: [case_cases, south/case_cases]", ["'case_cases' of two domains"]),
    ],
)
def test_name_that_means_nothing_leaves_its_domain_out(root: Path, old: str, new: str, messages: list[str]) -> None:
    change(root, "north", old, new)

    project = read_project(root)

    assert set(project.not_loaded) == {"north"}
    assert all(message in project.not_loaded["north"] for message in messages), project.not_loaded["north"]


@pytest.mark.parametrize("text", ["namespace: [\n", "namepsace: true\n", "namespace: maybe\n"])
def test_invalid_settings_leave_the_domain_out(root: Path, text: str) -> None:
    (root / "shop/north/domain.yaml").write_text(text)

    assert set(read_project(root).not_loaded) == {"north"}
    assert "north/domain.yaml" in read_project(root).not_loaded["north"]


@dataclass(frozen=True)
class Trained:
    """A home in which both domains landed their cases, and the model of `north` is champion and packaged."""

    root: Path
    platform: PlatformFixture

    def model(self, name: str) -> ModelAssets:
        tree = read_project(self.root).tree
        declared = {each.name: each for each in tree.get_all_components(Model)}[name]
        return ModelAssets(declared, declared.views(tree), schemes=declared.schemes(tree))


@pytest.fixture
def trained(root: Path, tmp_path: Path) -> Iterator[Trained]:
    # The rows of south are fewer, so that a table read in place of the other would show.
    change(root, "south", "read_csv(path, COLUMNS)", "read_csv(path, COLUMNS).head(500)", "case/loaders.py")
    home = tmp_path / ".ml_platform"
    with open_platform(home) as made, dg.DagsterInstance.ephemeral() as instance:
        _, loaded = load_definitions_of(root, dg.Definitions(resources=made.resources))
        for domain in ("north", "south"):
            importlib.import_module(f"shop.{domain}.case.landing").land(Landing(made.home.landing), MONTHS[-1])
        graph = loaded.resolve_asset_graph()
        data = dg.AssetSelection.from_string('+key:"north.case/training_set" or +key:"south.case/training_set"')
        execute(loaded, instance, sorted(data.resolve(graph)), partitions=MONTHS)
        cycle = ["candidate_lightgbm", "evaluation", "model_card", "champion", "bento", "rollout"]
        execute(loaded, instance, [dg.AssetKey(["north.case", name]) for name in cycle], partitions=MONTHS[-1:])
        yield Trained(root, made)


@pytest.mark.slow
def test_each_domain_has_its_own_data_model_and_endpoint(trained: Trained) -> None:
    home, lake = trained.platform.home, trained.platform.lake
    rows = {name: lake.scan(f"datasets/{name}.case_cases").collect().height for name in ("north", "south")}
    assert rows == {"north": 5 * 24 * (31 + 29 + 31), "south": 3 * 500}
    features = lake.scan(trained.model("north.case").table).collect_schema().names()
    assert {"case_request__hour", "case_desk__last_minutes_late"} <= set(features)

    champion = current_champion(AuditLog(lake.state), "north.case")
    assert champion is not None
    assert current_champion(AuditLog(lake.state), "south.case") is None
    assert list(all_desired_states(lake.state).readable) == ["north.case"]

    shown = CliRunner().invoke(app, ["history", "north/case", "--json"], env={"ML_PLATFORM_HOME": str(home.root)})
    promoted = [each["version"] for each in json.loads(shown.stdout) if each.get("action") == "promote"]
    assert promoted == [champion.version]

    row = {"desk": "a", "due_at": "2024-03-31T12:00:00+00:00"}
    with serve_temporarily(serving_processes(home)) as gateway:
        answer = httpx.post(f"{gateway}/v1/north.case/predict", json={"rows": [row]}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert 0 < answer.json()["predictions"][0]["score"] < 1
