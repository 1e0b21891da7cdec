"""The protocol of streams: requests come from a stream, and answers and refused requests go back to it.

A stream delivers at least once. It must give a message again that was neither confirmed nor returned, also after its
consumer was killed, and should drop a second message with the same id.
"""

import os
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol, Self

from pydantic import ConfigDict, Field, model_validator

from ml_platform.data.extensions import Extension
from ml_platform.errors import PlatformError

VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
Variable = Annotated[str, Field(pattern=VARIABLE)]
"""Name of an environment variable."""

NAME = r"^[^\s$]+$"


class StreamError(PlatformError):
    """Raised when a stream cannot be used as it is declared; another attempt fails in the same way."""


class StreamAwayError(StreamError):
    """Raised when a stream does not answer; another attempt may succeed."""


@dataclass(frozen=True)
class Backlog:
    """Requests that wait in a stream, and refused ones; None where the stream does not count them."""

    waiting: int | None
    dead_letters: int | None


class StreamMessage(Protocol):
    """A request that was taken from a stream, until it is confirmed or returned."""

    @property
    def id(self) -> str:
        """The id of the request: the sender's, or one that is the same whenever this message is delivered."""
        ...

    @property
    def payload(self) -> bytes:
        """The request: JSON with one row, or with ``rows``."""
        ...

    @property
    def attempt(self) -> int:
        """How often the message was delivered, this time included."""
        ...

    async def confirm(self) -> None:
        """Tell the stream that the message is done with."""
        ...

    async def put_back(self, delay_seconds: float) -> None:
        """Let the stream deliver the message again after ``delay_seconds``."""
        ...


class StreamConnection(Protocol):
    """An open connection to a stream. Its methods raise :class:`StreamAwayError` when the connection is lost."""

    @property
    def max_bytes(self) -> int:
        """Largest message that the stream accepts."""
        ...

    async def pull(self, limit: int) -> Sequence[StreamMessage]:
        """Return up to ``limit`` messages; none when none came within about a second."""
        ...

    async def publish(self, subject: str, payload: bytes, message_id: str) -> None:
        """Return once the stream has stored ``payload`` under ``subject``, or has a message with this id already."""
        ...

    async def backlog(self) -> Backlog:
        """Return what the stream holds."""
        ...

    async def close(self) -> None:
        """Close the connection; messages that were not confirmed are delivered again."""
        ...


class MessageStream(Extension):
    """A stream with requests for a model.

    A message is one row as a JSON object, or ``{"rows": [...]}`` like a request to the endpoint.
    """

    model_config = ConfigDict(frozen=True)

    kind: ClassVar[str] = "stream"

    requests: str = Field(pattern=NAME, description="Subject or topic with the requests.")
    results: str = Field(pattern=NAME, description="Subject or topic for the answers.")
    dead_letters: str = Field(pattern=NAME, description="Subject or topic for refused requests, with their errors.")
    consumer: str = Field(
        pattern=r"^[A-Za-z0-9_-]{1,200}$",
        description="Name of the durable consumer, or of the consumer group, which remembers what was answered.",
    )
    key: Variable | None = Field(
        default=None, description="Environment variable with the API key for the gateway; none: it needs no key."
    )
    in_flight: int = Field(default=16, ge=1, le=1000, description="Requests that are sent to the endpoint at once.")
    attempts: int = Field(
        default=5, ge=1, description="Failures of the service on a request after which it is refused."
    )
    timeout_seconds: float = Field(default=30.0, gt=0, le=300, description="Longest wait for an answer.")

    @model_validator(mode="after")
    def _answers_are_no_requests(self) -> Self:
        for name in ("results", "dead_letters"):
            if is_in_subject(getattr(self, name), self.requests):
                raise ValueError(f"{name}: '{getattr(self, name)}' is among the requests, '{self.requests}'")
        return self

    @abstractmethod
    async def connect(self, model: str) -> StreamConnection:
        """Return an open connection for the requests of ``model``.

        Raises :class:`StreamAwayError` when the stream does not answer, and :class:`StreamError` when it is declared
        wrongly. Variables with credentials are read here.
        """

    @property
    def describe(self) -> str:
        """The stream in one word for messages and `ml-platform status`, without credentials."""
        return self.requests


def is_in_subject(subject: str, pattern: str) -> bool:
    """Return whether the subject ``pattern`` contains ``subject``; ``*`` stands for one part, ``>`` for all others.

    >>> is_in_subject("flights.answers", "flights.>"), is_in_subject("flights.answers", "flights.requests")
    (True, False)
    """
    parts = [{"*": r"[^.]+", ">": r".+"}.get(part, re.escape(part)) for part in pattern.split(".")]
    return re.fullmatch(r"\.".join(parts), subject) is not None


def variable_value(name: str, used_for: str) -> str:
    """Return the value of the environment variable ``name``. Raises :class:`StreamError` when it is not set."""
    value = os.environ.get(name)
    if not value:
        raise StreamError(
            f"Environment variable {name}",
            expected=used_for,
            found="no value",
            fix=f"Set {name} where `ml-platform up` runs, and start it again.",
        )
    return value
