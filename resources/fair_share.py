"""Weighted fair sharing: the place of a run in the queue, so that each domain gets slots in proportion to its weight.

It is start-time fair queueing (P. Goyal, H. M. Vin and H. Cheng, 1996), once for each resource: a run belongs to the
queue of its scarcest one (the dominant resource of A. Ghodsi et al., 2011). In each queue a domain has a virtual time,
which a run moves forward by its cost divided by the weight of the domain, and the run with the earliest virtual start
is next. A domain without runs gets nothing and no credit for later, so it can neither save up slots nor lose them.
Every run has a finite place, so none waits for ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """The place of a run in virtual seconds: it begins when its domain may begin it, and ends when the next one may."""

    start: float
    finish: float


@dataclass(frozen=True)
class Need:
    """The scarcest resource of a run, and the seconds for which the run occupies all that there is of it."""

    resource: str
    seconds: float


def place(*, now: float, last_finish: float, cost: float, weight: float) -> Place:
    """Return the place of a new run in the queue of a resource.

    ``now`` is the virtual time of the queue: the latest start of a run that has left it. ``last_finish`` is the finish
    of the newest run of the same domain in it (0 without one), and ``weight`` is above 0.

    >>> place(now=10.0, last_finish=4.0, cost=6.0, weight=2.0)
    Place(start=10.0, finish=13.0)
    >>> place(now=10.0, last_finish=13.0, cost=6.0, weight=2.0)
    Place(start=13.0, finish=16.0)
    """
    start = max(now, last_finish)
    return Place(start, start + cost / weight)


def need(seconds: float, demand: Mapping[str, float], capacity: Mapping[str, float]) -> Need:
    """Return the need of a run of ``seconds``; ``demand`` and ``capacity`` are slots by resource, all above 0.

    >>> need(60.0, {"runs": 1, "gpu": 1}, {"runs": 6, "gpu": 2})
    Need(resource='gpu', seconds=30.0)
    """
    shares = {name: slots / capacity[name] for name, slots in demand.items()}
    scarcest = max(shares, key=lambda name: shares[name])
    return Need(scarcest, seconds * shares[scarcest])
