"""Writes docs/reference/generated/ from the code: declarations, command line, assets, metadata keys, HTTP and Python API.

`make docs` runs it before the site is built. Nothing here is written by hand that the code says itself: descriptions
come from the settings' fields, the docstrings, the command line and the asset definitions.
"""

import inspect
import json
import re
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).resolve().parent.parent
OUT = Path(__file__).resolve().parent / "reference" / "generated"
REFERENCE_MODEL = "departure_risk"
ENGINE = ("state", "data", "features", "tasks", "training", "evaluation", "registry", "serving", "monitoring", "alerts", "steps")
PACKAGES = ("session", *ENGINE)
OTHER_PACKAGES = ("resources", "bento")

UNITS = {
    "minutes": "minutes",
    "hours": "hours",
    "days": "days",
    "months": "months",
    "seconds": "seconds",
    "ms": "milliseconds",
    "mb": "megabytes",
    "gb": "gigabytes",
    "bytes": "bytes",
    "rows": "rows",
    "cron": "cron expression, UTC",
    "trials": "trials",
    "rate": "share, 0 to 1",
    "share": "share, 0 to 1",
    "fraction": "share, 0 to 1",
    "gpus": "devices",
    "cpus": "processor cores",
}
"""Unit of a number by the last word of its name."""

EXAMPLES: Mapping[str, Any] = {
    "lookups": ["airports"],
    "retention_months": 24,
    "tags": {"domain": "aviation"},
    "code_version": "2",
    "owner": "team:aviation",
    "limits": ["Cancelled flights have no label."],
    "cron": "0 3 * * 1",
    "seed": 7,
    "leave_out": ["weather__wind"],
    "interval": 0.9,
    "study": "departure_risk-2013",
    "choices": ["gbdt", "dart"],
    "values": ["gbdt", "dart"],
}
"""Examples of attributes that no declaration of the repository sets."""


class Attribute(typing.NamedTuple):
    """One attribute of a declaration. ``path`` is where it stands in a `defs.yaml`, with [] for items of a list."""

    path: str
    field: FieldInfo
    nested: list[type[BaseModel]]


# --- declarations -----------------------------------------------------------------------------------------------------


def settings_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the pydantic models that ``annotation`` holds, in order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [each for inside in typing.get_args(annotation) for each in settings_in(inside)]


def step(annotation: Any) -> str:
    """Return what follows an attribute's name on the way to its items: [] for a list, .<name> for a mapping."""
    for each in (annotation, *typing.get_args(annotation)):
        origin = typing.get_origin(each)
        if origin in (list, tuple):
            return "[]"
        if origin is dict:
            return ".<name>"
    return ""


def sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel], list[Attribute]]]:
    """Yield (path, model, attributes) of ``model`` and of every model nested in it, each once per place."""
    attributes = []
    below: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        place = f"{path}.{name}" if path else name
        nested = settings_in(field.annotation)
        attributes.append(Attribute(place, field, nested))
        below += [(place + step(field.annotation), inner) for inner in nested]
    yield path, model, attributes
    for place, inner in below:
        yield from sections(inner, place)


def type_name(annotation: Any) -> str:
    """Return how a reader of YAML names the type."""
    if annotation is type(None):
        return "none"
    if annotation is Any:
        return "anything"
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in inside)
    if origin is typing.Annotated:
        return type_name(inside[0])
    if origin in (list, tuple):
        return f"list of {type_name(inside[0])}"
    if origin is dict:
        return f"mapping of {type_name(inside[0])} to {type_name(inside[1])}"
    if inside:
        return " or ".join(dict.fromkeys(type_name(each) for each in inside))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.__name__
    names = {"str": "text", "Path": "path", "int": "whole number", "float": "number", "bool": "true or false"}
    return names.get(getattr(annotation, "__name__", ""), str(annotation))


def default_of(field: FieldInfo) -> str:
    """Return the default as YAML would write it; **required** where there is none."""
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return "its defaults"
    return "none" if value is None else f"`{_yaml(value)}`"


def only_value(field: FieldInfo) -> str | None:
    """Return the one value that an attribute such as `type` of a gate can have, None where it can have others."""
    values = typing.get_args(field.annotation) if typing.get_origin(field.annotation) is Literal else ()
    return str(values[0]) if len(values) == 1 else None


def limits_of(field: FieldInfo) -> str:
    """Return the bounds of a number and the pattern of a text, in words."""
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than", "min_length": "at least"}
    said = []
    for each in field.metadata:
        for name, word in words.items():
            value = getattr(each, name, None)
            if value is not None:
                said.append(f"{word} {value:g}" + (" item" if name == "min_length" and value == 1 else ""))
        if pattern := getattr(each, "pattern", None):
            said.append(f"matches `{pattern}`".replace("|", "\\|"))
    return ", ".join(said)


def unit_of(path: str, field: FieldInfo) -> str:
    """Return the unit of a number: what the field declares, or what the last word of its name says."""
    declared = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    if "unit" in declared:
        return str(declared["unit"])
    last = path.rpartition(".")[2].rpartition("_")[2]
    is_plain = not settings_in(field.annotation)
    return UNITS.get(last, "") if is_plain else ""


def declared_examples() -> dict[str, dict[str, Any]]:
    """Return, by component and path, the first value that a declaration of the repository gives an attribute."""
    found: dict[str, dict[str, Any]] = {}
    for page in sorted((ROOT / "assets").rglob("defs.yaml")):
        for block in yaml.safe_load_all(page.read_text()):
            if isinstance(block, dict) and str(block.get("type", "")).startswith("ml_platform."):
                _collect(block["attributes"], "", found.setdefault(block["type"].rpartition(".")[2], {}))
    return found


def _collect(value: Any, path: str, into: dict[str, Any]) -> None:
    if path:
        into.setdefault(path, value)
    if isinstance(value, dict):
        for name, inner in value.items():
            _collect(inner, f"{path}.{name}" if path else str(name), into)
            # The team chooses the keys of a mapping: trainers.lightgbm.seed is an example of trainers.<name>.seed.
            _collect(inner, f"{path}.<name>", into) if path else None
    elif isinstance(value, list):
        for inner in value:
            _collect(inner, f"{path}[]", into)


def example_of(component: str, attribute: Attribute, declared: Mapping[str, Mapping[str, Any]]) -> str:
    """Return an example of the attribute: declared with the field, used in a declaration, or from the list above."""
    if attribute.nested:
        return ""
    if (kind := only_value(attribute.field)) is not None:
        return kind
    if attribute.field.examples:
        return _yaml(attribute.field.examples[0])
    name = attribute.path.rpartition(".")[2]
    for value in (declared.get(component, {}).get(attribute.path), EXAMPLES.get(name)):
        if value not in (None, "", [], {}):
            return _yaml(value)
    default = attribute.field.get_default(call_default_factory=True, validated_data={})
    if default not in (None, "", [], {}, PydanticUndefined):
        return _yaml(default)
    origin = typing.get_origin(attribute.field.annotation)
    if origin is Literal:
        return _yaml(typing.get_args(attribute.field.annotation)[0])
    return ""


def declaration_page(component: type[BaseModel], intro: str, extra: Sequence[tuple[str, str, type[BaseModel]]]) -> str:
    """Return the page of a component: a table for it and for each model nested in it."""
    declared = declared_examples()
    name = component.__name__
    lines = [
        f"# {name}",
        "",
        f"`type: ml_platform.{name}`. {_first(component)}",
        "",
        intro,
        "",
        "Paths are those of a `defs.yaml`: `[]` stands for an item of a list, `<name>` for a name that you choose.",
        "`dg check yaml` reports a wrong attribute with file, line and the nearest valid name.",
    ]
    places = [*sections(component)]
    for path, note, model in extra:
        places += [(f"{path}` (`{note}", each, rows) for _, each, rows in sections(model, path)]
    for path, model, attributes in places:
        kind = next(
            (f", {name}: {value}" for name, field in model.model_fields.items() if (value := only_value(field))), ""
        )
        lines += ["", f"## {'Attributes' if not path else heading(path) + kind}", ""]
        if path:
            lines += [f"{_first(model)} Class `{model.__module__}.{model.__name__}`.", ""]
        lines += ["| attribute | type | default | description |", "| --- | --- | --- | --- |"]
        for each in attributes:
            lines.append(_row(name, each, declared))
    return "\n".join(lines) + "\n"


def heading(path: str) -> str:
    """Return ``path`` as a heading; one with a note ends with it in brackets."""
    return f"`{path}`)" if "(" in path else f"`{path}`"


def _row(component: str, each: Attribute, declared: Mapping[str, Mapping[str, Any]]) -> str:
    said = [_sentence(each.field.description or "Names the kind; each kind has a section of its own.")]
    if limits := limits_of(each.field):
        said.append(f"Limits: {limits}.")
    if unit := unit_of(each.path, each.field):
        said.append(f"Unit: {unit}.")
    example = example_of(component, each, declared)
    if example and f"`{example}`" != default_of(each.field):
        said.append(f"Example: `{example}`.")
    cells = [
        f"`{each.path.rpartition('.')[2]}`",
        type_name(each.field.annotation),
        default_of(each.field),
        " ".join(said),
    ]
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def trainer_settings() -> list[tuple[str, str, type[BaseModel]]]:
    """Return the settings of the trainers that the platform brings: what `trainers.<name>.settings` may hold."""
    from ml_platform.training.trainer import BUILT_IN, trainer_class

    return [("trainers.<name>.settings", f"trainer: {name}", trainer_class(name).Settings) for name in BUILT_IN]


def declaration_pages() -> dict[str, str]:
    from ml_platform.components import Dataset, FeatureView, Model

    return {
        "dataset.md": declaration_page(
            Dataset,
            "It gives the asset `datasets/<name>`, three blocking checks, the check `quality` and a landing sensor.",
            [],
        ),
        "feature-view.md": declaration_page(
            FeatureView, "It gives the asset `features/<name>`: a change log and its online snapshot.", []
        ),
        "model.md": declaration_page(
            Model,
            "It gives the assets `<name>/…` from the training set to drift, their checks, a job, sensors and schedules. "
            "Limits of drift stand under [`monitors.drift`](#monitorsdrift).",
            trainer_settings(),
        ),
    }


# --- command line -----------------------------------------------------------------------------------------------------


def verbs(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield (name, command) of every verb below ``command``, those of groups with the group's name before them."""
    for each, inner in command.commands.items():
        if hasattr(inner, "commands"):
            yield from verbs(inner, f"{name} {each}")
        else:
            yield f"{name} {each}", inner


def command_line_page() -> str:
    import typer

    from ml_platform.cli import app

    root = typer.main.get_command(app)
    lines = ["# Command line", "", _sentence(root.help or ""), ""]
    for name, command in verbs(root, "ml-platform"):
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        options = [each for each in command.params if each.param_type_name == "option" and each.name != "help"]
        usage = [_metavar(each) for each in arguments]
        usage += [f"{each.opts[0]} …" for each in options if each.required]
        lines += [f"## `{name}`", "", _sentence(command.help or ""), "", "```", " ".join([name, *usage]), "```", ""]
        if not arguments and not options:
            continue
        lines += ["| argument or option | type | default | description |", "| --- | --- | --- | --- |"]
        for each in [*arguments, *options]:
            shown = _metavar(each) if each in arguments else ", ".join(each.opts)
            default = "**required**" if each.required else _default(each.default)
            cells = [f"`{shown}`", type_name(each.type_descriptor.annotation), default, _sentence(each.help or "")]
            lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)


def _metavar(argument: Any) -> str:
    name = str(argument.name).upper()
    return name if argument.required else f"[{name}]"


def _default(value: Any) -> str:
    return "none" if value in (None, "", False) else f"`{value}`"


# --- assets -----------------------------------------------------------------------------------------------------------


_GROUPS = {"datasets": 0, "features": 1}


def assets_page() -> str:
    from ml_platform.definitions import defs

    definitions = defs()
    graph = definitions.resolve_asset_graph()
    order = {key: place for place, key in enumerate(graph.toposorted_asset_keys)}
    nodes = sorted(graph.asset_nodes, key=lambda node: (_GROUPS.get(node.key.path[0], 2), order[node.key]))
    lines = [
        "# Assets, checks, automation",
        "",
        "This page lists the definitions of the reference domain. A model of another name has the same assets as",
        f"`{REFERENCE_MODEL}`. [Metadata keys](metadata-keys.md) says what each asset records.",
        "",
    ]
    groups: dict[str, list[Any]] = {}
    for node in nodes:
        groups.setdefault(node.key.path[0], []).append(node)
    for group, members in groups.items():
        lines += [f"## `{group}/`", "", "| asset | kinds | partitions | description |", "| --- | --- | --- | --- |"]
        for node in members:
            cells = [
                f"`{node.key.to_user_string()}`",
                ", ".join(sorted(node.kinds)),
                type(node.partitions_def).__name__.removesuffix("PartitionsDefinition")
                if node.partitions_def
                else "none",
                _sentence(node.description or ""),
            ]
            lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
        lines.append("")
    lines += ["## Checks", "", "| check | on | blocks | description |", "| --- | --- | --- | --- |"]
    seen: dict[tuple[str, str], Any] = {}
    for key in sorted(graph.asset_check_keys, key=lambda key: (key.asset_key.path, key.name)):
        spec = graph.get_check_spec(key)
        place = key.asset_key.path[0]
        asset = f"{place}/<name>" if place in ("datasets", "features") else f"<model>/{key.asset_key.path[-1]}"
        seen.setdefault((asset, key.name), spec)
    for (asset, name), spec in seen.items():
        cells = [f"`{name}`", f"`{asset}`", "yes" if spec.blocking else "no", _sentence(spec.description or "")]
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    repository = definitions.get_repository_def()
    jobs = [job for job in repository.get_all_jobs() if not job.name.startswith("__")]
    lines += ["", "## Jobs", "", "| job | description |", "| --- | --- |"]
    lines += [f"| `{job.name}` | {_cell(_sentence(job.description or ''))} |" for job in jobs]
    lines += ["", "## Sensors", "", "| sensor | at start | description |", "| --- | --- | --- |"]
    for sensor in sorted(repository.sensor_defs, key=lambda each: each.name):
        on = "on" if sensor.default_status.value == "RUNNING" else "off"
        said = sensor.description or "Requests the assets whose automation condition holds."
        lines.append(f"| `{sensor.name}` | {on} | {_cell(_sentence(said))} |")
    lines += ["", "## Schedules", "", "| schedule | cron (UTC) | at start | description |", "| --- | --- | --- | --- |"]
    for schedule in sorted(repository.schedule_defs, key=lambda each: each.name):
        on = "on" if schedule.default_status.value == "RUNNING" else "off"
        said = _sentence(schedule.description or "")
        lines.append(f"| `{schedule.name}` | `{schedule.cron_schedule}` | {on} | {_cell(said)} |")
    return "\n".join(lines) + "\n"


# --- metadata keys ----------------------------------------------------------------------------------------------------


def metadata_page() -> str:
    from ml_platform.components import metadata_keys

    lines = [
        "# Metadata keys",
        "",
        "The numbers and links that each asset and check records when it is materialized or evaluated. The Dagster",
        "UI shows them, and plots numbers over partitions. The table in the code is `ml_platform/components/metadata_keys.py`.",
    ]
    for kind, keys in metadata_keys.METADATA_KEYS.items():
        lines += ["", f"## `{kind}`", "", "| key | unit | meaning |", "| --- | --- | --- |"]
        lines += [f"| `{each.key}` | {_cell(each.unit or '–')} | {_cell(_sentence(each.meaning))} |" for each in keys]
    return "\n".join(lines) + "\n"


# --- HTTP -------------------------------------------------------------------------------------------------------------


def http_page() -> str:
    from ml_platform.components.loading import bound_model
    from ml_platform.serving.openapi import openapi_document

    contract = bound_model(REFERENCE_MODEL).contract
    document = openapi_document(contract, "1")
    schemas = document["components"]["schemas"]
    lines = [
        "# HTTP API",
        "",
        f"The endpoint of `{REFERENCE_MODEL}`, from its OpenAPI document. Every model has the same paths with its own",
        "name and its own fields of a row; the gateway serves the document at `/v1/<model>/openapi.json`.",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            lines += ["", f"## `{method.upper()} {path}`", "", _sentence(operation["summary"]), ""]
            lines += ["### Parameters", "", "| name | in | type | description |", "| --- | --- | --- | --- |"]
            for each in operation["parameters"]:
                kind = _schema_type(each["schema"])
                lines.append(f"| `{each['name']}` | {each['in']} | {kind} | {_cell(_sentence(each['description']))} |")
            example = {"rows": [{name: _example(inner) for name, inner in schemas["Row"]["properties"].items()}]}
            lines += ["", "### Request", "", "```json", json.dumps(example, indent=2), "```", ""]
            lines += _schema_tables({"Request": schemas["Request"], "Row": schemas["Row"]})
            lines += ["", "### Responses", "", "| status | meaning | body |", "| --- | --- | --- |"]
            for status, answer in operation["responses"].items():
                body = answer["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
                lines.append(f"| {status} | {_cell(answer['description'])} | [`{body}`](#{body.lower()}) |")
            rest = {name: schema for name, schema in schemas.items() if name not in ("Row", "Request")}
            lines += ["", *_schema_tables(rest)]
    lines += [
        "",
        "## Headers",
        "",
        "| header | on | meaning |",
        "| --- | --- | --- |",
        "| `content-type: application/json` | request, response | The only format. |",
        "| `content-encoding` | request | Must be absent or `identity`: compressed bodies get 415. |",
        "| `x-request-id` | request, response | Id of the request: 1 to 200 printable characters, or made by the service. |",
        "| `x-prediction-id` | response 200 | Id of the first row's prediction; its last six digits are the row. |",
        "| `retry-after` | response 429, 503 | Seconds after which the same request is welcome. |",
        "| `allow` | response 405 | Methods that the path takes. |",
        "",
        "## Other paths",
        "",
        "| path | served by | what it returns |",
        "| --- | --- | --- |",
        "| `GET /v1/<model>/` | gateway, service | A page for people: fields, an example, the error responses. |",
        "| `GET /v1/<model>/openapi.json` | gateway, service | The OpenAPI 3.1 document. |",
        "| `GET /ready` | gateway | 200 while the gateway runs. |",
        "| `GET /livez` | service | 200 while the process runs. |",
        "| `GET /healthz` | service | 200 with `status` and `prediction_log`: state, rows written and dropped, error. |",
        "| `GET /readyz` | service | 200 once the model is loaded, also if the prediction log fails; 503 before. |",
        "| `GET /metrics` | service | Counts, latencies and feature ages for Prometheus. |",
    ]
    return "\n".join(lines) + "\n"


def _schema_tables(schemas: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, schema in schemas.items():
        lines += [f"#### {name}", "", "| field | type | required | description |", "| --- | --- | --- | --- |"]
        lines += _schema_rows(schema, "")
        lines.append("")
    return lines


def _schema_rows(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    for name, inner in schema.get("properties", {}).items():
        required = "yes" if name in schema.get("required", []) else "no"
        said = _sentence(inner.get("description", ""))
        yield f"| `{path}{name}` | {_cell(_schema_type(inner))} | {required} | {_cell(said)} |"
        items = inner.get("items", {})
        yield from _schema_rows(
            items if inner.get("type") == "array" else inner, f"{path}{name}." if path or inner else ""
        )


def _schema_type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type", "object")
    said = " or ".join(kind) if isinstance(kind, list) else kind
    if said == "array":
        bounds = [f"{schema.get(name)}" for name in ("minItems", "maxItems") if name in schema]
        said = f"list of {_schema_type(schema.get('items', {}))}" + (f" ({' to '.join(bounds)})" if bounds else "")
    if "minimum" in schema:
        said += f", {schema['minimum']} to {schema['maximum']}"
    if "maxLength" in schema:
        said += f", at most {schema['maxLength']} characters"
    return said + (f" ({schema['format']})" if "format" in schema else "")


def _example(schema: Mapping[str, Any]) -> Any:
    return next(iter(schema.get("examples", [])), None)


# --- Python API -------------------------------------------------------------------------------------------------------


def python_pages() -> dict[str, str]:
    """Return a page for each package: its modules, each with its docstring, classes and functions."""
    pages = {}
    for package in (*PACKAGES, *OTHER_PACKAGES):
        folder = ROOT / package if package in OTHER_PACKAGES else ROOT / "ml_platform" / package
        dotted = package if package in OTHER_PACKAGES else f"ml_platform.{package}"
        modules = [
            ".".join([dotted, *path.relative_to(folder).with_suffix("").parts])
            for path in sorted(folder.rglob("*.py"))
            if not path.name.startswith("_") and not {"scaffolds", "migrations"} & set(path.parts)
        ]
        first = (folder / "__init__.py").read_text().partition('"""')[2].partition('"""')[0].strip()
        lines = [f"# `{dotted}`", "", first, ""]
        for module in modules:
            lines += [f"::: {module}", ""]
        pages[f"python/{package}.md"] = "\n".join(lines)
    return pages


# --- text -------------------------------------------------------------------------------------------------------------


def _first(described: Any) -> str:
    """Return the first paragraph of a docstring as one line."""
    text = inspect.getdoc(described) or ""
    return _sentence(_roles(" ".join(text.split("\n\n")[0].split())))


def _roles(text: str) -> str:
    return re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text).replace("``", "`")


def _sentence(text: str) -> str:
    said = _roles(" ".join(text.split()))
    return said if not said or said[-1] in ".!?:" else f"{said}."


def _cell(text: str) -> str:
    parts = " ".join(text.split()).split("`")
    # Outside of code, what looks like a tag is text.
    parts[::2] = [part.replace("<", "&lt;").replace("*", "\\*").replace("\\*\\*", "**") for part in parts[::2]]
    return re.sub(r"(?<!\\)\|", r"\\|", "`".join(parts))


def _yaml(value: Any) -> str:
    """Return ``value`` as YAML on one line, shortened where it is long."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, tuple):
        value = [each.model_dump(mode="json") if isinstance(each, BaseModel) else each for each in value]
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    text = text.removesuffix("\n").removesuffix("...").strip()
    return text if len(text) <= 90 else f"{text[:80]} …"


def pages() -> dict[str, str]:
    """Return every generated page by its path below `docs/reference/generated/`."""
    return {
        **declaration_pages(),
        "command-line.md": command_line_page(),
        "assets.md": assets_page(),
        "metadata-keys.md": metadata_page(),
        "http-api.md": http_page(),
        **python_pages(),
    }


def write(folder: Path, made: Mapping[str, str]) -> Iterable[Path]:
    """Write ``made`` into ``folder`` and remove pages of earlier runs; a page that is as it was is left alone."""
    for stale in set(folder.rglob("*.md")) - {folder / name for name in made}:
        stale.unlink()
    for name, text in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        yield path


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    print(f"{len([*write(OUT, pages())])} pages of reference in {OUT.relative_to(ROOT)}")
