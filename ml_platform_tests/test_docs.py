"""Tests of the documentation: links resolve, examples run, declarations and commands are valid."""

import ast
import doctest
import json
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pydantic import TypeAdapter

import assets
from ml_platform.training.trainer import TrainerSettings
from ml_platform_tests.components.delivery_model import DOMAIN
from resources.cluster_settings import ClusterSettings

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ROOT / "docs" / "reference" / "generated"
CHART = ROOT / "deploy" / "helm" / "ml-platform"
"""Pages that `make docs` writes; test_docs_site.py tests their content."""

NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
WRITTEN = [*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), *NOTEBOOKS]
PAGES = sorted(page for page in WRITTEN if GENERATED not in page.parents)

MADE_BY_READER = ("assets/aviation/long_delay", "assets/aviation/features/highest_wind.py")
"""Folder and file that the reader of a tutorial creates."""


def read(page: Path) -> str:
    """Return the Markdown of ``page``; that of a notebook is what the site shows."""
    if page not in NOTEBOOKS:
        return page.read_text()
    return str(runpy.run_path(str(ROOT / "docs" / "site_hooks.py"))["notebook_markdown"](page.read_text()))


def commands(program: str) -> Iterator[tuple[str, list[str]]]:
    """Yield page and arguments of every call of ``program`` in a code block or between backticks."""
    for page in PAGES:
        text = re.sub(r"\\\n\s*", "", read(page))
        quoted = [*re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text), *"\n".join(fenced_any(text)).splitlines()]
        for line in quoted:
            if found := re.match(rf"^(?:\$ )?(?:\.venv/bin/)?{program} ([^…$]+)$", line.strip()):
                yield page.name, shlex.split(found[1], comments=True)


def fenced_any(text: str) -> list[str]:
    return re.findall(r"^```(?:sh|bash)?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", read(page), flags=re.MULTILINE | re.DOTALL)


def test_every_link_between_pages_has_a_target() -> None:
    links = [
        (page, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", read(page))
        if "://" not in target
    ]
    assert len(links) > 20
    absent = [(page, target) for page, target in links if not (page.parent / target).exists()]
    absent = [(page, target) for page, target in absent if GENERATED not in (page.parent / target).resolve().parents]
    assert [f"{page.name}: {target}" for page, target in absent] == []


def test_every_page_is_linked_from_the_index_directly_or_indirectly() -> None:
    reached, ahead = set(), [ROOT / "docs" / "index.md"]
    while ahead:
        page = ahead.pop()
        reached.add(page.resolve())
        links = [page.parent / target for target in re.findall(r"\]\(([^)#\s]+\.(?:md|ipynb))", read(page))]
        ahead += [link for link in links if link.exists() and link.resolve() not in reached]
        ahead += [link / "index.md" for link in links if link.is_dir()]
    pages = [page for page in PAGES if (ROOT / "docs") in page.parents]
    assert [page.name for page in pages if page.resolve() not in reached] == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebook_is_stored_without_outputs_and_with_stable_ids(notebook: Path) -> None:
    import nbformat

    content = json.loads(notebook.read_text())
    nbformat.validate(content)
    cells = content["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells) > 10
    assert [cell["id"] for cell in cells if not re.fullmatch(r"[a-z]+(-[a-z]+)*", cell["id"])] == []
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
    assert [cell["id"] for cell in cells if cell["metadata"]] == []


@pytest.mark.parametrize("page", [page for page in PAGES if ">>>" in read(page)], ids=lambda page: page.stem)
def test_doctests_of_the_page_pass(page: Path) -> None:
    result = doctest.testfile(str(page), module_relative=False, verbose=False)
    assert (result.failed, result.attempted > 0) == (0, True)


@pytest.mark.parametrize("page", [page for page in PAGES if fenced(page, "python")], ids=lambda page: page.stem)
def test_python_on_the_page_parses_and_imports_what_exists(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Modules that the reader writes under assets/ exist in the test domain.
    monkeypatch.setattr(assets, "__path__", [*assets.__path__, str(DOMAIN)])
    monkeypatch.syspath_prepend(ROOT / "docs" / "clients" / "departure_risk")
    for block in fenced(page, "python"):
        if ">>>" not in block:
            statements = ast.parse(block).body
            imports = [each for each in statements if isinstance(each, ast.Import | ast.ImportFrom)]
            assert len(statements) > len(imports)
            exec(compile(ast.Module(imports, []), str(page), "exec"), {})  # type: ignore[arg-type]


def test_trainer_on_the_page_is_the_trainer_of_the_test_domain() -> None:
    shown = fenced(ROOT / "docs" / "how-to" / "add-a-trainer.md", "python")
    assert shown == [(DOMAIN / name).read_text() for name in ("logistic_scorer.py", "logistic.py")]


def test_classes_on_the_page_are_those_of_the_test_domain() -> None:
    assert fenced(ROOT / "docs" / "how-to" / "extend.md", "python") == [(DOMAIN / "own_classes.py").read_text()]


@pytest.mark.parametrize("page", [page for page in PAGES if fenced(page, "yaml")], ids=lambda page: page.stem)
def test_declarations_on_the_page_are_valid(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import assets
    import ml_platform.components as components

    monkeypatch.setattr(assets, "__path__", [*assets.__path__, str(DOMAIN)])
    for block in fenced(page, "yaml"):
        for declared in yaml.safe_load_all(block):
            if "type" in declared:
                component = getattr(components, declared["type"].removeprefix("ml_platform."))
                assert component.model_validate(declared["attributes"]).name == declared["attributes"]["name"]
            elif "postgres" in declared:
                ClusterSettings.model_validate(declared)
            elif page.stem == "run-on-kubernetes":
                values = yaml.safe_load((CHART / "values.yaml").read_text())
                assert declared.keys() <= values.keys()
                assert all(each.keys() <= values[name].keys() for name, each in declared.items())
            else:
                validate_part(declared)


def validate_part(part: dict[str, Any]) -> None:
    """Validate attributes of a model, dataset, contract or domain, or trainers by name."""
    from ml_platform.components import Dataset, Model
    from ml_platform.data.contract import Contract
    from ml_platform.data.domains import DomainSettings

    for name, value in part.items():
        parts = (Model, Dataset, Contract, DomainSettings)
        field = next((part.model_fields[name] for part in parts if name in part.model_fields), None)
        if field is not None:
            TypeAdapter(field.annotation).validate_python(value)  # type: ignore[arg-type]
        else:
            TrainerSettings.model_validate(value)


def test_every_ml_platform_command_parses() -> None:
    import typer

    from ml_platform.cli import app

    seen = list(commands("ml-platform"))
    assert len(seen) > 5
    for page, arguments in seen:
        command, left = typer.main.get_command(app), arguments
        while hasattr(command, "commands"):
            assert left, f"{page}: {arguments} names no verb"
            assert left[0] in command.commands, f"{page}: no verb {left[0]} in {arguments}"
            command, left = command.commands[left[0]], left[1:]
        # A command without arguments is only a mention; capitals are placeholders.
        if left and not [each for each in left if each.isupper()]:
            command.make_context(arguments[0], list(left))  # raises on an unknown option or a missing argument


def test_every_dg_command_exists() -> None:
    from dagster_dg_cli.cli import create_dg_cli

    import ml_platform.components as components

    seen = list(commands("dg"))
    assert len(seen) > 5
    for page, arguments in seen:
        if arguments[:2] == ["scaffold", "defs"] and len(arguments) > 2:
            scaffolder = getattr(components, arguments[2].removeprefix("ml_platform.")).__scaffolder_cls__
            options = {f"--{name}" for name in scaffolder.get_scaffold_params().model_fields}
            assert {each for each in arguments if each.startswith("--")} <= options, f"{page}: {arguments}"
        else:
            group, verb = create_dg_cli(), arguments
            while verb and isinstance(group, click.Group):
                known = group.get_command(click.Context(group), verb[0])
                assert known is not None, f"{page}: no verb {verb[0]} in {arguments}"
                group, verb = known, verb[1:]
            assert all(each in {name for one in group.params for name in one.opts} for each in verb if each[0] == "-")


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    seen = [(page, arguments[0]) for page, arguments in commands("make")]
    assert len(seen) > 5
    assert [(page, target) for page, target in seen if target not in targets] == []


def test_every_dvc_command_parses() -> None:
    from dvc.cli.parser import get_main_parser

    seen = list(commands("dvc"))
    assert len(seen) > 4
    for _, arguments in seen:
        get_main_parser().parse_args(arguments)  # exits on an unknown argument


def test_every_path_of_the_repository_exists() -> None:
    named = [
        (page.name, path)
        for page in PAGES
        for path in re.findall(
            r"`((?:assets|bento|benchmarks|deploy|docs|ml_platform|ml_platform_tests|resources)/[\w./-]+)`",
            read(page),
        )
        if not path.startswith(MADE_BY_READER)
    ]
    assert len(named) > 10
    assert [(page, path) for page, path in named if not (ROOT / path).exists()] == []


def test_readme_opens_with_three_sentences_a_picture_and_two_commands() -> None:
    opening, _, rest = (ROOT / "README.md").read_text().partition("## Two commands")
    title, sentences, picture = opening.strip().split("\n\n")
    assert title.startswith("# ")
    assert len(re.findall(r"\.(?:\s|$)", sentences)) == 3
    assert picture.startswith("![")
    first_block = fenced_any(rest)[0]
    assert [line.split("#")[0].split() for line in first_block.splitlines()] == [["make", "demo"], ["make", "test"]]


def test_picture_of_the_asset_graph_matches_the_definitions() -> None:
    drawn = runpy.run_path(str(ROOT / "docs" / "images" / "make_asset_graph.py"))
    assert drawn["SVG_PATH"].read_text() == drawn["asset_graph_svg"](), "the definitions changed; run `make picture`"
