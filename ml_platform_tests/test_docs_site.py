"""Tests of the documentation site: complete reference, running Python examples, and no access to the network."""

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import dagster as dg
import pytest
import yaml
from pydantic import BaseModel

from ml_platform_tests.conftest import DemoHome
from resources.home import Home
from resources.profiles import resources_of_profile

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PYTHON_PAGE = DOCS / "how-to" / "use-from-python.md"
SMALL_HOME = {
    "departure_risk": "late",
    "datasets/flights": "datasets/deliveries",
    '"flights"': '"deliveries"',
    '"origin"': '"shops"',
    "2013-05": "2013-03",
    "2013-06": "2013-04",
}
"""Names on the page, and their replacements for the small home in which its examples run."""


@pytest.fixture(scope="module")
def generator() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "generate_reference.py"))


@pytest.fixture(scope="module")
def pages(generator: dict[str, Any]) -> Mapping[str, str]:
    made: Mapping[str, str] = generator["pages"]()
    return made


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, generator: dict[str, Any], pages: Mapping[str, str]) -> Path:
    """Return the folder of the built site."""
    list(generator["write"](generator["OUT"], pages))
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    return folder


def settings_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the pydantic models in ``annotation`` and in their fields, independently of the generator."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from settings_of(field.annotation)
    for inside in getattr(annotation, "__args__", ()):
        yield from settings_of(inside)


@pytest.mark.parametrize(
    ("name", "page"), [("Dataset", "dataset"), ("FeatureView", "feature-view"), ("Model", "model")]
)
def test_reference_describes_every_attribute_of_a_component(name: str, page: str, pages: Mapping[str, str]) -> None:
    import ml_platform.components as components

    text = pages[f"{page}.md"]
    models = list(dict.fromkeys(settings_of(getattr(components, name))))
    assert len(models) > 2
    missing = []
    for model in models:
        heading = "## Attributes\n" if model is models[0] else f"Class `{model.__module__}.{model.__name__}`."
        assert heading in text, f"no section for {model.__name__}"
        table = text.partition(heading)[2].partition("\n## ")[0]
        for attribute in model.model_fields:
            row = re.search(rf"^\| `{attribute}` \| [^|]+ \| [^|]+ \| .{{10,}} \|$", table, flags=re.MULTILINE)
            missing += [] if row else [f"{model.__name__}.{attribute}"]
    assert missing == []


def test_reference_lists_the_settings_of_the_trainers_and_the_limits_of_drift(pages: Mapping[str, str]) -> None:
    assert "trainer: lightgbm" in pages["model.md"]
    assert "| `num_leaves` |" in pages["model.md"]
    drift = pages["model.md"].partition("## `monitors.drift`\n")[2].partition("\n## ")[0]
    assert "| `minimum_ks` | number | `0.1` |" in drift


def test_reference_shows_the_unit_in_the_name_of_an_attribute(pages: Mapping[str, str]) -> None:
    row = next(line for line in pages["feature-view.md"].splitlines() if line.startswith("| `tolerance_minutes` |"))
    assert "Unit: minutes." in row
    assert "Example: `" in row


def test_reference_lists_every_verb_with_its_options(pages: Mapping[str, str]) -> None:
    import typer

    from ml_platform.cli import app

    def verbs(command: Any, path: str) -> Iterator[tuple[str, Any]]:
        for name, inner in command.commands.items():
            if hasattr(inner, "commands"):
                yield from verbs(inner, f"{path} {name}")
            else:
                yield f"{path} {name}", inner

    text = pages["command-line.md"]
    seen = list(verbs(typer.main.get_command(app), "ml-platform"))
    assert len(seen) > 10
    for name, command in seen:
        assert f"## `{name}`\n" in text, f"{name} is not described"
        section = text.partition(f"## `{name}`\n")[2].partition("\n## ")[0]
        options = [each.opts[0] for each in command.params if each.opts[0].startswith("--") and each.name != "help"]
        assert [each for each in options if each not in section] == [], name


def test_reference_lists_every_asset_check_sensor_and_schedule(pages: Mapping[str, str]) -> None:
    from ml_platform.definitions import defs

    definitions, text = defs(), pages["assets.md"]
    graph, repository = definitions.resolve_asset_graph(), definitions.get_repository_def()
    names = [node.key.to_user_string() for node in graph.asset_nodes]
    names += [key.name for key in graph.asset_check_keys]
    names += [each.name for each in [*repository.sensor_defs, *repository.schedule_defs]]  # type: ignore[attr-defined]
    assert len(names) > 50
    assert [name for name in names if f"| `{name}` |" not in text] == []


def test_reference_describes_the_http_api_of_the_reference_model(pages: Mapping[str, str]) -> None:
    text = pages["http-api.md"]
    declared = yaml.safe_load((ROOT / "assets/aviation/departure_risk/defs.yaml").read_text())["attributes"]["request"]
    assert [field["name"] for field in declared if f"| `{field['name']}` |" not in text] == []
    assert [status for status in ("200", "400", "413", "415", "422", "429", "503") if f"| {status} |" not in text] == []
    assert "x-request-id" in text
    assert "retry-after" in text
    request = json.loads(re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL)[0])
    assert set(request["rows"][0]) == {field["name"] for field in declared}


def test_reference_has_a_page_for_every_package_of_the_engine(pages: Mapping[str, str]) -> None:
    packages = {path.parent.name for path in (ROOT / "ml_platform").glob("*/__init__.py")} - {
        "cli",
        "components",
        "console",
    }
    assert {f"python/{name}.md" for name in packages} <= set(pages)
    for name in packages:
        modules = [path.stem for path in (ROOT / "ml_platform" / name).glob("*.py") if path.stem[0] != "_"]
        assert modules
        assert [each for each in modules if f"::: ml_platform.{name}.{each}\n" not in pages[f"python/{name}.md"]] == []


METADATA_FUNCTIONS = re.compile(r"^_?\w*metadata$")
"""Names of functions that return metadata. Other metadata is an argument `metadata=` or an entry "metadata"."""

GATE_RESULTS = [ROOT / "ml_platform" / "evaluation" / name for name in ("gates.py", "system_gates.py")]


def expanded_keys() -> dict[str, set[str]]:
    """Return the keys that the code records by expanding an object, indexed by the text of the expression."""
    from dataclasses import fields

    from ml_platform.features.change_log import BuildReport
    from ml_platform.monitoring.lost_predictions import LostPredictions
    from ml_platform.monitoring.prediction_log import IngestionResult
    from ml_platform.training.resource_usage import ResourceUsage

    resources = {each.name for each in fields(ResourceUsage)}
    build = {each.name for each in fields(BuildReport)} - {"rows"}
    split = {f"{part}_rows" for part in ("train", "late", "validation", "test", "embargoed", "unlabelled_<…>")}
    return {
        "asdict(used.total())": resources,
        "dict(result.metadata or {})": set(),  # keys of the measured body
        "asdict(result.candidate.resource_usage)": resources,
        "result.counts": split,
        "result.metric_values": {"<…>", "<…>_low", "<…>_high", "<…>_delay_<…>", "base_rate", "rows"},
        "latest.metrics": {"<…>"},
        "ingested.model_dump(exclude={'rows'})": set(IngestionResult.model_fields) - {"rows"},
        "lost_predictions(model, stores).model_dump()": set(LostPredictions.model_fields),
        "{name: value for name, value in builds.report.as_metadata().items() if name != 'rows'}": build,
        "{name: value for name, value in gate.numbers.items() if value is not None}": set(),  # keys of the gates
        "dict(result.numbers)": set(),  # keys of a team's own monitors
        "{name: value for name, value in optional.items() if value is not None}": set(),  # keys of another dict
    }


class RecordedKeys(ast.NodeVisitor):
    """Collects the keys of the dictionaries that a module records as metadata."""

    def __init__(self, constants: Mapping[str, str], expanded: Mapping[str, set[str]], argument: str) -> None:
        self.constants, self.expanded, self.argument = constants, expanded, argument
        self.keys: set[str] = set()
        self.unknown: list[str] = []
        self.function: ast.FunctionDef | None = None

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self.function = self.function, self.function or node
        if METADATA_FUNCTIONS.match(node.name) and node.returns is not None and "dict" in ast.unparse(node.returns):
            for each in ast.walk(node):
                if isinstance(each, ast.Return | ast.Assign | ast.AnnAssign | ast.AugAssign) and each.value is not None:
                    self.add(each.value)
                if isinstance(each, ast.Assign) and isinstance(each.targets[0], ast.Subscript):
                    self.add_key(each.targets[0].slice)
        self.generic_visit(node)
        self.function = outer

    def visit_Call(self, node: ast.Call) -> None:
        for each in node.keywords:
            if each.arg == self.argument:
                self.add(each.value, strict=True)
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "metadata":
                self.add(value, strict=True)
        self.generic_visit(node)

    def add(self, value: ast.expr, *, strict: bool = False) -> None:
        """Add the keys of ``value``; with ``strict``, report an expression that is neither a dictionary nor known."""
        text = ast.unparse(value)
        if text in self.expanded:
            self.keys |= self.expanded[text]
        elif isinstance(value, ast.Dict):
            for key, inner in zip(value.keys, value.values, strict=True):
                if key is None:
                    self.add(inner, strict=True)
                else:
                    self.add_key(key)
        elif isinstance(value, ast.IfExp):
            self.add(value.body, strict=strict)
            self.add(value.orelse, strict=strict)
        elif isinstance(value, ast.BinOp):
            self.add(value.left)
            self.add(value.right)
        elif isinstance(value, ast.DictComp) and isinstance(value.key, ast.JoinedStr):
            self.add_key(value.key)
        elif isinstance(value, ast.Name) and strict:
            self.add_variable(value.id)
        elif strict and not self.has_no_new_keys(value):
            self.unknown.append(text)

    def add_variable(self, name: str) -> None:
        """Add the keys of every dictionary that the function assigns to ``name``, or sets in it."""
        for each in ast.walk(self.function or ast.Module([], [])):
            if isinstance(each, ast.Assign | ast.AnnAssign | ast.AugAssign) and each.value is not None:
                target = each.targets[0] if isinstance(each, ast.Assign) else each.target
                if isinstance(target, ast.Name) and target.id == name:
                    self.add(each.value, strict=not isinstance(each, ast.AugAssign))
                if isinstance(target, ast.Subscript) and ast.unparse(target.value) == name:
                    self.add_key(target.slice)

    def add_key(self, key: ast.expr) -> None:
        if isinstance(key, ast.Constant):
            self.keys.add(str(key.value))
        elif isinstance(key, ast.JoinedStr):
            parts = [each.value if isinstance(each, ast.Constant) else "<…>" for each in key.values]
            self.keys.add("".join(map(str, parts)))
        elif isinstance(key, ast.Name) and key.id in self.constants:
            self.keys.add(self.constants[key.id])
        else:
            self.keys.add("<…>")  # a variable, such as the name of a metric

    def has_no_new_keys(self, value: ast.expr) -> bool:
        """Return whether ``value`` is empty, or calls a function whose keys are collected at its definition."""
        called = value.func if isinstance(value, ast.Call) else None
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        return ast.unparse(value) in ("None", "{}") or bool(METADATA_FUNCTIONS.match(name))


def without_names(key: str) -> str:
    return re.sub(r"<[^>]+>", "<…>", key)


def test_table_lists_exactly_the_metadata_keys_that_the_code_records() -> None:
    from ml_platform.components import materializations
    from ml_platform.components.metadata_keys import METADATA_KEYS

    constants = {name: value for name, value in vars(materializations).items() if name.isupper()}
    recorded: set[str] = set()
    components = (ROOT / "ml_platform" / "components").rglob("*.py")
    for module in sorted([*components, ROOT / "resources" / "decision_events.py"]):
        found = RecordedKeys(constants, expanded_keys(), "metadata")
        found.visit(ast.parse(module.read_text()))
        assert found.unknown == [], f"{module.name}: add what these record to expanded_keys()"
        recorded |= found.keys
    gates = RecordedKeys(constants, {}, "numbers")
    for module in GATE_RESULTS:
        gates.visit(ast.parse(module.read_text()))
    recorded |= gates.keys
    listed = {without_names(each.key) for keys in METADATA_KEYS.values() for each in keys}
    assert len(recorded) > 80
    assert sorted(recorded - listed) == []
    assert sorted(listed - recorded) == []


def test_every_metadata_key_has_a_meaning_and_a_unit_where_its_name_has_one() -> None:
    from ml_platform.components.metadata_keys import METADATA_KEYS

    every = [(kind, each) for kind, keys in METADATA_KEYS.items() for each in keys]
    assert [(kind, each.key) for kind, each in every if len(each.meaning) < 10 or each.meaning[-1] != "."] == []
    units = ("_seconds", "_minutes", "_days", "_bytes", "_ms", "_rows")
    assert [(kind, each.key) for kind, each in every if each.key.endswith(units) and not each.unit] == []
    for keys in METADATA_KEYS.values():
        assert len({each.key for each in keys}) == len(keys)


def test_every_generated_page_is_in_the_navigation(pages: Mapping[str, str]) -> None:
    named = set(re.findall(r"reference/generated/([\w/-]+\.md)", (ROOT / "mkdocs.yml").read_text()))
    assert named == set(pages)


def test_pictures_of_the_architecture_match_their_script() -> None:
    drawn = runpy.run_path(str(DOCS / "images" / "make_diagrams.py"))["PICTURES"]
    assert [name for name, draw in drawn.items() if (DOCS / "images" / name).read_text() != draw()] == []


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def run_job(job: dg.JobDefinition, home: Home) -> dict[str, float]:
    """Run ``job`` on the resources of ``home`` and return the metrics that it logged to MLflow."""
    import mlflow

    loaded = dg.Definitions(jobs=[job], resources=resources_of_profile(home))
    assert loaded.resolve_job_def(job.name).execute_in_process().success
    client = mlflow.MlflowClient(home.tracking_uri)
    experiment = client.get_experiment_by_name("team_ops")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    return dict(run.data.metrics)


def test_examples_of_the_python_page_run_on_a_small_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    from ml_platform.components import loading
    from ml_platform.components.metadata_keys import METADATA_KEYS
    from ml_platform_tests.components.delivery_home import open_platform
    from ml_platform_tests.components.delivery_model import VIEWS, delivery_model
    from ml_platform_tests.session.conftest import make_champion

    text = PYTHON_PAGE.read_text()
    for name, small in SMALL_HOME.items():
        assert name in text
        text = text.replace(name, small)
    blocks = python_blocks(text)
    assert len(blocks) > 7

    with open_platform(tmp_path / "home") as platform:
        platform.land()
        model = delivery_model()
        for month in ("2013-03", "2013-04"):
            shown = platform.make(model, month)
        make_champion(platform, "late", 2)
        monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(loading, "bound_model", lambda name: delivery_model(name=name))
        monkeypatch.setattr(loading, "declared_views", lambda: VIEWS)
        scope: dict[str, Any] = {}
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for block in blocks:
            exec(compile(block, str(PYTHON_PAGE), "exec"), scope)
        logged = run_job(scope["flight_counts"], Home(tmp_path / "home"))

    assert logged == {"rows": scope["flights"].filter(partition="2013-04").height}
    patterns = [re.sub(r"<\w+>", r"\\w+", each.key) for each in METADATA_KEYS["<model>/candidate_<trainer>"]]
    assert [key for key in shown if not any(re.fullmatch(pattern, key) for pattern in patterns)] == []
    assert scope["flights"]["partition"].unique().sort().to_list() == ["2013-03", "2013-04"]
    assert set(scope["model"].feature_set.feature_names) <= set(scope["features"].columns)
    assert scope["features"].height == 100
    assert isinstance(scope["X"], pd.DataFrame)
    assert len(scope["X"]) == len(scope["y"]) == len(scope["parts"].train) > 500
    assert scope["scores"].height == len(scope["parts"].test)
    assert scope["scores"]["score"].is_between(0, 1).all()
    assert scope["answers"].height == 2
    assert (scope["champion"].version, scope["earlier"].version) == (2, 1)
    assert (scope["comparison"].first.version, scope["comparison"].second.version) == (1, 2)
    assert scope["comparison"].rows.rows == len(scope["parts"].test)
    assert [each.champion for each in scope["trial"]] == [2]


@pytest.mark.slow
def test_unchanged_examples_of_the_python_page_run_on_the_home_of_the_demo(
    demo_home: DemoHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml_platform.tasks.catalog import as_task

    monkeypatch.setenv("ML_PLATFORM_HOME", str(demo_home.copy(tmp_path / "home").root))
    scope: dict[str, Any] = {}
    for block in python_blocks(PYTHON_PAGE.read_text()):
        exec(compile(block, str(PYTHON_PAGE), "exec"), scope)
    assert scope["champion"].name == "departure_risk"
    assert scope["scores"].height == len(scope["parts"].test) > 20_000
    assert 0.7 < as_task("binary").score(scope["tested"]["label"], scope["scores"]["score"])["auc"] < 0.9


class Links(HTMLParser):
    """Collects the files that a page loads, its links, and its anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        if tag in ("script", "img", "iframe", "source", "video", "object"):
            self.loaded += [named[name] for name in ("src", "data") if named.get(name)]
        if tag == "link" and named.get("rel") not in ("canonical", "prev", "next", "edit"):
            self.loaded.append(named.get("href", ""))
        if tag == "a" and named.get("href"):
            self.links.append(named["href"])
        self.anchors |= {named[name] for name in ("id", "name") if named.get(name)}


def read_page(page: Path) -> Links:
    links = Links()
    links.feed(page.read_text())
    return links


@pytest.mark.slow
def test_site_builds_and_no_page_loads_anything_from_the_network(site: Path) -> None:
    built = sorted(site.rglob("*.html"))
    assert len(built) > 40
    loaded = {(page.name, each) for page in built for each in read_page(page).loaded}
    assert len(loaded) > 40
    assert [each for each in loaded if re.match(r"(https?:)?//", each[1])] == []
    styles = [path for path in site.rglob("*.css") if re.search(r"url\(['\"]?(https?:)?//|@import", path.read_text())]
    assert styles == []


@pytest.mark.slow
def test_every_internal_link_of_the_site_has_a_page_and_an_anchor(site: Path) -> None:
    read = {page: read_page(page) for page in site.rglob("*.html") if page.name != "404.html"}
    broken, seen = [], 0
    for page, links in read.items():
        for link in links.links:
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            seen += 1
            lacks_anchor = anchor and target in read and anchor not in read[target].anchors | {"__tabbed"}
            if not target.is_file() or lacks_anchor:
                broken.append(f"{page.relative_to(site)}: {link}")
    assert seen > 1000
    assert broken == []


@pytest.mark.slow
def test_search_index_of_the_site_works_from_the_file_system(site: Path) -> None:
    inlined = (site / "search" / "search_index.js").read_text().removeprefix("var __index = ")
    found = [each["location"] for each in json.loads(inlined)["docs"] if "minimum_ks" in each["text"]]
    assert any(each.startswith("reference/generated/model.html") for each in found)
    assert "assets/iframe-worker.js" in (site / "index.html").read_text()
