"""The file with the state of the streams, which the consumer process writes, and status and doctor read."""

import json
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from ml_platform.data.atomic import write_json
from ml_platform.serving.streams.declared_streams import stored_streams
from ml_platform.state.store import StateStore

STATUS_FILE = "streams.json"
SILENT_SECONDS = 20.0
"""Age of the file after which the process counts as stopped; it writes the file every second or two."""


class StreamStatus(BaseModel):
    """One stream of a model, with counts since the process started."""

    stream: str = Field(description="Subject and server.")
    state: Literal["consuming", "away", "waiting"] = Field(
        description="consuming; away: the stream cannot be used; waiting: the endpoint does not answer now."
    )
    problem: str | None = Field(default=None, description="Reason of a state other than consuming.")
    waiting: int | None = Field(default=None, description="Requests in the stream that are not answered yet.")
    in_flight: int = Field(default=0, description="Requests whose answer is awaited now.")
    answered: int = Field(default=0, description="Answers that were published.")
    refused: int = Field(default=0, description="Requests that went to the dead letters.")
    put_back: int = Field(default=0, description="Deliveries that the stream got back, to deliver them again.")
    dead_letters: int | None = Field(default=None, description="Refused requests that the stream holds.")

    @property
    def text(self) -> str:
        """The status in one line."""
        waiting = "an unknown number" if self.waiting is None else f"{self.waiting:,}"
        letters = "" if not self.dead_letters else f", {self.dead_letters:,} dead letters"
        counts = f"{waiting} waiting, {self.in_flight} in flight, {self.answered:,} answered{letters}"
        return f"{self.stream}: {counts}" if self.problem is None else f"{self.stream}: {self.problem} ({counts})"


def write_stream_status(run: Path, streams: dict[str, list[StreamStatus]]) -> None:
    """Replace the status of the streams, by model."""
    values = {model: [each.model_dump() for each in found] for model, found in streams.items()}
    write_json(run / STATUS_FILE, {"at": time.time(), "streams": values})


def stream_lines(state: StateStore, run: Path) -> dict[str, list[str]]:
    """Return one line for each declared stream, by model, also while nothing consumes it."""
    found = read_stream_status(run, time.time()) or {}
    return {
        model: [each.text for each in found[model]]
        if model in found
        else [f"{each.get('requests')}: not consumed; start the platform with `ml-platform up`" for each in declared]
        for model, declared in stored_streams(state).items()
    }


def read_stream_status(run: Path, now: float) -> dict[str, list[StreamStatus]] | None:
    """Return the status of the streams by model; None when their process does not run.

    ``now`` is in seconds since 1970.
    """
    try:
        stored: dict[str, Any] = json.loads((run / STATUS_FILE).read_text())
        if now - stored["at"] > SILENT_SECONDS:
            return None
        return {
            model: [StreamStatus.model_validate(each) for each in found] for model, found in stored["streams"].items()
        }
    except (OSError, ValueError, KeyError, ValidationError):
        return None
