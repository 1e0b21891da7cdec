"""Records the verified bento of each version; only this bento can be rolled out or rolled back to.

A rollback takes seconds: the record names the bento that served before, so nothing is built.
"""

import json
from pathlib import Path

from pydantic import ConfigDict, Field

from ml_platform.data.atomic import write_json
from ml_platform.data.settings import Settings
from ml_platform.serving.bento_build import BentoVerification, BuiltBento, content_digest
from ml_platform.serving.bento_sources import BentoError
from ml_platform.serving.desired_state import ServedVersion


class VerifiedBento(Settings):
    """Record of the verified bento of one version, with the results of its verification."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="Name of the model.")
    version: str = Field(description="Version of the model.")
    model_digest: str = Field(description="Digest of the model's content in the registry.")
    tag: str = Field(description="Name of the bento.")
    folder: str = Field(description="Folder of the bento, relative to the root of all bentos.")
    sha256: str = Field(description="Digest of the bento's content.")
    size_bytes: int = Field(description="Size of the bento (bytes).")
    rows: int = Field(description="Number of rows that it scored as training does.")
    latency_p50_ms: float = Field(description="Median time of a request of one row (milliseconds).")
    latency_p99_ms: float = Field(description="99th percentile of the time of a request of one row (milliseconds).")


def record_verified_bento(
    records: Path,
    bentos_root: Path,
    bento: BuiltBento,
    verification: BentoVerification,
    *,
    version: str,
    model_digest: str,
) -> VerifiedBento:
    """Record ``bento`` as the verified bento of ``version``, in place of an earlier one, and return the record.

    ``records`` is the folder of these records; ``bentos_root`` is the folder under which the bento was built.
    """
    record = VerifiedBento(
        model=bento.tag.partition(":")[0],
        version=version,
        model_digest=model_digest,
        tag=bento.tag,
        # Relative, so that a moved or copied home still finds its bento.
        folder=bento.path.relative_to(bentos_root).as_posix(),
        sha256=bento.sha256,
        size_bytes=bento.size_bytes,
        rows=verification.rows,
        latency_p50_ms=verification.latency_p50_ms,
        latency_p99_ms=verification.latency_p99_ms,
    )
    write_json(_record_path(records, record.model, version), record.model_dump())
    return record


def find_verified_bento(
    records: Path, bentos_root: Path, *, model: str, version: str, model_digest: str, sha256: str
) -> tuple[BuiltBento, BentoVerification] | None:
    """Return the verified bento of ``version`` and the results of its verification, or None where it cannot be reused.

    ``sha256`` is the digest that a build would have now (:func:`~.bento_build.bento_digest`). None is returned when no
    bento was verified, when the verified one was built from another model, other code or another lock, and when its
    files are missing or changed.
    """
    path = _record_path(records, model, version)
    if not path.is_file():
        return None
    record = VerifiedBento.model_validate(json.loads(path.read_text()))
    folder = bentos_root / record.folder
    if (record.model_digest, record.sha256) != (model_digest, sha256) or not _has_content(folder, sha256):
        return None
    bento = BuiltBento(record.tag, folder, record.sha256, record.size_bytes)
    return bento, BentoVerification(record.rows, record.latency_p50_ms, record.latency_p99_ms)


def verified_served_version(
    records: Path, bentos_root: Path, *, model: str, version: str, model_digest: str
) -> ServedVersion:
    """Return ``version`` with its verified bento, for a rollout.

    The content of the bento is read again and must equal the verified content. Raises :class:`BentoError` when the
    version has no verified bento, when that was built from another model (``model_digest``), or when it is missing or
    changed.
    """
    path = _record_path(records, model, version)
    fix = f"Materialize {model}/bento: it packages the champion and verifies it."
    if not path.is_file():
        raise BentoError(
            f"Version {version} of '{model}'", expected="a verified bento", found=f"no record {path}", fix=fix
        )
    record = VerifiedBento.model_validate(json.loads(path.read_text()))
    folder = bentos_root / record.folder
    if record.model_digest != model_digest or not _has_content(folder, record.sha256):
        raise BentoError(
            f"Bento {record.tag}",
            expected=f"the content that was verified, of model {model_digest[:12]}",
            found=f"one of model {record.model_digest[:12]}"
            if record.model_digest != model_digest
            else f"{'other content' if _is_built(folder) else 'nothing'} in {folder}",
            fix=fix,
        )
    return ServedVersion(version=version, bento=str(folder))


def _is_built(folder: Path) -> bool:
    return (folder / "bento.yaml").is_file()


def _has_content(folder: Path, sha256: str) -> bool:
    return _is_built(folder) and content_digest(folder) == sha256


def _record_path(records: Path, model: str, version: str) -> Path:
    return records / model / f"{version}.json"
