"""Concept drift by loss: whether the same inputs lead to other outcomes than in the evaluation of a version.

The realised loss of a period differs from the promised one for two reasons. The mix of the predictions changed, which
the estimate from the predictions alone accounts for, or the outcomes depend on them in another way. The second
part is the one that the estimate leaves unexplained.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ml_platform.monitoring.performance import Period

LOSSES = ("log_loss", "mae", "pinball", "rmse")
"""Metrics of which the first one that has an estimate is followed."""

LOOKED_AT, NEEDED = 3, 2
"""Last comparable periods of a version, and how many of them must be worse than their estimate."""


@dataclass(frozen=True)
class LossChange:
    """The change of the loss of one period since the evaluation of its version, and what explains it."""

    period: Period
    metric: str

    @property
    def by_inputs(self) -> float:
        """Change that the mix of the predictions explains: estimated minus promised."""
        return self.period.estimates[self.metric].value - self.period.promised[self.metric].value

    @property
    def by_relation(self) -> float:
        """Change that it does not explain: realised minus estimated."""
        return self.period.metrics[self.metric] - self.period.estimates[self.metric].value

    @property
    def is_unexplained(self) -> bool:
        """Whether the realised loss lies above the 95 % interval of its estimate."""
        return self.period.metrics[self.metric] > self.period.estimates[self.metric].high

    @property
    def text(self) -> str:
        """The change in words."""
        return (
            f"In the period from {self.period.start:%Y-%m-%d} the {self.metric} of version {self.period.version} is "
            f"{self.period.metrics[self.metric]:.3f} in place of the promised "
            f"{self.period.promised[self.metric].value:.3f}: {self.by_inputs:+.3f} by the mix of the predictions, "
            f"{self.by_relation:+.3f} unexplained by it."
        )


@dataclass(frozen=True)
class ConceptDrift:
    """The latest changes of the loss of one version, oldest first; none: nothing can be compared yet."""

    changes: Sequence[LossChange]

    @property
    def unexplained(self) -> int:
        """Number of changes above the interval of their estimate."""
        return sum(each.is_unexplained for each in self.changes)

    @property
    def is_found(self) -> bool:
        """Whether two of the last three periods are worse than their estimate, the latest one among them.

        One period alone is above its 95 % interval by chance in 2.5 % of the periods, this in at most 0.2 %.
        """
        return self.unexplained >= NEEDED and self.changes[-1].is_unexplained


def concept_drift(periods: Sequence[Period]) -> ConceptDrift:
    """Return the changes of the last three comparable periods of the version that served last.

    ``periods`` are in order of time. Comparable are evaluated periods whose labels leave no doubt and are all due,
    with an estimate and a promised value of their loss.
    """
    found = [
        LossChange(period, metric)
        for period in periods
        if period.evaluated and period.label_state == "complete" and not period.pending
        and (metric := _followed(period)) is not None
    ]  # fmt: skip
    return ConceptDrift([each for each in found if each.period.version == found[-1].period.version][-LOOKED_AT:])


def _followed(period: Period) -> str | None:
    return next(
        (name for name in LOSSES if name in period.metrics and name in period.estimates and name in period.promised),
        None,
    )
