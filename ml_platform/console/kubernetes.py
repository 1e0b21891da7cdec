"""Writes the release for Kubernetes into a folder, and commits it for a pull request."""

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ml_platform.components.model.component import Model
from ml_platform.components.project import read_project
from ml_platform.data.atomic import write_text
from ml_platform.errors import PlatformError, listed
from ml_platform.serving.desired_state import all_desired_states
from ml_platform.serving.kubernetes_release import (
    CHART,
    HEADER,
    VALUES_FILE,
    Form,
    GitSource,
    ReleaseFileError,
    release_changes,
    release_files,
    value_files,
)
from ml_platform.serving.serving_settings import BentoSettings
from resources.home import Home
from resources.profiles import REPOSITORY
from resources.state import open_state

MANIFESTS_FILE = "manifests.yaml"


class RenderError(PlatformError):
    """Raised when helm or git fails, or is not installed."""


@dataclass(frozen=True)
class WrittenRelease:
    """The files of a release that changed or left the folder, and what changed for each model."""

    written: list[str]
    removed: list[str]
    changes: list[str]


def render(
    home: Home, out: Path, *, form: Form, now: float, source: GitSource | None = None, manifests: bool = False
) -> WrittenRelease:
    """Make the folder ``out`` the release of the desired states of ``home`` at ``now`` (seconds since 1970).

    Files with the same content stay untouched, and those of an earlier release that have no place in this one are
    removed; files that people wrote stay. With ``manifests``, helm renders the objects of each domain, too. Raises
    :class:`~ml_platform.serving.kubernetes_release.ReleaseFileError` before anything is written.
    """
    states = all_desired_states(open_state(home))
    if states.unreadable:
        raise ReleaseFileError(
            "Release for Kubernetes",
            expected="a readable desired state of each model",
            found=f"none of {listed(sorted(states.unreadable))}",
            fix="Roll the champions of these models out again. A release without them would stop them.",
        )
    domains = {each.name: each.domain for each in read_project(REPOSITORY).components(Model)}
    settings_of = BentoSettings(home.bentos)
    files = release_files(states.readable, domains, settings_of, form=form, now=now, source=source)
    before = earlier_files(out)
    changed = _replace(out, before, files)
    if manifests:
        rendered = {**files, **_manifests(out, files)}
        changed = [*changed, *_replace(out, earlier_files(out), rendered)]
        files = rendered
    removed = sorted(before.keys() - files.keys())
    for path in removed:
        (out / path).unlink()
    return WrittenRelease(sorted(set(changed)), removed, release_changes(before, files))


def earlier_files(out: Path) -> dict[str, str]:
    """Return path → text of the files in ``out`` that a render wrote."""
    texts = {file.relative_to(out).as_posix(): file.read_text() for file in sorted(out.glob("*/*.yaml"))}
    return {path: text for path, text in texts.items() if text.startswith(HEADER)}


def commit(out: Path, release: WrittenRelease) -> str | None:
    """Commit the files of ``release`` in ``out`` to the branch that is checked out, and return the commit.

    Other changes of the working tree stay as they are. None when the files are those of the last commit. Raises
    :class:`RenderError` with the message of git.
    """
    _git(out, "add", "--all", "--", ".")
    if not _git(out, "status", "--porcelain", "--", "."):
        return None
    title = "release: " + (release.changes[0] if len(release.changes) == 1 else f"{len(release.changes)} models")
    _git(out, "commit", "--quiet", "--message", "\n".join([title, "", *release.changes]), "--", ".")
    return _git(out, "rev-parse", "HEAD")


def _replace(out: Path, before: Mapping[str, str], files: Mapping[str, str]) -> list[str]:
    changed = [path for path, text in files.items() if before.get(path) != text]
    for path in changed:
        write_text(out / path, files[path])
    return changed


def _manifests(out: Path, files: Mapping[str, str]) -> dict[str, str]:
    """Return path → text of the objects that helm renders from the values in ``out``."""
    helm = shutil.which("helm")
    if helm is None:
        raise RenderError(
            "Manifests for Kubernetes",
            expected="helm on the PATH",
            found="no such program",
            fix="Install it (make kubernetes puts it into .venv/kubernetes/bin), or render without --manifests.",
        )
    rendered = {}
    for domain in (path.removesuffix(f"/{VALUES_FILE}") for path in files if path.endswith(f"/{VALUES_FILE}")):
        given = [out / each for each in value_files(domain) if (out / each).is_file()]
        values = [text for file in given for text in ("--values", str(file))]
        text = _output([helm, "template", f"models-{domain.replace('_', '-')}", str(REPOSITORY / CHART), *values])
        rendered[f"{domain}/{MANIFESTS_FILE}"] = HEADER + text
    return rendered


def _git(folder: Path, *arguments: str) -> str:
    return _output(["git", "-C", str(folder), *arguments]).strip()


def _output(command: list[str]) -> str:
    try:
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        found, code = str(error), 1
    else:
        found, code = completed.stderr.strip(), completed.returncode
    if code:
        subject = " ".join(command[:4])
        raise RenderError(subject, expected="exit code 0", found=found[-2000:], fix="Correct it and render again.")
    return completed.stdout
