"""Checks of the machine: disk, memory, ports, clock and time zones."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ml_platform.console.doctor.finding import Finding, Subject, capped, failed, ok, warning
from ml_platform.errors import PlatformError
from ml_platform.steps.free_disk import FAILED_BYTES, GIB, WARNING_BYTES, free_bytes
from resources.addresses import DEFAULT_PORTS, LOOPBACK, port, port_variable

if TYPE_CHECKING:
    import psutil

MEMORY_FAILED_BYTES, MEMORY_WARNING_BYTES = 1 * GIB, 4 * GIB

CLOCK_TOLERANCE = timedelta(minutes=2)
"""Tolerated lead of a file's time over the clock, because servers of shared folders have their own clocks."""

WALK_SECONDS = 1.0
"""Time limit for the search of the latest file of a home."""

MEMORY_LIMIT_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))
"""Memory limit and memory use of the container in which this process runs, if it runs in one."""


def free_disk(subject: Subject) -> Finding:
    """Check the free disk space of the home."""
    free = free_bytes(subject.home.root)
    found = f"{free / GIB:.1f} GiB free at {subject.home.root}"
    fix = "Free disk space, or set ML_PLATFORM_HOME to a folder on a larger disk."
    if free < FAILED_BYTES:
        return failed(found, fix)
    return warning(found, fix) if free < WARNING_BYTES else ok(found)


def memory(subject: Subject) -> Finding:
    """Check the memory that is available to new processes, within the limit of a container."""
    available_bytes = available_memory_bytes()
    found = f"{available_bytes / GIB:.1f} GiB available"
    fix = "Stop other processes, or raise the container's limit: training and services need the memory."
    if available_bytes < MEMORY_FAILED_BYTES:
        return failed(found, fix)
    return warning(found, fix) if available_bytes < MEMORY_WARNING_BYTES else ok(found)


def available_memory_bytes() -> int:
    """Return the memory available on the machine, or within the container's limit if that is less."""
    import psutil

    available = int(psutil.virtual_memory().available)
    limit, used = (file.read_text().strip() if file.is_file() else "max" for file in MEMORY_LIMIT_FILES)
    return min(available, max(0, int(limit) - int(used))) if limit.isdecimal() and used.isdecimal() else available


def ports(subject: Subject) -> Finding:
    """Check that each port of `ml-platform up` is free, or in use by the platform of this home."""
    usable, problems, fixes = [], [], []
    for name in DEFAULT_PORTS:
        try:
            number = port(name)
        except ValueError:
            problems.append(f"{port_variable(name)} is '{os.environ[port_variable(name)]}', which is not a port")
            fixes.append(f"Set {port_variable(name)} to a number from 1 to 65535.")
            continue
        if _is_free(number):
            usable.append(f"{number} ({name}) is free")
            continue
        holder = _listener(number)
        if holder is not None and _belongs_to(holder, subject):
            usable.append(f"{number} ({name}) is used by the platform of this home")
        else:
            problems.append(f"{number} ({name}) is used by {_described(holder)}")
            fixes.append(f"Stop that process, or choose another port: {port_variable(name)}.")
    return failed("; ".join(problems), " ".join(fixes)) if problems else ok("; ".join(usable))


def _is_free(number: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, number))
        except (OSError, OverflowError):
            return False
    return True


def _listener(number: int) -> "psutil.Process | None":
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == number and connection.status == psutil.CONN_LISTEN:
                return psutil.Process(connection.pid) if connection.pid else None
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return None
    return None


def _belongs_to(process: "psutil.Process", subject: Subject) -> bool:
    import psutil

    from ml_platform.serving.marked_processes import RUN_VARIABLE

    try:
        return bool(process.environ().get(RUN_VARIABLE) == str(subject.home.run.resolve()))
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return False


def _described(process: "psutil.Process | None") -> str:
    import psutil

    if process is None:
        return "a process of another user"
    try:
        return f"process {process.pid} ({' '.join(process.cmdline())[:80]})"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return f"process {process.pid}"


def clock(subject: Subject) -> Finding:
    """Check that the clock is not before the latest record or file of the home, or before the installed code."""
    known = {
        "the installed code": _latest_modification(_files(subject.repository / "ml_platform")),
        "the latest file of the home": _latest_modification(_files(subject.home.root)),
        "the last record of the audit log": _last_record(subject),
    }
    later = [
        f"{name} ({_minute(at)})" for name, at in known.items() if at is not None and at > subject.now + CLOCK_TOLERANCE
    ]
    if later:
        return failed(
            f"{_minute(subject.now)}, which is before {' and '.join(later)}",
            "Set the clock (NTP), because it dates decisions and approvals.",
        )
    return ok(f"{_minute(subject.now)}, not before any record or file")


def _files(folder: Path) -> Iterator[str]:
    """Yield the files below ``folder``, for at most :data:`WALK_SECONDS`."""
    deadline = time.monotonic() + WALK_SECONDS
    for root, _, names in os.walk(folder):
        yield from (os.path.join(root, name) for name in names)  # noqa: PTH118  twice as fast on a large home
        if time.monotonic() > deadline:
            return


def _latest_modification(files: Iterator[str]) -> datetime | None:
    latest = 0.0
    for file in files:
        try:
            latest = max(latest, os.lstat(file).st_mtime)
        except FileNotFoundError:  # removed since the listing
            continue
    return datetime.fromtimestamp(latest, UTC) if latest else None


def _last_record(subject: Subject) -> datetime | None:
    from ml_platform.console.doctor.home_state import opened_state
    from ml_platform.registry.audit import AuditLog

    with opened_state(subject) as state:
        try:
            last = None if state is None else AuditLog(state).latest()
        except PlatformError:
            return None  # the check of the audit log reports this
    return None if last is None else last.at.astimezone(UTC)


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%MZ}"


def time_zones(subject: Subject) -> Finding:
    """Check that the time zone database contains `TZ` and every time zone that a declaration under assets/ names."""
    declared = {"UTC": "the platform"} | _declared_zones(subject.repository / "assets")
    absent = [f"'{zone}' of {where}" for zone, where in declared.items() if not _is_zone(zone)]
    if absent:
        return failed(
            f"no time zone {capped(absent)}",
            "Correct the name (example: America/New_York). If all time zones are missing, install tzdata.",
        )
    chosen = os.environ.get("TZ", "")
    if chosen and not _is_zone(chosen.lstrip(":")):
        return warning(
            f"TZ is '{chosen}', which is not in the time zone database",
            "Set TZ to an IANA name (example: Europe/Berlin), or unset it. Programs would use UTC.",
        )
    return ok(f"{', '.join(declared)}; this process uses {chosen or '/'.join(dict.fromkeys(time.tzname))}")


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _declared_zones(assets: Path) -> dict[str, str]:
    """Return each zone that a ``time_zone`` of a defs.yaml names, with the file. Broken files are skipped."""
    import yaml

    zones: dict[str, str] = {}
    for file in sorted(assets.rglob("defs.yaml")):
        try:
            documents = list(yaml.safe_load_all(file.read_text()))
        except yaml.YAMLError:
            continue
        for zone in _values_of("time_zone", documents):
            zones.setdefault(str(zone), str(file.relative_to(assets.parent)))
    return zones


def _values_of(key: str, value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from (each for name, each in value.items() if name == key)
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from _values_of(key, child)
