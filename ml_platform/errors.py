"""The base class of the platform's errors: each message names the subject, what was expected and found, and the fix."""

import difflib
import re
from collections.abc import Iterable


class PlatformError(Exception):
    """Base of all errors that the platform raises on purpose.

    The message reads ``<subject>: expected <expected>, found <found>. <fix>``. The four parts are attributes too, for
    callers that show them separately.
    """

    def __init__(self, subject: str, *, expected: str, found: str, fix: str) -> None:
        self.subject = subject
        self.expected = expected
        self.found = found
        self.fix = fix
        super().__init__(subject, expected, found, fix)

    def __str__(self) -> str:
        end = "" if self.found.endswith((".", "?", "!")) else "."
        return f"{self.subject}: expected {self.expected}, found {self.found}{end} {self.fix}"

    def __reduce__(self) -> tuple[object, ...]:
        # The default pickling between worker processes loses keyword-only arguments. The attributes of a subclass are
        # copied, because its arguments may differ.
        return _rebuild, (type(self), self.subject, self.expected, self.found, self.fix), self.__dict__


def _rebuild(kind: type[PlatformError], subject: str, expected: str, found: str, fix: str) -> PlatformError:
    error = kind.__new__(kind)
    PlatformError.__init__(error, subject, expected=expected, found=found, fix=fix)
    return error


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the candidate closest to ``name``, or ``""`` when none is close."""
    near = difflib.get_close_matches(name, list(candidates), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def without_password(address: str) -> str:
    """Return ``address`` with its password masked, for messages.

    >>> without_password("redis://app:secret@host:6379/0")
    'redis://app:***@host:6379/0'
    """
    return re.sub(r"(?<=:)[^:@/]+(?=@)", "***", address)


def listed(names: Iterable[str], limit: int = 5) -> str:
    """Return the quoted names as ``"'a', 'b' … and 3 more"``, at most ``limit`` of them; ``"none"`` without names."""
    quoted = [f"'{name}'" for name in names]
    more = f" … and {len(quoted) - limit} more" if len(quoted) > limit else ""
    return ", ".join(quoted[:limit]) + more if quoted else "none"
