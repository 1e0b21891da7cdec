"""Time of the home page and of a model's page, with many models and years of records.

The records of one month are the baseline: a page reads a bounded number of rows, so years must cost about the same.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from ml_platform.console.site.home_overview import Declarations
from ml_platform.console.site.model_overview import DeclaredModel
from ml_platform.console.site.server import site_app
from ml_platform.data.canonical import value_digest
from ml_platform.monitoring.drift_history import record_drift
from ml_platform.monitoring.drift_report import ColumnDrift, DriftReport
from ml_platform.monitoring.performance import ExpectedInterval, Period
from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import CHAMPION_KIND
from ml_platform.registry.verdict_record import record_verdict
from ml_platform.state.schema import performance_periods
from ml_platform.state.store import StateStore

FIRST_DAY = date(2023, 1, 1)
GATES, FEATURES = 12, 20
LIMIT_MS = 300


class SyntheticDeclarations:
    """The declarations of models ``m00``, ``m01`` and so on, in domains of ten."""

    def __init__(self, models: int) -> None:
        self._declared = Declarations(
            [DeclaredModel(f"m{at:02d}", f"domain_{at // 10}") for at in range(models)], (), {}
        )

    def current(self) -> Declarations:
        """Return the declarations, which never change."""
        return self._declared


def write_records(state: StateStore, models: Sequence[str], days: int, seed: int = 0) -> None:
    """Write a verdict, a period and the drift of each of ``days`` days for each model; every tenth day promotes."""
    audit, chance = AuditLog(state), random.Random(seed)
    for model in models:
        version = 0
        with state.write() as connection:
            for day in (FIRST_DAY + timedelta(days=at) for at in range(days)):
                at, promoted = datetime(day.year, day.month, day.day, 6, tzinfo=UTC), day.day % 10 == 0
                verdict, metrics = _verdict(model, day, chance, promoted=promoted)
                record_verdict(audit, verdict, metrics, actor="gates", at=at)
                if promoted:
                    version += 1
                    audit.append(CHAMPION_KIND, actor="gates", at=at, facts=_champion(verdict, version))
                if version:
                    period = _period(day, version, metrics["log_loss"] + chance.gauss(0, 0.01))
                    connection.execute(
                        performance_periods.insert().values(
                            model=model,
                            start=period.start.isoformat(),
                            version=period.version,
                            digest="",
                            result=period.model_dump_json(),
                        )
                    )
        order = [str(FIRST_DAY + timedelta(days=at)) for at in range(days)]
        for partition in order[-40:]:
            effects = {f"feature_{number}": abs(chance.gauss(0, 0.06)) for number in range(FEATURES)}
            record_drift(state, model, partition, drift_report(effects), order)


def measure(models: int, days: Sequence[int], rounds: int) -> dict[str, Any]:
    """Return the median time of both pages in milliseconds, for each number of days."""
    found = {}
    for number in days:
        with tempfile.TemporaryDirectory() as folder:
            declared = SyntheticDeclarations(models)
            state = StateStore.in_folder(Path(folder))
            write_records(state, [each.name for each in declared.current().models], number)
            pages = asyncio.run(_timed(state, declared, Path(folder), rounds))
            found[number] = {"records": AuditLog(state).head().sequence, **pages}
            state.close()
    return {"models": models, "days": found}


async def _timed(state: StateStore, declared: SyntheticDeclarations, folder: Path, rounds: int) -> dict[str, Any]:
    failure = {"what": "schedule m00_retrain", "at": "2026-01-01T00:00:00+00:00", "reason": "no lake", "run_id": None}
    app = site_app(folder / "reports", AuditLog(state), declared, lambda: [failure])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return {
            name: await _median_ms(client, path, rounds) for name, path in (("home", "/"), ("model", "/models/m00"))
        }


async def _median_ms(client: httpx.AsyncClient, path: str, rounds: int) -> dict[str, float]:
    (await client.get(path)).raise_for_status()
    seconds, size = [], 0
    for _ in range(rounds):
        started = time.perf_counter()
        answer = await client.get(path)
        seconds.append(time.perf_counter() - started)
        size = len(answer.content)
    return {"ms": 1000 * statistics.median(seconds), "kb": size / 1000}


def _verdict(
    model: str, day: date, chance: random.Random, *, promoted: bool
) -> tuple[dict[str, Any], dict[str, float]]:
    loss, auc = 0.45 + chance.gauss(0, 0.02), 0.78 + chance.gauss(0, 0.01)
    metrics = {"rows": 20_000.0, "auc": auc, "auc_low": auc - 0.02, "auc_high": auc + 0.02}
    metrics |= {"log_loss": loss, "log_loss_low": loss - 0.04, "log_loss_high": loss + 0.04}
    decision = "PROMOTE" if promoted else chance.choice(["HOLD", "HOLD", "REJECT"])
    content = {
        "model": model,
        "partition": str(day),
        "candidate": value_digest([model, str(day)]),
        "champion": None,
        "decision": decision,
        "reasons": ["gate_0: not above the margin with confidence.", "About 9,000 more labels would decide."],
        "gates": [{"name": f"gate_{at}", "passed": True, "reason": "x" * 200} for at in range(GATES)],
        "evidence": value_digest([model, str(day), "evidence"]),
    }
    return {**content, "digest": value_digest(content)}, metrics


def _champion(verdict: dict[str, Any], version: int) -> dict[str, Any]:
    return {
        "model": verdict["model"],
        "version": version,
        "reason": "All gates passed.",
        "action": "promote",
        "content_digest": verdict["candidate"],
        "partition": verdict["partition"],
        "manifest": {"features": [f"feature_{at}" for at in range(200)]},
        "verdict": verdict["digest"],
        "approved_by": [],
        "previous_version": version - 1 or None,
    }


def _period(day: date, version: int, loss: float) -> Period:
    return Period(
        start=datetime(day.year, day.month, day.day, tzinfo=UTC),
        version=str(version),
        predictions=900,
        labelled=880,
        pending=0,
        missing=20,
        coverage=0.98,
        days=1,
        evaluated=True,
        mean_score=0.3,
        base_rate=0.31,
        metrics={"auc": 0.78, "log_loss": loss},
        intervals={"log_loss": ExpectedInterval(value=loss, low=loss - 0.01, high=loss + 0.01)},
        estimates={
            "auc": ExpectedInterval(value=0.78, low=0.76, high=0.8),
            "log_loss": ExpectedInterval(value=0.44, low=0.42, high=0.46),
        },
        has_expectation=True,
        shortfalls={},
        regressed_metrics=[],
    )


def drift_report(effects: Mapping[str, float]) -> DriftReport:
    """Return a report on features with these ``effects`` by name; the limit of each is 0.1."""
    columns = [
        ColumnDrift(
            name=name,
            role="feature",
            kind="number",
            effect=effect,
            limit=0.1,
            p_value=0.5,
            stability_index=0.01,
            windows_flagged=0,
            windows_evaluated=4,
            shifted=effect > 0.1,
            null_rate_reference=0,
            null_rate_current=0,
            nulls_changed=False,
            unseen_share=0,
            unseen_examples=[],
            unseen_appeared=False,
        )
        for name, effect in effects.items()
    ]
    return DriftReport(
        columns=columns,
        rows_reference=60_000,
        rows_current=20_000,
        compared_reference=60_000,
        compared_current=20_000,
        expected_rows=20_000,
        volume_changed=False,
        windows_evaluated=4,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument(
        "--days", type=int, nargs="+", default=[31, 1_095], help="Days of records; the first is the baseline."
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    options = parser.parse_args()
    found = measure(options.models, options.days, options.rounds)
    if options.json:
        print(json.dumps(found))
        return
    table = Table("days", "records", "home page", "model page", "of the baseline", title=f"{options.models} models")
    base = found["days"][options.days[0]]
    for days, each in found["days"].items():
        ratio = f"{each['home']['ms'] / base['home']['ms']:.2f}, {each['model']['ms'] / base['model']['ms']:.2f}"
        cells = [f"{each[name]['ms']:.0f} ms, {each[name]['kb']:.0f} kB" for name in ("home", "model")]
        table.add_row(str(days), f"{each['records']:,}", *cells, ratio)
    Console().print(table)
    Console().print(f"Goal: the home page within {LIMIT_MS} ms.")


if __name__ == "__main__":
    main()
