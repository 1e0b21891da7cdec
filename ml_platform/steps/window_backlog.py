"""Windows that close together: those that still wait for an evaluation, and the record of those that are left out.

The backlog begins after the last window with a verdict, or after the last one that was left out, or on which the
retraining policy decided not to train. A model without any of them has none: it begins with its newest closed window.
"""

from collections.abc import Iterable
from datetime import datetime

from ml_platform.monitoring.retraining_records import last_declined_window
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.verdict_record import last_judged_partition
from ml_platform.state.cursors import read_cursor, write_cursor
from ml_platform.state.store import StateStore
from ml_platform.steps.closed_window import window_ends
from ml_platform.steps.model import BoundModel

WINDOW_SKIPPED = "window_skipped"
"""Kind of the audit record of a closed window that is never evaluated."""

REASON = "It closed together with {newest}, and 'retraining.on_backlog' is newest."


def backlog(model: BoundModel, windows: Iterable[str], newest: str, state: StateStore) -> list[str]:
    """Return those of ``windows``, in order, that wait for an evaluation and are before the window ``newest``.

    Three rows of the store are read, however old the model is.
    """
    scheme, last = model.partitions, _last_considered(model, state)
    if last is None:
        return []
    # Keys of time of one cadence are in order as text.
    return scheme.sort(key for key in windows if last < key < newest)


def record_skipped(model: BoundModel, newest: str, audit: AuditLog, now: datetime) -> list[str]:
    """Record each window of the backlog before ``newest`` as left out, once, and return these windows in order."""
    scheme, last = model.partitions, _last_considered(model, audit.state)
    if last is None or not last < newest:
        return []
    skipped = window_ends(model, scheme.between(last, newest)[1:-1])
    with audit.state.write():
        for key in skipped:
            facts = {"model": model.name, "partition": key, "reason": REASON.format(newest=newest)}
            audit.append(WINDOW_SKIPPED, actor="retraining", at=now, facts=facts)
        if skipped:
            write_cursor(audit.state, _cursor(model), skipped[-1])
    return skipped


def _last_considered(model: BoundModel, state: StateStore) -> str | None:
    """Return the last window with a verdict, or the last one that was left out or declined; None without any.

    None too after a change of the cadence, because its keys cannot be compared.
    """
    found = [
        last_judged_partition(state, model.name),
        read_cursor(state, _cursor(model)),
        last_declined_window(state, model.name),
    ]
    scheme = model.partitions
    return max((key for key in found if key is not None and scheme.is_timed and scheme.names_key(key)), default=None)


def _cursor(model: BoundModel) -> str:
    return f"skipped_windows/{model.name}"
