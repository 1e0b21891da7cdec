"""A wrong defs.yaml is told with file, line, attribute and the nearest valid name, wherever it is read."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

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
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A project of its own: `shop/orders/defs.yaml` beside `shop/loaders.py`."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "shop"\ndefs_module = "shop"\n'
        'registry_modules = ["ml_platform.components"]\n'
    )
    (tmp_path / "shop/orders").mkdir(parents=True)
    (tmp_path / "shop/__init__.py").touch()
    (tmp_path / "shop/loaders.py").write_text("def orders(path): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name == "shop" or name.startswith("shop.")]:
        monkeypatch.delitem(sys.modules, name)

    def write(text: str) -> Path:
        (tmp_path / "shop/orders/defs.yaml").write_text(textwrap.dedent(text))
        return tmp_path

    return write


def load(root: Path) -> dg.Definitions:
    return dg.load_from_defs_folder(project_root=root)


def told(error: BaseException) -> str:
    """Return the messages of ``error`` and of everything that caused it, as Dagster prints them."""
    every: list[str] = []
    current: BaseException | None = error
    while current is not None:
        every.append(str(current))
        current = current.__cause__ or current.__context__
    return "\n".join(every)


def test_several_documents_in_one_file_are_several_components(project: Callable[[str], Path]) -> None:
    definitions = load(project(GOOD + "---\n" + GOOD.replace("name: orders", "name: returns")))

    assert {asset.key.to_user_string() for asset in definitions.assets} == {
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
def test_a_wrong_attribute_of_the_second_document_is_told_with_its_line(
    project: Callable[[str], Path], line: str, wrong: str, place: str, message: str
) -> None:
    root = project(
        GOOD.replace("name: orders", "name: first").replace("\n  keys", "\n  keys") + "---\n" + "# two\n" + GOOD
    )
    file = root / "shop/orders/defs.yaml"
    text = file.read_text()
    second = text.index("# two")
    file.write_text(text[:second] + text[second:].replace(line, wrong))

    with pytest.raises(Exception) as error:  # Dagster wraps it in one of its own
        load(root)
    # The second document starts at line 13, so its attributes begin at line 15.
    assert place.format(file=file) in told(error.value)
    assert message in told(error.value)


def test_an_expectation_that_does_not_exist_is_told_with_its_line(project: Callable[[str], Path]) -> None:
    root = project(GOOD + "    expectations:\n      - expectation: expect_column_mean_to_be_betwen\n")

    with pytest.raises(Exception) as error:  # Dagster wraps it in one of its own
        load(root)
    assert "orders/defs.yaml:12, attribute 'contract.expectations.0.expectation'" in told(error.value)
    assert "Did you mean 'expect_column_mean_to_be_between'?" in told(error.value)


@pytest.mark.slow  # starts the `dg` command
def test_dg_check_yaml_tells_file_line_attribute_and_nearest_name(project: Callable[[str], Path]) -> None:
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


def test_the_engine_is_imported_without_dagster() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, ml_platform, ml_platform.data.lake; print('dagster' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "False"
