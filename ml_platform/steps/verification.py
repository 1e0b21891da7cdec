"""`ml-platform verify`: compares everything that a home stores with the digests that were recorded for it.

It changes nothing. Each problem names the subject and the fix.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ml_platform.data.canonical import file_digest
from ml_platform.data.delta_log import DeltaLogError
from ml_platform.data.digest import content_hash
from ml_platform.data.lake import PARTITION
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.registry.audit import AuditError
from ml_platform.registry.champion_history import CHAMPION_KIND, current_champion
from ml_platform.registry.models import CHAMPION, PREVIOUS
from ml_platform.serving.bento_digest import ChangedBentoError, content_digest
from ml_platform.serving.bento_signing import SigningKeys
from ml_platform.serving.bento_sources import BentoError
from ml_platform.serving.desired_state import all_desired_states
from ml_platform.serving.verified_bentos import all_verified_bentos
from ml_platform.state.sqlite_file import StateStoreError
from ml_platform.steps.packaging import model_directory, verified_version_of
from ml_platform.steps.platform_stores import PlatformStores
from resources.storage_errors import storage_error


@dataclass(frozen=True)
class Problem:
    """Something in a home that is not as it was recorded; ``repairable`` tells whether `ml-platform repair` helps."""

    area: str
    subject: str
    found: str
    fix: str
    repairable: bool = False


@dataclass(frozen=True)
class VerificationReport:
    """The number of verified items by area, the problems, and notes about what could not be verified in full."""

    verified: dict[str, int]
    problems: list[Problem]
    notes: list[str] = field(default_factory=list)


def verify_home(stores: PlatformStores, *, rows: bool = False, model: str = "") -> VerificationReport:
    """Verify the files of the lake, landed files, the audit log, champions with their models, and bentos.

    With ``rows``, the rows of each partition are read too and compared with their content digest. With ``model``, only
    the bentos of that model are verified.
    """
    notes: list[str] = []
    areas: dict[str, Callable[[], Iterator[Problem | None]]] = {
        "audit": lambda: _audit(stores),
        "lake files": lambda: _lake_files(stores),
        "delta logs": lambda: _delta_logs(stores),
        "landed files": lambda: _landed_files(stores),
        "champions": lambda: _champions(stores),
        "desired states": lambda: _desired_states(stores),
        "evidence": lambda: _evidence(stores),
        "bentos": lambda: _bentos(stores, notes, model),
    }
    if model:
        areas = {"bentos": areas["bentos"]}
    if rows and not model:
        areas["rows"] = lambda: _rows(stores)
    verified: dict[str, int] = {}
    problems: list[Problem] = []
    for area, check in areas.items():
        results = _results(area, check, stores)
        verified[area] = sum(result is None for result in results)
        problems += [result for result in results if result is not None]
    return VerificationReport(verified, problems, notes)


def _results(area: str, check: Callable[[], Iterator[Problem | None]], stores: PlatformStores) -> list[Problem | None]:
    """Return the results of one area; a store that cannot be read is a problem, and the other areas are verified."""
    results: list[Problem | None] = []
    try:
        results.extend(check())
    except PlatformError as error:
        results.append(_of_error(area, error))
    except Exception as error:
        named = storage_error(error, stores.home)
        if named is None:
            raise
        results.append(_of_error(area, named))
    return results


def _audit(stores: PlatformStores) -> Iterator[Problem | None]:
    try:
        count = stores.audit.verify()
    except (AuditError, StateStoreError) as error:
        yield _of_error("audit", error)
        return
    yield from [None] * count


def _lake_files(stores: PlatformStores) -> Iterator[Problem | None]:
    lake = stores.lake
    for table in lake.catalog.tables():
        segments = lake.catalog.segments(table)
        files = [file for each in segments for file in each.files]
        damaged = list(lake.files.damaged(table, files, content=True))
        yield from [None] * (len(files) - len(damaged))
        partitions = {file.path: each.partition for each in segments for file in each.files}
        for each in damaged:
            partition = partitions[each.path]
            yield Problem(
                "lake files",
                f"Table '{table}'" + (f", partition {partition}" if partition else ""),
                f"{each.path}: {each.found}",
                "Materialize the partition again, or restore the home from its backup.",
            )


def _delta_logs(stores: PlatformStores) -> Iterator[Problem | None]:
    for table in stores.lake.catalog.tables():
        try:
            shown = stores.lake.shows_current_version(table)
        except DeltaLogError as error:
            yield _of_error("delta logs", error, repairable=True)
            continue
        if shown:
            yield None
        else:
            yield Problem(
                "delta logs",
                f"Delta log of '{table}'",
                "other files than the catalog: another tool reads other rows",
                "Write the log again: ml-platform repair.",
                repairable=True,
            )


def _landed_files(stores: PlatformStores) -> Iterator[Problem | None]:
    import sqlalchemy as sa

    from ml_platform.state.schema import landed_files

    with stores.state.read() as connection:
        rows = connection.execute(sa.select(landed_files)).all()
    for row in rows:
        path = stores.home.landing / row.dataset / row.name
        status = path.stat() if path.exists() else None
        if status is None:
            found = "no file"
        elif row.modified_ns and (status.st_size, status.st_mtime_ns) != (row.size_bytes, row.modified_ns):
            # It landed again; the sensor notices that.
            yield None
            continue
        else:
            digest = file_digest(path)
            if digest == row.sha256:
                yield None
                continue
            found = f"bytes with the digest {digest[:12]} instead of {row.sha256[:12]}, at an unchanged time"
        yield Problem("landed files", f"Landed file {row.dataset}/{row.name}", found, "Land the file again.")


def _champions(stores: PlatformStores) -> Iterator[Problem | None]:
    registry = stores.registry
    for model in stores.audit.models(CHAMPION_KIND):
        champion = current_champion(stores.audit, model)
        expected = {
            CHAMPION: None if champion is None else champion.version,
            PREVIOUS: None if champion is None else champion.previous_version,
        }
        for alias, version in expected.items():
            registered = registry.by_alias(model, alias)
            if (None if registered is None else registered.version) != version:
                yield Problem(
                    "champions",
                    f"Model '{model}', alias {alias}",
                    f"version {registered and registered.version} in MLflow, {version} in the audit log",
                    "Set the alias again: ml-platform repair.",
                    repairable=True,
                )
            if registered is None:
                continue
            try:
                model_directory(registered, stores)
                verified_version_of(registered, stores)
            except (BentoError, PlatformError) as error:
                yield _of_error("champions", error)
            else:
                yield None


def _desired_states(stores: PlatformStores) -> Iterator[Problem | None]:
    states = all_desired_states(stores.state)
    for error in states.unreadable.values():
        yield _of_error("desired states", error)
    for model, state in states.readable.items():
        for served in state.served_versions:
            folder = stores.home.bentos / served.bento
            if (folder / "bento.yaml").is_file():
                yield None
            else:
                yield Problem(
                    "desired states",
                    f"Version {served.version} of '{model}'",
                    f"no bento in {served.bento}",
                    f"Materialize {model}/bento and {model}/rollout.",
                )


def _bentos(stores: PlatformStores, notes: list[str], model: str) -> Iterator[Problem | None]:
    """Verify the content and the signature of each recorded bento that is there; add a note for one without."""
    keys, records = SigningKeys(stores.home.signing_keys), all_verified_bentos(stores.state)
    models = sorted({record.model for record in records})
    if model and model not in models:
        raise BentoError(
            f"Model '{model}'",
            expected="a model with a verified bento",
            found=f"none; there are bentos of {listed(models)}",
            fix=f"Correct the name, or materialize {model}/bento.{did_you_mean(model, models)}",
        )
    for record in records:
        folder = stores.home.bentos / record.folder
        if (model and record.model != model) or not folder.is_dir():
            continue  # cleaning removes old bentos
        try:
            if content_digest(folder) != record.sha256:
                raise ChangedBentoError(
                    f"Bento {record.tag}",
                    expected=f"the content {record.sha256[:12]} that was verified",
                    found=f"content {content_digest(folder)[:12]}",
                    fix=f"Materialize {record.model}/bento: it is built and verified again.",
                )
            if not keys.verify(folder):
                notes.append(f"Bento {record.tag} of an earlier release has no signature; its content is as recorded.")
            yield None
        except PlatformError as error:
            yield _of_error("bentos", error)


def _evidence(stores: PlatformStores) -> Iterator[Problem | None]:
    import json

    import polars as pl
    import sqlalchemy as sa

    from ml_platform.state.schema import verdicts

    with stores.state.read() as connection:
        columns = verdicts.c
        query = sa.select(columns.model, columns.partition, columns.candidate, columns.verdict)
        rows = connection.execute(query).all()
    for row in rows:
        try:
            verdict = dict(json.loads(row.verdict))
            path = stores.home.evidence / f"{verdict['evidence']}.parquet"
        except (ValueError, TypeError, KeyError):
            yield Problem(
                "evidence",
                f"Verdict on '{row.model}', {row.partition}",
                "text that is no verdict",
                f"Materialize {row.model}/evaluation for {row.partition} again, or restore the home from its backup.",
            )
            continue
        if not path.exists() and stores.registry.by_content(row.model, row.candidate) is None:
            continue  # housekeeping removed the version with its evidence
        found = None
        if not path.exists():
            found = f"no file {path.name}"
        elif verdict.get("table") and content_hash(pl.read_parquet(path)) != verdict["table"]:
            found = f"other rows in {path.name}"
        if found is None:
            yield None
        else:
            yield Problem(
                "evidence",
                f"Verdict on '{row.model}', {row.partition}",
                found,
                f"Materialize {row.model}/evaluation for {row.partition} again.",
            )


def _rows(stores: PlatformStores) -> Iterator[Problem | None]:
    import polars as pl

    lake = stores.lake
    for table in lake.catalog.tables():
        stored = lake.catalog.table(table)
        for segment in lake.catalog.segments(table):
            if not segment.files or stored is None:
                continue
            try:
                frame = pl.concat([lake.files.scan(table, [file.path]).collect() for file in segment.files])
                digest = content_hash(frame.drop(PARTITION, strict=False))
            except (OSError, pl.exceptions.PolarsError) as error:
                digest = str(error).splitlines()[0]
            if digest == segment.sha256:
                yield None
            else:
                yield Problem(
                    "rows",
                    f"Table '{table}', partition {segment.partition}",
                    f"content {digest[:40]} instead of {segment.sha256[:12]}",
                    "Materialize the partition again, or restore the home from its backup.",
                )


def _of_error(area: str, error: PlatformError, *, repairable: bool = False) -> Problem:
    return Problem(area, error.subject, error.found, error.fix, repairable)
