"""A function of one's own as a source, for example of an HTTP API."""

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field

from ml_platform.data.references import load_function
from ml_platform.data.settings import Settings
from ml_platform.data.sources.source import Slice, SourceAwayError, SourceError, declared_of

TOO_MANY_REQUESTS = 429
"""Status of an HTTP answer that asks for another attempt later."""

UNKNOWN = "not watched"
"""Fingerprint of a source that cannot tell whether it changed."""


class FunctionSource(Settings):
    """Rows that a function returns; it reads its credentials from the environment."""

    type: Literal["function"] = Field(description="Kind of the source.")
    function: str = Field(
        description="package.module:function(partition, start, end) that returns a Polars DataFrame.",
        pattern=r"^[\w.]+:\w+$",
    )
    fingerprint_function: str | None = Field(
        default=None,
        description="package.module:function(partition, start, end) that returns a text that changes with the rows, or "
        "None where there are none; none: a partition is read once.",
        pattern=r"^[\w.]+:\w+$",
    )

    def describe(self) -> str:
        return f"the function {self.function}"

    def fingerprint(self, part: Slice) -> str | None:
        if self.fingerprint_function is None:
            return UNKNOWN
        found = self._call(self.fingerprint_function, part)
        return None if found is None else str(found)

    def read(self, part: Slice, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
        found = self._call(self.function, part)
        if not isinstance(found, pl.DataFrame):
            raise SourceError(
                f"Function '{self.function}'",
                expected="a Polars DataFrame",
                found=type(found).__name__,
                fix="Return the collected table.",
            )
        return declared_of(found, columns)

    def _call(self, reference: str, part: Slice) -> Any:
        import httpx

        try:
            return load_function(reference)(part.partition, part.start, part.end)
        except SourceError:
            raise
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            kind = SourceAwayError if status >= 500 or status == TOO_MANY_REQUESTS else SourceError
            raise _call_error(kind, reference, part, error, f"status {status}") from None
        except (OSError, httpx.TransportError) as error:
            raise _call_error(SourceAwayError, reference, part, error) from None
        except Exception as error:
            raise _call_error(SourceError, reference, part, error) from None


def _call_error(
    kind: type[SourceError], reference: str, part: Slice, error: Exception, status: str = ""
) -> SourceError:
    # Only the type and the place: messages of HTTP libraries repeat the address, which may have a token.
    frames = traceback.extract_tb(error.__traceback__)
    place = frames[1] if len(frames) > 1 else frames[0]
    return kind(
        f"Function '{reference}', {part}",
        expected="rows",
        found=f"{type(error).__name__} in line {place.lineno} of {Path(place.filename).name}"
        + (f", {status}" if status else ""),
        fix="Call the function in a Python shell to see the cause.",
    )
