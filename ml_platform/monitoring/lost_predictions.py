"""Predictions that services answered and that are in no log file: dropped by a full queue, or lost by a killed process.

Each writer counts its rows in a file (:mod:`ml_platform.data.answer_counts`). The counts of a writer that has ended are
added to a cursor once, and its file is removed.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from ml_platform.data.answer_counts import SUFFIX, read_counts
from ml_platform.state.cursors import read_cursor, write_cursor
from ml_platform.state.store import StateStore


class LostPredictions(BaseModel):
    """Predictions of one model that were answered and not logged, since the counting began."""

    model_config = ConfigDict(frozen=True)

    lost: int = Field(description="Predictions that killed services had answered and not written yet.")
    dropped: int = Field(description="Predictions that services did not write, because the queue or the disk was full.")


def count_lost_predictions(state: StateStore, model: str, folder: Path) -> LostPredictions:
    """Return the counts for the services of ``model`` that log to ``folder``, and remove the files of ended ones.

    A killed removal counts no writer twice: the cursor names the writers whose files are still there.
    """
    name = f"lost_predictions/{model}"
    total = read_cursor(state, name) or {"lost": 0, "dropped": 0, "counted": []}
    lost, dropped, counted, dropped_now = total["lost"], total["dropped"], set(total["counted"]), 0
    ended = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        counts = read_counts(path)
        if counts is None:
            continue
        if not counts.ended:
            dropped_now += counts.dropped
            continue
        ended.append(path)
        if path.name not in counted:
            lost += counts.unwritten
            dropped += counts.dropped
    if ended:
        value = {"lost": lost, "dropped": dropped, "counted": [path.name for path in ended]}
        write_cursor(state, name, value)
        for path in ended:
            path.unlink(missing_ok=True)
    return LostPredictions(lost=lost, dropped=dropped + dropped_now)
