"""The documentation is true: its links lead somewhere, its examples run, its declarations are valid."""

import ast
import doctest
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])


def fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_every_link_between_pages_leads_somewhere() -> None:
    links = [
        (page, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in target
    ]
    assert len(links) > 20
    assert [f"{page.name}: {target}" for page, target in links if not (page.parent / target).exists()] == []


def test_every_page_is_reached_from_the_index() -> None:
    reached, ahead = set(), [ROOT / "docs" / "index.md"]
    while ahead:
        page = ahead.pop()
        reached.add(page.resolve())
        links = [page.parent / target for target in re.findall(r"\]\(([^)#\s]+\.md)", page.read_text())]
        ahead += [link for link in links if link.exists() and link.resolve() not in reached]
        ahead += [link / "index.md" for link in links if link.is_dir()]
    assert [page.name for page in (ROOT / "docs").rglob("*.md") if page.resolve() not in reached] == []


@pytest.mark.parametrize("page", [page for page in PAGES if ">>>" in page.read_text()], ids=lambda page: page.stem)
def test_examples_run_and_say_what_is_printed(page: Path) -> None:
    result = doctest.testfile(str(page), module_relative=False, verbose=False)
    assert (result.failed, result.attempted > 0) == (0, True)


@pytest.mark.parametrize("page", [page for page in PAGES if fenced(page, "python")], ids=lambda page: page.stem)
def test_python_on_the_page_parses_and_imports_what_exists(page: Path) -> None:
    for block in fenced(page, "python"):
        if ">>>" not in block:
            statements = ast.parse(block).body
            imports = [each for each in statements if isinstance(each, ast.Import | ast.ImportFrom)]
            assert len(statements) > len(imports)
            exec(compile(ast.Module(imports, []), str(page), "exec"), {})


@pytest.mark.parametrize("page", [page for page in PAGES if fenced(page, "yaml")], ids=lambda page: page.stem)
def test_declarations_on_the_page_are_valid(page: Path) -> None:
    import ml_platform.components as components

    for block in fenced(page, "yaml"):
        for declared in yaml.safe_load_all(block):
            component = getattr(components, declared["type"].removeprefix("ml_platform."))
            assert component.model_validate(declared["attributes"]).name == declared["attributes"]["name"]
