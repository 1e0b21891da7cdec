"""Gates on measurements besides predictions: leaks, contracts, and latency and size of the packaged bento."""

from typing import Literal

from pydantic import Field

from ml_platform.data.settings import Settings
from ml_platform.evaluation.evidence import Evidence
from ml_platform.evaluation.gate_result import GateResult


class LeakGate(Settings):
    """Require a leak check that ran and found no leak."""

    type: Literal["leak"] = "leak"

    @property
    def name(self) -> str:
        return "leak"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when the leak check ran and its list of leaks is empty."""
        return _findings_result(self.name, evidence.system_checks.leaks, "leak check", "features that know the future")


class ContractGate(Settings):
    """Require that the candidate's data violates no contract."""

    type: Literal["contract"] = "contract"

    @property
    def name(self) -> str:
        return "contract"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when the contract check ran and its list of violations is empty."""
        return _findings_result(self.name, evidence.system_checks.contract_violations, "contract check", "broken rules")


class LatencyGate(Settings):
    """Require a packaged model that answers fast enough."""

    type: Literal["latency"] = "latency"
    maximum_p99_ms: float = Field(default=20.0, gt=0, description="Highest p99 latency of one row, in milliseconds.")

    @property
    def name(self) -> str:
        return "latency"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when the measured latency is within the limit."""
        return _limit_result(self.name, evidence.system_checks.latency_p99_ms, self.maximum_p99_ms, "p99 latency", "ms")


class SizeGate(Settings):
    """Require a packaged model that is small enough to roll out."""

    type: Literal["size"] = "size"
    maximum_mb: float = Field(default=500.0, gt=0, description="Highest size of the packaged bento, in megabytes.")

    @property
    def name(self) -> str:
        return "size"

    def evaluate(self, evidence: Evidence) -> GateResult:
        """Pass when the measured size is within the limit."""
        size = evidence.system_checks.size_bytes
        return _limit_result(self.name, None if size is None else size / 1e6, self.maximum_mb, "bento", "MB")


def _findings_result(name: str, findings: list[str] | None, check: str, description: str) -> GateResult:
    if findings is None:
        return GateResult(name=name, passed=False, numbers={}, reason=f"The {check} has not run.")
    reason = (
        f"{len(findings)} {description}: {', '.join(findings[:5])}."
        if findings
        else f"The {check} found no {description}."
    )
    return GateResult(name=name, passed=not findings, numbers={"found": len(findings)}, reason=reason)


def _limit_result(name: str, value: float | None, limit: float, description: str, unit: str) -> GateResult:
    if value is None:
        return GateResult(
            name=name, passed=False, numbers={"limit": limit}, reason=f"The {description} was not measured."
        )
    return GateResult(
        name=name,
        passed=value <= limit,
        numbers={"value": value, "limit": limit},
        reason=f"{description} {value:.2f} {unit}, at most {limit:g} {unit}.",
    )
