"""The plan of a replay and the record of each window: small files in the home, written atomically.

An interrupted replay goes on at the first window without a record.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ml_platform.data.atomic import write_json
from ml_platform.errors import PlatformError
from resources.home import Home

Record = TypeVar("Record", bound=BaseModel)
Policy = Literal["policy", "every_window"]
"""``policy``: as the model declares. ``every_window``: each closed window is trained on."""

FOLDER, PLAN_FILE = "replay", "plan.json"


class ReplayError(PlatformError):
    """Raised when a replay cannot begin or go on."""


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReplayPlan(_Stored):
    """The replay of one home. Going on with another plan would mix two replays."""

    domain: str
    model: str
    policy: Policy
    windows: list[str] = Field(min_length=1)
    incidents: dict[str, str] = Field(default_factory=dict, description="First windows of planted incidents by name.")


class WindowBegun(_Stored):
    """The begin of a window: its requests may have been sent since."""

    window: str
    at: float = Field(description="Wall-clock time in seconds since 1970.")


class WindowSent(_Stored):
    """The requests of a window, all of them answered and logged."""

    window: str
    rows: int = Field(description="Rows in the requests.")
    resent: int = Field(description="Rows that were sent again, because no log had them.")
    seconds: float = Field(description="Time of sending and of waiting for the log.")
    champion: int | None = Field(description="Champion while the requests were sent; none: nothing was served.")


class WindowRecord(_Stored):
    """One replayed window, after all that followed from it has ended."""

    window: str
    sent: WindowSent
    decisions: list[dict[str, Any]] = Field(description="Decisions on retraining, on versions, and on rollouts.")
    alerts: list[dict[str, Any]] = Field(default_factory=list, description="Alerts that opened in the window.")
    drift: dict[str, Any] | None = Field(description="Summary of the drift check; none: not measured.")
    champion: int | None = Field(description="Champion after the window.")
    runs: int = Field(description="Runs of Dagster since the begin of the window.")
    failed_runs: list[str] = Field(description="Ids of those that failed.")
    run_seconds: float = Field(description="Duration of these runs together.")
    training_seconds: float = Field(description="Duration of those that trained.")
    trainings: int
    seconds: float = Field(description="Wall-clock time of the window, interruptions included.")


class ReplayRecords:
    """The files of a replay in ``home``."""

    def __init__(self, home: Home) -> None:
        self.folder = home.root / FOLDER

    def begin(self, plan: ReplayPlan) -> None:
        """Store ``plan``; raises :class:`ReplayError` if the home has another one, whose windows differ at their begin.

        More windows than before continue a replay.
        """
        path = self.folder / PLAN_FILE
        before = self.plan()
        if before is not None:
            shared = min(len(before.windows), len(plan.windows))
            same = before.model_copy(update={"windows": before.windows[:shared]})
            if same != plan.model_copy(update={"windows": plan.windows[:shared]}):
                raise ReplayError(
                    f"Replay in {self.folder.parent}",
                    expected=f"the replay that was begun: {_described(before)}",
                    found=_described(plan),
                    fix="Repeat it with the same arguments, or choose another home with --home.",
                )
        write_json(path, plan.model_dump())

    def plan(self) -> ReplayPlan | None:
        """Return the stored plan; None before the first replay."""
        return _read(self.folder / PLAN_FILE, ReplayPlan)

    def begin_window(self, window: str, at: float) -> tuple[WindowBegun, bool]:
        """Return the begin of ``window``, which is ``at`` unless an earlier attempt began it, and whether one did."""
        path = self.folder / f"{window}.begun.json"
        before = _read(path, WindowBegun)
        if before is not None:
            return before, True
        begun = WindowBegun(window=window, at=at)
        write_json(path, begun.model_dump())
        return begun, False

    def sent(self, window: str) -> WindowSent | None:
        """Return the record of the requests of ``window``; None while some may be missing."""
        return _read(self.folder / f"{window}.sent.json", WindowSent)

    def store_sent(self, sent: WindowSent) -> None:
        """Store that all requests of a window are logged."""
        write_json(self.folder / f"{sent.window}.sent.json", sent.model_dump())

    def window(self, window: str) -> WindowRecord | None:
        """Return the record of ``window``; None until all that followed from it has ended."""
        return _read(self.folder / f"{window}.json", WindowRecord)

    def store_window(self, record: WindowRecord) -> None:
        """Store the record of a window."""
        write_json(self.folder / f"{record.window}.json", record.model_dump(mode="json"))

    def windows(self, plan: ReplayPlan) -> list[WindowRecord]:
        """Return the records of the windows of ``plan`` that were replayed, in order."""
        return [found for each in plan.windows if (found := self.window(each)) is not None]


def windows_between(known: Sequence[str], first: str, last: str, model: str) -> list[str]:
    """Return the windows from ``first`` to ``last`` of the ``known`` ones, which are in order.

    Raises :class:`ReplayError` for an unknown window, and for a last one before the first.

    >>> windows_between(["2013-03", "2013-04", "2013-05"], "2013-04", "2013-05", "late")
    ['2013-04', '2013-05']
    """
    for each in (first, last):
        if each not in known:
            raise ReplayError(
                f"Window '{each}' of '{model}'",
                expected=f"a window from {known[0]} to {known[-1]}" if known else "a declared window",
                found="another name",
                fix="Correct --from or --to.",
            )
    start, end = known.index(first), known.index(last)
    if end < start or not start:
        found = f"{first} to {last}"
        raise ReplayError(
            f"Windows of '{model}'",
            expected=f"--to not before --from, and --from after {known[0]}, with which the first version is made",
            found=found,
            fix="Correct --from or --to.",
        )
    return list(known[start : end + 1])


def _described(plan: ReplayPlan) -> str:
    planted = "".join(f", {name} in {window}" for name, window in sorted(plan.incidents.items()))
    return f"'{plan.model}' by the policy '{plan.policy}', {plan.windows[0]} to {plan.windows[-1]}{planted}"


def _read(path: Path, kind: type[Record]) -> Record | None:
    try:
        return kind.model_validate_json(path.read_text())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ReplayError(
            f"File {path}",
            expected=f"a record of the kind {kind.__name__}",
            found=" ".join(str(error).split()),
            fix="Delete the home of the replay, and begin it again.",
        ) from error
