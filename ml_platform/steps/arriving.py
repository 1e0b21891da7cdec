"""Whether a partition is still a part: its datasets have not arrived until its end.

A training set may be built from a part, but a model is neither trained nor judged on one.
"""

from ml_platform.data.dataset import table_of
from ml_platform.data.lake import Lake
from ml_platform.features.materialize import arrived_until
from ml_platform.steps.model import BoundModel


def still_arriving(model: BoundModel, key: str, lake: Lake) -> str:
    """Return until when the datasets of the examples have arrived, as a sentence; empty if ``key`` is whole.

    Only datasets that declare their arrival can tell, and only their latest partition can be a part.
    """
    if not model.partitions.is_timed:
        return ""
    end = model.partitions.bounds(key)[1]
    parts = []
    for arrival in model.arrivals:
        scheme = model.dataset_scheme(arrival.dataset)
        landed = [each for each in lake.digests(table_of(arrival.dataset)) if each is not None]
        if arrival.dataset not in model.declared.examples.sources or scheme is None or not landed:
            continue
        until = arrived_until(arrival, lake, scheme.latest(landed), scheme)
        if until < end:
            parts.append(f"datasets/{arrival.dataset} has arrived until {until.astimezone(scheme.zone):%Y-%m-%d %H:%M}")
    return f"{key} has not ended: {'; '.join(parts)}." if parts else ""
