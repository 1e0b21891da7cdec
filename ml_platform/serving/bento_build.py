"""Builds a bento from a model directory, and verifies that it scores as training does.

A bento is one immutable folder with code, model and pinned requirements. Its version is the model's version followed by
a digest of the content: equal content gives the same bento, other content another one. Building needs no network.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from bento.scorer import scorer_references
from ml_platform.data.atomic import publish_directory
from ml_platform.data.canonical import directory_digest, file_digest, value_digest
from ml_platform.data.module_code import syntax_digest
from ml_platform.data.scratch import scratch_folder
from ml_platform.data.traces import EXPORTER
from ml_platform.errors import listed
from ml_platform.serving.bento_digest import BENTOFILE, DIGEST_DIGITS, content_digest
from ml_platform.serving.bento_locks import BentoLocks
from ml_platform.serving.bento_sbom import write_sbom
from ml_platform.serving.bento_signature import SIGNED, ChangedBentoError, require_signature
from ml_platform.serving.bento_signing import SigningKeys
from ml_platform.serving.bento_sources import (
    BentoError,
    BentoSources,
    find_sources,
    pinned_requirements,
    request_view_modules,
)
from ml_platform.serving.request_contract import RequestContract
from ml_platform.serving.serving_settings import ServingSettings
from ml_platform.serving.smoke_test import run_smoke_test

ENTRY_POINTS = ("bento.service", "bento.smoke_test_server", "bento.host")
REQUIRED_LIBRARIES = ("uvicorn", "redis", EXPORTER)
"""Libraries besides the imported ones: the HTTP server, the client of an online store on a server, and traces."""

FILES_NOT_SERVED = ("manifest.json",)
"""Files of a model directory that record how it was made. They name times and machines; serving reads none of them."""

LOCK_FILE = ".publication.lock"
"""Lock of the publication of a built bento; it is taken for an instant."""

BUILD_SECONDS = 300
_BUILD_SCRIPT = (
    "import json, sys; import bentoml; "
    "bentoml.build('bento.service:Model', build_ctx='.', platform='linux', **json.load(sys.stdin))"
)


@dataclass(frozen=True)
class BuiltBento:
    """A built bento: ``tag`` is ``<model>:<version>-<digest>``, ``sha256`` the digest of its content."""

    tag: str
    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class BentoVerification:
    """Result of a verification: number of rows with equal scores, and latency (ms) of one-row requests over HTTP."""

    rows: int
    latency_p50_ms: float
    latency_p99_ms: float


def build_bento(
    model_dir: Path,
    contract: RequestContract,
    *,
    version: str,
    bentos_root: Path,
    locks: BentoLocks,
    keys: SigningKeys | None = None,
    serving: ServingSettings | None = None,
) -> BuiltBento:
    """Build the bento of ``model_dir`` as ``version`` of its model, under ``bentos_root``.

    ``locks`` pin its libraries, and ``keys`` sign its files (None: it is not signed). An existing bento with the same
    content is returned as it is; one that was changed after its build is built again. ``serving`` says how its service
    runs; None: by default.

    Raises :class:`BentoError` when the code imports a forbidden module, when a library has no pin, or when BentoML
    fails. Raises :class:`~bento.scorer.ModelUnreadableError` for a trainer without a scorer.
    """
    bentos_root.mkdir(parents=True, exist_ok=True)
    with scratch_folder("bento", bentos_root) as staging:
        marks = _marks(keys is not None, serving)
        requirements = _stage(staging, model_dir, contract, version, locks, marks)
        digest = directory_digest(staging)
        name = f"{version}-{digest[:DIGEST_DIGITS]}"
        bento_folder = bentos_root / "bentos" / contract.model / name
        if not _is_built(bento_folder, digest, keys):
            # In a store of its own: neither a second build nor what a killed one left running can disturb it.
            with scratch_folder("bento-store", bentos_root) as store:
                _build(staging, contract.model, name, requirements, store)
                built = store / "bentos" / contract.model / name
                write_sbom(built, requirements, locks, model=contract.model, name=name)
                if keys is not None:
                    keys.sign(built)
                with FileLock(bentos_root / LOCK_FILE):
                    if not _is_built(bento_folder, digest, keys):
                        publish_directory(built, bento_folder)
    # Running a bento adds bytecode; the size counts only the built files.
    size = sum(file.stat().st_size for file in bento_folder.rglob("*") if file.is_file() and file.suffix != ".pyc")
    return BuiltBento(f"{contract.model}:{name}", bento_folder, digest, size)


def bento_digest(
    model_dir: Path,
    contract: RequestContract,
    *,
    version: str,
    locks: BentoLocks,
    signed: bool = False,
    serving: ServingSettings | None = None,
) -> str:
    """Return the :func:`normalized_digest` of the bento that these inputs give with the code of now, without building.

    The digest covers the model, the contract, the code that the bento carries, and the pinned libraries. Raises
    :class:`BentoError` as :func:`build_bento` does for the code and the libraries.
    """
    with scratch_folder("bento-digest") as folder:
        _stage(folder, model_dir, contract, version, locks, _marks(signed, serving))
        return _normalized_digest(folder)


def normalized_digest(bento: Path) -> str:
    """Return a digest of the files in ``bento`` that tells whether another build would behave differently.

    Comments, docstrings and layout of Python files do not count, so a change of these builds no new bento. All other
    files count by their bytes. To detect a changed bento, use :func:`content_digest`, in which every byte counts.
    """
    return _normalized_digest(bento / "src")


def verify_bento(
    bento: BuiltBento, rows: Sequence[Mapping[str, Any]], expected: npt.ArrayLike, *, online: str
) -> BentoVerification:
    """Score ``rows`` in a fresh process that sees only the bento, and require the scores of training.

    ``rows`` have the form that a client sends. ``expected`` are the numbers of the answers by training, shape (n,) or
    (n, numbers); each must agree within 1e-12. ``online`` is the location of the online store; a folder must be
    absolute. Raises :class:`BentoError` when a score differs, when a module was loaded from outside the bento, or when
    the process fails.
    """
    source = bento.path / "src"
    path = json.loads((source / "package.json").read_text())["path"]
    result = run_smoke_test(source, path, rows, online=online, subject=f"Bento {bento.tag}")
    foreign_modules = [name for name, path in result.modules.items() if not Path(path).is_relative_to(source.resolve())]
    scores, trained = np.asarray(result.scores), np.asarray(expected, dtype=np.float64)
    differing = (
        np.flatnonzero(~np.isclose(scores, trained, rtol=0, atol=1e-12).reshape(len(trained), -1).all(axis=1))
        if scores.shape == trained.shape
        else None
    )
    if foreign_modules or differing is None or differing.size:
        if foreign_modules:
            found = f"modules loaded from elsewhere: {listed(foreign_modules)}"
        elif differing is None:
            found = f"{len(scores)} scores for {len(trained)} rows"
        else:
            row = int(differing[0])
            found = f"{differing.size} of {len(trained)} that differ (row {row}: {scores[row]!r}, not {trained[row]!r})"
        raise BentoError(
            f"Bento {bento.tag}",
            expected="the scores that training gave, computed by code of the bento alone",
            found=found,
            fix="If a feature view or the encoder changed after training, materialize the candidate again.",
        )
    return BentoVerification(len(rows), result.latency_p50_ms, result.latency_p99_ms)


def _normalized_digest(source: Path) -> str:
    files = {path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}
    return value_digest(
        {
            name: syntax_digest(path.read_bytes()) if name.endswith(".py") else file_digest(path)
            for name, path in files.items()
            if name != BENTOFILE and not name.endswith(".pyc")
        }
    )


def _is_built(bento: Path, digest: str, keys: SigningKeys | None) -> bool:
    if not (bento / "bento.yaml").exists() or content_digest(bento) != digest:
        return False
    try:
        return keys is None or bool(require_signature(bento, keys.trusted))
    except ChangedBentoError:
        return False


def _marks(signed: bool, serving: ServingSettings | None) -> dict[str, Any]:
    """Return what `package.json` says besides the model; nothing for defaults, so that those change no bento."""
    declared = {} if serving is None else serving.of_version
    return {**({SIGNED: True} if signed else {}), **({"serving": declared} if declared else {})}


def _stage(
    staging: Path,
    model_dir: Path,
    contract: RequestContract,
    version: str,
    locks: BentoLocks,
    marks: Mapping[str, Any],
) -> list[str]:
    """Copy all that the bento will carry to ``staging`` and return its pinned requirements."""
    description = json.loads((model_dir / "model.json").read_text())
    features = json.loads((model_dir / "features.json").read_text())
    scorers = [reference.partition(":")[0] for reference in scorer_references(description, model_dir)]
    sources = find_sources([*ENTRY_POINTS, *scorers, *request_view_modules(features)])
    libraries = [*sources.libraries, *REQUIRED_LIBRARIES, *description.get("libraries", [])]
    requirements = pinned_requirements(libraries, locks)
    _stage_sources(staging, sources, model_dir, contract, version, requirements, marks)
    return requirements


def _stage_sources(
    staging: Path,
    sources: BentoSources,
    model_dir: Path,
    contract: RequestContract,
    version: str,
    requirements: list[str],
    marks: Mapping[str, Any],
) -> None:
    for relative_path, file in sources.files.items():
        target = staging / relative_path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    shutil.copytree(model_dir, staging / "model", ignore=shutil.ignore_patterns(*FILES_NOT_SERVED))
    (staging / "model" / "contract.json").write_text(contract.model_dump_json(indent=2))
    metadata = {
        "model": contract.model,
        "version": version,
        "path": contract.path,
        "requirements": requirements,
        **marks,
    }
    (staging / "package.json").write_text(json.dumps(metadata, indent=2, sort_keys=True))


def _build(staging: Path, model: str, name: str, requirements: list[str], bentos_root: Path) -> None:
    options = {
        "name": model,
        "version": name,
        "include": ["**/*.py", "*.py", "model/*", "package.json"],
        "python": {"packages": requirements, "lock_packages": False},
    }
    subject = f"Building the bento {model}:{name}"
    _run_python(["-c", _BUILD_SCRIPT], json.dumps(options), folder=staging, subject=subject, bentoml_home=bentos_root)


def _run_python(
    arguments: list[str], standard_input: str, *, folder: Path, subject: str, bentoml_home: Path | None = None
) -> str:
    """Run Python with the code in ``folder`` on its path, and return its standard output."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder.resolve()),
        "PYTHONDONTWRITEBYTECODE": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        **({"BENTOML_HOME": str(bentoml_home.resolve())} if bentoml_home is not None else {}),
    }
    completed = subprocess.run(
        [sys.executable, *arguments],
        input=standard_input,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if completed.returncode:
        raise BentoError(
            subject,
            expected="exit code 0",
            found=f"exit code {completed.returncode}: {completed.stderr.strip()[-2000:]}",
            fix="Fix the error in the last line, then materialize the bento again.",
        )
    return completed.stdout
