"""Until when a partition has arrived: the latest one is a part while its datasets have not arrived until its end.

A training set may be built from a part, but a model is neither trained nor judged on one.
"""

from datetime import datetime

from ml_platform.data.dataset import table_of
from ml_platform.data.lake import Lake
from ml_platform.features.materialize import arrived_until
from ml_platform.steps.model import BoundModel


def arrived_end(model: BoundModel, key: str, lake: Lake) -> datetime:
    """Return the end of the model's partition ``key``, or the earlier time until which its examples have arrived."""
    return min([model.partitions.bounds(key)[1], *_arrived(model, lake).values()])


def still_arriving(model: BoundModel, key: str, lake: Lake) -> str:
    """Return until when the datasets of the examples have arrived, as text; empty if ``key`` is whole.

    Only datasets that declare their arrival can tell, and only their latest partition can be a part.
    """
    if not model.partitions.is_timed:
        return ""
    end = model.partitions.bounds(key)[1]
    parts = [
        f"datasets/{name} has arrived until {until.astimezone(model.partitions.zone):%Y-%m-%d %H:%M}"
        for name, until in _arrived(model, lake).items()
        if until < end
    ]
    return "; ".join(parts)


def _arrived(model: BoundModel, lake: Lake) -> dict[str, datetime]:
    """Return the time until which each dataset of the examples has arrived that declares its arrival."""
    found = {}
    for arrival in model.arrivals:
        scheme = model.dataset_scheme(arrival.dataset)
        landed = [each for each in lake.digests(table_of(arrival.dataset)) if each is not None]
        if arrival.dataset in model.declared.examples.sources and scheme is not None and landed:
            found[arrival.dataset] = arrived_until(arrival, lake, scheme.latest(landed), scheme)
    return found
