"""The results of the contract checks of each partition, in the state store.

A partition is published only after its checks passed, in the same transaction as this record. The contract gate of an
evaluation compares the record with the catalog of the lake, so rows from another source are noticed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from ml_platform.data.lake import Lake
from ml_platform.state.cursors import cursors_below, delete_cursors, write_cursor
from ml_platform.state.schema import WHOLE, contract_results
from ml_platform.state.store import StateStore, now_text

ADOPTION = "landed_files_of_dagster/"
"""Prefix of the cursor of a migrated dataset whose landed files are still to be read from Dagster."""


def record_passed(
    state: StateStore, dataset: str, partition: str | None, *, content_digest: str, landed_sha256: str | None
) -> None:
    """Record that the rows with ``content_digest`` passed all checks; an earlier failure of the partition is over."""
    values = {
        "passed_digest": content_digest,
        "passed_landed_sha256": landed_sha256,
        "passed_at": now_text(),
        "failed_check": None,
        "failed_landed_sha256": None,
        "failed_at": None,
    }
    _record(state, dataset, partition, values)


def record_changed_rows(state: StateStore, dataset: str, digests: Mapping[str, tuple[str, str]]) -> None:
    """Record, by partition, that rows with the first digest became those with the second, which pass all checks too.

    A partition whose rows had not passed stays without a pass.
    """
    table = contract_results
    with state.write() as connection:
        for partition, (before, after) in digests.items():
            same = (table.c.dataset == dataset) & (table.c.partition == partition) & (table.c.passed_digest == before)
            connection.execute(sa.update(table).where(same).values(passed_digest=after))


def record_failed(
    state: StateStore, dataset: str, partition: str | None, *, check: str, landed_sha256: str | None
) -> None:
    """Record that ``check`` failed; the rows that passed before stay published."""
    values = {"failed_check": check, "failed_landed_sha256": landed_sha256, "failed_at": now_text()}
    _record(state, dataset, partition, values)


@dataclass(frozen=True)
class ContractResult:
    """The last results of the checks of a partition ("": no partitions); None: the checks never passed, or none fails.

    Times are ISO 8601 in UTC.
    """

    partition: str
    passed_at: str | None
    failed_check: str | None


def latest_result(state: StateStore, dataset: str) -> ContractResult | None:
    """Return the results of the last partition of ``dataset`` by name; None when none was materialized."""
    table = contract_results
    query = (
        sa.select(table.c.partition, table.c.passed_at, table.c.failed_check)
        .where(table.c.dataset == dataset)
        .order_by(table.c.partition.desc())
        .limit(1)
    )
    with state.read() as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else ContractResult(*row)


def contract_counts(state: StateStore, dataset: str) -> tuple[int, int]:
    """Return the number of partitions of ``dataset`` whose checks passed, and of those of which one fails now."""
    column = contract_results.c
    query = sa.select(
        sa.func.count(column.passed_at).filter(column.failed_check.is_(None)), sa.func.count(column.failed_check)
    ).where(column.dataset == dataset)
    with state.read() as connection:
        passed, failed = connection.execute(query).one()
    return int(passed), int(failed)


def published_files(state: StateStore, dataset: str) -> dict[str, str | None]:
    """Return the digest of the landed file from which each partition was last published (key "": no partitions)."""
    table = contract_results
    query = sa.select(table.c.partition, table.c.passed_landed_sha256).where(
        table.c.dataset == dataset, table.c.passed_digest.is_not(None)
    )
    with state.read() as connection:
        return {row.partition: row.passed_landed_sha256 for row in connection.execute(query)}


def passed_rows(lake: Lake, dataset: str) -> dict[str, tuple[str, str | None]]:
    """Return the digests of the rows and of the landed file of each partition whose current rows passed all checks.

    The key is empty for a table without partitions.
    """
    stored = {partition or WHOLE: digest for partition, digest in lake.digests(f"datasets/{dataset}").items()}
    table = contract_results
    query = sa.select(table.c.partition, table.c.passed_digest, table.c.passed_landed_sha256)
    with lake.state.read() as connection:
        rows = connection.execute(query.where(table.c.dataset == dataset)).all()
    return {
        row.partition: (row.passed_digest, row.passed_landed_sha256)
        for row in rows
        if row.passed_digest is not None and stored.get(row.partition) == row.passed_digest
    }


def await_adoption(state: StateStore, dataset: str) -> None:
    """Record that an earlier release published ``dataset``: its landed files are known to Dagster only."""
    write_cursor(state, ADOPTION + dataset, True)


def awaiting_adoption(state: StateStore) -> list[str]:
    """Return the names of the datasets whose landed files are still to be read from Dagster."""
    return sorted(cursors_below(state, ADOPTION))


def end_adoption(state: StateStore, dataset: str) -> None:
    """Record that the landed files of ``dataset`` are known."""
    delete_cursors(state, [ADOPTION + dataset])


def broken_contracts(
    lake: Lake, datasets: Iterable[str], is_read: Callable[[str, str], bool] = lambda _dataset, _partition: True
) -> list[str]:
    """Return one message per partition with a broken contract, by dataset.

    ``is_read`` says of dataset and partition whether it counts; by default all count.

    A partition must meet two conditions: the lake contains the rows that passed the checks, and no check has failed for
    a file that landed later.
    """
    return [message for name in sorted(set(datasets)) for message in _broken(lake, name, is_read)]


def _broken(lake: Lake, dataset: str, is_read: Callable[[str, str], bool]) -> list[str]:
    digests = {
        partition or WHOLE: digest
        for partition, digest in lake.digests(f"datasets/{dataset}").items()
        if partition is None or is_read(dataset, partition)
    }
    if not digests:
        return [f"{dataset}: no rows are published"]
    query = sa.select(contract_results).where(contract_results.c.dataset == dataset)
    with lake.state.read() as connection:
        results = {row.partition: row for row in connection.execute(query)}
    messages = []
    for partition, digest in digests.items():
        result = results.get(partition)
        subject = f"{dataset} {partition}".rstrip()
        if result is None or result.passed_digest is None:
            messages.append(f"{subject}: no passed contract check is recorded")
        elif result.passed_digest != digest:
            messages.append(
                f"{subject}: contains rows {digest[:12]}, but the checks passed for {result.passed_digest[:12]}"
            )
        elif result.failed_check is not None:
            messages.append(f"{subject}: check '{result.failed_check}' failed for a later landed file")
    return messages


def _record(state: StateStore, dataset: str, partition: str | None, values: dict[str, str | None]) -> None:
    table, name = contract_results, WHOLE if partition is None else partition
    with state.write() as connection:
        updated = connection.execute(
            sa.update(table).where(table.c.dataset == dataset, table.c.partition == name).values(**values)
        )
        if not updated.rowcount:
            connection.execute(sa.insert(table).values(dataset=dataset, partition=name, **values))
