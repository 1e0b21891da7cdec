"""Requests of each service as the gateway counts them: answers by class of status, and how long they took."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ml_platform.serving.gateway_admin import query_gateway

CLASSES = ("2xx", "4xx", "5xx")
"""Classes of status whose answers are counted; the gateway answers with no other one."""

READ_SECONDS = 2.0
MILLISECONDS = 1000.0


@dataclass(frozen=True)
class Traffic:
    """Counters of one service since the gateway started.

    ``answers`` are by class of status. ``durations`` has the number of answers within each time in seconds, and
    ``seconds`` is an estimate of their sum from these numbers.
    """

    answers: Mapping[str, int] = field(default_factory=dict)
    durations: Mapping[float, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """The sum of the durations, each taken as the middle of its bucket; the last bucket as its beginning."""
        total, before, lower = 0.0, 0, 0.0
        for upper, count in sorted(self.durations.items()):
            middle = lower if upper == float("inf") else (lower + upper) / 2
            total += (count - before) * middle
            before, lower = count, upper
        return total


def read_traffic(gateway: Path, services: Sequence[str]) -> dict[str, Traffic]:
    """Return the traffic of ``services`` by name, as the gateway in the folder ``gateway`` has counted it.

    Raises ``OSError`` when the gateway does not answer.
    """
    if not services:
        return {}
    wanted = f"upstream_rq_({'|'.join(CLASSES)}|time)"
    query = f"/stats?filter=^cluster\\.({'|'.join(services)})\\.{wanted}$&format=json&histogram_buckets=cumulative"
    stats = json.loads(query_gateway(gateway, query, seconds=READ_SECONDS))["stats"]
    counts = {each["name"]: int(each["value"]) for each in stats if "value" in each}
    histograms = {one["name"]: one["buckets"] for each in stats for one in each.get("histograms", [])}
    found = {}
    for name in services:
        start = f"cluster.{name}.upstream_rq_"
        found[name] = Traffic(
            {each: counts.get(start + each, 0) for each in CLASSES},
            {
                float(one["upper_bound"]) / MILLISECONDS: int(one["cumulative"])
                for one in histograms.get(f"{start}time", [])
            },
        )
    return found
