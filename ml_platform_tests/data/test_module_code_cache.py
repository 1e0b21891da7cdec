"""Parsed modules are kept beside compiled files, and a kept one is used only for the source that it was read from."""

import os
import sys
from pathlib import Path

import pytest

from ml_platform.data import module_code_cache
from ml_platform.data.module_code import ModuleCode, parse_module
from ml_platform.data.module_code_cache import SUFFIX, read_module

OLD = 1_700_000_000_000_000_000
"""Time of the sources in nanoseconds, long ago, so that they are not taken for files that change just now."""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with one function and one import, in a process that keeps what it compiles."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "views.py"
    write(file, "import os\n\ndef size(path):\n    return os.stat(path)\n")
    return file


def write(file: Path, text: str, at: int = OLD) -> None:
    file.write_text(text)
    os.utime(file, ns=(at, at))


def kept_file(source: Path) -> Path:
    (found,) = (source.parent / "__pycache__").glob(f"*{SUFFIX}")
    return found


def read_by_a_new_process(source: Path, monkeypatch: pytest.MonkeyPatch, *, may_parse: bool) -> ModuleCode:
    """Read the module without what this process remembers; fail if it is parsed and must not be, or the other way."""
    parsed = []

    def parse(name: str, text: bytes, *, package: bool) -> ModuleCode:
        parsed.append(name)
        return parse_module(name, text, package=package)

    monkeypatch.setattr(module_code_cache, "_cache", {})
    monkeypatch.setattr(module_code_cache, "parse_module", parse)
    code = read_module("views", source)
    assert bool(parsed) == may_parse
    return code


def facts(code: ModuleCode) -> tuple[object, ...]:
    digests = {name: [each.digest for each in found] for name, found in code.definitions.items()}
    uses = {name: [each.uses for each in found] for name, found in code.definitions.items()}
    return digests, uses, code.imports, code.modules, code.inner_imports, code.functions, code.package


def test_module_is_parsed_once_for_all_processes(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_by_a_new_process(source, monkeypatch, may_parse=True)
    assert facts(read_by_a_new_process(source, monkeypatch, may_parse=False)) == facts(first)


def test_changed_source_is_parsed_again(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_by_a_new_process(source, monkeypatch, may_parse=True)
    write(source, source.read_text().replace("stat", "open"), OLD + 1)  # of the same size
    changed = read_by_a_new_process(source, monkeypatch, may_parse=True)
    assert facts(changed) != facts(first)
    read_by_a_new_process(source, monkeypatch, may_parse=False)


def test_source_that_changes_just_now_is_not_kept(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source.touch()
    read_by_a_new_process(source, monkeypatch, may_parse=True)
    assert not (source.parent / "__pycache__").exists()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-3], lambda data: b"", lambda data: data[:40] + b"x" + data[41:]]
)
def test_damaged_kept_file_is_replaced(source: Path, monkeypatch: pytest.MonkeyPatch, damage: object) -> None:
    first = read_by_a_new_process(source, monkeypatch, may_parse=True)
    kept_file(source).write_bytes(damage(kept_file(source).read_bytes()))  # type: ignore[operator]
    assert facts(read_by_a_new_process(source, monkeypatch, may_parse=True)) == facts(first)
    read_by_a_new_process(source, monkeypatch, may_parse=False)


def test_kept_file_of_another_parser_or_module_is_not_used(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_by_a_new_process(source, monkeypatch, may_parse=True)
    monkeypatch.setattr(module_code_cache, "_format", lambda: "the parser of a later release")
    read_by_a_new_process(source, monkeypatch, may_parse=True)
    monkeypatch.setattr(module_code_cache, "_cache", {})
    assert read_module("shop.views", source).package == "shop"


def test_nothing_is_kept_where_python_keeps_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    read_by_a_new_process(source, monkeypatch, may_parse=True)
    assert not (source.parent / "__pycache__").exists()


def test_folder_that_cannot_be_written_changes_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source.parent / "__pycache__").write_text("a file where the folder would be")
    first = read_by_a_new_process(source, monkeypatch, may_parse=True)
    assert facts(read_by_a_new_process(source, monkeypatch, may_parse=True)) == facts(first)
