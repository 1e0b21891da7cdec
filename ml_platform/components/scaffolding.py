"""What `dg scaffold defs ml_platform.<Component> NAME` writes: a folder that loads, and what its attributes mean.

The files are templates in scaffolds/<component>/. What stands in a defs.yaml as comment is taken from the settings
themselves, so that it says what the code does. A dataset and a model come with made-up files to land, and so can be
materialized before anything in them is changed.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import dagster as dg
import yaml
from pydantic import BaseModel, Field

from ml_platform.data.settings import Settings
from ml_platform.errors import PlatformError, did_you_mean, listed

if TYPE_CHECKING:
    from ml_platform.components.dataset import Dataset

TEMPLATES = Path(__file__).parent / "scaffolds"
COMMENT_WIDTH = 116

_ATTRIBUTE = re.compile(r"^  (\w+):", flags=re.MULTILINE)


class SourceDataset(BaseModel):
    """What `dg scaffold defs ml_platform.FeatureView` can be told."""

    dataset: str = Field(default="", description="Dataset that the view reads; none: the first one with an event time.")


class DatasetScaffolder(dg.Scaffolder[Any]):
    """Writes a dataset: declaration, loader, and a few made-up months to land."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        from ml_platform.components.dataset import Dataset

        _write("dataset", request, _names(request), {"ml_platform.Dataset": Dataset})


class FeatureViewScaffolder(dg.Scaffolder[SourceDataset]):
    """Writes a feature view on a dataset that is there: how many rows each of its entities had in the last days."""

    @classmethod
    def get_scaffold_params(cls) -> type[SourceDataset]:
        return SourceDataset

    def scaffold(self, request: dg.ScaffoldRequest[SourceDataset]) -> None:
        from ml_platform.components.feature_view import FeatureView

        source = _source(request)
        names = {"dataset": source.name, "event_time": str(source.event_time), "entity": _text_keys(source)[0]}
        _write("feature_view", request, {**_names(request), **names}, {"ml_platform.FeatureView": FeatureView})


class ModelScaffolder(dg.Scaffolder[Any]):
    """Writes a model with all that it stands on: a dataset, two feature views, its examples, and months to land."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        from ml_platform.components.model import Model

        _write("model", request, _names(request), {"ml_platform.Model": Model})


def explained(document: str, component: type[BaseModel]) -> str:
    """Return the YAML ``document`` with a comment above each attribute, and those left at their default below.

    Comments are the descriptions of the attributes of ``component``.
    """

    def with_comment(found: re.Match[str]) -> str:
        return "".join(f"{line}\n" for line in _comment(component, found[1])) + found[0]

    given = set(_ATTRIBUTE.findall(document))
    left = [name for name, field in component.model_fields.items() if name not in given and not field.is_required()]
    defaults = [line for name in left for line in _commented_default(component, name)]
    heading = ["", "  # Attributes that are left at their default:"] if defaults else []
    return _ATTRIBUTE.sub(with_comment, document).rstrip() + "\n" + "".join(f"{line}\n" for line in heading + defaults)


def _comment(component: type[BaseModel], attribute: str) -> list[str]:
    field = component.model_fields[attribute]
    return _wrapped(f"  # {field.description or attribute}")


def _commented_default(component: type[BaseModel], attribute: str) -> Iterator[str]:
    field = component.model_fields[attribute]
    default = field.get_default(call_default_factory=True)
    yield from _comment(component, attribute)
    if isinstance(default, Settings):
        yield f"  # {attribute}:"
        for name, nested in type(default).model_fields.items():
            value = default.model_dump(mode="json")[name]
            yield f"  #   {name}: {_in_line(value)}  # {nested.description or name}"
    else:
        yield f"  # {attribute}: {_in_line(default)}"


def _in_line(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")


def _wrapped(comment: str) -> list[str]:
    return textwrap.wrap(comment, COMMENT_WIDTH, subsequent_indent="  # ")


def _names(request: dg.ScaffoldRequest[Any]) -> dict[str, str]:
    """Return what every template is filled with: the name of the folder, its module, its path below the project."""
    root = request.project_root or Path.cwd()
    path = request.target_path.resolve().relative_to(root.resolve())
    for part in path.parts:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", part):
            raise _refusal(
                request,
                f"Folder {path}",
                expected="names of lower-case letters, digits and _, because its functions are imported from there",
                found=f"'{part}'",
                mend=f"Try '{re.sub(r'[^a-z0-9_]+', '_', part.lower())}'.",
            )
    return {"name": path.parts[-1], "module": ".".join(path.parts), "path": path.as_posix()}


def _source(request: dg.ScaffoldRequest[SourceDataset]) -> "Dataset":
    from dagster.components.core.component_tree import ComponentTree

    from ml_platform.components.dataset import Dataset

    tree = ComponentTree.for_project(request.project_root or Path.cwd())
    usable = {each.name: each for each in tree.get_all_components(Dataset) if each.event_time and _text_keys(each)}
    wanted = request.params.dataset
    if usable and not wanted:
        return next(iter(usable.values()))
    if wanted not in usable:
        raise _refusal(
            request,
            f"Feature view '{request.target_path.name}'",
            expected="a dataset with an event time and a key of text",
            found=f"'{wanted}'; there are {listed(usable)}" if usable else "none",
            mend=f"Name one by --dataset, or scaffold an ml_platform.Dataset first.{did_you_mean(wanted, usable)}",
        )
    return usable[wanted]


def _text_keys(dataset: "Dataset") -> list[str]:
    return [rule.name for rule in dataset.contract.columns if rule.name in dataset.keys and rule.type == "string"]


def _refusal(request: dg.ScaffoldRequest[Any], thing: str, **parts: str) -> click.ClickException:
    """Return the error to raise: as dg shows one, without a traceback. The folder that dg made is gone again."""
    request.target_path.rmdir()
    return click.ClickException(str(PlatformError(thing, **parts)))


def _write(
    kind: str, request: dg.ScaffoldRequest[Any], names: Mapping[str, str], fully: Mapping[str, type[BaseModel]]
) -> None:
    """Fill the templates of ``kind`` and write them; documents of the types in ``fully`` are explained in full."""
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    for template in sorted((TEMPLATES / kind).glob("*.j2")):
        text = environment.from_string(template.read_text()).render(names)
        if template.stem == "defs.yaml":
            documents = [
                explained(document, fully[declared]) if (declared := _type_of(document)) in fully else document
                for document in text.split("---\n")
            ]
            text = "---\n".join(documents)
        (request.target_path / template.stem).write_text(text)
    for folder in [request.target_path, *request.target_path.parents]:
        if folder.resolve() == (request.project_root or Path.cwd()).resolve():
            break
        if not (folder / "__init__.py").exists():
            (folder / "__init__.py").write_text("")


def _type_of(document: str) -> str:
    return str(yaml.safe_load(document)["type"])
