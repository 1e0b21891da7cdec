"""Which bento of each version was verified: the only one that may be rolled out, or rolled back to, and no other.

Apart so that a rollback takes seconds: it finds the bento that served before by its record, and builds nothing.
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
    """The record of one version's bento: what was verified, and what that found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="Name of the model.")
    version: str = Field(description="Version of the model.")
    model_digest: str = Field(description="Digest of the model's content in the registry.")
    tag: str = Field(description="Name of the bento.")
    folder: str = Field(description="Folder of the bento, below the root of all bentos.")
    sha256: str = Field(description="Digest of the bento's content.")
    size_bytes: int = Field(description="Size of the bento (bytes).")
    rows: int = Field(description="Rows that it scored as training does.")
    latency_p50_ms: float = Field(description="Median time of a request of one row (milliseconds).")
    latency_p99_ms: float = Field(description="Time within which 99 of 100 such requests were answered (milliseconds).")


def record_verified_bento(
    records: Path,
    bentos_root: Path,
    bento: BuiltBento,
    verification: BentoVerification,
    *,
    version: str,
    model_digest: str,
) -> VerifiedBento:
    """Write down that ``bento`` is the verified bento of ``version``, in place of an earlier one; return the record.

    ``records`` is the folder of these records, ``bentos_root`` the one under which the bento was built.
    """
    record = VerifiedBento(
        model=bento.tag.partition(":")[0],
        version=version,
        model_digest=model_digest,
        tag=bento.tag,
        # Relative, so that a home that is moved or copied still finds its own.
        folder=bento.path.relative_to(bentos_root).as_posix(),
        sha256=bento.sha256,
        size_bytes=bento.size_bytes,
        rows=verification.rows,
        latency_p50_ms=verification.latency_p50_ms,
        latency_p99_ms=verification.latency_p99_ms,
    )
    write_json(_record_path(records, record.model, version), record.model_dump())
    return record


def verified_served_version(
    records: Path, bentos_root: Path, *, model: str, version: str, model_digest: str
) -> ServedVersion:
    """Return the verified bento of ``version`` as what can be rolled out.

    Its content is read again and must be, byte for byte, what was verified. Raises :class:`BentoError` when no
    bento of the version was verified, when that was of another model (``model_digest``), or when it is gone or changed.
    """
    path = _record_path(records, model, version)
    fix = f"Materialize {model}/bento: it packages the champion and verifies it."
    if not path.is_file():
        raise BentoError(
            f"Version {version} of '{model}'", expected="a verified bento", found=f"no record {path}", fix=fix
        )
    record = VerifiedBento.model_validate(json.loads(path.read_text()))
    folder = bentos_root / record.folder
    exists = (folder / "bento.yaml").is_file()
    if record.model_digest != model_digest or not exists or content_digest(folder) != record.sha256:
        raise BentoError(
            f"Bento {record.tag}",
            expected=f"the content that was verified, of model {model_digest[:12]}",
            found=f"one of model {record.model_digest[:12]}"
            if record.model_digest != model_digest
            else f"{'other content' if exists else 'nothing'} in {folder}",
            fix=fix,
        )
    return ServedVersion(version=version, bento=str(folder))


def _record_path(records: Path, model: str, version: str) -> Path:
    return records / model / f"{version}.json"
