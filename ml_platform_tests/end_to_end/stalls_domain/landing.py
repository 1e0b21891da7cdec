"""Landing of the stalls: days drawn from a seed, the same for the same day."""

import numpy as np
import polars as pl

from ml_platform.data.landing import LandedFile, Landing
from ml_platform.data.partitions import PartitionScheme

DAYS = PartitionScheme(cadence="day", start="2024-03-01", end="2024-03-31", time_zone="UTC")
STALLS = ("north", "east", "south", "west")
HOURS = range(8, 20)


def day(partition: str) -> pl.DataFrame:
    """Return the sales of one day: each stall has its own level, which varies from hour to hour."""
    random = np.random.default_rng(int(partition.replace("-", "")))
    rows = [
        {
            "stall": stall,
            "sold_at": f"{partition}T{hour:02d}:{minute:02d}:00Z",
            "amount": int(random.poisson(10 * level)),
        }
        for level, stall in enumerate(STALLS, start=1)
        for hour in HOURS
        for minute in (0, 20, 40)
    ]
    return pl.DataFrame(rows)


def land(landing: Landing, through: str) -> list[LandedFile]:
    """Land every day up to ``through``."""
    days = DAYS.between(DAYS.first, through)
    return [landing.land_bytes("stall_sales", each, day(each).write_csv().encode(), "csv") for each in days]
