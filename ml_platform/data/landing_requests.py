"""The requests for runs that read landed files, and what became of each: published, broken, or to be tried again."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from ml_platform.data.landing_index import LandedContent, files_of
from ml_platform.data.read_attempts import Attempt, RunStates
from ml_platform.errors import listed
from ml_platform.state.cursors import cursors_below, delete_cursors, write_cursor
from ml_platform.state.schema import contract_results, landed_files
from ml_platform.state.store import StateStore

EARLIER_RELEASE = 0
"""Tick of requests that an earlier release made; it recorded no outcome, so they are not tried again."""


TICKS_IN_QUERY = 1_000
"""Most requests that a query names; of more, those of all ticks are looked at."""


@dataclass
class Outstanding:
    """The contents that were requested and are not in the table.

    ``again`` maps those that are due to the number of their attempt; ``reasons`` says of each other one why it is not.
    """

    again: dict[LandedContent, int] = field(default_factory=dict)
    reasons: dict[LandedContent, str] = field(default_factory=dict)

    def describe(self) -> str:
        """Return the contents that are not read now, by reason, in one sentence; empty without any."""
        counts = Counter(self.reasons.values())
        parts = []
        for reason in counts:
            names = [each.partition or each.name for each in self.reasons if self.reasons[each] == reason]
            parts.append(f"{listed(names)} ({reason})")
        return f"Not in the table: {'; '.join(parts)}." if parts else ""


def request_name(dataset: str, tick: int) -> str:
    """Return the name of the request of a sensor tick, which the tags of its runs have."""
    return f"{dataset}/{tick}"


def record_request(
    state: StateStore, dataset: str, attempts: Mapping[LandedContent, int], tick: int, now: float, code_version: str
) -> None:
    """Record that the sensor tick ``tick`` requested runs for the contents of ``attempts``, by number of the attempt.

    ``now`` is POSIX time in seconds. A change of ``code_version`` is a reason to try a broken content again.
    """
    table, columns = landed_files, landed_files.c
    with state.write() as connection:
        connection.execute(
            sa.update(table)
            .where(columns.dataset == dataset, columns.name == sa.bindparam("of"))
            .values(requested_sha256=sa.bindparam("digest"), requested_tick=tick),
            [{"of": each.name, "digest": each.sha256} for each in attempts],
        )
        further = {each.name: number for each, number in attempts.items() if number > 1}
        record = {"at": now, "attempts": further, "code_version": code_version}
        write_cursor(state, _prefix(dataset) + str(tick), record)


def outstanding(
    state: StateStore, dataset: str, confirmed_tick: int, code_version: str, now: float, run_state: RunStates
) -> Outstanding:
    """Return the requested contents that are not published, and what follows for each.

    Requests count up to ``confirmed_tick``. Records of earlier requests without such contents are deleted.
    """
    found, records = Outstanding(), cursors_below(state, _prefix(dataset))
    states: dict[str, str] = {}
    open_ticks = set()

    def known_state(request: str) -> str:
        if request not in states:
            states[request] = run_state(request)
        return states[request]

    for content, tick, broken in _unpublished(state, dataset, confirmed_tick, [int(name) for name in records]):
        open_ticks.add(str(tick))
        record = records.get(str(tick), {"at": 0.0, "attempts": {}, "code_version": None})
        attempt = Attempt(record["attempts"].get(content.name, 1), record["at"], request_name(dataset, tick))
        outcome = "broken" if broken else attempt.outcome(now, known_state)  # type: ignore[arg-type]
        if tick == EARLIER_RELEASE:
            found.reasons[content] = "requested by an earlier release; materialize it to read it"
        elif outcome in ("broken", "given up") and record["code_version"] not in (None, code_version):
            found.again[content] = 1
        elif outcome == "again":
            found.again[content] = attempt.number + 1
        elif broken:
            found.reasons[content] = f"check '{broken}' failed"
        else:
            found.reasons[content] = attempt.describe(outcome)  # type: ignore[arg-type]
    ended = [name for name in records if name not in open_ticks and int(name) <= confirmed_tick]
    delete_cursors(state, [_prefix(dataset) + name for name in ended])
    return found


def lost_attempts(state: StateStore, dataset: str, tick: int, contents: Sequence[LandedContent]) -> dict[str, int]:
    """Return the numbers of further attempts that ``tick`` requested before Dagster lost it, by file name."""
    record = cursors_below(state, _prefix(dataset)).get(str(tick), {"attempts": {}})
    names = {each.name for each in contents}
    return {name: number for name, number in record["attempts"].items() if name in names}


def _prefix(dataset: str) -> str:
    return f"landing_requests/{dataset}/"


def _unpublished(
    state: StateStore, dataset: str, confirmed_tick: int, recorded: Sequence[int]
) -> list[tuple[LandedContent, int, str | None]]:
    """Return each requested content that is not published, with its tick and the check that it broke, if any.

    Only requests of the ``recorded`` ticks and of earlier releases are looked at: a record is deleted once all contents
    of its request are published, so that the cost does not grow with the published ones.
    """
    file, result = landed_files.c, contract_results.c
    same_partition = sa.and_(result.dataset == file.dataset, result.partition == file.partition)
    # A failure that was adopted from an earlier release names no file.
    broken = sa.and_(
        result.failed_check.is_not(None),
        sa.or_(result.failed_landed_sha256.is_(None), result.failed_landed_sha256 == file.sha256),
    )
    query = (
        sa.select(
            file.name,
            file.partition,
            file.sha256,
            file.size_bytes,
            file.requested_tick,
            sa.case((broken, result.failed_check)).label("broken"),
        )
        .select_from(landed_files.outerjoin(contract_results, same_partition))
        .where(
            file.requested_sha256 == file.sha256,
            file.requested_tick <= confirmed_tick,
            file.requested_tick.in_([EARLIER_RELEASE, *recorded]) if len(recorded) < TICKS_IN_QUERY else sa.true(),
            sa.or_(result.passed_landed_sha256.is_(None), result.passed_landed_sha256 != file.sha256),
        )
    )
    with state.read() as connection:
        found = [
            (
                LandedContent(row.name, row.partition or None, row.sha256, row.size_bytes),
                row.requested_tick,
                row.broken,
            )
            for row in connection.execute(query.where(files_of(connection, dataset)))
        ]
    return sorted(found, key=lambda each: (each[0].partition or "", each[0].name))
