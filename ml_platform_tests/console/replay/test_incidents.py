"""Planted incidents: the files of their windows arrive wrong, and land again where they are repaired."""

from pathlib import Path
from types import ModuleType

import pytest

from ml_platform.console.replay.incidents import Incident, PlantedLanding, parsed_incidents, plant
from ml_platform.console.replay.steps import ReplayError

WEEKS = ["w1", "w2", "w3", "w4"]


def domain() -> ModuleType:
    declared = ModuleType("replay")
    declared.__dict__["partitions_of"] = lambda window: [f"{window}-a", f"{window}-b"]
    declared.__dict__["INCIDENTS"] = {
        "stuck": Incident("A sensor is stuck.", lambda _, data: data[:1] * len(data)),
        "doubled": Incident("Twice as many.", lambda _, data: data * 2, windows=None, repaired=False),
    }
    return declared


def landed(landing: PlantedLanding, partition: str) -> bytes:
    return landing.land_bytes("counts", partition, b"abc", "csv").path.read_bytes()


def test_a_repaired_file_lands_again_after_the_incident(tmp_path: Path) -> None:
    landing = PlantedLanding(tmp_path, plant(domain(), {"stuck": "w2"}, WEEKS), "w1")
    assert landed(landing, "w1-a") == b"abc"
    landing.window = "w2"
    assert [landed(landing, each) for each in ("w1-b", "w2-a", "w2-b")] == [b"abc", b"aaa", b"aaa"]
    landing.window = "w3"
    assert [landed(landing, each) for each in ("w2-a", "w3-a")] == [b"abc", b"abc"]


def test_an_incident_without_an_end_stays_in_all_later_files(tmp_path: Path) -> None:
    landing = PlantedLanding(tmp_path, plant(domain(), {"doubled": "w3"}, WEEKS), "w4")
    assert [landed(landing, each) for each in ("w2-a", "w3-a", "w4-a")] == [b"abc", b"abcabc", b"abcabc"]


@pytest.mark.parametrize(("incidents", "message"), [({"stick": "w2"}, "stuck"), ({"stuck": "w9"}, "from w1 to w4")])
def test_an_unknown_incident_or_window_is_an_error(incidents: dict[str, str], message: str) -> None:
    with pytest.raises(ReplayError, match=message):
        plant(domain(), incidents, WEEKS)


def test_an_incident_is_given_as_name_and_window() -> None:
    with pytest.raises(ReplayError, match="NAME=WINDOW"):
        parsed_incidents(["stuck"])


def test_the_bikes_arrive_wrong_as_declared() -> None:
    from assets.bikes.replay import INCIDENTS

    day = b'"hr","bikers"\n"0",16\n"1",40\n'
    assert INCIDENTS["broken_sensor"].alter("bike_hours", day) == b'"hr","bikers"\n"0",16\n"1",16\n'
    assert INCIDENTS["schema_change"].alter("bike_hours", day) == b'"hr","rentals"\n"0",16\n"1",40\n'
    assert INCIDENTS["concept_shift"].alter("bike_hours", day) == b'"hr","bikers"\n"0",26\n"1",64\n'
