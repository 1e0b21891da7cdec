"""The protocol of monitors of a team's own, which a model declares under `monitors.own`."""

from abc import abstractmethod
from typing import ClassVar

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from ml_platform.data.extensions import Extension


class MonitorResult(BaseModel):
    """Result of one monitor for one partition, shown as a check of the asset `drift`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    passed: bool = Field(description="False raises a warning; it blocks nothing.")
    reason: str = Field(description="One sentence with the numbers, for the reader of the check.")
    numbers: dict[str, float] = Field(default_factory=dict, description="Measured values by stable names.")


class Monitor(Extension):
    """A condition on the rows of a new partition, beside those of the partitions before it.

    The first line of the docstring of the class describes the check in the UI.
    """

    kind: ClassVar[str] = "monitor"

    @abstractmethod
    def check(self, reference: pl.DataFrame, current: pl.DataFrame) -> MonitorResult:
        """Return the result for the rows of a partition, ``current``, beside those of earlier ones, ``reference``.

        Both have the columns of the training set: request fields, features, ``predict_at``, ``label`` (null where it is
        not known yet), and the column ``score`` of the champion if there is one. ``reference`` is never empty. Reasons
        and numbers must not name values that identify a person.
        """


def monitor_result(monitor: Monitor, reference: pl.DataFrame, current: pl.DataFrame) -> MonitorResult:
    """Return the result of ``monitor``; without a reference it passes with that reason.

    Raises :class:`~ml_platform.data.extensions.ExtensionError` when the class returns something else.
    """
    if reference.is_empty():
        return MonitorResult(passed=True, reason="Not evaluated: there are no rows of earlier partitions.")
    result = monitor.check(reference, current)
    if not isinstance(result, MonitorResult):
        raise monitor.error(expected="a MonitorResult", found=f"a {type(result).__name__}")
    return result
