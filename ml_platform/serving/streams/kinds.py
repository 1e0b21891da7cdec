"""The kinds of streams that a declaration may name."""

from typing import Annotated, Any

from pydantic import Discriminator, SerializeAsAny, Tag

from ml_platform.data.extensions import is_reference
from ml_platform.serving.streams.message_stream import MessageStream
from ml_platform.serving.streams.nats_stream import NatsStream


def _tag(given: Any) -> str:
    is_own = is_reference(given) and not isinstance(given, NatsStream)
    return "own" if is_own else "nats"


DeclaredStream = Annotated[
    Annotated[NatsStream, Tag("nats")] | Annotated[SerializeAsAny[MessageStream], Tag("own")], Discriminator(_tag)
]
"""A stream in a declaration: NATS, or a class of a team's own by ``type: package.module:Class``."""
