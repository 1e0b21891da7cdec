"""Shares of slots by domain under the queue of runs: 50 models of 5 domains compete for processors and GPUs.

    python -m benchmarks.fair_share [--days 30] [--json]

A discrete-event simulation around the real rule (`resources/fair_share.py`). Each domain has ten models: eight need 1
to 4 of 40 processor slots, and two need a GPU slot of 4. Their runs take minutes to hours, half to one and a half times
the mean that the rule knows. In `busy` each domain always has runs of both kinds in the queue. In `idle` the first has
none in the middle third; its shares are those of the time after. In `flood` the first domain submits ten times as many
runs, by the rule; `fifo` is the same in order of arrival.

`share` divides the slot seconds of a domain by those of all; `entitled` is its weight by all weights. `use` is the part
of all processor and GPU slots that was in use.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heappop, heappush
from typing import Any

from resources.fair_share import need, place

CAPACITY = {"cpu": 40.0, "gpu": 4.0}
WEIGHTS = {"alpha": 1.0, "beta": 1.0, "gamma": 2.0, "delta": 3.0, "epsilon": 3.0}
MODELS = 10
WAITING = 12
"""Runs of each kind that a domain has in the queue at any time."""

DAY = 86_400.0


@dataclass(frozen=True)
class Model:
    """A model: its slots, and the mean seconds of its runs."""

    domain: str
    demand: dict[str, float]
    seconds: float

    @cached_property
    def kind(self) -> str:
        """The scarcest resource of the model."""
        return need(self.seconds, self.demand, CAPACITY).resource

    @cached_property
    def cost(self) -> float:
        """The seconds for which a run of mean length occupies all that there is of it."""
        return need(self.seconds, self.demand, CAPACITY).seconds


@dataclass(order=True)
class Run:
    """A queued run, in the order of the queue."""

    key: float
    number: int
    model: Model = field(compare=False)
    start: float = field(compare=False)
    seconds: float = field(compare=False)
    submitted: float = field(compare=False)

    @property
    def kind(self) -> str:
        return self.model.kind


@dataclass
class Simulation:
    """The queues, the free slots and the clocks; ``wants(domain, now)`` is the number of runs that shall wait."""

    models: dict[str, list[Model]]
    wants: Callable[[str, float], int]
    fair: bool
    seed: int = 7
    free: dict[str, float] = field(default_factory=lambda: dict(CAPACITY))
    queues: dict[str, list[Run]] = field(default_factory=lambda: {name: [] for name in CAPACITY})
    waiting: Counter[tuple[str, str]] = field(default_factory=Counter)
    virtual: dict[str, float] = field(default_factory=lambda: dict.fromkeys(CAPACITY, 0.0))
    used: dict[str, dict[str, float]] = field(default_factory=dict)
    longest_wait: dict[str, float] = field(default_factory=dict)

    def run(self, seconds: float, count: Callable[[float], bool] = lambda now: True) -> None:
        """Simulate ``seconds``, and sum the slot seconds of the moments that ``count``."""
        random_numbers, ends = random.Random(self.seed), list[tuple[float, int, Run]]()
        finish: dict[tuple[str, str], float] = {}
        number, now = 0, 0.0
        self.used = {domain: dict.fromkeys(CAPACITY, 0.0) for domain in self.models}
        self.longest_wait = dict.fromkeys(self.models, 0.0)
        while now < seconds:
            for domain, models in self.models.items():
                wanted = self.wants(domain, now)
                for kind in (name for name in CAPACITY for _ in range(wanted - self.waiting[domain, name])):
                    model = random_numbers.choice([each for each in models if each.kind == kind])
                    found = place(
                        now=self.virtual[kind],
                        last_finish=finish.get((domain, kind), 0.0),
                        cost=model.cost,
                        weight=WEIGHTS[domain],
                    )
                    finish[domain, kind], number = found.finish, number + 1
                    key = found.start if self.fair else float(number)
                    took = model.seconds * random_numbers.uniform(0.5, 1.5)
                    heappush(self.queues[kind], Run(key, number, model, found.start, took, now))
                    self.waiting[domain, kind] += 1
            for each in self._startable():
                heappush(ends, (now + each.seconds, each.number, each))
                self.virtual[each.kind] = max(self.virtual[each.kind], each.start)
                self.longest_wait[each.model.domain] = max(self.longest_wait[each.model.domain], now - each.submitted)
                if count(now):
                    for name, slots in each.model.demand.items():
                        self.used[each.model.domain][name] += slots * min(each.seconds, seconds - now)
            now, _, ended = heappop(ends)
            for name, slots in ended.model.demand.items():
                self.free[name] += slots

    def _startable(self) -> list[Run]:
        """Take the runs that start now from the queues; behind the first that finds no slots its queue waits."""
        started, blocked = list[Run](), set[str]()
        while heads := [queue[0] for kind, queue in self.queues.items() if queue and kind not in blocked]:
            first = min(heads)
            if any(self.free[name] < slots for name, slots in first.model.demand.items()):
                blocked.add(first.kind)
                continue
            heappop(self.queues[first.kind])
            self.waiting[first.model.domain, first.kind] -= 1
            for name, slots in first.model.demand.items():
                self.free[name] -= slots
            started.append(first)
        return started

    def shares(self) -> dict[str, float]:
        """Return the share of each domain in the slots of each resource, as ``domain resource``."""
        totals = {name: sum(used[name] for used in self.used.values()) for name in CAPACITY}
        return {
            f"{domain} {name}": used[name] / totals[name] for domain, used in self.used.items() for name in CAPACITY
        }


def models(seed: int = 3) -> dict[str, list[Model]]:
    """Return ten models of each domain."""
    random_numbers = random.Random(seed)
    found = {}
    for domain in WEIGHTS:
        small = [
            Model(domain, {"cpu": float(random_numbers.randint(1, 4))}, random_numbers.uniform(600, 7200))
            for _ in range(MODELS - 2)
        ]
        large = [Model(domain, {"cpu": 1.0, "gpu": 1.0}, random_numbers.uniform(1800, 10_800)) for _ in range(2)]
        found[domain] = small + large
    return found


def busy(days: float, *, seed: int = 7) -> dict[str, Any]:
    """Return the shares while each domain always has runs in both queues."""
    simulation = Simulation(models(), lambda domain, now: WAITING, fair=True, seed=seed)
    simulation.run(days * DAY)
    return _result(simulation, days * DAY)


def idle(days: float) -> dict[str, Any]:
    """Return the shares after a pause of the first domain."""
    seconds = days * DAY

    def wants(domain: str, now: float) -> int:
        return 0 if domain == "alpha" and seconds / 3 < now < seconds * 2 / 3 else WAITING

    simulation = Simulation(models(), wants, fair=True)
    simulation.run(seconds, count=lambda now: now > seconds * 0.7)
    return {"share": _rounded(simulation.shares())}


def flood(days: float, *, fair: bool) -> dict[str, Any]:
    """Return the shares while the first domain submits ten times as many runs as the others."""
    simulation = Simulation(models(), lambda domain, now: WAITING * (10 if domain == "alpha" else 1), fair=fair)
    simulation.run(days * DAY)
    return _result(simulation, days * DAY)


def measure(days: float) -> dict[str, Any]:
    """Return the results of all scenarios."""
    return {
        "days": days,
        "models": MODELS * len(WEIGHTS),
        "entitled": _rounded(entitled()),
        "busy": busy(days),
        "idle": idle(days),
        "flood": flood(days, fair=True),
        "fifo": flood(days, fair=False),
    }


def entitled() -> dict[str, float]:
    """Return the weight of each domain by all weights."""
    return {domain: weight / sum(WEIGHTS.values()) for domain, weight in WEIGHTS.items()}


def _result(simulation: Simulation, seconds: float) -> dict[str, Any]:
    use = {
        name: sum(used[name] for used in simulation.used.values()) / (capacity * seconds)
        for name, capacity in CAPACITY.items()
    }
    hours = {domain: waited / 3600 for domain, waited in simulation.longest_wait.items()}
    return {"share": _rounded(simulation.shares()), "use": _rounded(use), "longest_wait_hours": _rounded(hours, 1)}


def _rounded(values: dict[str, float], digits: int = 4) -> dict[str, float]:
    return {name: round(value, digits) for name, value in values.items()}


def main() -> None:
    """Print the scenarios, or everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.days)
    if given.json:
        print(json.dumps(found))
        return
    for name, values in found.items():
        print(f"{name:9} {values}")


if __name__ == "__main__":
    main()
