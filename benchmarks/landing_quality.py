"""False alarms and detection of the quality check on synthetic partitions that land one after the other.

Each process draws daily partitions with a weekly rhythm, over-dispersed numbers of rows, shares of nulls that vary from
day to day, and rare categories. A false alarm is a partition without a fault in which a finding of severity warning
or critical is made. A fault is planted into one partition, and counts as found when its kind and column are named.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from ml_platform.data.partition_profile import PartitionProfile, profile_partition
from ml_platform.data.quality_findings import Finding, compare
from ml_platform.data.quality_settings import QualitySettings

SETTINGS = QualitySettings()
SEASON = 7
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
SIZES = (24, 200, 2_000, 20_000)
DAY_SECONDS = 86_400.0

FAULTS: dict[str, tuple[Callable[[pl.DataFrame, np.random.Generator], pl.DataFrame], str, str | None]] = {
    "sensor stuck at one value": (
        lambda rows, _: rows.with_columns(normal=pl.lit(rows["normal"].fill_nan(None).drop_nulls()[0])),
        "constant",
        "normal",
    ),
    "volume halved": (lambda rows, _: rows.head(rows.height // 2), "volume", None),
    "volume doubled": (lambda rows, _: pl.concat([rows, rows]), "volume", None),
    "nulls +20 points": (lambda rows, random: _nulled(rows, "normal", 0.2, random), "nulls", "normal"),
    "new category with 5 %": (lambda rows, random: _replaced(rows, 0.05, random), "new_categories", "city"),
    "a category vanished": (lambda rows, _: rows.filter(pl.col("city") != "c0"), "missing_category", "city"),
    "unit changed (x 100)": (lambda rows, _: rows.with_columns(pl.col("skewed") * 100), "level", "skewed"),
    "last third missing": (lambda rows, _: rows.head(rows.height * 2 // 3), "newest_event", None),
}
"""By name: the change of a partition, and the kind and column of the finding that it must cause."""


@dataclass(frozen=True)
class Rate:
    """The number of partitions with a result."""

    case: str
    rows: int
    partitions: int
    found: int

    @property
    def share(self) -> float:
        return self.found / self.partitions


def partition(day: int, rows: int, random: np.random.Generator) -> pl.DataFrame:
    """Return the rows of one day without a fault: about ``rows`` on a working day, and half of them on a day off."""
    usual = rows * (0.5 if day % SEASON in (5, 6) else 1.0)
    count = max(int(usual * np.exp(random.normal(0, 0.08))), 2)
    instants = pl.Series(np.sort(random.uniform(0, DAY_SECONDS, count)) * 1e6, dtype=pl.Int64).cast(pl.Duration("us"))
    weights = 0.7 ** np.arange(12) * np.exp(random.normal(0, 0.1, 12))
    normal = random.normal(20 + 5 * np.sin(day / 58), 4, count)
    null_share = 0.03 * np.exp(random.normal(0, 0.3))
    return pl.DataFrame(
        {
            "at": instants + (BEGIN + timedelta(days=day)),
            "normal": np.where(random.uniform(size=count) < null_share, np.nan, normal),
            "skewed": np.exp(random.normal(2, 1, count)),
            "rain": np.where(random.uniform(size=count) < random.uniform(0.7, 0.95), 0.0, random.gamma(1, 2, count)),
            "count": random.poisson(3, count),
            "full": random.normal(size=count),
            "city": [f"c{each}" for each in random.choice(12, count, p=weights / weights.sum())],
            "kind": random.choice(["a", "b", "c"], count, p=[0.6, 0.3, 0.1]),
            "flag": random.uniform(size=count) < random.uniform(0.05, 0.15),
            "optional": [None if each < 0.6 else "x" for each in random.uniform(size=count)],
        },
        schema_overrides={"optional": pl.String},
    )


def findings(rows: pl.DataFrame, day: int, usual: list[tuple[int, PartitionProfile]]) -> list[Finding]:
    """Return the findings of severity warning or critical about the partition of ``day``."""
    end = (BEGIN + timedelta(days=day + 1)).timestamp()
    profiles = [profile for _, profile in usual]
    lags = [
        (BEGIN + timedelta(days=at + 1) - profile.newest).total_seconds()
        for at, profile in usual
        if profile.newest is not None
    ]
    judged = compare("day", _profile(rows, day), profiles, SETTINGS, DAY_SECONDS, end, lags)
    return [each for each in judged.findings if each.severity != "info"]


def history(
    rows: int, weeks: int, seed: int
) -> Iterator[tuple[int, pl.DataFrame, list[tuple[int, PartitionProfile]], np.random.Generator]]:
    """Yield each day with enough earlier weeks, its rows, and the comparable days with their profiles."""
    random = np.random.default_rng(seed)
    profiles: dict[int, PartitionProfile] = {}
    for day in range(weeks * SEASON):
        frame = partition(day, rows, random)
        earlier = [day - SEASON * at for at in range(1, SETTINGS.partitions + 1)]
        usual = [(at, profiles[at]) for at in earlier if at in profiles]
        if len(usual) >= SETTINGS.minimum_partitions:
            yield day, frame, usual, random
        profiles[day] = _profile(frame, day)


def false_alarms(rows: int, weeks: int, seeds: range) -> Rate:
    """Return the partitions without a fault that alarm."""
    judged = found = 0
    for seed in seeds:
        for day, frame, usual, _ in history(rows, weeks, seed):
            judged += 1
            found += bool(findings(frame, day, usual))
    return Rate("no change", rows, judged, found)


def detected(name: str, rows: int, weeks: int, seeds: range) -> Rate:
    """Return the partitions with the fault ``name`` in which it is found."""
    change, kind, column = FAULTS[name]
    judged = found = 0
    for seed in seeds:
        for day, frame, usual, random in history(rows, weeks, seed):
            judged += 1
            named = {(each.kind, each.column) for each in findings(change(frame, random), day, usual)}
            found += (kind, column) in named
    return Rate(name, rows, judged, found)


def _profile(rows: pl.DataFrame, day: int) -> PartitionProfile:
    return profile_partition(rows, BEGIN + timedelta(days=day + 1, minutes=10), ["at"])


def _nulled(rows: pl.DataFrame, column: str, share: float, random: np.random.Generator) -> pl.DataFrame:
    chosen = pl.Series(random.uniform(size=rows.height) < share)
    return rows.with_columns(pl.when(chosen).then(None).otherwise(pl.col(column)).alias(column))


def _replaced(rows: pl.DataFrame, share: float, random: np.random.Generator) -> pl.DataFrame:
    chosen = pl.Series(random.uniform(size=rows.height) < share)
    return rows.with_columns(pl.when(chosen).then(pl.lit("elsewhere")).otherwise(pl.col("city")).alias("city"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="processes of each size without a fault (default: 10)")
    parser.add_argument("--weeks", type=int, default=30, help="weeks of each process (default: 30)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    rates = [false_alarms(rows, arguments.weeks, range(arguments.seeds)) for rows in SIZES]
    rates += [detected(name, rows, 12, range(1)) for name in FAULTS for rows in SIZES[:-1]]
    if arguments.json:
        print(json.dumps([asdict(each) for each in rates]))
        return
    table = Table("case", "rows", "partitions", "found", "share")
    for each in rates:
        table.add_row(each.case, f"{each.rows}", f"{each.partitions}", f"{each.found}", f"{each.share:.2%}")
    Console().print(table)


if __name__ == "__main__":
    main()
