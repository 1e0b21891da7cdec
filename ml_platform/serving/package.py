"""A model directory becomes a bento: code, model and pins in one immutable folder, checked before anything serves it.

A bento's version is the model's version and a digest of all that is in it, so the same content is the same bento and
other content is another one. Building needs no network.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bento.scorer import scorer_reference
from ml_platform.data.canonical import directory_digest
from ml_platform.errors import listed
from ml_platform.serving.contract import RequestContract
from ml_platform.serving.rehearsal import rehearse
from ml_platform.serving.sources import PackageRefused, Sources, pins, request_modules, sources_of

ENTRY_POINTS = ("bento.service", "bento.verify")
LIBRARIES_OF_EVERY_BENTO = ("uvicorn", "redis")
"""Beside those that its modules import: the server, and the client for online features that a server holds."""

NOT_SERVED = ("manifest.json",)
"""Files of a model directory that say how it was made; they name times and machines, and serving reads none."""

WRITTEN_BY_BENTOML = "bentofile.yaml"
BUILD_SECONDS = 300
_BUILD = (
    "import json, sys; import bentoml; "
    "bentoml.build('bento.service:Model', build_ctx='.', platform='linux', **json.load(sys.stdin))"
)


@dataclass(frozen=True)
class Package:
    """A built bento: ``tag`` is ``<model>:<version>-<digest>``, ``sha256`` the digest of its content."""

    tag: str
    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Verified:
    """What a verification found: rows that scored equal, and milliseconds of a request of one row over HTTP."""

    rows: int
    latency_p50_ms: float
    latency_p99_ms: float


def build_bento(model_dir: Path, contract: RequestContract, *, version: str, bentos_root: Path, lock: Path) -> Package:
    """Build the bento of ``model_dir``, which becomes ``version`` of its model, under ``bentos_root``.

    ``lock`` is the requirements.lock that its libraries are pinned by. Returns the bento that is there when the same
    was built before; one that was changed since is built anew. Raises :class:`PackageRefused` when the code reaches for
    what must stay out, a library is not pinned, or BentoML refuses; :class:`~bento.scorer.ModelUnreadable` for a
    trainer that has no scorer.
    """
    described = json.loads((model_dir / "model.json").read_text())
    features = json.loads((model_dir / "features.json").read_text())
    scorer = scorer_reference(described).partition(":")[0]
    sources = sources_of([*ENTRY_POINTS, scorer, *request_modules(features)])
    requirements = pins([*sources.libraries, *LIBRARIES_OF_EVERY_BENTO], lock)
    bentos_root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bentos_root, prefix=".building-") as folder:
        staged = Path(folder)
        _stage(staged, sources, model_dir, contract, version, requirements)
        digest = directory_digest(staged)
        name = f"{version}-{digest[:12]}"
        built = bentos_root / "bentos" / contract.model / name
        if not (built / "bento.yaml").exists() or content_digest(built) != digest:
            shutil.rmtree(built, ignore_errors=True)
            _build(staged, contract.model, name, requirements, bentos_root)
    # Bytecode appears when a bento is first run; the size is that of what was built.
    size = sum(file.stat().st_size for file in built.rglob("*") if file.is_file() and file.suffix != ".pyc")
    return Package(f"{contract.model}:{name}", built, digest, size)


def verify_bento(
    package: Package, rows: Sequence[Mapping[str, Any]], expected: Sequence[float], *, online: str
) -> Verified:
    """Serve ``rows`` from a fresh process that sees only the bento, and demand the scores that training gave.

    ``rows`` are as an app would send them; ``expected`` (n,) are equal to the last bit but one (1e-12). ``online`` is
    the location of the online store, good from any folder. Raises :class:`PackageRefused` when a score differs, code
    was taken from outside the bento, or the process fails.
    """
    source = package.path / "src"
    path = json.loads((source / "package.json").read_text())["path"]
    result = rehearse(source, path, rows, online=online, doing=f"Bento {package.tag}")
    outside = [name for name, path in result.modules.items() if not Path(path).is_relative_to(source.resolve())]
    scores, wanted = np.asarray(result.scores), np.asarray(expected, dtype=np.float64)
    differs = np.flatnonzero(~np.isclose(scores, wanted, rtol=0, atol=1e-12)) if scores.shape == wanted.shape else None
    if outside or differs is None or differs.size:
        if outside:
            found = f"{listed(outside)} from elsewhere"
        elif differs is None:
            found = f"{scores.size} scores for {wanted.size} rows"
        else:
            at = int(differs[0])
            found = f"{differs.size} of {wanted.size} that differ (row {at}: {scores[at]!r}, not {wanted[at]!r})"
        raise PackageRefused(
            f"Bento {package.tag}",
            expected="the scores that training gave, by code of the bento alone",
            found=found,
            mend="Was a feature view or the encoder changed since the model was trained? Materialize it again.",
        )
    return Verified(len(rows), result.latency_p50_ms, result.latency_p99_ms)


def content_digest(bento: Path) -> str:
    """Return the digest of all that was packed into the ``bento`` (:attr:`Package.sha256`), from what lies there now.

    Bytecode does not count: it appears when the bento is first run.
    """
    source = bento / "src"
    written_later = [file.relative_to(source).as_posix() for file in source.rglob("*.pyc")]
    return directory_digest(source, leave_out=[WRITTEN_BY_BENTOML, *written_later])


def _stage(
    staged: Path, sources: Sources, model_dir: Path, contract: RequestContract, version: str, requirements: list[str]
) -> None:
    for inside, file in sources.files.items():
        target = staged / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    shutil.copytree(model_dir, staged / "model", ignore=shutil.ignore_patterns(*NOT_SERVED))
    (staged / "model" / "contract.json").write_text(contract.model_dump_json(indent=2))
    packed = {
        "model": contract.model,
        "version": version,
        "path": contract.path,
        "requirements": requirements,
    }
    (staged / "package.json").write_text(json.dumps(packed, indent=2, sort_keys=True))


def _build(staged: Path, model: str, name: str, requirements: list[str], bentos_root: Path) -> None:
    options = {
        "name": model,
        "version": name,
        "include": ["**/*.py", "*.py", "model/*", "package.json"],
        "python": {"packages": requirements, "lock_packages": False},
    }
    doing = f"Building the bento {model}:{name}"
    _run(["-c", _BUILD], json.dumps(options), folder=staged, doing=doing, home=bentos_root)


def _run(arguments: list[str], given: str, *, folder: Path, doing: str, home: Path | None = None) -> str:
    """Run Python on the code in ``folder`` and return what it prints."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder.resolve()),
        "PYTHONDONTWRITEBYTECODE": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        **({"BENTOML_HOME": str(home.resolve())} if home is not None else {}),
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        input=given,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if done.returncode:
        raise PackageRefused(
            doing,
            expected="success",
            found=f"exit code {done.returncode}: {done.stderr.strip()[-2000:]}",
            mend="Mend what the last line names and materialize the bento again.",
        )
    return done.stdout
