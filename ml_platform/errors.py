"""The one shape of every error that a user of the platform sees: the thing, expected, found, and the mend."""

import difflib
from collections.abc import Iterable


class PlatformError(Exception):
    """Raised when the platform refuses to go on.

    The message reads ``<thing>: expected <expected>, found <found>. <mend>``; the four parts stay readable as
    attributes for callers that show them apart.
    """

    def __init__(self, thing: str, *, expected: str, found: str, mend: str) -> None:
        self.thing = thing
        self.expected = expected
        self.found = found
        self.mend = mend
        super().__init__(thing, expected, found, mend)

    def __str__(self) -> str:
        return f"{self.thing}: expected {self.expected}, found {self.found}. {self.mend}"

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling between worker processes.
        return _rebuild, (type(self), self.thing, self.expected, self.found, self.mend)


def _rebuild(kind: type[PlatformError], thing: str, expected: str, found: str, mend: str) -> PlatformError:
    return kind(thing, expected=expected, found=found, mend=mend)


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the candidate nearest to ``name``, or ``""`` when none is near."""
    near = difflib.get_close_matches(name, list(candidates), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Return ``"'a', 'b', … and 3 more"``: long lists capped at ``limit`` names."""
    every = [f"'{name}'" for name in names]
    more = f" … and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(every[:limit]) + more if every else "none"
