"""Reads the counters of the services behind the gateway: answers, errors, slow answers, scores and missing facts."""

import json
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, Field

from ml_platform.data.settings import Settings
from ml_platform.serving.gateway_admin import query_gateway
from ml_platform.serving.gateway_clusters import read_clusters
from ml_platform.serving.replicas import port_file, started_replicas

READ_SECONDS = 0.2


class ArmCounts(Settings):
    """Counters of one service since its start, or their increase between two readings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answers: int = Field(default=0, description="Answers that the gateway received, or gave instead of the service.")
    errors: int = Field(
        default=0,
        description="Answers with another status than 2xx, and refused connections; at most the answers since.",
    )
    excused: int = Field(default=0, description="Of the errors, refused connections after which a sibling answered.")
    timed: int = Field(default=0, description="Answers with a known duration.")
    slow: int = Field(default=0, description="Answers that took longer than the limit.")
    active: int = Field(default=0, description="Requests that wait for an answer now.")
    scores: tuple[int, ...] = Field(default=(), description="Scores between two limits, one of each request.")
    view_reads: int = Field(default=0, description="Views read for a row, one of each request.")
    missing: int = Field(default=0, description="Those that had no fact.")
    compared: int = Field(default=0, description="Requests that both versions answered; of the candidate only.")
    changed: int = Field(default=0, description="Those whose scores differ by more than the limit.")
    started: float = Field(default=0, description="When the first process started (seconds since 1970); 0: not known.")
    resident_bytes: int = Field(default=0, description="Memory of the largest process now; 0: not known.")
    replicas: dict[str, "ArmCounts"] = Field(
        default_factory=dict,
        description="Counters that only a process has, by replica, none of one that did not answer; the fields above "
        "have the sum.",
    )

    def with_unread(self, before: "ArmCounts | None") -> Self:
        """Return these counters with those ``before`` of each replica that did not answer this time."""
        if before is None or _UNREAD not in self.replicas.values():
            return self
        last = {name: before.replicas.get(name, each) for name, each in self.replicas.items() if each == _UNREAD}
        return self.model_copy(update={"replicas": {**self.replicas, **last}})

    def since(self, before: Self) -> Self:
        """Return the increase since ``before``, in which ``errors`` lack those that are excused.

        A counter that fell belongs to a restarted process and starts at 0.
        """
        if self.replicas:
            # Counters of an earlier release are those of the first replica.
            known: Mapping[str, ArmCounts] = before.replicas or {next(iter(self.replicas)): before}
            parts = [each.since(known.get(name, ArmCounts())) for name, each in self.replicas.items()]
            alone = self.model_copy(update={"replicas": {}, **_NOT_OF_A_PROCESS})
            total = alone.since(before.model_copy(update={"replicas": {}, **_NOT_OF_A_PROCESS}))
            return total.model_copy(update=_summed(parts))
        fell = sum(self.scores) < sum(before.scores) or self.view_reads < before.view_reads
        old_scores = before.scores if len(before.scores) == len(self.scores) and not fell else (0,) * len(self.scores)
        reads, missing = (0, 0) if fell else (before.view_reads, before.missing)
        answers = _increase(self.answers, before.answers)
        errors = _increase(self.errors, before.errors) - _increase(self.excused, before.excused)
        return type(self)(
            answers=answers,
            errors=min(answers, max(0, errors)),
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


_UNREAD = ArmCounts()
"""Counters of a replica that did not answer."""

_NOT_OF_A_PROCESS: dict[str, Any] = {"scores": (), "view_reads": 0, "missing": 0}


def _summed(parts: Sequence[ArmCounts]) -> dict[str, Any]:
    """Return the sums of the counters that only a process has."""
    scores = [each.scores for each in parts if each.scores]
    return {
        "scores": tuple(map(sum, zip(*scores, strict=True))),
        "view_reads": sum(each.view_reads for each in parts),
        "missing": sum(each.missing for each in parts),
    }


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
    because this one did not accept it is an error of this one, unless it was another replica of this one; a request
    that it was not sent, since it is not healthy, does not count. A service that does not answer in time has the
    counters of the gateway only. Raises ``OSError`` when the gateway does not answer.
    """
    names = "|".join(slow_ms)
    wanted = "upstream_rq_(pending_overflow|completed|2xx|active|total|retry|retry_success|time)"
    query = f"/stats?filter=^cluster\\.({names})\\.({wanted})$&format=json&histogram_buckets=cumulative"
    stats = json.loads(query_gateway(gateway, query, seconds=2.0))["stats"]
    values = {each["name"]: int(each["value"]) for each in stats if "value" in each}
    buckets: dict[str, dict[float, int]] = {
        each["name"]: {float(one["upper_bound"]): int(one["cumulative"]) for one in each["buckets"]}
        for each in _histograms(stats)
    }
    replicas = {name: len(ports) for name, ports in read_clusters(gateway).items()}
    found = {}
    for name, limit in slow_ms.items():
        of = partial(_value, values, name)
        completed = max(0, of("completed") - of("pending_overflow"))
        answers = min(completed, max(0, of("total") - of("active")) + of("retry"))
        durations = buckets.get(f"cluster.{name}.upstream_rq_time", {})
        timed = max(durations.values(), default=0)
        seen = ArmCounts(
            answers=answers,
            errors=completed - min(completed, of("2xx")) + of("retry"),
            # A request that a fallback answered was refused by two replicas, and one that a sibling answered by one.
            excused=of("retry_success") if replicas.get(name, 0) > 1 else 0,
            timed=timed,
            slow=timed - durations.get(float(limit), timed),
            active=of("active"),
        )
        found[name] = seen.model_copy(update=_process_counts(run, name))
    return found


def _value(values: Mapping[str, int], service: str, counter: str) -> int:
    return values.get(f"cluster.{service}.upstream_rq_{counter}", 0)


def requests_at_once(gateway: Path, services: Sequence[str]) -> dict[str, int]:
    """Return the requests of each service that wait for an answer or for a connection now.

    ``gateway`` is the folder of the gateway. Raises ``OSError`` when it does not answer.
    """
    query = f"/stats?filter=^cluster\\.({'|'.join(services)})\\.upstream_rq_(active|pending_active)$&format=json"
    stats = json.loads(query_gateway(gateway, query, seconds=2.0))["stats"]
    values = {each["name"]: int(each["value"]) for each in stats if "value" in each}
    return {each: _value(values, each, "active") + _value(values, each, "pending_active") for each in services}


def recent_scores(run: Path, name: str) -> dict[str, str]:
    """Return the pages of the last scores of the service ``name``, by replica; none of one that does not answer."""
    pages = {}
    for replica in started_replicas(run, name):
        try:
            port = int(port_file(run, replica).read_text())
            pages[replica] = _read(f"http://127.0.0.1:{port}/recent_scores", READ_SECONDS)
        except (OSError, ValueError):
            continue
    return pages


def _histograms(stats: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [one for each in stats for one in each.get("histograms", [])]


def _process_counts(run: Path, name: str) -> dict[str, Any]:
    """Return the counters that only the processes of the service ``name`` have."""
    replicas = {each: _replica_counts(port_file(run, each)) for each in started_replicas(run, name)}
    return {
        **_summed(list(replicas.values())),
        "resident_bytes": max((each.resident_bytes for each in replicas.values()), default=0),
        "started": replicas[name].started if name in replicas else 0.0,
        "replicas": replicas,
    }


def _replica_counts(file: Path) -> ArmCounts:
    from prometheus_client.parser import text_string_to_metric_families

    try:
        page = _read(f"http://127.0.0.1:{int(file.read_text())}/metrics", READ_SECONDS)
    except (OSError, ValueError):
        return _UNREAD
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
    return ArmCounts(scores=scores, view_reads=reads, missing=missing, resident_bytes=resident, started=started)


def _read(url: str, seconds: float) -> str:
    with urllib.request.urlopen(url, timeout=seconds) as answer:
        text: str = answer.read().decode()
    return text


def _increase(new: int, old: int) -> int:
    return new - old if new >= old else new
