"""Writes the files of `dg scaffold defs ml_platform.<Component> NAME`: a folder that loads, with commented attributes.

The templates are in scaffolds/<component>/. The comments in a defs.yaml are the descriptions of the settings. A dataset
and a model come with generated files to land, so they can be materialized before any edit.
"""

import importlib
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import dagster as dg
import yaml
from pydantic import BaseModel

from ml_platform.data.domains import read_domain
from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError

TEMPLATES = Path(__file__).parent / "scaffolds"
COMMENT_WIDTH = 116

_ATTRIBUTE = re.compile(r"^  (\w+):", flags=re.MULTILINE)


def annotated_yaml(document: str, component: type[BaseModel]) -> str:
    """Return the YAML ``document`` with a comment above each attribute; missing attributes follow as comments.

    The comments are the descriptions of the attributes of ``component``. Missing attributes have their default value.
    """

    def with_comment(found: re.Match[str]) -> str:
        return "".join(f"{line}\n" for line in _description_comment(component, found[1])) + found[0]

    given = set(_ATTRIBUTE.findall(document))
    left = [name for name, field in component.model_fields.items() if name not in given and not field.is_required()]
    defaults = [line for name in left for line in _commented_default(component, name)]
    heading = ["", "  # Attributes with their default value:"] if defaults else []
    return _ATTRIBUTE.sub(with_comment, document).rstrip() + "\n" + "".join(f"{line}\n" for line in heading + defaults)


def _description_comment(component: type[BaseModel], attribute: str) -> list[str]:
    field = component.model_fields[attribute]
    return _wrapped(f"  # {field.description or attribute}")


def _commented_default(component: type[BaseModel], attribute: str) -> Iterator[str]:
    field = component.model_fields[attribute]
    default = field.get_default(call_default_factory=True, validated_data={})
    yield from _description_comment(component, attribute)
    if isinstance(default, Settings):
        yield f"  # {attribute}:"
        for name, nested in type(default).model_fields.items():
            value = default.model_dump(mode="json")[name]
            yield f"  #   {name}: {_flow_style(value)}  # {nested.description or name}"
    else:
        yield f"  # {attribute}: {_flow_style(default)}"


def _flow_style(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def _wrapped(comment: str) -> list[str]:
    return textwrap.wrap(comment, COMMENT_WIDTH, subsequent_indent="  # ")


def template_values(request: dg.ScaffoldRequest[Any]) -> dict[str, str]:
    """Return the template variables: name of the folder, the full name, its module, and its path below the project.

    Raises ``click.ClickException`` for a folder name that is not an importable name.
    """
    root = request.project_root or Path.cwd()
    path = request.target_path.resolve().relative_to(root.resolve())
    for part in path.parts:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", part):
            raise scaffold_error(
                request,
                f"Folder {path}",
                expected="names of lower-case letters, digits and _, because its functions are imported from there",
                found=f"'{part}'",
                fix=f"Try '{re.sub(r'[^a-z0-9_]+', '_', part.lower())}'.",
            )
    name, domain = path.parts[-1], root.joinpath(*path.parts[:2])
    full_name = f"{domain.name}.{name}" if read_domain(domain).namespace else name
    return {"name": name, "full_name": full_name, "module": ".".join(path.parts), "path": path.as_posix()}


def scaffold_error(request: dg.ScaffoldRequest[Any], subject: str, **parts: str) -> click.ClickException:
    """Return the error to raise, which dg shows without a traceback. Removes the empty folder that dg created."""
    request.target_path.rmdir()
    return click.ClickException(str(PlatformError(subject, **parts)))


def write_templates(kind: str, request: dg.ScaffoldRequest[Any], values: Mapping[str, str], type_name: str) -> None:
    """Fill and write the templates of ``kind``. Documents of component ``type_name`` get comments."""
    import jinja2

    component = _component(type_name)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    for template in sorted((TEMPLATES / kind).glob("*.j2")):
        text = environment.from_string(template.read_text()).render(values)
        if template.stem == "defs.yaml":
            documents = [
                annotated_yaml(document, component) if _type_of(document) == type_name else document
                for document in text.split("---\n")
            ]
            text = "---\n".join(documents)
        (request.target_path / template.stem).write_text(text)
    for folder in [request.target_path, *request.target_path.parents]:
        if folder.resolve() == (request.project_root or Path.cwd()).resolve():
            break
        if not (folder / "__init__.py").exists():
            (folder / "__init__.py").write_text("")


def _component(type_name: str) -> type[BaseModel]:
    """Return the class of a component by its registered name, the ``type`` in defs.yaml."""
    module, _, name = type_name.rpartition(".")
    component: type[BaseModel] = getattr(importlib.import_module(module), name)
    return component


def _type_of(document: str) -> str:
    return str(yaml.safe_load(document)["type"])
