"""The bill of materials of a bento: valid CycloneDX with every library that its requirements bring along."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from ml_platform.serving.bento_build import BuiltBento
from ml_platform.serving.bento_locks import BentoLocks
from ml_platform.serving.bento_sbom import MAX_HASHES, SBOM_FILE, write_sbom
from ml_platform_tests.serving.conftest import LOCK

REQUIREMENTS = [f"{name}=={importlib.metadata.version(name)}" for name in ("lightgbm", "uvicorn", "orjson")]


@pytest.fixture
def bill(tmp_path: Path) -> dict[str, Any]:
    write_sbom(tmp_path, REQUIREMENTS, BentoLocks(LOCK), model="toy", name="1-abc")
    return json.loads((tmp_path / SBOM_FILE).read_text())


def library(bill: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [each for each in bill["components"] if each["name"] == name]
    return found


def pinned_by(bill: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["properties"][0]["value"] for each in bill["components"]}


def test_bill_is_valid_and_names_the_bento(bill: dict[str, Any]) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    root = bill["metadata"]["component"]
    assert (bill["specVersion"], root["name"], root["version"]) == ("1.6", "toy", "1-abc")


def test_wrong_bill_is_found_by_the_schema(bill: dict[str, Any]) -> None:
    del bill["components"][0]["name"]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is not None


def test_bill_has_the_pins_and_what_they_require(bill: dict[str, Any]) -> None:
    found = pinned_by(bill)
    assert {name for name, by in found.items() if by == "bento"} == {"lightgbm", "uvicorn", "orjson"}
    # scipy comes with lightgbm, and h11 with uvicorn.
    assert {name for name, by in found.items() if by == "lock"} >= {"scipy", "h11", "numpy"}
    assert not {"dagster", "pytest"} & found.keys()
    assert library(bill, "scipy")["version"] == importlib.metadata.version("scipy")
    assert library(bill, "scipy")["purl"] == f"pkg:pypi/scipy@{importlib.metadata.version('scipy')}"
    needed = {each["ref"]: each.get("dependsOn", []) for each in bill["dependencies"]}
    assert library(bill, "h11")["bom-ref"] in needed[library(bill, "uvicorn")["bom-ref"]]
    assert sorted(needed["toy:1-abc"]) == sorted(
        library(bill, each)["bom-ref"] for each in ("lightgbm", "orjson", "uvicorn")
    )


def test_bill_has_licences_and_the_hashes_of_the_lock(bill: dict[str, Any]) -> None:
    assert [each["name"] for each in bill["components"] if not each.get("licenses")] == []
    assert library(bill, "uvicorn")["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    (files,) = library(bill, "uvicorn")["externalReferences"]
    hashes = {each["content"] for each in files["hashes"]}
    pin = LOCK.read_text().partition("\nuvicorn==")[2].partition("# via")[0]
    assert 0 < len(hashes) <= MAX_HASHES
    assert {each for each in hashes if f"sha256:{each}" in pin} == hashes
    assert pin.count("sha256:") == len(hashes)


def test_equal_libraries_give_an_equal_bill_without_a_time(tmp_path: Path, bill: dict[str, Any]) -> None:
    again = tmp_path / "again"
    again.mkdir()
    write_sbom(again, REQUIREMENTS, BentoLocks(LOCK), model="toy", name="1-abc")
    assert (again / SBOM_FILE).read_bytes() == (tmp_path / SBOM_FILE).read_bytes()
    assert "timestamp" not in bill["metadata"]
    write_sbom(again, REQUIREMENTS, BentoLocks(LOCK), model="toy", name="2-abc")
    assert json.loads((again / SBOM_FILE).read_text())["serialNumber"] != bill["serialNumber"]


@pytest.mark.slow
def test_built_bento_has_a_valid_bill_of_its_own_requirements(built_bento: BuiltBento) -> None:
    text = (built_bento.path / SBOM_FILE).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    required = json.loads((built_bento.path / "src" / "package.json").read_text())["requirements"]
    found = {each["name"]: each["version"] for each in json.loads(text)["components"]}
    assert {f"{name}=={version}" for name, version in found.items()} >= set(required)
    assert len(text) < 0.15 * built_bento.size_bytes
