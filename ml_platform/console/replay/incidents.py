"""Incidents that a replay plants: files that arrive wrong for some windows, as from a broken sensor.

The platform knows nothing of them. It must notice, name and survive each.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from ml_platform.console.replay.steps import ReplayError
from ml_platform.data.landing import LandedFile, Landing
from ml_platform.errors import did_you_mean


@dataclass(frozen=True)
class Incident:
    """One kind of incident of a domain.

    ``alter(dataset, data)`` returns the bytes that arrive in place of ``data``. It lasts ``windows`` windows, or for
    ever with None. The files of a ``repaired`` one land again as they should be, in the first window after it.
    """

    what: str
    alter: Callable[[str, bytes], bytes]
    windows: int | None = 1
    repaired: bool = True


@dataclass(frozen=True)
class PlantedIncident:
    """An incident in the windows of a replay: ``partitions`` are those of the files that it alters."""

    name: str
    incident: Incident
    windows: tuple[str, ...]
    partitions: frozenset[str]

    def alters(self, partition: str | None, window: str) -> bool:
        """Return whether the file of ``partition`` is wrong when it lands in ``window``.

        >>> stuck = Incident("A sensor is stuck.", lambda _, data: data)
        >>> planted = PlantedIncident("stuck", stuck, ("2011-w2",), frozenset({"2011-01-09"}))
        >>> planted.alters("2011-01-09", "2011-w2"), planted.alters("2011-01-09", "2011-w3")
        (True, False)
        """
        return partition in self.partitions and not (self.incident.repaired and window > self.windows[-1])


class PlantedLanding(Landing):
    """The landing zone of a replay in ``window``, whose files arrive as the planted incidents have them."""

    def __init__(self, root: Path, planted: Sequence[PlantedIncident], window: str) -> None:
        super().__init__(root)
        self.planted, self.window = planted, window

    def land_bytes(self, dataset: str, partition: str | None, data: bytes, suffix: str) -> LandedFile:
        """Land ``data``, altered by the incidents of ``partition``."""
        for each in self.planted:
            if each.alters(partition, self.window):
                data = each.incident.alter(dataset, data)
        return super().land_bytes(dataset, partition, data, suffix)


def declared_incidents(declared: ModuleType) -> Mapping[str, Incident]:
    """Return the incidents that the replay of a domain declares as ``INCIDENTS``; none without it."""
    found: Mapping[str, Incident] = getattr(declared, "INCIDENTS", {})
    return found


def plant(declared: ModuleType, incidents: Mapping[str, str], windows: Sequence[str]) -> list[PlantedIncident]:
    """Return ``incidents``, first windows by name, within ``windows``.

    Raises :class:`ReplayError` for an incident that the domain does not declare, and for another window.
    """
    known, planted = declared_incidents(declared), []
    for name, first in incidents.items():
        if name not in known:
            raise ReplayError(
                f"Incident '{name}'",
                expected=f"one of {sorted(known)}" if known else "a domain whose replay declares INCIDENTS",
                found=f"another name.{did_you_mean(name, known)}".rstrip("."),
                fix="Correct --plant.",
            )
        if first not in windows:
            raise ReplayError(
                f"Incident '{name}'",
                expected=f"a window from {windows[0]} to {windows[-1]}",
                found=f"'{first}'",
                fix="Correct --plant, which is like NAME=WINDOW.",
            )
        at, length = windows.index(first), known[name].windows
        within = tuple(windows[at:] if length is None else windows[at : at + length])
        partitions = frozenset(part for window in within for part in declared.partitions_of(window))
        planted.append(PlantedIncident(name, known[name], within, partitions))
    return planted


def parsed_incidents(texts: Sequence[str]) -> dict[str, str]:
    """Return first windows by incident from texts like ``broken_sensor=2011-07-24``.

    >>> parsed_incidents(["broken_sensor=2011-07-24"])
    {'broken_sensor': '2011-07-24'}
    """
    found = {}
    for text in texts:
        name, equals, window = text.partition("=")
        if not (name and equals and window):
            raise ReplayError(
                f"Incident '{text}'", expected="NAME=WINDOW", found="another form", fix="Correct --plant."
            )
        found[name] = window
    return found
