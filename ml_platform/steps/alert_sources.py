"""Alerts from the state store and the folders of the home: data, models, rollouts, services, predictions, disk."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from ml_platform.alerts.alert import Alert, Severity, contract_alert_key
from ml_platform.alerts.evaluation import AlertSource
from ml_platform.monitoring.drift_history import drift_history
from ml_platform.monitoring.retraining_records import last_training_decision
from ml_platform.serving.desired_state import all_desired_states
from ml_platform.serving.processes import STATUS_FILE
from ml_platform.serving.rollout import ROLLED_BACK, read_rollout
from ml_platform.serving.serving_status import read_serving_status
from ml_platform.state.cursors import cursors_below, read_cursor, write_cursor
from ml_platform.state.schema import contract_results
from ml_platform.state.store import StateStore
from ml_platform.steps.free_disk import FAILED_BYTES, GIB, WARNING_BYTES, free_bytes
from resources.addresses import stored_address
from resources.home import Home

CONTRACTS_SHOWN = 50
"""Partitions with a broken contract that are alerts at the same time."""

SERVICE_MINUTES = 3
"""Time that services have to become ready; a start takes some seconds."""

ROLLOUT_DAYS = 7
"""Days after which a rollback is no longer an alert."""

LOST_HOURS = 24
"""Hours for which lost predictions are an alert after the last loss."""

_LOST, _SEEN = "lost_predictions/", "alerts/lost_predictions/"


@dataclass(frozen=True)
class Declared:
    """The domains of the declared models and datasets, by name."""

    models: Mapping[str, str]
    datasets: Mapping[str, str]


def home_sources(home: Home, state: StateStore, declared: Declared, now: datetime) -> list[AlertSource]:
    """Return the sources of ``home``; each reads a bounded number of rows per declared model."""

    def source(name: str, kind: str, find: Callable[[], Sequence[Alert]]) -> AlertSource:
        return AlertSource(name, frozenset({kind}), find)

    return [
        source("contracts", "contract_check_failed", lambda: contract_alerts(state, declared)),
        source("drift", "drift", lambda: drift_alerts(state, declared)),
        source("retraining", "retraining_stopped", lambda: retraining_alerts(state, declared)),
        source("rollouts", "rollout_rolled_back", lambda: rollout_alerts(state, declared, now)),
        source("services", "service_not_ready", lambda: service_alerts(home, now)),
        source("lost predictions", "predictions_lost", lambda: lost_prediction_alerts(state, declared, now)),
        source("disk", "disk_low", lambda: disk_alerts(home)),
    ]


def contract_alerts(state: StateStore, declared: Declared) -> list[Alert]:
    """Return one alert per partition of a declared dataset whose last landed file broke the contract."""
    table = contract_results
    query = (
        sa.select(table.c.dataset, table.c.partition, table.c.failed_check, table.c.failed_at)
        .where(table.c.failed_check.is_not(None))
        .order_by(table.c.failed_at.desc())
        .limit(CONTRACTS_SHOWN)
    )
    with state.read() as connection:
        rows = connection.execute(query).all()
    return [
        Alert(
            *contract_alert_key(row.dataset, row.partition),
            what=f"Check '{row.failed_check}' failed. The rows that passed before stay published.",
            link=f"{stored_address('webserver')}/assets/datasets/{row.dataset}?view=checks",
            domain=declared.datasets[row.dataset],
            since=datetime.fromisoformat(row.failed_at),
        )
        for row in rows
        if row.dataset in declared.datasets
    ]


def drift_alerts(state: StateStore, declared: Declared) -> list[Alert]:
    """Return one alert per model whose last measured partition drifted."""
    found = []
    for model, domain in declared.models.items():
        measured = drift_history(state, model)
        if measured and measured[-1].decision == "alert":
            last = measured[-1]
            page = f"{stored_address('reports')}/drift/{model}/{last.partition}/report.html"
            found.append(Alert("drift", model, f"Drift on {last.partition}. {last.reason}", page, domain))
    return found


def retraining_alerts(state: StateStore, declared: Declared) -> list[Alert]:
    """Return one alert per model whose last decided training stopped after its attempts."""
    found = []
    for model, domain in declared.models.items():
        last = last_training_decision(state, model)
        if last is not None and last.state == "stopped":
            page = f"{stored_address('reports')}/models/{model}"
            found.append(Alert("retraining_stopped", model, f"On {last.window}. {last.training}", page, domain))
    return found


def rollout_alerts(state: StateStore, declared: Declared, now: datetime) -> list[Alert]:
    """Return one alert per model whose last rollout was rolled back and left the former version in place."""
    desired = all_desired_states(state).readable
    found = []
    for model, domain in declared.models.items():
        last = read_rollout(state, model)
        if last is None or last.outcome != ROLLED_BACK or last.ended is None:
            continue
        served = desired.get(model)
        if last.ended < now - timedelta(days=ROLLOUT_DAYS) or served is None or served.stable != last.stable:
            continue
        what = f"Version {last.candidate.version} was taken out; version {last.stable.version} serves. {last.reason}"
        page = f"{stored_address('reports')}/models/{model}"
        found.append(Alert("rollout_rolled_back", model, what, page, domain, since=last.ended))
    return found


def service_alerts(home: Home, now: datetime) -> list[Alert]:
    """Return one alert per desired service that is not ready; none while the platform does not run here."""
    file = home.run / STATUS_FILE
    status = read_serving_status(file)
    if status is None:
        return []
    # The reconciler writes the file only when it changes.
    since = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    if since > now - timedelta(minutes=SERVICE_MINUTES):
        return []
    return [
        Alert(
            kind="service_not_ready",
            subject=each,
            what=f"The service is not ready for {SERVICE_MINUTES} minutes or more. Its log is in logs/ of the home.",
            link=f"{stored_address('reports')}/",
            since=since,
        )
        for each in status.waiting
    ]


def lost_prediction_alerts(state: StateStore, declared: Declared, now: datetime) -> list[Alert]:
    """Return one alert per model with answered predictions that reached no log within :data:`LOST_HOURS`."""
    found = []
    for model, counts in cursors_below(state, _LOST).items():
        total = int(counts["lost"]) + int(counts["dropped"])
        seen = read_cursor(state, _SEEN + model)
        if seen is None or total != seen["total"]:
            # A smaller total is that of a home that was restored.
            more = max(total - (0 if seen is None else int(seen["total"])), 0)
            seen = {"total": total, "more": more, "at": now.isoformat()}
            write_cursor(state, _SEEN + model, seen)
        since = datetime.fromisoformat(seen["at"])
        if seen["more"] and now < since + timedelta(hours=LOST_HOURS):
            what = f"{seen['more']} answered predictions are in no log; {seen['total']} since the counting began."
            page = f"{stored_address('webserver')}/assets/{model}/predictions"
            domain = declared.models.get(model, "")
            found.append(Alert("predictions_lost", model, what, page, domain, since=since))
    return found


def disk_alerts(home: Home) -> list[Alert]:
    """Return an alert while the disk of ``home`` has little space: critical where nothing can be written soon."""
    free = free_bytes(home.root)
    if free >= WARNING_BYTES:
        return []
    severity: Severity = "critical" if free < FAILED_BYTES else "warning"
    limit = FAILED_BYTES if severity == "critical" else WARNING_BYTES
    what = f"Less than {limit // GIB} GiB are free on the disk of the home."
    return [Alert("disk_low", "disk of the home", what, f"{stored_address('reports')}/", severity=severity)]
