"""Reads the counters of the services behind the gateway: answers, errors, slow answers, scores and missing facts."""

import json
import urllib.request
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field

from ml_platform.data.settings import Settings
from ml_platform.serving.gateway_admin import query_gateway

READ_SECONDS = 0.2


class ArmCounts(Settings):
    """Counters of one service since its start, or their increase between two readings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answers: int = Field(default=0, description="Answers that the gateway received, or gave instead of the service.")
    errors: int = Field(default=0, description="Answers with another status than 2xx.")
    timed: int = Field(default=0, description="Answers with a known duration.")
    slow: int = Field(default=0, description="Answers that took longer than the limit.")
    active: int = Field(default=0, description="Requests that wait for an answer now.")
    scores: tuple[int, ...] = Field(default=(), description="Scores between two limits, one of each request.")
    view_reads: int = Field(default=0, description="Views read for a row, one of each request.")
    missing: int = Field(default=0, description="Those that had no fact.")
    compared: int = Field(default=0, description="Requests that both versions answered; of the candidate only.")
    changed: int = Field(default=0, description="Those whose scores differ by more than the limit.")
    started: float = Field(default=0, description="When the process started (seconds since 1970); 0: not known.")
    resident_bytes: int = Field(default=0, description="Memory of the process now; 0: not known.")

    def since(self, before: Self) -> Self:
        """Return the increase since ``before``. A counter that fell belongs to a restarted process and starts at 0."""
        fell = sum(self.scores) < sum(before.scores) or self.view_reads < before.view_reads
        old_scores = before.scores if len(before.scores) == len(self.scores) and not fell else (0,) * len(self.scores)
        reads, missing = (0, 0) if fell else (before.view_reads, before.missing)
        return type(self)(
            answers=_increase(self.answers, before.answers),
            errors=_increase(self.errors, before.errors),
            timed=_increase(self.timed, before.timed),
            slow=_increase(self.slow, before.slow),
            active=self.active,
            scores=tuple(_increase(new, old) for new, old in zip(self.scores, old_scores, strict=True)),
            view_reads=_increase(self.view_reads, reads),
            missing=_increase(self.missing, missing),
            compared=_increase(self.compared, before.compared),
            changed=_increase(self.changed, before.changed),
            resident_bytes=self.resident_bytes,
            started=self.started,
        )


class ArmTotals(Settings):
    """Answers of one arm since its rollout started, over all steps and restarts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answers: int = Field(default=0, ge=0, description="Answers.")
    errors: int = Field(default=0, ge=0, description="Answers with another status than 2xx.")
    timed: int = Field(default=0, ge=0, description="Answers with a known duration.")
    slow: int = Field(default=0, ge=0, description="Answers that took longer than the limit.")

    def plus(self, new: ArmCounts) -> "ArmTotals":
        """Return the totals after the answers ``new``."""
        return ArmTotals(
            answers=self.answers + new.answers,
            errors=self.errors + new.errors,
            timed=self.timed + new.timed,
            slow=self.slow + new.slow,
        )


def read_counts(gateway: Path, slow_ms: Mapping[str, int], run: Path) -> dict[str, ArmCounts]:
    """Return the counters of the services ``slow_ms``, by name, each with its limit of a slow answer.

    ``gateway`` is the folder of the gateway, ``run`` that of the port files. Requests beyond the limit of a service,
    which the gateway refuses, say nothing about the service and do not count. A request that another service answered
    because this one did not accept it is an error of this one; a request that it was not sent, since it is not healthy,
    does not count. A service that does not answer in time has the counters of the gateway only. Raises ``OSError``
    when the gateway does not answer.
    """
    names = "|".join(slow_ms)
    wanted = "upstream_rq_(pending_overflow|completed|2xx|active|total|retry|time)"
    query = f"/stats?filter=^cluster\\.({names})\\.({wanted})$&format=json&histogram_buckets=cumulative"
    stats = json.loads(query_gateway(gateway, query, seconds=2.0))["stats"]
    values = {each["name"]: int(each["value"]) for each in stats if "value" in each}
    buckets: dict[str, dict[float, int]] = {
        each["name"]: {float(one["upper_bound"]): int(one["cumulative"]) for one in each["buckets"]}
        for each in _histograms(stats)
    }
    found = {}
    for name, limit in slow_ms.items():
        of = partial(_value, values, name)
        completed = max(0, of("completed") - of("pending_overflow"))
        answers = min(completed, max(0, of("total") - of("active")) + of("retry"))
        durations = buckets.get(f"cluster.{name}.upstream_rq_time", {})
        timed = max(durations.values(), default=0)
        seen = ArmCounts(
            answers=answers,
            errors=min(answers, completed - min(completed, of("2xx")) + of("retry")),
            timed=timed,
            slow=timed - durations.get(float(limit), timed),
            active=of("active"),
        )
        found[name] = seen.model_copy(update=_service_counts(run / f"{name}.port"))
    return found


def _value(values: Mapping[str, int], service: str, counter: str) -> int:
    return values.get(f"cluster.{service}.upstream_rq_{counter}", 0)


def recent_scores(run: Path, name: str) -> str | None:
    """Return the page of the last scores of the service ``name``; None while it does not answer, or has no page."""
    try:
        return _read(f"http://127.0.0.1:{int((run / f'{name}.port').read_text())}/recent_scores", READ_SECONDS)
    except (OSError, ValueError):
        return None


def _histograms(stats: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [one for each in stats for one in each.get("histograms", [])]


def _service_counts(port_file: Path) -> dict[str, object]:
    """Return the counters that only the service has; none while it does not answer."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        page = _read(f"http://127.0.0.1:{int(port_file.read_text())}/metrics", READ_SECONDS)
    except (OSError, ValueError):
        return {}
    cumulative, reads, missing, resident, started = [], 0, 0, 0, 0.0
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name == "ml_platform_sampled_score_bucket":
                cumulative.append(int(sample.value))
            elif sample.name == "ml_platform_sampled_reads_total":
                reads += int(sample.value)
            elif sample.name == "ml_platform_sampled_missing_total":
                missing += int(sample.value)
            elif sample.name == "ml_platform_resident_bytes":
                resident = int(sample.value)
            elif sample.name == "ml_platform_started_seconds":
                started = sample.value
    scores = tuple(new - old for new, old in zip(cumulative, [0, *cumulative], strict=False))
    return {
        "scores": scores,
        "view_reads": reads,
        "missing": missing,
        "resident_bytes": resident,
        "started": started,
    }


def _read(url: str, seconds: float) -> str:
    with urllib.request.urlopen(url, timeout=seconds) as answer:
        text: str = answer.read().decode()
    return text


def _increase(new: int, old: int) -> int:
    return new - old if new >= old else new
