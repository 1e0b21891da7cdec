"""Mutation testing: the share of small changes to important modules that the fast tests notice.

mutmut makes the mutants. This script draws a seeded sample of them and runs for each one only the tests of its module.
It works in copies of the checkout, so the checkout never changes. `mutmut run` itself has no sample and no list of
tests by module, and it runs the whole suite first.

Changes of texts are left out, because a test of every word of a message would fail at each improvement of the wording.
"""

import argparse
import difflib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, ParentNodeProvider, PositionProvider
from mutmut.mutation.file_mutation import Mutation, MutationVisitor, deep_replace
from mutmut.mutation.mutators import mutation_operators, operator_string
from mutmut.mutation.pragma_handling import IgnoredCode
from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).resolve().parents[1]
MODULES: dict[str, tuple[str, ...]] = {
    "data/digest": (),
    "data/lake": (),
    "data/reading": (),
    "evaluation/bootstrap": (),
    "evaluation/gates": (),
    "evaluation/metrics": ("evaluation/test_bootstrap",),
    "evaluation/verdict": (),
    "features/change_log": (),
    "features/leak": (),
    "features/online_store": (),
    "features/point_in_time": (),
    "monitoring/outcomes": ("monitoring/test_outcome_join",),
    "monitoring/performance": (),
    "monitoring/prediction_log": (),
    "registry/approvals": ("registry/test_promotion",),
    "registry/audit": ("registry/test_promotion",),
    "registry/promotion": (),
    "registry/verdict_record": ("registry/test_promotion",),
    "serving/desired_state": (),
    "serving/reconcile": (),
    "serving/request_contract": (),
    "training/calibration": (),
    "training/splits": (),
    "training/threshold": (),
}
"""The important modules, with the tests that each needs besides its own: `data/lake` has `data/test_lake`."""

GOAL = 0.9
TIMEOUT_SECONDS = 180.0
PYTEST = ("-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", "not slow", "--hypothesis-seed=0")
PRELOADED = [
    *(
        "pytest",
        "hypothesis.extra.pytestplugin",
        "faker",
        "libcst.metadata",
        "mutmut.mutation.file_mutation",
        "rich.table",
    ),
    *("numpy", "polars", "pyarrow", "deltalake", "pydantic", "scipy.stats", "sqlalchemy"),
    *("sklearn.metrics", "sklearn.linear_model", "sklearn.isotonic"),
]
"""Libraries that are imported once, before the processes of the tests fork; they take longer than most tests."""

NOT_COPIED = {".git", ".venv", ".ml_platform", ".hypothesis", "node_modules", "site", "__pycache__"}
NOT_COPIED_SUFFIX = "_cache"

NOTHING_IGNORED = IgnoredCode(set(), set(), set())

Outcome = Literal["killed", "survived", "timed out"]


@dataclass(frozen=True)
class Mutant:
    """One changed place of a module, with the whole source of the module after the change."""

    module: str
    line: int
    source: str
    diff: str


@dataclass(frozen=True)
class Result:
    """The outcome of the tests on one mutant. A mutant on which the tests hang counts as killed."""

    mutant: Mutant
    outcome: Outcome
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60, help="number of mutants in the sample (default: 60)")
    parser.add_argument("--seed", type=int, default=20130101, help="seed of the sample")
    parser.add_argument("--module", action="append", help="module to mutate, such as data/lake; may be repeated")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="test processes at once")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    unknown = sorted(set(options.module or ()) - MODULES.keys())
    if unknown:
        parser.error(f"unknown module {', '.join(unknown)}; one of {', '.join(MODULES)}")
    console = Console(soft_wrap=True)
    modules = options.module or [module for module in MODULES if (PROJECT / source_of(module)).exists()]
    sample = draw_sample(modules, options.count, options.seed)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        trees = [copy_checkout(Path(folder) / str(number)) for number in range(options.workers)]
        require_passing_tests(trees[0], sorted({mutant.module for mutant in sample}))
        started = time.monotonic()
        results = list(run_sample(sample, trees, console))
    print_results(results, time.monotonic() - started, console)
    if options.json:
        options.json.write_text(json.dumps(as_json(results, options.seed), indent=2) + "\n")
    return 0 if share_killed(results) >= GOAL else 1


def source_of(module: str) -> str:
    """Return the path of ``module`` in the checkout."""
    return f"ml_platform/{module}.py"


def tests_of(module: str) -> list[str]:
    """Return the paths of the test files of ``module`` in the checkout; its own file may be absent."""
    folder, _, name = module.rpartition("/")
    own, *others = [f"ml_platform_tests/{test}.py" for test in (f"{folder}/test_{name}", *MODULES[module])]
    return [own, *others] if (PROJECT / own).exists() else others


def draw_sample(modules: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """Return ``count`` of all mutants of ``modules``, or all if there are fewer; each is equally likely."""
    possible = [(module, number) for module in modules for number in range(len(mutations_of(module)))]
    chosen = random.Random(seed).sample(possible, min(count, len(possible)))
    return [mutant_of(module, number) for module, number in sorted(chosen)]


@cache
def mutations_of(module: str) -> list[tuple[cst.Module, Mutation, int]]:
    """Return the mutations of ``module`` with its tree and their lines, without those that change texts only."""
    wrapper = MetadataWrapper(cst.parse_module((PROJECT / source_of(module)).read_text()))
    operators = [(kind, operator) for kind, operator in mutation_operators if operator is not operator_string]
    visitor = MutationVisitor(operators, NOTHING_IGNORED)
    tree = wrapper.visit(visitor)
    parents, positions = wrapper.resolve(ParentNodeProvider), wrapper.resolve(PositionProvider)
    return [
        (tree, mutation, line_of(mutation.original_node, parents, positions))
        for mutation in visitor.mutations
        # Like mutmut, change functions only: a class body declares settings and their descriptions.
        if isinstance(mutation.contained_by_top_level_function, cst.FunctionDef)
        and not is_part_of_message(mutation.original_node, parents)
    ]


def mutant_of(module: str, number: int) -> Mutant:
    """Return the mutant of the mutation ``number`` of ``module``."""
    tree, mutation, line = mutations_of(module)[number]
    changed = deep_replace(tree, mutation.original_node, mutation.mutated_node)
    assert isinstance(changed, cst.Module)
    path, source = source_of(module), changed.code
    lines = difflib.unified_diff(tree.code.splitlines(), source.splitlines(), path, path, n=1, lineterm="")
    return Mutant(module, line, source, "\n".join(lines))


def is_part_of_message(node: cst.CSTNode, parents: Mapping[cst.CSTNode, cst.CSTNode]) -> bool:
    """Return whether ``node`` only forms a text: an argument of an error, or a value in an f-string."""
    while node in parents:
        if isinstance(node, cst.FormattedString):
            return True
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value.endswith("Error"):
            return True
        node = parents[node]
    return False


def line_of(
    node: cst.CSTNode, parents: Mapping[cst.CSTNode, cst.CSTNode], positions: Mapping[cst.CSTNode, CodeRange]
) -> int:
    """Return the line of ``node``; an operator without a position has the line of the expression around it."""
    while node not in positions:
        node = parents[node]
    line: int = positions[node].start.line
    return line


def copy_checkout(target: Path) -> Path:
    def left_out(_: str, names: list[str]) -> list[str]:
        return [name for name in names if name in NOT_COPIED or name.endswith(NOT_COPIED_SUFFIX)]

    shutil.copytree(PROJECT, target, symlinks=True, ignore=left_out)
    return target


def require_passing_tests(tree: Path, modules: Sequence[str]) -> None:
    """Exit with the output of the tests if they fail without any mutant, because then all mutants would look killed."""
    tests = dict.fromkeys(test for module in modules for test in tests_of(module))
    status, output = run_tests(tree, list(tests), 10 * TIMEOUT_SECONDS)
    if status != 0:
        sys.exit(f"The tests fail without a mutant:\n{output[-3000:]}")


def run_sample(sample: Sequence[Mutant], trees: Sequence[Path], console: Console) -> Iterator[Result]:
    """Yield the result of each mutant of ``sample``, in order; each tree tests one mutant at a time."""
    free: SimpleQueue[Path] = SimpleQueue()
    for tree in trees:
        free.put(tree)

    def run(mutant: Mutant) -> Result:
        tree = free.get()
        try:
            result = run_mutant(mutant, tree)
        finally:
            free.put(tree)
        console.print(f"{result.outcome:9} {result.seconds:5.1f} s  {source_of(mutant.module)}:{mutant.line}")
        if result.outcome == "survived":
            console.print(f"{mutant.diff}\n", markup=False, highlight=False)
        return result

    with ThreadPoolExecutor(len(trees)) as pool:
        yield from pool.map(run, sample)


def run_mutant(mutant: Mutant, tree: Path) -> Result:
    started = time.monotonic()
    with replaced_source(tree / source_of(mutant.module), mutant.source):
        status, output = run_tests(tree, tests_of(mutant.module), TIMEOUT_SECONDS)
    if status not in (None, 0, 1, 2):
        sys.exit(f"pytest ended with status {status}:\n{output[-3000:]}")
    outcome: Outcome = "timed out" if status is None else "survived" if status == 0 else "killed"
    return Result(mutant, outcome, time.monotonic() - started)


@contextmanager
def replaced_source(path: Path, source: str) -> Iterator[None]:
    original = path.read_text()
    try:
        write_source(path, source)
        yield
    finally:
        write_source(path, original)


def write_source(path: Path, source: str) -> None:
    path.write_text(source)
    # Python compares size and second only, so it could run the bytecode of the mutant before.
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def run_tests(tree: Path, tests: Sequence[str], timeout_seconds: float) -> tuple[int | None, str]:
    """Return the exit status of pytest on ``tests`` in ``tree`` (None: it ran too long), and its output."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    log = tree.with_suffix(".log")
    process = context.Process(target=run_pytest, args=(tree, tests, log))
    process.start()
    process.join(timeout_seconds)
    if process.exitcode is None:
        assert process.pid is not None
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return None, ""
    return process.exitcode, log.read_text(errors="replace")


def run_pytest(tree: Path, tests: Sequence[str], log: Path) -> None:
    """Run pytest in this process, which has its own group and no module of the platform yet, and end it."""
    import pytest

    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    os.chdir(tree)
    # The editable installation points at the checkout, so the tree must come first, also in processes of the tests.
    sys.path.insert(0, str(tree))
    os.environ["PYTHONPATH"] = str(tree)
    assert "ml_platform" not in sys.modules
    status = pytest.main([*PYTEST, *tests])
    sys.stdout.flush()
    os._exit(int(status))


def share_killed(results: Sequence[Result]) -> float:
    return sum(result.outcome != "survived" for result in results) / len(results)


def print_results(results: Sequence[Result], seconds: float, console: Console) -> None:
    table = Table("module", "mutants", "killed", title="Mutants by module")
    total = Counter(result.mutant.module for result in results)
    survived = Counter(result.mutant.module for result in results if result.outcome == "survived")
    for module, count in sorted(total.items()):
        table.add_row(module, str(count), str(count - survived[module]))
    console.print(table)
    killed = len(results) - survived.total()
    console.print(
        f"{killed} of {len(results)} mutants killed: {share_killed(results):.1%} (goal: {GOAL:.0%}), in {seconds:.0f} s"
    )


def as_json(results: Sequence[Result], seed: int) -> dict[str, object]:
    mutants = [
        {**asdict(result.mutant), "outcome": result.outcome, "seconds": round(result.seconds, 1)} for result in results
    ]
    for mutant in mutants:
        del mutant["source"]
    return {"seed": seed, "mutants": len(results), "share_killed": share_killed(results), "results": mutants}


if __name__ == "__main__":
    sys.exit(main())
