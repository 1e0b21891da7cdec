"""Landing of the bike counts: the file of the package ISLP, split into days. No byte of a line changes."""

from collections import defaultdict

from ml_platform.data.landing import LandedFile, Landing
from ml_platform.data.package_files import package_file
from ml_platform.data.partitions import PartitionScheme

DAYS = PartitionScheme(cadence="day", start="2011-01-01", end="2011-12-31", time_zone="America/New_York")


def land(landing: Landing, through: str) -> list[LandedFile]:
    """Land every day up to ``through`` (like ``2011-09-01``). A day that has landed stays as it is."""
    header, *lines = package_file("ISLP", "data/Bikeshare.csv").read_bytes().splitlines(keepends=True)
    at = header.replace(b'"', b"").split(b",").index(b"day")
    by_day: defaultdict[int, list[bytes]] = defaultdict(lambda: [header])
    for line in lines:
        by_day[int(line.split(b",", at + 1)[at])].append(line)
    days = DAYS.between(DAYS.first, through)
    return [landing.land_bytes("bike_hours", day, b"".join(by_day[at]), "csv") for at, day in enumerate(days, 1)]
