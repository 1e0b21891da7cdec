"""`ml-platform try`: functions and trainers of a file or notebook, evaluated beside the champion."""

import ast
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ml_platform.console.arguments import ArgumentError
from ml_platform.console.version_comparison import metrics_table
from ml_platform.errors import did_you_mean, listed
from ml_platform.session.session import Session
from ml_platform.session.trial import Trial
from resources.home import Home

NOTEBOOK = ".ipynb"
DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


def trial(home: Home, model: str, windows: int, views: Sequence[str], trainers: Sequence[str]) -> Trial:
    """Return the trial of ``model`` with ``VIEW=FILE:FUNCTION`` and ``TRAINER`` or ``TRAINER=FILE:CLASS``.

    Raises :class:`~ml_platform.console.arguments.ArgumentError` for another form, and for a file without the name; and
    as :meth:`~ml_platform.session.session.Session.trial`.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for text in trainers:
        name, equals, _ = text.partition("=")
        chosen[name] = {"trainer": _named(text)} if equals else {}
    with Session(home.root) as session:
        return session.trial(
            model, windows=windows, views={text.partition("=")[0]: _named(text) for text in views}, trainers=chosen
        )


def show(found: Trial, console: Console) -> None:
    """Print the metrics of each result, beside the champion where it had not seen the rows."""
    for each in found:
        console.print(Text(f"{each.trainer} on {each.partition}, {each.rows:,} test rows", style="bold"))
        if each.champion is None:
            console.print(Text("  No champion, or one that was fitted on these rows."))
        if each.computed:
            console.print(Text(f"  Computed for the trial: {', '.join(each.computed)}"))
        for word, names in (("Added", each.added_features), ("Removed", each.removed_features)):
            if names:
                console.print(Text(f"  {word} features: {', '.join(names)}"))
        champion = "champion" if each.champion is None else f"version {each.champion}"
        table = metrics_table(each.metrics, champion, "trial")
        console.print(Padding(table, (0, 0, 0, 2), expand=False), highlight=False)
        console.print(Text(f"  Fitted in {each.seconds:.1f} s, cost {each.cost:.4f} {each.currency}; not registered."))


def _named(text: str) -> Any:
    """Return the function or class of ``NAME=FILE:NAME``."""
    _, equals, reference = text.partition("=")
    path, colon, name = reference.rpartition(":")
    if not equals or not colon or not name.isidentifier():
        raise ArgumentError(
            f"Change '{text}'",
            expected="a view or trainer with a file and a name in it, like origin=changes.ipynb:origin",
            found="another form",
            fix="Write NAME=FILE:FUNCTION.",
        )
    module = read_definitions(Path(path))
    if not callable(getattr(module, name, None)):
        known = [each for each, value in vars(module).items() if callable(value) and each[0] != "_"]
        raise ArgumentError(
            f"File {path}",
            expected=f"a function or class '{name}'",
            found=listed(known),
            fix=f"Correct the name.{did_you_mean(name, known)}",
        )
    return getattr(module, name)


def read_definitions(file: Path) -> ModuleType:
    """Return a module with the definitions of ``file``, a Python file or a notebook.

    Of a notebook only imports, functions, classes and constants count, so that no cell reads data or trains.
    """
    if not file.is_file():
        raise ArgumentError(
            f"File {file}", expected="a Python file or a notebook", found="no such file", fix="Correct the path."
        )
    if file.suffix == NOTEBOOK:
        module = ModuleType(file.stem)
        tree = ast.parse(_code_of(json.loads(file.read_text())))
        tree.body = [each for each in tree.body if isinstance(each, DEFINITIONS) or _is_constant(each)]
        exec(compile(tree, str(file), "exec"), vars(module))
        return module
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _code_of(notebook: dict[str, Any]) -> str:
    """Return the code of all cells, without cells in another language and lines that are commands of IPython."""
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    lines = [line for cell in cells if not cell.lstrip().startswith("%%") for line in cell.splitlines()]
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)


def _is_constant(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
        return False
    try:
        ast.literal_eval(statement.value)
    except ValueError:
        return False
    return True
