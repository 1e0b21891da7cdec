"""What a comparison of two tables found, column by column, and what it amounts to.

Apart from `drift` because it is read by those who never measure: the report page, alerts, the retraining policy.
"""

from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from ml_platform.errors import listed

Decision = Literal["steady", "notice", "alert", "not judged"]


class ColumnDrift(BaseModel):
    """What was found about one column."""

    model_config = ConfigDict(frozen=True)

    name: str
    role: Literal["score", "feature"]
    kind: Literal["number", "category"]
    effect: float | None = Field(description="KS distance or total variation; the windows' median; null: not judged.")
    limit: float = Field(description="Effect from which a change is large, and larger than is usual for the column.")
    p_value: float | None = Field(description="Median over the windows; null: not judged.")
    stability_index: float | None = Field(description="Population stability index over the reference's bins.")
    windows_flagged: int
    windows_judged: int
    shifted: bool = Field(description="Flagged in as many windows as the settings need.")
    null_rate_reference: float
    null_rate_current: float
    nulls_changed: bool
    unseen_share: float
    unseen_examples: list[str] = Field(description="At most five categories that the reference lacks.")
    unseen_appeared: bool

    @property
    def drifted(self) -> bool:
        """Whether any of the three findings holds: the values shifted, nulls changed, or unseen categories appeared."""
        return self.shifted or self.nulls_changed or self.unseen_appeared


class DriftReport(BaseModel):
    """What was found about all columns: scores first, then features; drifted ones first, by effect over limit."""

    model_config = ConfigDict(frozen=True)

    columns: list[ColumnDrift]
    rows_reference: int
    rows_current: int
    expected_rows: float | None
    volume_changed: bool
    windows_judged: int

    @property
    def drifted(self) -> list[str]:
        """Names of the drifted columns, scores first."""
        return [column.name for column in self.columns if column.drifted]

    @property
    def score_drifted(self) -> bool:
        return any(column.drifted for column in self.columns if column.role == "score")

    @property
    def decision(self) -> Decision:
        """``alert``: the scores drifted, or data are broken (nulls, unseen categories, volume); ``notice``: only
        features shifted, which the model may well follow; ``not judged``: too few rows to say that nothing shifted.
        """
        broken = any(column.nulls_changed or column.unseen_appeared for column in self.columns)
        if self.score_drifted or broken or self.volume_changed:
            return "alert"
        if self.drifted:
            return "notice"
        return "steady" if self.windows_judged else "not judged"

    @property
    def reason(self) -> str:
        """Why the decision is what it is, in a sentence."""
        if not self.rows_reference:
            return "Not judged: there are no earlier rows to compare with."
        if not self.columns:
            return f"{self.decision.capitalize()}: {self.rows_reference} earlier rows are too few to compare with."
        found = [
            f"{what} ({len(columns)} of {len(self.columns)}): {listed(column.name for column in columns)}"
            for what, columns in (
                ("scores shifted", [each for each in self.columns if each.role == "score" and each.shifted]),
                ("share of nulls changed", [each for each in self.columns if each.nulls_changed]),
                ("categories never seen", [each for each in self.columns if each.unseen_appeared]),
                ("features shifted", [each for each in self.columns if each.role == "feature" and each.shifted]),
            )
            if columns
        ]
        if self.volume_changed:
            found.insert(0, f"{self.rows_current} rows where about {self.expected_rows:.0f} are usual")
        if not self.windows_judged:
            found.append(f"{self.rows_current} rows are too few to judge distributions")
        return f"{self.decision.capitalize()}: {'; '.join(found) or f'none of {len(self.columns)} columns drifted'}."

    def table(self) -> pl.DataFrame:
        """Return one row per column with every number of :class:`ColumnDrift`, for printing and for metadata."""
        return pl.DataFrame(
            [{**column.model_dump(exclude={"unseen_examples"}), "drifted": column.drifted} for column in self.columns]
        )
