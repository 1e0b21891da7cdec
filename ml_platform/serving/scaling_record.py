"""Keeps the last changes of the number of replicas of each model in the state store, for people who ask why.

The audit log has what people and gates decide; a load that goes up and down would fill it.
"""

from collections.abc import Sequence
from datetime import datetime

from pydantic import ConfigDict, Field

from ml_platform.data.settings import Settings
from ml_platform.state.cursors import cursors_below, read_cursor, write_cursor
from ml_platform.state.store import StateStore

CURSOR_PREFIX = "scaling/"

KEPT = 20
"""Changes of a model that are kept."""


class ScalingStep(Settings):
    """One change of the number of replicas of a version, with the load that caused it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at: datetime = Field(description="Time of the change.")
    version: str = Field(description="Version of the model.")
    before: int = Field(description="Replicas before.")
    after: int = Field(description="Replicas after.")
    load: float = Field(description="Mean requests at once, as a share of what the replicas before take.")
    target: float = Field(description="Declared share above which one starts.")

    @property
    def text(self) -> str:
        """The change in one line."""
        return (
            f"version {self.version}, {self.before} → {self.after} at {self.load:.2f} of their requests "
            f"(target {self.target:g}), {self.at:%Y-%m-%d %H:%M:%S}Z"
        )


def add_scaling_steps(state: StateStore, model: str, steps: Sequence[ScalingStep]) -> None:
    """Add ``steps`` to those of ``model``, of which the last :data:`KEPT` stay."""
    with state.write():
        stored = [*_parsed(read_cursor(state, f"{CURSOR_PREFIX}{model}")), *steps][-KEPT:]
        write_cursor(state, f"{CURSOR_PREFIX}{model}", [each.model_dump(mode="json") for each in stored])


def scaling_steps(state: StateStore, model: str) -> list[ScalingStep]:
    """Return the last changes of the replicas of ``model``, the oldest first."""
    return _parsed(read_cursor(state, f"{CURSOR_PREFIX}{model}"))


def all_scaling_steps(state: StateStore) -> dict[str, list[ScalingStep]]:
    """Return the last changes of the replicas of each model that had any."""
    return {model: _parsed(values) for model, values in cursors_below(state, CURSOR_PREFIX).items()}


def _parsed(values: object) -> list[ScalingStep]:
    return [ScalingStep.model_validate(each) for each in values] if isinstance(values, list) else []
