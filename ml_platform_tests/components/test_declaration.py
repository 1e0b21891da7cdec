"""Errors in a defs.yaml name file, line, attribute and the closest valid name, at loading and in `dg check yaml`."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_platform_tests.components.project_loading import error_chain, load, make_project
from ml_platform_tests.conftest import Importable

GOOD = """\
type: ml_platform.Dataset
attributes:
  name: orders
  description: One row per order
  loader: shop.loaders:orders
  keys: [id]
  owners: ["team:shop"]
  contract:
    columns:
      - {name: id, type: integer, description: Number}
"""


@pytest.fixture
def project(tmp_path: Path, importable: Importable) -> Callable[[str], Path]:
    """A temporary project with `shop/loaders.py`; the argument is the text of `shop/orders/defs.yaml`."""
    (tmp_path / "shop/orders").mkdir(parents=True)
    (tmp_path / "shop/__init__.py").touch()
    (tmp_path / "shop/loaders.py").write_text("def orders(path): ...\n")
    make_project(tmp_path, importable)

    def write(text: str) -> Path:
        (tmp_path / "shop/orders/defs.yaml").write_text(textwrap.dedent(text))
        return tmp_path

    return write


def test_several_documents_in_one_file_are_several_components(project: Callable[[str], Path]) -> None:
    definitions = load(project(GOOD + "---\n" + GOOD.replace("name: orders", "name: returns")))

    assets: Any = definitions.assets
    assert {asset.key.to_user_string() for asset in assets} == {
        "datasets/orders",
        "datasets/returns",
    }


@pytest.mark.parametrize(
    ("line", "wrong", "place", "message"),
    [
        ("keys: [id]", "kyes: [id]", "attributes.kyes at {file}:18", "Did you mean 'keys'?"),
        ("type: integer", "type: integr", "attributes.contract.columns.0.type at {file}:22", "'integer'"),
        ("keys: [id]", "keys: id", "attributes.keys at {file}:18", "valid list"),
        ("{name: id,", "{nam: id,", "attributes.contract.columns.0.nam at {file}:22", "Did you mean 'name'?"),
        ('["team:shop"]', "[shop]", "attributes.owners.0 at {file}:19", "match pattern"),
        ("loader: shop.loaders:orders", "loader: shop.loaders:order", "orders/defs.yaml:17", "Did you mean 'orders'?"),
        ("loader: shop.loaders:orders", "loader: shop.loader:orders", "orders/defs.yaml:17", "no module 'shop.loader'"),
        ("keys: [id]", "keys: [ids]", "orders/defs.yaml:18, attribute 'keys.0'", "Did you mean 'id'?"),
        ("keys: [id]", "keys: [id]\n  event_time: att", "orders/defs.yaml:19, attribute 'event_time'", "'att'"),
    ],
)
def test_wrong_attribute_of_the_second_document_is_reported_with_its_line(
    project: Callable[[str], Path], line: str, wrong: str, place: str, message: str
) -> None:
    root = project(
        GOOD.replace("name: orders", "name: first").replace("\n  keys", "\n  keys") + "---\n" + "# two\n" + GOOD
    )
    file = root / "shop/orders/defs.yaml"
    text = file.read_text()
    second = text.index("# two")
    file.write_text(text[:second] + text[second:].replace(line, wrong))

    with pytest.raises(Exception) as error:  # Dagster wraps the error in its own type
        load(root)
    # The second document starts at line 13, so its attributes begin at line 15.
    assert place.format(file=file) in error_chain(error.value)
    assert message in error_chain(error.value)


def test_unknown_expectation_is_reported_with_its_line(project: Callable[[str], Path]) -> None:
    root = project(GOOD + "    expectations:\n      - expectation: expect_column_mean_to_be_betwen\n")

    with pytest.raises(Exception) as error:  # Dagster wraps the error in its own type
        load(root)
    assert "orders/defs.yaml:12, attribute 'contract.expectations.0.expectation'" in error_chain(error.value)
    assert "Did you mean 'expect_column_mean_to_be_between'?" in error_chain(error.value)


@pytest.mark.slow  # starts the `dg` command
def test_dg_check_yaml_reports_file_line_attribute_and_closest_name(project: Callable[[str], Path]) -> None:
    root = project(GOOD.replace("keys:", "kyes:"))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("dg")), "check", "yaml"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert "shop/orders/defs.yaml:6 - ml_platform.Dataset attributes.kyes 'keys' was expected" in done.stdout


def test_engine_is_imported_without_dagster() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, ml_platform, ml_platform.data.lake; print('dagster' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "False"
