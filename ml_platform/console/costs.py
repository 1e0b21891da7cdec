"""`ml-platform costs`: what the steps of each domain, model or asset have cost, from the ledger of the state store."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from ml_platform.data.cadences import SECONDS_PER_HOUR
from ml_platform.errors import PlatformError, did_you_mean, listed
from ml_platform.monitoring.cost_records import AssetDay, Used, asset_days, total

if TYPE_CHECKING:
    from ml_platform.state.store import StateStore
    from ml_platform.training.resource_usage import PriceList

GB = 1e9
NO_DOMAIN = "without a domain"
"""Name of the assets that belong to no domain."""


_NAMES: Mapping[str, Callable[[AssetDay], str]] = {
    "domain": lambda each: each.domain or NO_DOMAIN,
    "model": lambda each: each.model or each.asset,
    "asset": lambda each: each.asset,
}
"""The name of the line of a record, by the kind of lines."""


class CostsError(PlatformError):
    """Raised for a name that is neither a domain nor a model."""


@dataclass(frozen=True)
class CostLine:
    """The steps of a domain, a model or an asset; ``failures`` of its ``steps`` failed."""

    name: str
    steps: int
    failures: int
    used: Used


@dataclass(frozen=True)
class CostReport:
    """The costs of the UTC days from ``first`` to ``last``. ``by`` is domain, model or asset, the kind of ``lines``.

    ``lines`` have the most processor time first, ``days`` are in order and have only those with a step. ``money`` is
    null everywhere if ``currency`` is: then nothing has a price.
    """

    subject: str
    first: date
    last: date
    currency: str | None
    by: str
    lines: Sequence[CostLine]
    days: Sequence[CostLine]

    @property
    def total(self) -> CostLine:
        """All lines together."""
        return _line("total", self.lines)

    def json_values(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "subject": self.subject or None,
            "first": self.first.isoformat(),
            "last": self.last.isoformat(),
            "currency": self.currency,
            "total": self._values(self.total),
            f"{self.by}s": {each.name: self._values(each) for each in self.lines},
            "days": {each.name: self._values(each) for each in self.days},
        }

    def _values(self, line: CostLine) -> dict[str, Any]:
        used = asdict(line.used) | ({} if self.currency else {"money": None})
        return {"steps": line.steps, "failures": line.failures, **used}


def cost_report(
    state: "StateStore", days: int, today: date, prices: "PriceList", *, domain: str = "", model: str = ""
) -> CostReport:
    """Return the costs of the last ``days`` UTC days until ``today``.

    The lines are the models and other assets of ``domain``, the assets of ``model``, or without both all domains.
    """
    first = today - timedelta(days=days - 1)
    found = asset_days(state, first, today, domain=domain or None, model=model or None)
    by: Literal["domain", "model", "asset"] = "asset" if model else "model" if domain else "domain"
    lines = sorted(_lines(found, _NAMES[by]), key=lambda each: -each.used.cpu_seconds)
    by_day = _lines(found, lambda each: each.day.isoformat())
    return CostReport(model or domain, first, today, prices.shown_currency, by, lines, by_day)


def report_of_name(
    state: "StateStore", name: str, days: int, today: date, prices: "PriceList", known: Sequence[str] = ()
) -> CostReport:
    """Return the report of the model or the domain ``name``; empty: of all domains.

    Raises :class:`CostsError` for a name without a record that is not among the ``known`` ones.
    """
    if not name:
        return cost_report(state, days, today, prices)
    found = cost_report(state, days, today, prices, model=name)
    if not found.lines:
        found = cost_report(state, days, today, prices, domain=name)
    if not found.lines and name not in known:
        raise CostsError(
            f"Costs of '{name}'",
            expected=f"a domain or a model with a step in the last {days} days, or a declared one",
            found=f"neither; declared are {listed(known, 20)}",
            fix=f"Correct the name, or name more days by --days.{did_you_mean(name, known)}",
        )
    return found


def cost_text(used: Used, currency: str | None) -> str:
    """Return the cost in money, or without prices in hours of processors and accelerators.

    >>> cost_text(Used(cpu_seconds=5400, money=0.072), "USD")
    '0.072 USD'
    >>> cost_text(Used(cpu_seconds=5400, gpu_seconds=60), None)
    '1.50 CPU-hours, 0.017 GPU-hours'
    """
    if currency is not None:
        return f"{_short(used.money)} {currency}"
    gpu = f", {_short(used.gpu_seconds / SECONDS_PER_HOUR)} GPU-hours" if used.gpu_seconds else ""
    return f"{_short(used.cpu_seconds / SECONDS_PER_HOUR)} CPU-hours{gpu}"


def show(report: CostReport, console: Console) -> None:
    """Print the lines and their total as a table."""
    if not report.lines:
        console.print(f"No step has ended from {report.first} to {report.last}.", highlight=False)
        return
    of = f" of {report.subject}" if report.subject else ""
    table = Table(
        title=f"Costs{of}, {report.first} to {report.last} (UTC)",
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    table.add_column(report.by, overflow="fold")
    has_gpu, has_failures = report.total.used.gpu_seconds > 0, report.total.failures > 0
    optional = {"failed": has_failures, "GPU": has_gpu}
    for title in ("steps", "failed", "time", "CPU", "GPU", "memory", "written", "cost"):
        if optional.get(title, True):
            table.add_column(title, justify="right", no_wrap=True)
    for line in (*report.lines, report.total):
        used = line.used
        table.add_row(
            line.name.removeprefix(f"{report.subject}/"),
            f"{line.steps:,}",
            *([f"{line.failures:,}"] if has_failures else []),
            duration_text(used.wall_seconds),
            duration_text(used.cpu_seconds),
            *([duration_text(used.gpu_seconds)] if has_gpu else []),
            f"{used.peak_memory_bytes / GB:.2f} GB",
            f"{used.bytes_written / GB:.2f} GB",
            cost_text(used, report.currency),
            end_section=line is report.lines[-1],
        )
    console.print(table)


def duration_text(seconds: float) -> str:
    """Return a time in seconds, minutes or hours.

    >>> duration_text(31.74), duration_text(4_000), duration_text(90_000)
    ('31.7 s', '66.7 min', '25.0 h')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 2 * SECONDS_PER_HOUR else f"{seconds / SECONDS_PER_HOUR:,.1f} h"


def _lines(found: Sequence[AssetDay], name_of: Callable[[AssetDay], str]) -> list[CostLine]:
    groups: dict[str, list[AssetDay]] = {}
    for each in found:
        groups.setdefault(name_of(each), []).append(each)
    return [_line(name, group) for name, group in groups.items()]


def _line(name: str, parts: Sequence[AssetDay | CostLine]) -> CostLine:
    steps, failures = sum(each.steps for each in parts), sum(each.failures for each in parts)
    return CostLine(name, steps, failures, total(each.used for each in parts))


def _short(value: float) -> str:
    """Return ``value`` with two decimals, and one that is small with two digits."""
    return f"{value:,.2f}" if value >= 0.1 or not value else f"{value:.2g}" if value >= 0.001 else "< 0.001"
