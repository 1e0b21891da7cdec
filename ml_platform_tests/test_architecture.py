"""Tests of the repository's structure: layers, style, types, lazy imports, and no dependence on one machine."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ml_platform.training.resource_usage import PriceList

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
PACKAGES = ("ml_platform", "resources", "assets", "bento")
LAZY = ("mlflow", "dagster_mlflow", "great_expectations", "evidently", "lightgbm", "torch", "bentoml", "ray", "sklearn")

# Folders with files of one machine only.
MACHINE_PATH = re.compile(r"(?<![\w.:/<])/(?:home|root|Users|work|mnt|opt/homebrew)/[\w.-]+")
REGISTRY_HOST = re.compile(r"\b(?:pypi\.org|pythonhosted\.org|download\.pytorch\.org|conda\.anaconda\.org)\b")


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=500)


def tracked_files() -> list[Path]:
    listed = run("git", "ls-files", "-z").stdout.split("\0")
    present = [ROOT / name for name in listed if name and (ROOT / name).is_file()]
    assert present  # an empty list would pass every test below
    return present


def modules() -> list[Path]:
    return [file for file in tracked_files() if file.suffix == ".py"]


# Layers.


def copy_packages(target: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", target)
    return target


def broken_contracts(root: Path) -> list[str]:
    # lint-imports puts the working directory first on the path, so it reads the packages of `root`.
    report = run(BIN / "lint-imports", "--no-cache", "--no-logo", cwd=root).stdout
    verdicts = re.findall(r"^(.+?)(?:\n.+?)?? (KEPT|BROKEN)(?: \(.+\))?$", report, flags=re.MULTILINE)
    assert len(verdicts) == (root / ".importlinter").read_text().count("[importlinter:contract:"), report
    return [name for name, verdict in verdicts if verdict == "BROKEN"]


def test_import_contracts_are_kept() -> None:
    assert broken_contracts(ROOT) == []


@pytest.mark.parametrize(
    ("module", "planted", "contract"),
    [
        ("ml_platform/data/lake.py", "import ml_platform.features", "Imports point to lower layers only"),
        ("ml_platform/training/__init__.py", "import ml_platform.evaluation", "Imports point to lower layers only"),
        ("ml_platform/serving/__init__.py", "import resources.home", "Imports point to lower layers only"),
        ("ml_platform/features/__init__.py", "import dagster", "Engine and steps do not import Dagster"),
        ("ml_platform/components/metadata.py", "import ml_platform.components.model.training", "No import cycles"),
        ("bento/__init__.py", "import ml_platform.registry", "A bento imports feature reads"),
        ("bento/__init__.py", "import ml_platform.serving.desired_state", "A bento imports only the contract"),
    ],
)
def test_import_that_violates_a_contract_is_reported(tmp_path: Path, module: str, planted: str, contract: str) -> None:
    copy = copy_packages(tmp_path)
    with (copy / module).open("a") as opened:
        opened.write(f"\n{planted}\n")
    broken = broken_contracts(copy)
    assert [name for name in broken if name.startswith(contract)]
    # An import from a higher layer also closes a cycle if that layer already imports the lower one.
    assert [name for name in broken if not name.startswith((contract, "No import cycles"))] == []


def test_every_package_belongs_to_a_layer() -> None:
    layers = re.findall(r"ml_platform\.\w+", (ROOT / ".importlinter").read_text().split("[importlinter:contract:")[1])
    packages = {path.stem for path in (ROOT / "ml_platform").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert packages - {"__init__", "__pycache__"} == {layer.removeprefix("ml_platform.") for layer in layers}


# Style and types.


def test_linter_finds_nothing() -> None:
    checked = run(BIN / "ruff", "check", "--output-format=concise", ".")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_file_is_formatted() -> None:
    checked = run(BIN / "ruff", "format", "--check", ".")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_type_checker_finds_nothing() -> None:
    checked = run(BIN / "mypy")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_module_starts_with_a_docstring() -> None:
    # `make clients` generates these from the OpenAPI page, and test_generated_clients.py holds them to it.
    written = [file for file in modules() if not file.is_relative_to(ROOT / "docs" / "clients")]
    undocumented = [file for file in written if not ast.get_docstring(ast.parse(file.read_text()))]
    assert [str(file.relative_to(ROOT)) for file in undocumented] == []


# No dependence on one machine.


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    found = []
    for file in tracked_files():
        if file == Path(__file__):
            continue
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    return found


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    assert lines_with(MACHINE_PATH) == []


def test_no_tracked_file_names_a_package_registry() -> None:
    assert lines_with(REGISTRY_HOST) == []


@pytest.mark.parametrize("text", ["cache: /home/ada/.cache", 'open("/root/x")', "PATH=/Users/ada/bin", "at /work/here"])
def test_path_of_one_machine_is_recognised(text: str) -> None:
    assert MACHINE_PATH.search(text)


@pytest.mark.parametrize("text", ["../home/ada", "http://localhost/home/x", "the home/work/balance", "GET /v1/root/x"])
def test_other_paths_are_not_taken_for_one_of_a_machine(text: str) -> None:
    assert not MACHINE_PATH.search(text)


def test_lock_pins_every_package_with_hashes_and_without_address() -> None:
    text = (ROOT / "requirements.lock").read_text()
    blocks = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).strip())
    assert len(blocks) > 100
    assert [block.splitlines()[0] for block in blocks if "==" not in block or "--hash=sha256:" not in block] == []
    assert re.findall(r"\S*(?:https?|file|git)(?::|\+)//\S*|--(?:extra-)?index-url.*", text) == []


def test_lock_does_not_pin_torch() -> None:
    assert not re.search(r"^torch==", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)


def test_training_reads_every_price_of_the_parameters() -> None:
    listed = yaml.safe_load((ROOT / "params.yaml").read_text())["prices"]
    assert PriceList.model_validate(listed).model_dump() == listed  # no price is missing, and none is unknown


# Lazy imports.


def test_loading_the_definitions_imports_no_heavy_library() -> None:
    code = "import json, sys, ml_platform.definitions; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(run(sys.executable, "-c", code).stdout.splitlines()[-1]))
    assert "dagster" in loaded
    assert sorted(loaded & set(LAZY)) == []


def seconds_to_import(module: str) -> float:
    timed = f"import time; start = time.process_time(); import {module}; print(time.process_time() - start)"
    return float(run(sys.executable, "-c", timed).stdout.splitlines()[-1])


def test_loading_the_definitions_costs_little_more_than_dagster() -> None:
    # Processor time and the minimum of interleaved runs, so that other load on the machine matters little.
    times = [(seconds_to_import("dagster"), seconds_to_import("ml_platform.definitions")) for _ in range(3)]
    dagster, definitions = (min(side) for side in zip(*times, strict=True))
    assert definitions <= 1.5 * dagster, f"dagster {dagster:.2f} s, ml_platform.definitions {definitions:.2f} s"
