"""A domain that does not load is left out with its error; the others load as without it."""

import re
import textwrap
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from ml_platform.cli import app
from ml_platform.components.dataset.component import Dataset
from ml_platform.components.not_loaded import not_loaded_definitions
from ml_platform.components.project import DomainNotLoadedError, load_definitions_of, load_project, read_project
from ml_platform_tests.components.project_loading import make_project
from ml_platform_tests.conftest import Importable

DATASET = """\
type: ml_platform.Dataset
attributes:
  name: {name}
  description: One row per order
  loader: {loader}
  keys: [id]
  owners: ["team:shop"]
  contract:
    columns:
      - {{name: id, type: integer, description: Number}}
"""


@pytest.fixture
def root(tmp_path: Path, importable: Importable) -> Path:
    """A project with the working domain `good`, which declares the dataset `orders`."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/__init__.py").touch()
    make_project(tmp_path, importable)
    add_domain(tmp_path, "good", dataset("orders", "shop.good.loaders:orders"), "def orders(path): ...\n")
    return tmp_path


def add_domain(root: Path, name: str, declared: str, loaders: str = "") -> None:
    folder = root / "shop" / name
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "defs.yaml").write_text(textwrap.dedent(declared))
    (folder / "loaders.py").write_text(loaders)


def dataset(name: str, loader: str = "shop.good.loaders:orders") -> str:
    return DATASET.format(name=name, loader=loader)


@pytest.mark.parametrize(
    ("declared", "loaders", "messages"),
    [
        (dataset("bad") + "  keys: [", "", ["shop/bad/defs.yaml"]),
        (dataset("bad").replace("keys:", "kyes:"), "", ["shop/bad/defs.yaml:6", "Did you mean 'keys'?"]),
        ("type: ml_platform.Dataset\n", "", ["shop/bad/defs.yaml:1", "name"]),
        ("type: ml_platform.Datset\nattributes: {}\n", "", ["shop/bad/defs.yaml", "Datset"]),
        (dataset("bad", "shop.bad.loaders:bad"), "def bad(path) ...\n", ["shop/bad/loaders.py:1", "SyntaxError"]),
        (dataset("bad", "shop.bad.loaders:bad"), "\nimport absent_library\n", ["shop/bad/loaders.py:2"]),
        (dataset("bad", "shop.bad.loaders:bad"), "raise SystemExit(3)\n", ["shop/bad/loaders.py:1", "SystemExit"]),
        (dataset("bad", "shop.bad.loaders:bed"), "def bad(path): ...\n", ["shop/bad/defs.yaml:5", "'bad'"]),
    ],
)
def test_only_the_broken_domain_is_left_out(root: Path, declared: str, loaders: str, messages: list[str]) -> None:
    add_domain(root, "bad", declared, loaders)

    project = load_project(root)

    assert set(project.not_loaded) == {"bad"}
    assert all(message in project.not_loaded["bad"] for message in messages), project.not_loaded["bad"]
    assert [each.name for each in project.components(Dataset)] == ["orders"]


def test_errors_of_all_files_are_named(root: Path) -> None:
    both = dataset("first").replace("keys:", "kyes:") + "---\n" + dataset("second").replace("owners:", "owner:")
    (root / "shop/bad/deeper").mkdir(parents=True)
    add_domain(root, "bad/first", both)
    (root / "shop/bad/deeper/defs.yaml").write_text(dataset("third").replace("loader:", "loadr:"))

    with pytest.raises(DomainNotLoadedError) as raised:
        read_project(root).require_all()

    found = str(raised.value)
    assert all(name in found for name in ("'keys'", "'owners'", "'loader'", "shop/bad/deeper/defs.yaml:5"))


def test_verb_check_names_what_is_missing_in_any_document_of_any_domain(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_keys, without_owners = (
        dataset(name).replace(f"  {line}\n", "")
        for name, line in (("first", "keys: [id]"), ("second", 'owners: ["team:shop"]'))
    )
    add_domain(root, "bad", without_keys + "---\n" + without_owners + "---\n" + dataset("third"))
    add_domain(root, "worse", dataset("fourth", "shop.bad.loaders:absent"))
    monkeypatch.setattr("resources.profiles.REPOSITORY", root)

    found = CliRunner().invoke(app, ["check"])

    assert found.exit_code == 1
    assert re.search(r"bad: .*attributes.keys at shop/bad/defs.yaml:2.*required", found.output)
    assert re.search(r"bad: .*shop/bad/defs.yaml:1\d, attribute 'owners': .*bad/domain.yaml", found.output)
    assert re.search(r"worse: .*shop/worse/defs.yaml:5.*absent", found.output)
    assert "1 domains load, 2 do not." in found.output


def test_repaired_domain_loads_again(root: Path) -> None:
    add_domain(root, "bad", dataset("bad").replace("keys:", "kyes:"))
    assert set(read_project(root).not_loaded) == {"bad"}

    (root / "shop/bad/defs.yaml").write_text(dataset("bad"))

    project = load_project(root)
    assert not project.not_loaded
    assert [each.name for each in project.components(Dataset)] == ["bad", "orders"]


def test_two_declarations_of_one_name_leave_both_domains_out_and_name_both_files(root: Path) -> None:
    add_domain(root, "other", dataset("orders"))
    add_domain(root, "third", dataset("returns"))

    project = load_project(root)

    assert set(project.not_loaded) == {"good", "other"}
    for text in project.not_loaded.values():
        assert "shop/good/defs.yaml:3" in text
        assert "shop/other/defs.yaml:3" in text
    assert [each.name for each in project.components(Dataset)] == ["returns"]


def test_assets_written_in_python_with_one_key_leave_the_second_domain_out(root: Path) -> None:
    add_domain(root, "later", "")
    (root / "shop/later/defs.yaml").unlink()
    (root / "shop/later/loaders.py").write_text(
        "import dagster as dg\n\n@dg.asset(key=['datasets', 'orders'])\ndef orders(): ...\n"
    )

    project, definitions = load_definitions_of(root, dg.Definitions(resources=resources()))

    assert set(project.not_loaded) == {"later"}
    assert dg.AssetKey(["datasets", "orders"]) in definitions.resolve_asset_graph().get_all_asset_keys()


def test_asset_of_a_broken_domain_shows_the_error_and_its_check_fails() -> None:
    text = "shop/bad/defs.yaml:6: expected 'keys'\nshop/bad/loaders.py:2: no module"
    definitions = not_loaded_definitions({"bad-one": text})

    node = definitions.resolve_asset_graph().get(dg.AssetKey(["bad-one", "not_loaded"]))
    assert node.group_name == "bad_one"
    assert "shop/bad/loaders.py:2: no module" in (node.description or "")
    checks = definitions.asset_checks
    assert checks is not None
    result = dg.Definitions(asset_checks=list(checks)).resolve_implicit_global_asset_job_def().execute_in_process()
    [evaluation] = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert evaluation.description == text


def resources() -> dict[str, dg.ResourceDefinition]:
    names = ("lake", "home", "mlflow", "online_store")
    return {name: dg.ResourceDefinition.none_resource() for name in names}
