"""Names the replicas of a version and decides how many run, by the load of the version.

A version has one cluster at the gateway. Its first replica has the name of the cluster, so that a version with one
replica is a service of that name; others have a number after :data:`REPLICA_MARK`.
"""

import logging
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from ml_platform.serving.serving_settings import ReplicaSettings

logger = logging.getLogger("reconcile")

REPLICA_MARK = "@"

DOWN_SHARE = 0.8
"""Share of the target below which the load of the remaining replicas must be, so that none starts again soon."""


def replica_names(service: str, count: int) -> list[str]:
    """Return the names of the first ``count`` replicas of ``service``."""
    return [service, *(f"{service}{REPLICA_MARK}{number}" for number in range(2, count + 1))][:count]


def service_of(replica: str) -> str:
    """Return the name of the service, and of its cluster, that ``replica`` belongs to."""
    return replica.partition(REPLICA_MARK)[0]


def port_file(run: Path, replica: str) -> Path:
    """Return the file with the port of ``replica``."""
    return run / f"{replica}.port"


def started_replicas(run: Path, service: str) -> list[str]:
    """Return the names of the replicas of ``service`` that have a port, the first replica first."""
    found = [file.stem for file in run.glob(f"{service}{REPLICA_MARK}*.port")]
    first = [service] if port_file(run, service).exists() else []
    return [*first, *sorted(found, key=lambda name: (len(name), name))]


@dataclass(frozen=True)
class ScaledLoad:
    """A change of the number of replicas, and the mean load as a share of what those before take."""

    before: int
    after: int
    share: float


@dataclass
class _Load:
    count: int
    changed_at: float
    samples: deque[tuple[float, float]] = field(default_factory=deque)


class ReplicaScaler:
    """Decides the number of replicas of each service from samples of its load, one step at a time.

    The load is the number of requests at once; ``capacity`` is what one replica takes. The decisions are in memory: a
    restarted reconciler goes on from the replicas that run.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._loads: dict[str, _Load] = {}

    def count(self, service: str, declared: ReplicaSettings, running: int, now: float) -> int:
        """Return how many replicas of ``service`` should run; ``running`` do, ``now`` is in seconds."""
        if service not in self._loads:
            self._loads[service] = _Load(running, now)
        load = self._loads[service]
        load.count = min(max(load.count, declared.min), declared.most)
        return load.count

    def forget(self, needed: set[str]) -> None:
        """Forget all services but those ``needed``."""
        self._loads = {service: load for service, load in self._loads.items() if service in needed}

    def add_sample(self, service: str, declared: ReplicaSettings, requests: float, now: float) -> ScaledLoad | None:
        """Add a sample of ``requests`` at once, and change the number of replicas if the last ones ask for it.

        Returns the change, or None.
        """
        load = self._loads[service]
        load.samples.append((now, requests))
        while load.samples[0][0] < now - max(declared.up_seconds, declared.down_seconds):
            load.samples.popleft()
        limit = declared.target * self._capacity
        seen = now - load.changed_at
        if seen >= declared.up_seconds and load.count < declared.most:
            mean = _mean(load, now - declared.up_seconds)
            if mean > limit * load.count:
                return self._change(service, load, load.count + 1, mean, declared, now)
        if seen >= declared.down_seconds and load.count > declared.min:
            mean = _mean(load, now - declared.down_seconds)
            if mean < DOWN_SHARE * limit * (load.count - 1):
                return self._change(service, load, load.count - 1, mean, declared, now)
        return None

    def _change(
        self, service: str, load: _Load, count: int, mean: float, declared: ReplicaSettings, now: float
    ) -> ScaledLoad:
        before, share = load.count, mean / (load.count * self._capacity)
        logger.info(
            "%s: %d replicas in place of %d, at %.2f of their requests at once (target %g)",
            service,
            count,
            load.count,
            share,
            declared.target,
        )
        load.count, load.changed_at = count, now
        return ScaledLoad(before, count, share)


def _mean(load: _Load, since: float) -> float:
    values = [value for at, value in load.samples if at >= since]
    return sum(values) / len(values)
