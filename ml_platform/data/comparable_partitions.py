"""The earlier partitions that are comparable with one: those of its weekday or season where a cadence has one."""

from collections.abc import Mapping

from ml_platform.data.partitions import PartitionScheme

SEASONS: Mapping[str, tuple[int, ...]] = {
    # The same hour of the week, else the same hour of the day.
    "hour": (168, 24),
    "day": (7,),
    "week": (52,),
    "month": (12,),
    "quarter": (4,),
}
"""Lengths of the seasons of a cadence in partitions, the best first."""


def comparable_names(scheme: PartitionScheme, partition: str, count: int) -> list[list[str]]:
    """Return lists of ``count`` earlier partitions of ``scheme``, the most comparable list first; each newest first.

    Only partitions of time have comparable ones by name. The last list has the partitions right before ``partition``.
    Names before the first partition of the scheme are left out.

    >>> comparable_names(PartitionScheme(cadence="day", start="2024-01-01"), "2024-01-16", 3)
    [['2024-01-09', '2024-01-02'], ['2024-01-15', '2024-01-14', '2024-01-13']]
    """
    if not scheme.is_timed:
        return []
    number, first = scheme.number(partition), scheme.number(scheme.first)
    lists = []
    for step in (*SEASONS.get(scheme.cadence, ()), 1):
        places = [number - step * at for at in range(1, count + 1)]
        lists.append([scheme.shift(partition, place - number) for place in places if place >= first])
    return lists
