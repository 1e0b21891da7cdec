"""Validates objects of Kubernetes: its own kinds by the schemas of a release, custom ones by crd_fields.yaml.

The schemas come from the package kubernetes-validate in the environment of `make kubernetes`.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

RELEASE = "v1.37.0-local-strict"
FIELDS = Path(__file__).with_name("crd_fields.yaml")
DEFINITIONS = "_definitions.json"
CORE = f"{DEFINITIONS}#/$defs/io.k8s.api.core.v1."
TYPES = ("string", "integer", "number", "boolean")


class KubernetesSchemas:
    """The schemas in ``folder``, the folder `kubernetes-json-schema` of the package."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / RELEASE
        self._validators: dict[str, Draft202012Validator] = {}

    def problems(self, objects: Iterable[Mapping[str, Any]]) -> list[str]:
        """Return what is wrong with ``objects``, one line for each error; an unknown kind is one."""
        return [line for each in objects for line in self._problems_of(each)]

    def _problems_of(self, found: Mapping[str, Any]) -> list[str]:
        kind = f"{found['apiVersion']} {found['kind']}"
        name = f"{found['kind']} {found['metadata']['name']}"
        if kind not in self._validators:
            schema = self._schema(kind)
            if schema is None:
                return [f"{name}: no schema of {kind}"]
            self._validators[kind] = Draft202012Validator(schema, registry=self._registry)
        errors = self._validators[kind].iter_errors(found)
        return [f"{name}: {'.'.join(map(str, each.absolute_path))}: {each.message[:300]}" for each in errors]

    def _schema(self, kind: str) -> dict[str, Any] | None:
        if kind in self._fields:
            return resource_schema(self._fields[kind], self._pod_properties)
        version, _, name = kind.partition(" ")
        group, _, number = version.rpartition("/")
        stem = "-".join(part for part in (name.lower(), group.partition(".")[0], number) if part)
        file = self._folder / f"{stem}.json"
        return dict(json.loads(file.read_bytes())) if file.is_file() else None

    @cached_property
    def _fields(self) -> dict[str, Any]:
        return dict(yaml.safe_load(FIELDS.read_text()))

    @cached_property
    def _definitions(self) -> dict[str, Any]:
        return dict(json.loads((self._folder / DEFINITIONS).read_bytes()))

    @cached_property
    def _pod_properties(self) -> dict[str, Any]:
        properties = self._definitions["$defs"]["io.k8s.api.core.v1.PodSpec"]["properties"]
        return {name: {"$ref": f"{CORE}PodSpec/properties/{name}"} for name in properties}

    @cached_property
    def _registry(self) -> Any:
        definitions: Any = Resource.from_contents(self._definitions, default_specification=_specification())
        return Registry().with_resource(DEFINITIONS, definitions)


def _specification() -> Any:
    from referencing.jsonschema import DRAFT202012

    return DRAFT202012


def resource_schema(spec: Mapping[str, Any], pod_properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a custom resource whose fields are ``spec``, in the form of crd_fields.yaml."""
    schema = field_schema(spec, pod_properties)
    fixed = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    metadata = {"$ref": f"{DEFINITIONS}#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    schema["properties"] |= {**fixed, "metadata": metadata}
    schema["required"] += [*fixed, "metadata"]
    return schema


def field_schema(declared: Any, pod_properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of the fields ``declared``."""
    if isinstance(declared, list):
        return {"type": "array", "items": field_schema(declared[0], pod_properties)}
    if isinstance(declared, str):
        if declared in ("PodSpec", "PodTemplateSpec"):
            return {"$ref": f"{CORE}{declared}"}
        return {"type": declared} if declared in TYPES else {"enum": declared.split("|")}
    if "*" in declared:
        return {"type": "object", "additionalProperties": field_schema(declared["*"], pod_properties)}
    own = {name: each for name, each in declared.items() if name != "&"}
    properties = {name.rstrip("!"): field_schema(each, pod_properties) for name, each in own.items()}
    return {
        "type": "object",
        "properties": {**(pod_properties if "&" in declared else {}), **properties},
        "required": [name.rstrip("!") for name in own if name.endswith("!")],
        "additionalProperties": False,
    }
