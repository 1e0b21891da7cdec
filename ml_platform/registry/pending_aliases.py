"""Notes in the state store of the models whose aliases in MLflow have to follow a decision.

A note is written in the transaction of the decision and deleted when the aliases are set, so a decision needs no
MLflow and a kill between the two loses nothing. Opening the registry reads the notes and sets the aliases.
"""

from ml_platform.state.cursors import cursors_below, delete_cursors, read_cursor, write_cursor
from ml_platform.state.store import StateStore

CURSOR_PREFIX = "pending_aliases/"


def note_pending_aliases(state: StateStore, model: str, sequence: int) -> None:
    """Note that the audit record ``sequence`` changed the champion of ``model``; joins the open transaction."""
    write_cursor(state, f"{CURSOR_PREFIX}{model}", sequence)


def aliases_are_set(state: StateStore, model: str, sequence: int | None = None) -> None:
    """Delete the note of ``model`` if it is about the audit record ``sequence`` or an earlier one; None: any record."""
    name = f"{CURSOR_PREFIX}{model}"
    if read_cursor(state, name) is None:
        return
    with state.write():
        noted = read_cursor(state, name)
        if noted is not None and (sequence is None or noted <= sequence):
            delete_cursors(state, [name])


def models_with_pending_aliases(state: StateStore) -> list[str]:
    """Return the models whose aliases in MLflow have to follow a decision, sorted; usually none."""
    return sorted(cursors_below(state, CURSOR_PREFIX))
