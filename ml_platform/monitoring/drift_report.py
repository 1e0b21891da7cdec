"""The result of a drift check: the findings of each column, and the decision.

The report page, alerts and the retraining policy read it without the code that measures drift.
"""

from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from ml_platform.errors import listed
from ml_platform.monitoring.logged_nulls import LoggedNulls

EARLIER_ROWS = "earlier rows"
LAST_PARTITION = "last partition"
SAME_SEASON = "same season"
"""Names of the references that a column is compared with."""

Decision = Literal["steady", "notice", "alert", "not evaluated"]


class ColumnDrift(BaseModel):
    """Drift findings of one column."""

    model_config = ConfigDict(frozen=True)

    name: str
    role: Literal["score", "feature"]
    kind: Literal["number", "category"]
    effect: float | None = Field(
        description="KS distance or total variation that ``windows_needed`` windows reach, from the nearest reference; "
        "null: not evaluated."
    )
    limit: float = Field(
        description="Effect above which a change is large, and larger than the usual changes of the column."
    )
    p_value: float | None = Field(
        description="p-value, corrected for all columns, that ``windows_needed`` windows reach; null: not evaluated."
    )
    reference: str = Field(default=EARLIER_ROWS, description="Nearest reference: the one that ``effect`` belongs to.")
    stability_index: float | None = Field(description="Population stability index over the reference's bins.")
    windows_flagged: int
    windows_evaluated: int
    shifted: bool = Field(
        description="Whether at least ``windows_needed`` windows flag the column, for all references."
    )
    gradual: bool = Field(
        default=False, description="Whether the column is far from all references but the last partition."
    )
    not_judged: str | None = Field(
        default=None, description="Why a change of the distribution could not have been found; null: it could."
    )
    null_rate_reference: float
    null_rate_current: float
    nulls_changed: bool
    unseen_share: float
    unseen_examples: list[str] = Field(description="Up to five categories that the reference lacks.")
    unseen_appeared: bool

    @property
    def drifted(self) -> bool:
        """Whether the values shifted, the share of nulls changed, or unseen categories appeared."""
        return self.shifted or self.nulls_changed or self.unseen_appeared

    @property
    def finding(self) -> Literal["drifted", "steady", "cannot be judged"]:
        """The result for the column. A column that drifted was judged, even if smaller changes could not be found."""
        if self.drifted:
            return "drifted"
        return "steady" if self.not_judged is None else "cannot be judged"


class DriftReport(BaseModel):
    """Drift findings of all columns: scores before features, drifted columns first, then by effect over limit."""

    model_config = ConfigDict(frozen=True)

    columns: list[ColumnDrift]
    rows_reference: int
    rows_current: int
    compared_reference: int = Field(description="Rows of the sample of the reference whose values were compared.")
    compared_current: int = Field(description="Rows of the sample of the current rows whose values were compared.")
    expected_rows: float | None
    volume_changed: bool
    windows_evaluated: int
    logged_rows: int = Field(default=0, description="Logged predictions whose nulls were compared; 0: too few.")
    logged_nulls: list[LoggedNulls] = Field(
        default_factory=list, description="Features with more nulls in the log than in the reference."
    )

    @property
    def drifted(self) -> list[str]:
        """Names of the drifted columns, scores first."""
        return [column.name for column in self.columns if column.drifted]

    @property
    def gradual(self) -> list[str]:
        """Names of the columns that moved gradually, and drifted in no other way."""
        return [column.name for column in self.columns if column.gradual and not column.drifted]

    @property
    def not_judged(self) -> list[str]:
        """Names of the columns of which nothing can be said, scores first."""
        return [column.name for column in self.columns if column.finding == "cannot be judged"]

    @property
    def score_drifted(self) -> bool:
        return any(column.drifted for column in self.columns if column.role == "score")

    @property
    def decision(self) -> Decision:
        """The most serious finding.

        ``alert``: the scores drifted, or the data are broken (nulls, also in the log, unseen categories, volume).
        ``notice``: only features shifted or moved gradually, which is often harmless. ``steady``: no finding. ``not
        evaluated``: too few rows to rule out a shift, or no column that can be judged.
        """
        data_changed = any(column.nulls_changed or column.unseen_appeared for column in self.columns)
        if self.score_drifted or data_changed or self.volume_changed or self.logged_nulls:
            return "alert"
        if self.drifted or self.gradual:
            return "notice"
        nothing_judged = bool(self.columns) and len(self.not_judged) == len(self.columns)
        return "steady" if self.windows_evaluated and not nothing_judged else "not evaluated"

    @property
    def reason(self) -> str:
        """The decision and its findings in one sentence."""
        if not self.rows_reference:
            return "Not evaluated: there are no earlier rows to compare with."
        if not self.columns:
            return f"{self.decision.capitalize()}: {self.rows_reference} earlier rows are too few to compare with."
        findings = [
            f"{description} ({len(columns)} of {len(self.columns)}): {listed(column.name for column in columns)}"
            for description, columns in (
                ("scores shifted", [each for each in self.columns if each.role == "score" and each.shifted]),
                ("share of nulls changed", [each for each in self.columns if each.nulls_changed]),
                ("unseen categories", [each for each in self.columns if each.unseen_appeared]),
                ("features shifted", [each for each in self.columns if each.role == "feature" and each.shifted]),
                ("features moved gradually", [each for each in self.columns if each.name in self.gradual]),
            )
            if columns
        ]
        if self.logged_nulls:
            names = listed(each.name for each in self.logged_nulls)
            findings.append(f"more nulls in the features of {self.logged_rows} logged predictions: {names}")
        if self.volume_changed:
            findings.insert(0, f"{self.rows_current} rows where about {self.expected_rows:.0f} are usual")
        if not self.windows_evaluated:
            findings.append(f"{self.rows_current} rows are too few to compare distributions")
        elif self.not_judged:
            findings.append(
                f"cannot be judged ({len(self.not_judged)} of {len(self.columns)}): {listed(self.not_judged)}"
            )
        return f"{self.decision.capitalize()}: {'; '.join(findings) or f'none of {len(self.columns)} columns drifted'}."

    def table(self) -> pl.DataFrame:
        """Return one row per column with every number of :class:`ColumnDrift`, for printing and for metadata."""
        return pl.DataFrame(
            [
                {**column.model_dump(exclude={"unseen_examples"}), "drifted": column.drifted, "finding": column.finding}
                for column in self.columns
            ],
            infer_schema_length=None,
        )
