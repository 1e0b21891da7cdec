"""The course of a rollout over time: what both arms answered, and the evidence, at a bounded number of points.

The guard adds a point at most each second. When all places are taken, every second point goes and the distance of the
points doubles, so a rollout of a minute and one of a week take the same space.
"""

from collections.abc import Mapping
from datetime import datetime

from pydantic import ConfigDict, Field

from ml_platform.data.settings import Settings
from ml_platform.serving.arm_counts import ArmTotals
from ml_platform.state.cursors import read_cursor, write_cursor
from ml_platform.state.store import StateStore

CURSOR_PREFIX, END_PREFIX = "rollout_curve/", "rollout_curve_end/"
MAX_POINTS = 240
"""An even number, so that first and last point stay."""

FIRST_INTERVAL_SECONDS = 1.0


class CurvePoint(Settings):
    """State of a rollout at one time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float = Field(ge=0, description="Time since the rollout started (seconds).")
    weight: int = Field(ge=0, le=100, description="Percent of the requests for the candidate.")
    candidate: ArmTotals = Field(description="Answers of the candidate.")
    stable: ArmTotals = Field(description="Answers of the stable version.")
    evidence: dict[str, float] = Field(description="Evidence against the candidate, by guardrail.")


class CurveEnd(Settings):
    """The last point of a curve without its numbers: the guard looks at it several times a second."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    started: datetime = Field(description="When the rollout started.")
    interval_seconds: float = Field(gt=0, description="Shortest time between points.")
    seconds: float = Field(ge=0, description="Time of the last point since the rollout started (seconds).")
    weight: int = Field(ge=0, le=100, description="Percent of the requests for the candidate at that time.")

    def is_due(self, started: datetime, weight: int, now: datetime) -> bool:
        """Return whether a point of the rollout that ``started`` is due ``now``."""
        if started != self.started or weight != self.weight:
            return True
        return max(0.0, (now - started).total_seconds()) - self.seconds >= self.interval_seconds


class RolloutCurve(Settings):
    """The points of one rollout, in the order of time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    started: datetime = Field(description="When the rollout started.")
    interval_seconds: float = Field(default=FIRST_INTERVAL_SECONDS, gt=0, description="Shortest time between points.")
    points: tuple[CurvePoint, ...] = Field(default=(), description="The points.")

    @property
    def end(self) -> CurveEnd | None:
        """The last point without its numbers; None before the first."""
        if not self.points:
            return None
        last = self.points[-1]
        return CurveEnd(
            started=self.started, interval_seconds=self.interval_seconds, seconds=last.seconds, weight=last.weight
        )

    def after(
        self, totals: Mapping[str, ArmTotals], weight: int, evidence: Mapping[str, float], now: datetime
    ) -> "RolloutCurve":
        """Return the curve with a point for ``totals`` (candidate, stable) if one is due, else this curve."""
        if self.end is not None and not self.end.is_due(self.started, weight, now):
            return self
        seconds = max(0.0, (now - self.started).total_seconds())
        point = CurvePoint(seconds=seconds, weight=weight, evidence=dict(evidence), **totals)
        points, interval = (*self.points, point), self.interval_seconds
        if len(points) > MAX_POINTS:
            points, interval = points[::2], 2 * interval
        return self.model_copy(update={"points": points, "interval_seconds": interval})


def read_curve(state: StateStore, model: str) -> RolloutCurve | None:
    """Return the curve of the last rollout of ``model``; None before the first."""
    stored = read_cursor(state, f"{CURSOR_PREFIX}{model}")
    return None if stored is None else RolloutCurve.model_validate(stored)


def write_curve(state: StateStore, model: str, curve: RolloutCurve) -> None:
    """Replace the curve of ``model``; joins the write transaction that is open."""
    write_cursor(state, f"{CURSOR_PREFIX}{model}", curve.model_dump(mode="json"))
    if curve.end is not None:
        write_cursor(state, f"{END_PREFIX}{model}", curve.end.model_dump(mode="json"))


def read_curve_end(state: StateStore, model: str) -> CurveEnd | None:
    """Return the end of the curve of ``model``, which costs the same for a long one; None before the first point."""
    stored = read_cursor(state, f"{END_PREFIX}{model}")
    return None if stored is None else CurveEnd.model_validate(stored)
