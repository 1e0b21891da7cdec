"""The streams that the rollout of each model declared last, in the state store.

They belong to the endpoint and not to a version: a rollback changes who answers, not the requests.
"""

from collections.abc import Sequence
from typing import Any

from ml_platform.serving.streams.message_stream import MessageStream
from ml_platform.state.cursors import cursors_below, delete_cursors, read_cursor, write_cursor
from ml_platform.state.store import StateStore

CURSOR_PREFIX = "streams/"


def store_streams(state: StateStore, model: str, streams: Sequence[MessageStream]) -> None:
    """Replace the streams of ``model``, in the transaction that is open, if one is."""
    values = [each.model_dump(mode="json") for each in streams]
    if not values:
        delete_cursors(state, [f"{CURSOR_PREFIX}{model}"])
    elif read_cursor(state, f"{CURSOR_PREFIX}{model}") != values:
        write_cursor(state, f"{CURSOR_PREFIX}{model}", values)


def stored_streams(state: StateStore) -> dict[str, list[dict[str, Any]]]:
    """Return the settings of the streams by model; models without any are left out."""
    return cursors_below(state, CURSOR_PREFIX)


def rename_streams(state: StateStore, old: str, new: str) -> None:
    """Let the streams of ``old`` ask ``new``, in the transaction that is open, if one is."""
    values = read_cursor(state, f"{CURSOR_PREFIX}{old}")
    if values is not None:
        write_cursor(state, f"{CURSOR_PREFIX}{new}", values)
        delete_cursors(state, [f"{CURSOR_PREFIX}{old}"])
