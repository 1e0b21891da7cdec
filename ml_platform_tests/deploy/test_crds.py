"""crd_fields.yaml and every rendered custom resource agree with the complete definitions, where these are given.

``ML_PLATFORM_CRDS`` names a folder with them, in files of any name below it: those of Gateway API, KEDA, the Prometheus
Operator, KServe, KubeRay and Argo CD.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from ml_platform.serving.kubernetes_release import GitSource, release_files
from ml_platform.serving.serving_settings import default_settings
from ml_platform_tests.deploy.conftest import Render
from ml_platform_tests.deploy.kubernetes_schemas import FIELDS, field_schema
from ml_platform_tests.deploy.test_helm_chart import FORMS, with_form

Definitions = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def definitions() -> Definitions:
    """Return the schema of each kind, in which a field that is not declared is an error."""
    folder = os.environ.get("ML_PLATFORM_CRDS")
    if not folder:
        pytest.skip("ML_PLATFORM_CRDS names no folder with the definitions of custom resources")
    return dict(read_definitions(Path(folder)))


def read_definitions(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(folder.rglob("*.yaml")):
        for each in yaml.load_all(file.read_bytes(), yaml.CSafeLoader):
            if each and each.get("kind") == "CustomResourceDefinition":
                for version in each["spec"]["versions"]:
                    name = f"{each['spec']['group']}/{version['name']} {each['spec']['names']['kind']}"
                    schema = strict(version["schema"]["openAPIV3Schema"])
                    schema["properties"]["metadata"] = {}
                    yield name, schema


def strict(schema: Any) -> Any:
    """Return ``schema`` in the form of JSON Schema, without fields that it does not declare."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    inner = {name: strict(each) for name, each in schema.items() if name not in ("description", "properties")}
    if "properties" in schema:
        inner["properties"] = {name: strict(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            inner.setdefault("additionalProperties", False)
    return inner


def undeclared(own: dict[str, Any], published: dict[str, Any], place: str = "") -> Iterator[str]:
    """Yield each field of ``own`` that ``published`` lacks, or has with another type."""
    if "items" in own:
        yield from undeclared(own["items"], published.get("items", {}), f"{place}[]")
    for name, each in own.get("properties", {}).items():
        inner = published.get("properties", {}).get(name)
        if inner is None:
            yield f"{place}.{name}"
            continue
        declared, allowed = own_type(each), inner.get("type", [])
        if declared is not None and declared not in ([allowed] if isinstance(allowed, str) else allowed):
            yield f"{place}.{name}: {declared}, not {allowed}"
        yield from undeclared(each, inner, f"{place}.{name}")


def own_type(schema: dict[str, Any]) -> str | None:
    return "string" if "enum" in schema else schema.get("type")


def test_known_fields_are_those_of_the_definitions(definitions: Definitions) -> None:
    known = yaml.safe_load(FIELDS.read_text())
    assert known.keys() <= definitions.keys()
    for kind, spec in known.items():
        assert list(undeclared(field_schema(spec, {}), definitions[kind], kind)) == []


def test_application_of_argo_cd_is_valid(definitions: Definitions) -> None:
    files = release_files({}, {}, default_settings, form="envoy", now=0, source=GitSource("https://x", "main", "r"))
    (application,) = [yaml.safe_load(text) for text in files.values()]
    schema = definitions[f"{application['apiVersion']} {application['kind']}"]
    assert [error.message for error in Draft202012Validator(schema).iter_errors(application)] == []


@pytest.mark.parametrize("form", FORMS)
def test_every_custom_resource_is_valid(definitions: Definitions, render: Render, form: str) -> None:
    checked = 0
    for each in render(with_form(form)):
        schema = definitions.get(f"{each['apiVersion']} {each['kind']}")
        if schema is not None:
            checked += 1
            assert [error.message for error in Draft202012Validator(schema).iter_errors(each)] == []
    assert checked > 3
