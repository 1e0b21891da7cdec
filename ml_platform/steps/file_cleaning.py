"""Finds files of a home that are no longer needed: landed files, pages, logs, checkpoints, searches, dead letters."""

import glob
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import sqlalchemy as sa

from ml_platform.data.canonical import file_digest
from ml_platform.data.contract_record import published_files
from ml_platform.data.landing import Landing
from ml_platform.data.leftovers import Leftover, before, old_files, old_folders
from ml_platform.data.partitions import WHOLE as WHOLE_FILE
from ml_platform.errors import PlatformError
from ml_platform.registry.outbox import DEAD_LETTER_FOLDER
from ml_platform.serving.desired_state import all_desired_states
from ml_platform.serving.gateway_clusters import cluster_name
from ml_platform.serving.marked_processes import SERVICE_PREFIX
from ml_platform.serving.replicas import service_of
from ml_platform.state.schema import WHOLE, landed_files
from ml_platform.steps.platform_stores import PlatformStores
from ml_platform.steps.retention import RetentionPolicies

RAW_FILES = "raw files"
REPORTS = "reports"
LOGS = "logs"
CHECKPOINTS = "checkpoints"
SEARCHES = "searches"
DEAD_LETTERS = "dead letters"

MAX_LOG_BYTES = 16 * 2**20
"""Size from which the log of a service is rotated; the process manager rotates the other logs at the same size."""

DATA_DOCS, DRIFT, MODEL_CARDS = "data_docs", "drift", "model_card"
"""Folders of the reports: the first by dataset, the others by model, each with a folder for each partition."""

COMPARISONS = "comparison"
"""Folder of the reports by model, with a folder for each pair of versions."""


class SearchFileError(PlatformError):
    """Raised when a file of hyperparameter searches cannot be read."""


def raw_files(stores: PlatformStores, policies: RetentionPolicies, now: datetime) -> Iterator[Leftover]:
    """Yield the landed files whose content is published and that landed before the retention of their dataset."""
    landing = Landing(stores.home.landing)
    for dataset in landing.datasets():
        limit = before(now, policies.of_dataset(dataset).raw_files_days)
        if limit is None:
            continue
        published = _published_by_file(stores, dataset)
        known = _landed_rows(stores, dataset)
        listing = landing.listing(dataset, published.__contains__)
        for partition, entries in sorted(listing.files.items()):
            path, status = Path(entries[0].path), entries[0].stat()
            row = known.get(path.name)
            same = row is not None and (row.size_bytes, row.modified_ns) == (status.st_size, status.st_mtime_ns)
            landed = datetime.fromisoformat(row.landed_at) if row is not None and same else _changed(path)
            if len(entries) > 1 or landed >= limit:
                continue
            digest = row.sha256 if row is not None and same else file_digest(path)
            if digest == published[partition]:
                removal = _landed_removal(stores, dataset, path, status.st_mtime_ns)
                yield Leftover(RAW_FILES, [f"{dataset}/{path.name}"], status.st_size, landed, removal)


def old_reports(stores: PlatformStores, policies: RetentionPolicies, now: datetime) -> Iterator[Leftover]:
    """Yield the pages of partitions that were not written again since the retention of their dataset or model."""
    for area in (DATA_DOCS, DRIFT, MODEL_CARDS, COMPARISONS):
        root = stores.home.reports / area
        for folder in sorted(root.iterdir()) if root.is_dir() else ():
            name = folder.name
            retention = policies.of_dataset(name) if area == DATA_DOCS else policies.of_model(name).retention
            if folder.is_dir():
                yield from old_folders(REPORTS, folder, before(now, retention.reports_days))


def old_logs(stores: PlatformStores, policies: RetentionPolicies, now: datetime) -> Iterator[Leftover]:
    """Yield the log files of processes without a line since the retention, and large logs of running services.

    A process may still have its log open, so the log is emptied in place; all processes append to their logs. Rotated
    files, and the logs of services that no desired state names, are deleted. A large log is copied to `<name>.1` first;
    lines that are written between the copy and the end of this are lost.
    """
    limit = before(now, policies.platform.logs_days)
    served = {
        f"{SERVICE_PREFIX}{cluster_name(model, each)}"
        for model, state in all_desired_states(stores.state).readable.items()
        for each in state.needed_versions
    }
    for path in sorted(path for path in stores.home.logs.rglob("*.log*") if path.is_file()):
        status, changed = path.stat(), _changed(path)
        if limit is not None and changed < limit:
            is_unused = path.name.startswith(SERVICE_PREFIX) and service_of(path.stem) not in served
            is_ended = path.suffix != ".log" or is_unused
            if is_ended:
                yield from old_files(LOGS, path.parent, limit, glob.escape(path.name))
            elif status.st_size:
                yield Leftover(LOGS, [path.name], status.st_size, changed, partial(_empty, path))
        elif path.name.startswith(SERVICE_PREFIX) and path.suffix == ".log" and status.st_size >= MAX_LOG_BYTES:
            yield Leftover(LOGS, [f"{path.name} (rotated)"], 0, None, partial(_copy_and_empty, path))


def old_checkpoints(stores: PlatformStores, policies: RetentionPolicies, now: datetime) -> Iterator[Leftover]:
    """Yield the checkpoints of fits that were not continued since the retention of their model."""
    root = stores.home.models / "checkpoints"
    for trainer in sorted(root.glob("*/*")):
        if trainer.is_dir():
            limit = before(now, policies.of_model(trainer.parent.name).retention.checkpoints_days)
            yield from old_folders(CHECKPOINTS, trainer, limit)


def old_searches(stores: PlatformStores, policies: RetentionPolicies, now: datetime) -> Iterator[Leftover]:
    """Yield the hyperparameter searches in the files of the home without a trial since the retention of their model.

    Searches in a common database are left to its owner.
    """
    for path in sorted((stores.home.models / "studies").glob("*.db")):
        limit = before(now, policies.of_model(path.stem.rpartition("-")[0]).retention.checkpoints_days)
        if limit is None:
            continue
        if _changed(path) < limit:
            yield from old_files(SEARCHES, path.parent, limit, path.name)
        elif find_spec("optuna"):
            for name, last in _searches(path):
                if last is not None and last < limit:
                    yield Leftover(SEARCHES, [f"{path.stem} {name}"], 0, last, _search_removal(path, name))


def old_dead_letters(stores: PlatformStores, policies: RetentionPolicies, now: datetime) -> Iterator[Leftover]:
    """Yield the records that the tracking server rejected before the retention."""
    folder = stores.home.records / "outbox" / DEAD_LETTER_FOLDER
    yield from old_folders(DEAD_LETTERS, folder, before(now, policies.platform.dead_letters_days))


def _changed(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _published_by_file(stores: PlatformStores, dataset: str) -> dict[str, str | None]:
    """Return the digest of the published file of each partition, by the start of the file's name."""
    published = published_files(stores.state, dataset)
    return {WHOLE_FILE if partition == WHOLE else partition: digest for partition, digest in published.items()}


def _landed_rows(stores: PlatformStores, dataset: str) -> "dict[str, sa.Row[tuple[object, ...]]]":
    with stores.state.read() as connection:
        rows = connection.execute(sa.select(landed_files).where(landed_files.c.dataset == dataset)).all()
    return {str(row.name): row for row in rows}


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _copy_and_empty(path: Path) -> None:
    shutil.copy2(path, path.with_name(f"{path.name}.1"))
    _empty(path)


def _landed_removal(stores: PlatformStores, dataset: str, path: Path, modified_ns: int) -> Callable[[], bool]:
    def remove() -> bool:
        if not path.exists() or path.stat().st_mtime_ns != modified_ns:
            return False  # it landed again
        with stores.state.write() as connection:
            same = (landed_files.c.dataset == dataset) & (landed_files.c.name == path.name)
            connection.execute(sa.delete(landed_files).where(same))
        path.unlink()
        return True

    return remove


def _searches(path: Path) -> list[tuple[str, datetime | None]]:
    """Return name and time of the last trial of each search; Optuna stores local times."""
    query = (
        "SELECT study_name, max(coalesce(datetime_complete, datetime_start)) FROM studies "
        "LEFT JOIN trials USING (study_id) GROUP BY study_name ORDER BY study_name"
    )
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute(query).fetchall()
    except sqlite3.DatabaseError as error:
        raise SearchFileError(
            f"Hyperparameter searches in {path}",
            expected="a database of Optuna",
            found=str(error),
            fix="Delete the file: the next search of this trainer starts again.",
        ) from error
    return [(name, datetime.fromisoformat(last).astimezone(UTC) if last else None) for name, last in rows]


def _search_removal(path: Path, name: str) -> Callable[[], None]:
    def remove() -> None:
        import optuna

        optuna.delete_study(study_name=name, storage=f"sqlite:///{path}")

    return remove
