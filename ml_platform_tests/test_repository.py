"""Tests of repository files: version, changelog, licences, hooks, continuous integration and issue forms."""

import importlib.metadata
import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ml_platform
from bento.scorer import SCORERS
from ml_platform.serving.bento_build import ENTRY_POINTS, REQUIRED_LIBRARIES
from ml_platform.serving.bento_locks import OPTIONAL_LOCKS, BentoLocks
from ml_platform.serving.bento_sources import find_sources, pinned_requirements

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
LOCK = ROOT / "requirements.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

COPYLEFT = re.compile(r"\b[AL]?GPL|GNU (?:\w+ )?General Public|\bEPL|Eclipse Public", re.IGNORECASE)
MOZILLA = re.compile(r"\bMPL|Mozilla Public", re.IGNORECASE)

CI_TARGETS = {"lint", "test-fast", "test", "docs", "ci-model"}
WORKFLOWS = (".github/workflows/ci.yml", ".github/workflows/model.yml")
COMMENT = "comment"
"""Job of both pipelines that posts the report of the candidate."""


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def makefile_recipe(target: str) -> list[str]:
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert found, f"no recipe for {target}"
    return found[1].replace("$(BIN)", ".venv/bin").replace("\t", "").splitlines()


# Version and changelog.


def test_installed_version_equals_pyproject() -> None:
    assert ml_platform.__version__ == PROJECT["version"]


def test_changelog_starts_with_unreleased_and_the_version_of_pyproject() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1].split(" - ")[0] == PROJECT["version"]
    assert [each for each in headings[1:] if not re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", each)] == []


def test_changelog_groups_each_version_by_kind_of_change() -> None:
    kinds = re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert set(kinds) == {"Added", "Changed", "Fixed"}


# Licences.


def licence(distribution: importlib.metadata.Distribution) -> str:
    """Return the licence that ``distribution`` declares, else the first lines of its licence files."""
    metadata = distribution.metadata
    declared = [
        *(metadata.get_all("License-Expression") or []),
        *(
            each.strip().partition("\n")[0] for each in metadata.get_all("License") or []
        ),  # some packages put the whole text there
        *(each.rpartition("::")[2] for each in metadata.get_all("Classifier") or [] if each.startswith("License ::")),
    ]
    if not any(declared):
        files = metadata.get_all("License-File") or []
        texts = [distribution.read_text(f"licenses/{name}") or distribution.read_text(name) or "" for name in files]
        declared = [" ".join(text.split())[:200] for text in texts]
    return " ".join(each.strip() for each in declared if each.strip())


@cache
def locked_distributions() -> dict[str, importlib.metadata.Distribution]:
    locked = set(re.findall(r"^([A-Za-z0-9._-]+)==", LOCK.read_text(), flags=re.MULTILINE))
    installed = {canonicalize_name(each.name): each for each in importlib.metadata.distributions()}
    found = {str(name): installed[name] for name in map(canonicalize_name, locked) if name in installed}
    assert len(found) > 100  # an environment without the locked packages would pass every test below
    return found


def locked_under(pattern: re.Pattern[str]) -> set[str]:
    return {name for name, each in locked_distributions().items() if pattern.search(licence(each))}


def notice_table() -> dict[str, list[str]]:
    """Return library → cells of its row in the NOTICE: its licence, and the libraries that require it."""
    rows = re.findall(r"^\| (\w[\w-]*) \| (.+) \| (.+) \|$", (ROOT / "NOTICE").read_text(), flags=re.MULTILINE)
    return {name: cells for name, *cells in rows if name != "library"}


def requirements_of(name: str) -> set[str]:
    declared = importlib.metadata.distribution(name).requires or []
    if name == PROJECT["name"]:
        groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
        declared = [*PROJECT["dependencies"], *groups["dev"]]
    return {str(canonicalize_name(Requirement(each).name)) for each in declared}


def requirement_closure(requirements: Iterable[str]) -> dict[str, str]:
    """Return each library that is installed with ``requirements`` → the library that requires it ("" for the first)."""
    reached: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    ahead = [(Requirement(each), "") for each in requirements]
    while ahead:
        requirement, parent = ahead.pop()
        name = str(canonicalize_name(requirement.name))
        reached.setdefault(name, parent)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            declared = map(Requirement, importlib.metadata.distribution(name).requires or [])
            ahead += [
                (each, name) for each in declared if each.marker is None or each.marker.evaluate({"extra": extra})
            ]
    return reached


def copyleft_among(requirements: Iterable[str]) -> list[str]:
    return [
        f"{name} ({licence(importlib.metadata.distribution(name))}) through {parent or 'the bento itself'}"
        for name, parent in sorted(requirement_closure(requirements).items())
        if COPYLEFT.search(licence(importlib.metadata.distribution(name)))
    ]


def request_view_modules() -> set[str]:
    declared = [each for file in (ROOT / "assets").rglob("defs.yaml") for each in yaml.safe_load_all(file.read_text())]
    views = [each["attributes"] for each in declared if each["type"] == "ml_platform.FeatureView"]
    return {
        view["function"].partition(":")[0] for view in views if view.get("kind") == "request" and "function" in view
    }


@cache
def requirements_of_bentos() -> list[str]:
    """Return the pinned requirements of the bentos of all declared models, for all trainers that are installed."""
    modules = {reference.partition(":")[0] for reference in SCORERS.values()}
    scorers = {each for each in modules if all(map(importlib.util.find_spec, find_sources([each]).libraries))}
    views = request_view_modules()
    assert {"bento.lightgbm_scorer", "bento.network_scorer"} <= scorers
    assert views
    sources = find_sources([*ENTRY_POINTS, *scorers, *views])
    return pinned_requirements(
        [*sources.libraries, *REQUIRED_LIBRARIES], BentoLocks(LOCK, tuple(ROOT / lock for lock in OPTIONAL_LOCKS))
    )


def test_licence_is_apache_2_and_the_wheel_carries_it() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert [line.strip() for line in text.strip().splitlines()[:2]] == ["Apache License", "Version 2.0, January 2004"]
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == "Apache-2.0"
    assert [name for name in PROJECT["license-files"] if not (ROOT / name).is_file()] == []


def test_every_library_of_the_lock_declares_a_licence() -> None:
    assert [name for name, each in locked_distributions().items() if not licence(each)] == []


def test_notice_names_every_library_under_copyleft() -> None:
    copyleft = locked_under(COPYLEFT)
    assert {"grandalf", "pygit2", "psycopg"} <= copyleft  # a pattern without matches would pass
    assert set(notice_table()) == copyleft


@pytest.mark.parametrize("library", sorted(notice_table()))
def test_notice_names_the_libraries_that_require_it(library: str) -> None:
    _, through = notice_table()[library]
    parents = {str(canonicalize_name(each)) for each in re.findall(r"[\w-]+", through.partition(",")[0])} - {"and"}
    assert parents
    assert [parent for parent in parents if library not in requirements_of(parent)] == []


def test_notice_names_every_library_under_the_mozilla_licence() -> None:
    named = re.search(r"whole\s+or in part: ([^.]+)\.", (ROOT / "NOTICE").read_text())
    assert named
    assert set(re.findall(r"[\w-]+", named[1])) - {"and"} == locked_under(MOZILLA)


def test_notice_names_the_mozilla_libraries_that_a_bento_requires() -> None:
    named = re.search(r"A bento requires three of them: ([^.]+)\.", (ROOT / "NOTICE").read_text())
    assert named
    required = requirement_closure(requirements_of_bentos()).keys() & locked_under(MOZILLA)
    assert set(re.findall(r"[\w-]+", named[1])) - {"and", "through", "bentoml"} == required


def test_no_bento_requires_a_library_under_copyleft() -> None:
    requirements = requirements_of_bentos()
    assert {"bentoml", "lightgbm", "numpy"} <= {Requirement(each).name for each in requirements}
    assert "scipy" in requirement_closure(requirements)  # required by lightgbm: the search goes beyond the pins
    assert copyleft_among(requirements) == []


@pytest.mark.parametrize(
    ("requirement", "found"),
    [("grandalf==0.8", "grandalf (.*) through the bento itself"), ("scmrepo", "pygit2 (.*) through scmrepo")],
)
def test_copyleft_in_a_bento_is_found(requirement: str, found: str) -> None:
    assert any(re.fullmatch(found, each) for each in copyleft_among([*requirements_of_bentos(), requirement]))


@pytest.mark.parametrize(
    "text",
    ["GPLv2 with linking exception", "LGPL-3.0-only", "GNU Affero General Public License v3", "EPL-2.0 OR MIT"],
)
def test_copyleft_is_recognised(text: str) -> None:
    assert COPYLEFT.search(text)


@pytest.mark.parametrize("text", ["Apache-2.0", "MIT License", "BSD-3-Clause AND Zlib", "MPL-2.0", "Simplified BSD"])
def test_other_licences_are_not_taken_for_copyleft(text: str) -> None:
    assert not COPYLEFT.search(text)


# Hooks.


def hooks() -> Iterator[dict[str, Any]]:
    for repository in load(".pre-commit-config.yaml")["repos"]:
        yield from repository["hooks"]


def test_hooks_are_local_and_download_nothing() -> None:
    assert [each["repo"] for each in load(".pre-commit-config.yaml")["repos"]] == ["local"]
    assert {each["language"] for each in hooks()} == {"system"}
    assert "://" not in (ROOT / ".pre-commit-config.yaml").read_text()


def test_hooks_run_what_make_lint_runs() -> None:
    def command(line: str) -> tuple[str, ...]:
        return tuple(part for part in shlex.split(line) if part not in (".", "--force-exclude"))

    assert {command(each["entry"]) for each in hooks()} == {command(line) for line in makefile_recipe("lint")}


def test_programs_of_the_hooks_are_installed() -> None:
    programs = {Path(shlex.split(each["entry"])[0]) for each in hooks()}
    assert {program.parent for program in programs} == {Path(".venv/bin")}
    assert [program.name for program in programs if not (BIN / program.name).exists()] == []


def test_pre_commit_accepts_the_configuration() -> None:
    from pre_commit.clientlib import load_config

    assert len(load_config(ROOT / ".pre-commit-config.yaml")["repos"]) == 1
    assert ".venv/bin/pre-commit install" in makefile_recipe("hooks")


# Continuous integration.


def filled_in(command: str, values: dict[str, str]) -> str:
    for placeholder, value in values.items():
        command = command.replace(placeholder, value)
    return command


def github_commands() -> Iterator[str]:
    """Yield the commands of the workflows, for each combination in a job's matrix."""
    jobs = {name: job for each in WORKFLOWS for name, job in load(each)["jobs"].items()}
    for job in (job for name, job in jobs.items() if name != COMMENT):
        matrix = job.get("strategy", {}).get("matrix", {})
        for cell in product(*matrix.values()):
            values = dict(zip(matrix, cell, strict=True))
            for step in job["steps"]:
                if "run" in step:
                    yield filled_in(step["run"], {f"${{{{ matrix.{name} }}}}": value for name, value in values.items()})


def gitlab_commands() -> Iterator[str]:
    """Yield the commands of the pipeline's jobs, with the variables of each job filled in."""
    pipeline = load(".gitlab-ci.yml")
    for name, job in pipeline.items():
        if name.startswith(".") or not isinstance(job, dict) or "extends" not in job:
            continue
        template = pipeline[job["extends"]]
        values = {**template.get("variables", {}), **job.get("variables", {})}
        for line in job.get("script", template["script"]):
            yield filled_in(line, {f'"${name}"': value for name, value in values.items()})


@pytest.mark.parametrize("commands", [github_commands, gitlab_commands])
def test_pipeline_calls_make_targets_that_exist(commands: Callable[[], Iterator[str]]) -> None:
    called = [shlex.split(command) for command in commands()]
    assert {program for program, *_ in called} == {"make"}
    targets = [target for _, *arguments in called for target in arguments]
    assert sorted(targets) == sorted(CI_TARGETS)
    assert makefile_targets() >= CI_TARGETS


def test_pipelines_use_the_python_of_the_project() -> None:
    steps = [step for each in WORKFLOWS for job in load(each)["jobs"].values() for step in job["steps"]]
    versions = [step["with"]["python-version"] for step in steps if "setup-python" in step.get("uses", "")]
    assert versions == ["3.11"] * len(WORKFLOWS)
    assert re.fullmatch(r"python:3\.11(?:-\w+)?", load(".gitlab-ci.yml")["image"])
    assert PROJECT["requires-python"] == ">=3.11,<3.12"


@pytest.mark.parametrize("path", WORKFLOWS)
def test_github_workflow_has_read_access_only_where_code_of_the_repository_runs(path: str) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    own = {name: job for name, job in workflow["jobs"].items() if "permissions" in job}
    assert [job["permissions"] for job in own.values()] == [{"pull-requests": "write"}] * (COMMENT in own)
    assert set(own) <= {COMMENT}
    # The job that may write checks nothing out, so no code of a pull request runs there.
    assert not [step for job in own.values() for step in job["steps"] if "checkout" in step.get("uses", "")]
    checkouts = [s for job in workflow["jobs"].values() for s in job["steps"] if "checkout" in s.get("uses", "")]
    assert [step["with"]["persist-credentials"] for step in checkouts] == [False]
    assert "secrets." not in (ROOT / path).read_text()
    assert "pull_request_target" not in (ROOT / path).read_text()


def test_reports_are_posted_from_the_folder_that_the_make_target_writes() -> None:
    recipe = makefile_recipe("ci-model")
    assert any("ci report" in line for line in recipe)
    folder = re.search(r"^CI_REPORT \?= (\w+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert folder
    jobs = load(".github/workflows/model.yml")["jobs"]
    uploads = [step["with"] for step in jobs["candidate"]["steps"] if "upload-artifact" in step.get("uses", "")]
    assert [each["path"] for each in uploads] == [folder[1]]
    assert "comment.md" in jobs[COMMENT]["steps"][-1]["run"]
    gitlab = load(".gitlab-ci.yml")
    assert gitlab["ci-model"]["artifacts"]["paths"] == [folder[1]]
    assert f"{folder[1]}/comment.md" in gitlab[COMMENT]["script"][0]


def test_overlay_of_the_pipeline_fits_the_declarations(monkeypatch: pytest.MonkeyPatch) -> None:
    from ml_platform.components.model.component import Model
    from ml_platform.components.overlay import OVERLAY_VARIABLE
    from ml_platform.components.project import read_project

    monkeypatch.setenv(OVERLAY_VARIABLE, str(ROOT / "deploy/ci/overlay.yaml"))
    project = read_project(ROOT)
    project.require_all()
    (model,) = project.components(Model)
    assert model.trainers["lightgbm"].settings["max_rounds"] == 60


# Issue forms and help.


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_issue_form_is_complete(form: str) -> None:
    described = load(f".github/ISSUE_TEMPLATE/{form}.yml")
    assert {"name", "description", "body"} <= set(described)
    fields = [each for each in described["body"] if each["type"] != "markdown"]
    assert {each["type"] for each in fields} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert len({each["id"] for each in fields}) == len(fields) > 2
    assert all(each["attributes"]["label"] for each in fields)
    assert any(each.get("validations", {}).get("required") for each in fields)


def test_make_targets_of_the_pull_request_template_exist() -> None:
    named = re.findall(r"`make ([a-z-]+)`", (ROOT / ".github/PULL_REQUEST_TEMPLATE.md").read_text())
    assert named
    assert set(named) <= makefile_targets()


def test_every_make_target_is_phony_and_explained() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", text, flags=re.MULTILINE)
    assert phony
    explained = set(re.findall(r"^([a-z-]+): .*## ", text, flags=re.MULTILINE))
    assert set(phony[1].split()) == makefile_targets() == explained
