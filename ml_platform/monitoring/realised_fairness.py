"""Realised fairness of a period: the rates of declared groups on known outcomes, and groups beyond a limit."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ml_platform.errors import listed

State = Literal["within", "suspected", "beyond", "too few rows"]


class RealisedRate(BaseModel):
    """The rate of one group with its interval; ``rows`` are those that count, such as the positive ones."""

    model_config = ConfigDict(frozen=True)

    group: str = Field(description="Field and value of the group.")
    rows: int
    rate: float
    low: float
    high: float


class RealisedFairness(BaseModel):
    """One declared rate in an evaluated period; only a group that is proven to be beyond the limit is a finding."""

    model_config = ConfigDict(frozen=True)

    metric: str
    state: State
    rates: list[RealisedRate]
    beyond: list[str] = Field(description="Compared groups that are beyond the limit, in words.")
    too_small: list[str] = Field(default_factory=list, description="Groups with too few rows.")

    @property
    def text(self) -> str:
        """The finding in a sentence."""
        small = f" Too few rows to judge: {listed(self.too_small)}." if self.too_small else ""
        if self.state == "too few rows":
            return f"{self.metric}: no two groups have enough rows.{small}"
        if self.state == "within":
            return f"{self.metric}: none of {len(self.rates)} groups is beyond the limit.{small}"
        said = "proven to be" if self.state == "beyond" else "perhaps"
        return f"{self.metric}: groups {said} beyond the limit: {'; '.join(self.beyond)}.{small}"
