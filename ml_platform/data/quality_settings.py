"""The settings of the quality check of a dataset: how far a partition may be from the usual, and the effect of that."""

from typing import Literal, Self

from pydantic import Field, model_validator

from ml_platform.data.partitions import PartitionKey
from ml_platform.data.settings import Settings

CHECK = "quality"
"""Name of the check."""

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
"""Severities of a finding, the mildest first."""

EventSeverity = Literal["off", "info", "warning", "critical"]


class Limits(Settings):
    """Differences from the usual above which a finding has a severity; null: never this severity."""

    info: float | None = Field(default=None, ge=0, description="Difference from which a finding is shown.")
    warning: float | None = Field(default=None, ge=0, description="Difference from which the check warns.")
    critical: float | None = Field(default=None, ge=0, description="Difference from which the check fails.")

    def severity(self, difference: float) -> Severity | None:
        """Return the highest severity whose limit ``difference`` reaches; None below all limits.

        >>> Limits(warning=0.05, critical=0.2).severity(0.1)
        'warning'
        """
        for name in reversed(SEVERITIES):
            limit = getattr(self, name)
            if limit is not None and difference >= limit:
                return name
        return None

    @property
    def lowest(self) -> float | None:
        """The lowest limit; None when nothing is judged."""
        return min((each for each in (self.info, self.warning, self.critical) if each is not None), default=None)

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        limits = [each for each in (self.info, self.warning, self.critical) if each is not None]
        if limits != sorted(limits):
            raise ValueError(f"info, warning and critical must rise, found {limits}")
        return self


class QualitySettings(Settings):
    """How each partition that lands is compared with the usual one."""

    on_critical: Literal["block", "continue"] = Field(
        default="continue",
        description="block: a critical finding keeps the partition out of the lake and stops downstream assets. "
        "continue: the partition is published and the check fails.",
    )
    partitions: int = Field(default=12, ge=3, description="Number of comparable partitions that give the usual values.")
    minimum_partitions: int = Field(
        default=6, ge=3, description="Comparable partitions below which a partition cannot be judged."
    )
    spread_factor: float = Field(
        default=4.0,
        gt=0,
        description="A difference must exceed this multiple of the usual spread (scaled median absolute deviation and "
        "sampling error). It is larger with few partitions.",
    )
    usual_from: PartitionKey | None = Field(
        default=None, description="First partition that gives usual values, for example after a change of the process."
    )
    accepted: dict[PartitionKey, str] = Field(
        default_factory=dict,
        description="Partitions whose findings are accepted ('whole' without partitions), with the reason. They are "
        "shown as info and block nothing.",
    )
    expected_to_change: list[str] = Field(
        default_factory=list, description="Columns that are profiled and never judged, like a version number."
    )
    volume: Limits = Field(
        default=Limits(warning=1.5, critical=4.0),
        description="Rows: ratio to the usual number, in either direction.",
    )
    nulls: Limits = Field(
        default=Limits(warning=0.05, critical=0.5),
        description="Share of nulls of a column: difference from the usual share.",
    )
    new_categories: Limits = Field(
        default=Limits(warning=0.02, critical=0.5),
        description="Share of rows with a category that no comparable partition has, beyond the usual share.",
    )
    missing_category: Limits = Field(
        default=Limits(warning=0.05),
        description="Usual share of a category that is absent now.",
    )
    constant: Limits = Field(
        default=Limits(warning=0.2, critical=0.9),
        description="Share of the most frequent number of a column, beyond its usual share.",
    )
    level: Limits = Field(
        default=Limits(warning=1.0, critical=10.0),
        description="Median of a number: distance from the usual median, in usual interquartile ranges.",
    )
    newest_event: Limits = Field(
        default=Limits(warning=0.1, critical=0.5),
        description="Time from the newest event to the end of the partition beyond the usual time, as a share of the "
        "partition.",
    )
    late: Limits = Field(
        default=Limits(info=0.5, warning=1.0),
        description="Time from the end of the partition to its landing beyond the usual time, in partitions.",
    )
    repeated_keys: Limits = Field(
        default=Limits(warning=0.01, critical=0.5),
        description="Share of keys that the partition before has too, beyond the usual share.",
    )
    same_content: EventSeverity = Field(
        default="warning", description="A partition has the content of a comparable one, like a file that landed twice."
    )
    landed_again: EventSeverity = Field(
        default="info", description="A partition lands again with other content than before."
    )
    out_of_order: EventSeverity = Field(
        default="info", description="A partition lands after a later one, or a partition before it is absent."
    )
    incomplete_before: EventSeverity = Field(
        default="warning", description="The partition before has not arrived until its end."
    )
    clock: EventSeverity = Field(
        default="warning", description="Events after the landing, or a landing before that of an earlier landing."
    )

    @model_validator(mode="after")
    def _can_be_judged(self) -> Self:
        if self.minimum_partitions > self.partitions:
            raise ValueError(
                f"minimum_partitions ({self.minimum_partitions}) must not exceed partitions ({self.partitions})"
            )
        if self.volume.lowest is not None and self.volume.lowest < 1:
            raise ValueError(f"volume: a ratio is at least 1, found {self.volume.lowest:g}")
        return self
