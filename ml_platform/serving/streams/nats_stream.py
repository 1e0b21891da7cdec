"""Requests from a durable consumer of NATS JetStream, and answers to other subjects of JetStream."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from ml_platform.errors import PlatformError
from ml_platform.serving.streams.message_stream import (
    Backlog,
    MessageStream,
    StreamAwayError,
    StreamConnection,
    StreamError,
    StreamMessage,
    Variable,
    variable_value,
)

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext
    from nats.js.api import ConsumerInfo, StreamInfo

MESSAGE_ID = "Nats-Msg-Id"
"""Header by which JetStream drops a message that it has already."""

CONNECT_SECONDS = 5.0
PULL_SECONDS = 1.0
PENDING_FACTOR = 10
"""Unconfirmed messages for each request in flight: those put back wait without holding up others."""

ID_OVERHEAD_BYTES = 512
"""Bytes of a message that its headers may take: the id of a request has 200 at most."""


class NatsStream(MessageStream):
    """Subjects of NATS JetStream. The streams with these subjects exist; the durable consumer is made."""

    type: Literal["nats"] = Field(default="nats", description="nats, or package.module:Class of a stream of your own.")
    server: str = Field(
        pattern=r"^(\$[A-Za-z_]\w*|(nats|tls)://[^\s@]+)$",
        description="Address, `nats://host:4222` or `tls://host:4222`, or `$` and the variable with it.",
    )
    credentials: dict[Literal["file", "token", "user", "password", "ca"], Variable] = Field(
        default_factory=dict,
        description="Environment variables with the credentials: file (path of a .creds file), token, or user and "
        "password; ca: path of the certificates that the server's is checked against.",
    )
    begin: Literal["all", "new"] = Field(
        default="all", description="Requests that a new consumer gets: all that are stored, or those that come."
    )
    ack_seconds: float = Field(
        default=60.0, ge=1, description="Time after which an unconfirmed request is delivered again."
    )

    @model_validator(mode="after")
    def _answer_comes_in_time(self) -> Self:
        if self.timeout_seconds >= self.ack_seconds:
            raise ValueError(
                f"timeout_seconds: {self.timeout_seconds:g} is not below ack_seconds, {self.ack_seconds:g}: a request "
                "would be delivered again before its answer"
            )
        return self

    @property
    def describe(self) -> str:
        return f"{self.requests} of {self.server}"

    async def connect(self, model: str) -> StreamConnection:
        client = await self._client(model)
        try:
            async with answered_by(self):
                return await self._bound(client)
        except BaseException:
            await client.close()
            raise

    async def _client(self, model: str) -> "Client":
        try:
            import nats
        except ImportError:
            raise StreamError(
                f"Stream {self.describe}",
                expected="the library nats-py",
                found="no module 'nats'",
                fix="Install it: `pip install 'ml-platform[streams]'`.",
            ) from None
        server = variable_value(self.server[1:], "the address of NATS") if self.server[0] == "$" else self.server
        errors: list[Exception] = []

        async def note(error: Exception) -> None:
            errors.append(error)

        # The consumer reconnects by itself, so that its status is true at any time.
        tries = {"allow_reconnect": False, "max_reconnect_attempts": 1, "reconnect_time_wait": 0.1}
        options = {**self._credentials(), **tries, "error_cb": note}
        try:
            connecting = nats.connect(server, name=f"ml_platform {model}", connect_timeout=CONNECT_SECONDS, **options)
            return await asyncio.wait_for(connecting, 2 * CONNECT_SECONDS)
        except (OSError, nats.errors.Error, TimeoutError) as error:
            cause = str(errors[-1] if errors else error) or "no answer"
            raise StreamAwayError(
                f"Stream {self.describe}",
                expected="a NATS server that accepts the connection",
                found=cause.splitlines()[0][:200],
                fix="Start the server, or correct `server` or `credentials`; the consumer tries again.",
            ) from error

    def _credentials(self) -> dict[str, Any]:
        values = {name: variable_value(variable, f"the {name} for NATS") for name, variable in self.credentials.items()}
        names = {"file": "user_credentials"}
        options: dict[str, Any] = {names.get(name, name): each for name, each in values.items() if name != "ca"}
        if "ca" in values:
            options["tls"] = ssl.create_default_context(cafile=values["ca"])
        return options

    async def _bound(self, client: "Client") -> "NatsConnection":
        """Check the streams, make the durable consumer or give it the declared limits, and bind to it."""
        jetstream = client.jetstream()
        requests = await self._stream_with(jetstream, "requests", self.requests)
        results = await self._stream_with(jetstream, "results", self.results)
        refused = await self._stream_with(jetstream, "dead_letters", self.dead_letters)
        for stream in (results, refused):
            window = float(stream.config.duplicate_window or 0)
            if window < self.ack_seconds:
                raise StreamError(
                    f"Stream '{stream.config.name}' of {self.server}",
                    expected=f"a duplicate window of at least ack_seconds, {self.ack_seconds:g} s",
                    found=f"{window:g} s, so that a result could appear twice",
                    fix=f"Run `nats stream edit {stream.config.name} --dupe-window 5m`, or lower ack_seconds.",
                )
        await self._make_consumer(jetstream, str(requests.config.name))
        subscription = await jetstream.pull_subscribe_bind(consumer=self.consumer, stream=requests.config.name)
        return NatsConnection(self, client, jetstream, subscription, str(refused.config.name))

    async def _stream_with(self, jetstream: "JetStreamContext", field: str, subject: str) -> "StreamInfo":
        from nats.js.errors import NotFoundError

        try:
            return await jetstream.stream_info(await jetstream.find_stream_name_by_subject(subject))
        except NotFoundError:
            raise StreamError(
                f"Subject '{subject}' of {self.server}",
                expected="a JetStream stream with it",
                found="none",
                fix=f"Run `nats stream add` with this subject, or correct `{field}`.",
            ) from None

    async def _make_consumer(self, jetstream: "JetStreamContext", stream: str) -> "ConsumerInfo":
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
        from nats.js.errors import NotFoundError

        try:
            config = (await jetstream.consumer_info(stream, self.consumer)).config
        except NotFoundError:
            config = ConsumerConfig(
                name=self.consumer,
                durable_name=self.consumer,
                ack_policy=AckPolicy.EXPLICIT,
                deliver_policy=DeliverPolicy.ALL if self.begin == "all" else DeliverPolicy.NEW,
            )
        declared = config.evolve(
            name=self.consumer,
            filter_subject=self.requests,
            ack_wait=self.ack_seconds,
            max_ack_pending=PENDING_FACTOR * self.in_flight,
            max_deliver=-1,
        )
        return await jetstream.add_consumer(stream, config=declared)


class NatsConnection(StreamConnection):
    """A connection that is bound to the durable consumer."""

    def __init__(
        self,
        settings: NatsStream,
        client: "Client",
        jetstream: "JetStreamContext",
        subscription: "JetStreamContext.PullSubscription",
        dead_letter_stream: str,
    ) -> None:
        self._settings = settings
        self._client = client
        self._jetstream = jetstream
        self._subscription = subscription
        self._dead_letter_stream = dead_letter_stream

    @property
    def max_bytes(self) -> int:
        return self._client.max_payload - ID_OVERHEAD_BYTES

    async def pull(self, limit: int) -> Sequence[StreamMessage]:
        async with answered_by(self._settings):
            self._require_connection()
            try:
                found = await self._subscription.fetch(1, timeout=PULL_SECONDS)
            except TimeoutError:
                self._require_connection()
                return []
            # A request for more than there is would wait for its whole time.
            more = min(limit - 1, found[0].metadata.num_pending)
            if more > 0:
                with suppress(TimeoutError):
                    found += await self._subscription.fetch(more, timeout=PULL_SECONDS)
            return [NatsMessage(self._settings, each) for each in found]

    async def publish(self, subject: str, payload: bytes, message_id: str) -> None:
        async with answered_by(self._settings):
            await self._jetstream.publish(subject, payload, headers={MESSAGE_ID: message_id})

    async def backlog(self) -> Backlog:
        async with answered_by(self._settings):
            consumer = await self._subscription.consumer_info()
            subject = self._settings.dead_letters
            stream = await self._jetstream.stream_info(self._dead_letter_stream, subjects_filter=subject)
            refused = sum((stream.state.subjects or {}).values())
            return Backlog((consumer.num_pending or 0) + (consumer.num_ack_pending or 0), refused)

    async def close(self) -> None:
        if self._client.is_connected:
            with suppress(Exception):  # the last confirmations; without them, messages are delivered again
                await self._client.flush(timeout=1)
        await self._client.close()

    def _require_connection(self) -> None:
        if not self._client.is_connected:
            raise _away(self._settings, str(self._client.last_error or "the connection was closed"))


class NatsMessage(StreamMessage):
    """A message of the durable consumer."""

    def __init__(self, settings: NatsStream, message: "Msg") -> None:
        self._settings = settings
        self._message = message

    @property
    def id(self) -> str:
        given = (self._message.headers or {}).get(MESSAGE_ID)
        metadata = self._message.metadata
        return given or f"{metadata.stream}-{metadata.sequence.stream}"

    @property
    def payload(self) -> bytes:
        return self._message.data

    @property
    def attempt(self) -> int:
        return int(self._message.metadata.num_delivered or 1)

    async def confirm(self) -> None:
        async with answered_by(self._settings):
            await self._message.ack()

    async def put_back(self, delay_seconds: float) -> None:
        async with answered_by(self._settings):
            await self._message.nak(delay=delay_seconds)


@asynccontextmanager
async def answered_by(settings: NatsStream) -> AsyncIterator[None]:
    """Raise :class:`StreamAwayError` in place of an error of the connection."""
    import nats.errors

    try:
        yield
    except PlatformError:
        raise
    except (OSError, TimeoutError, nats.errors.Error) as error:
        raise _away(settings, str(error) or type(error).__name__) from error


def _away(settings: NatsStream, cause: str) -> StreamAwayError:
    return StreamAwayError(
        f"Stream {settings.describe}",
        expected="a connection to NATS",
        found=cause.splitlines()[0][:200],
        fix="Start the server, or correct the streams there; the consumer tries again.",
    )
