"""Records the verified bento of each version; only this bento can be rolled out or rolled back to.

A rollback takes seconds: the record names the bento that served before, so nothing is built.
"""

import json
from pathlib import Path

import sqlalchemy as sa
from pydantic import ConfigDict, Field
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from ml_platform.data.canonical import canonical_json
from ml_platform.data.settings import Settings
from ml_platform.serving.bento_build import BentoVerification, BuiltBento, normalized_digest
from ml_platform.serving.bento_digest import content_digest
from ml_platform.serving.bento_sources import BentoError
from ml_platform.serving.desired_state import ServedVersion
from ml_platform.state.schema import verified_bentos
from ml_platform.state.store import StateStore


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
    state: StateStore,
    bentos_root: Path,
    bento: BuiltBento,
    verification: BentoVerification,
    *,
    version: str,
    model_digest: str,
) -> VerifiedBento:
    """Record ``bento`` as the verified bento of ``version``, in place of an earlier one, and return the record.

    ``bentos_root`` is the folder under which the bento was built.
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
    with state.write() as connection:
        _store(connection, record)
    return record


def find_verified_bento(
    state: StateStore, bentos_root: Path, *, model: str, version: str, model_digest: str, build_digest: str
) -> tuple[BuiltBento, BentoVerification] | None:
    """Return the verified bento of ``version`` and the results of its verification, or None where it cannot be reused.

    ``build_digest`` is the digest that a build would have now (:func:`~.bento_build.bento_digest`). None is returned
    when no bento was verified, when the verified one was built from another model, other code or another lock, and when
    its files are missing or changed. Code that differs in comments or docstrings only is not other code.
    """
    record = verified_bento_of(state, model, version)
    if record is None:
        return None
    folder = bentos_root / record.folder
    if record.model_digest != model_digest or not _has_content(folder, record.sha256):
        return None
    if normalized_digest(folder) != build_digest:
        return None
    bento = BuiltBento(record.tag, folder, record.sha256, record.size_bytes)
    return bento, BentoVerification(record.rows, record.latency_p50_ms, record.latency_p99_ms)


def verified_served_version(
    state: StateStore, bentos_root: Path, *, model: str, version: str, model_digest: str
) -> ServedVersion:
    """Return ``version`` with its verified bento, for a rollout.

    The content of the bento is read again and must equal the verified content. Raises :class:`BentoError` when the
    version has no verified bento, when that was built from another model (``model_digest``), or when it is missing or
    changed.
    """
    record = verified_bento_of(state, model, version)
    fix = f"Materialize {model}/bento: it packages the champion and verifies it."
    if record is None:
        raise BentoError(f"Version {version} of '{model}'", expected="a verified bento", found="no record", fix=fix)
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
    return ServedVersion(version=version, bento=record.folder)


def verified_bento_of(state: StateStore, model: str, version: str) -> VerifiedBento | None:
    """Return the record of the verified bento of ``version``, or None.

    Raises :class:`BentoError` when the record cannot be read.
    """
    with state.read() as connection:
        text = _select(connection, model, version)
    return None if text is None else _parsed(model, version, text)


def all_verified_bentos(state: StateStore) -> list[VerifiedBento]:
    """Return the records of all verified bentos, ordered by model and version; raises as :func:`verified_bento_of`."""
    with state.read() as connection:
        query = sa.select(verified_bentos).order_by(verified_bentos.c.model, verified_bentos.c.version)
        rows = connection.execute(query).all()
    return [_parsed(row.model, row.version, row.record) for row in rows]


def _parsed(model: str, version: str, text: str) -> VerifiedBento:
    try:
        return VerifiedBento.model_validate(json.loads(text))
    except ValueError as error:
        raise BentoError(
            f"Verified bento of '{model}' version {version}",
            expected="a readable record in the state store",
            found=" ".join(str(error).split())[:200],
            fix=f"Materialize {model}/bento with --force: it verifies the bento again and replaces the record.",
        ) from error


def import_verified_bentos(state: StateStore, records: Path) -> tuple[int, list[str]]:
    """Store the record files ``records/<model>/<version>.json`` of the releases up to 0.1.0.

    Returns the number of added records, and one text for each file that cannot be read; its bento must be verified
    again. A repeated import adds nothing.
    """
    added, problems = 0, []
    for file in sorted(records.glob("*/*.json")):
        try:
            record = VerifiedBento.model_validate(json.loads(file.read_bytes()))
        except ValueError as error:
            problems.append(f"{file.parent.name}/{file.name}: {' '.join(str(error).split())[:120]}")
            continue
        with state.write() as connection:
            if _select(connection, record.model, record.version) is None:
                _store(connection, record)
                added += 1
    return added, problems


def _is_built(folder: Path) -> bool:
    return (folder / "bento.yaml").is_file()


def _has_content(folder: Path, sha256: str) -> bool:
    return _is_built(folder) and content_digest(folder) == sha256


def _select(connection: Connection, model: str, version: str) -> str | None:
    same = (verified_bentos.c.model == model) & (verified_bentos.c.version == version)
    return connection.scalar(sa.select(verified_bentos.c.record).where(same))


def _store(connection: Connection, record: VerifiedBento) -> None:
    text = canonical_json(record.model_dump()).decode()
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(verified_bentos)
    upsert = insert.on_conflict_do_update(index_elements=["model", "version"], set_={"record": text})
    connection.execute(upsert.values(model=record.model, version=record.version, record=text))
