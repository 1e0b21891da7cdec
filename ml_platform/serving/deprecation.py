"""How an endpoint says that it will end: two headers of each answer, and a mark in its OpenAPI document."""

from datetime import UTC, date, datetime, time
from email.utils import format_datetime
from typing import Self

from pydantic import Field, model_validator

from ml_platform.data.settings import Settings


class Deprecation(Settings):
    """The attribute `deprecated` of a model whose endpoint is to end."""

    since: date = Field(description="Day from which apps should use another endpoint (UTC).")
    sunset: date | None = Field(default=None, description="Day on which the endpoint may end (UTC); null: not decided.")
    link: str | None = Field(
        default=None, pattern=r"^https?://[!-;=?-~]+$", description="Address of a page that says what to use instead."
    )

    @model_validator(mode="after")
    def _ends_later(self) -> Self:
        if self.sunset is not None and self.sunset <= self.since:
            raise ValueError(f"deprecated.sunset: expected a day after since ({self.since}), found {self.sunset}")
        return self

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of each answer: `deprecation` (RFC 9745), `sunset` (RFC 8594) and `link`."""
        found = [(b"deprecation", f"@{_start(self.since).timestamp():.0f}")]
        if self.sunset is not None:
            found.append((b"sunset", format_datetime(_start(self.sunset), usegmt=True)))
        if self.link is not None:
            found.append((b"link", f'<{self.link}>; rel="deprecation"'))
        return [(name, text.encode()) for name, text in found]


def _start(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
