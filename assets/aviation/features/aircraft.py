"""Feature views of the aircraft: the state of its last leg out of New York, its recent delays, its age.

The data contains only legs out of New York. An aircraft must return before it can leave again. Its last leg, flown
there and back with a turnaround, therefore gives the earliest time at which it can be ready.
"""

import polars as pl

from assets.aviation.features.movements import DAY, instants, movements
from assets.aviation.features.sequences import CODE, MINUTES, TIES, Sequences, coded
from ml_platform.features.change_log import Window

OVERDUE_STEPS = (0, 15, 30, 45, 60, 90, 120, 180, 240)
"""Minutes past its schedule at which it is noted again that a leg has still not left."""

WAITING, LEFT, LANDED = 0, 1, 2
FREQUENT_MODELS = 60


def aircraft_leg(sources: dict[str, pl.LazyFrame]) -> pl.DataFrame:
    """Return a row per new fact about an aircraft's latest leg: it is still waiting, it has left, or it has landed."""
    legs = (
        movements(sources["flights"])
        .filter(pl.col("tailnum").is_not_null())
        .select("tailnum", "dest", "due", "left", "landed", "block")
        .collect()
    )
    legs = coded(legs, ["tailnum"]).with_columns(dest_rank=pl.col("dest").rank("dense"))
    noted = [
        _noted(legs.filter(pl.col("left").is_null() | (pl.col("left") > pl.col("due") + late)), "due", late, WAITING)
        for late in OVERDUE_STEPS
    ]
    noted.append(_noted(legs.filter(pl.col("left").is_not_null()), "left", 0, LEFT))
    noted.append(_noted(legs.filter(pl.col("landed").is_not_null()), "landed", 0, LANDED))
    # Of several facts known in the same minute the last one counts: a landing after a departure.
    by_time = pl.col("at").cast(pl.Int64) * MINUTES + pl.col(CODE) * 4 + pl.col("status")
    facts = pl.concat(noted).sort(by_time, "due", "dest_rank")
    # Drop facts about a leg that was due before the latest leg that is due.
    facts = facts.filter(pl.col("due") == pl.col("due").cum_max().over(CODE))
    return facts.select(
        "tailnum",
        instants(pl.col("at")).alias("known_at"),
        "status",
        "delay",
        "block",
        instants(pl.col("due")).alias("scheduled_departure"),
    )


def aircraft_history(sources: dict[str, pl.LazyFrame]) -> pl.DataFrame:
    """Return a row per departure of an aircraft: its legs of the day, and its mean delays over the last legs."""
    rows = movements(sources["flights"]).select("tailnum", *TIES, "departure_delay", "departure_late")
    legs = Sequences(rows.drop_nulls(["tailnum", "left"]).collect(), ["tailnum"], "left")
    means = {"departure_delay": "departure_delay", "departures_late": "departure_late"}
    columns = {"legs_1d": legs.within(DAY), "legs_that_day": legs.today()} | legs.means(means, (2, 5, 20))
    return legs.facts(columns, instants(pl.col("left")).alias("last_left_at"))


def fleet(sources: dict[str, pl.LazyFrame], window: Window) -> pl.LazyFrame:
    """Return a row per aircraft of the register, known from the start of ``window``."""
    planes = sources["planes"]
    frequent = planes.group_by("model").len().sort("len", "model", descending=[True, False]).head(FREQUENT_MODELS)
    return planes.join(frequent.select("model", kept="model"), on="model", how="left").select(
        "tailnum",
        pl.lit(window.start).cast(pl.Datetime("us", "UTC")).alias("known_at"),
        pl.col("built_in"),
        pl.col("seats"),
        pl.col("kept").fill_null("other").alias("model"),
    )


def _noted(legs: pl.DataFrame, event: str, late: int, status: int) -> pl.DataFrame:
    delay = pl.lit(late) if status == WAITING else pl.col(event) - pl.col("due")
    delay = delay - pl.col("block") if status == LANDED else delay
    return legs.select(
        "tailnum",
        CODE,
        "dest_rank",
        "due",
        "block",
        at=pl.col(event) + late,
        status=pl.lit(status, pl.Int8),
        delay=delay.cast(pl.Int32),
    )
