"""The sensor `alerts`: it evaluates all sources of alerts, and sends the messages that are due."""

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from ml_platform.components.platform_assets import HOUSEKEEPING
from ml_platform.components.sensor_interval import sensor_seconds
from resources.dagster_home import HomeResource

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.asset_graph import AssetGraph

    from ml_platform.alerts.delivery import Delivery
    from ml_platform.alerts.evaluation import Evaluation
    from resources.home import Home

INTERVAL_SECONDS = 30


def alerts_sensor() -> dg.SensorDefinition:
    """Return the sensor `alerts`; an evaluation without a change writes nothing."""

    @dg.sensor(
        name="alerts",
        # Dagster wants a target; the sensor requests no run.
        target=dg.AssetSelection.assets(HOUSEKEEPING),
        description="Evaluates failed runs, checks, drift, rollouts and services, and sends alerts by alerts.yaml.",
        minimum_interval_seconds=sensor_seconds(INTERVAL_SECONDS),
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def _alerts(context: dg.SensorEvaluationContext, home: HomeResource) -> dg.SkipReason:
        assert context.repository_def is not None
        found, sent = evaluate_alerts(home.home(), context.instance, context.repository_def.asset_graph)
        problems = "".join(f" {name}: {problem}" for name, problem in sent.problems.items())
        return dg.SkipReason(f"{found} {sent.delivered} delivered.{problems}")

    return _alerts


def evaluate_alerts(home: "Home", instance: dg.DagsterInstance, graph: "AssetGraph") -> "tuple[Evaluation, Delivery]":
    """Evaluate all sources of ``home`` and ``instance`` for the assets of ``graph``, and send what is due.

    With an invalid `alerts.yaml` all alerts go to the log, that file is an alert too, and queued messages wait.
    """
    from ml_platform.alerts.alert import SOURCE_FAILED, Alert
    from ml_platform.alerts.delivery import deliver
    from ml_platform.alerts.evaluation import AlertSource, evaluate
    from ml_platform.alerts.settings import AlertSettings, AlertSettingsError, read_settings
    from ml_platform.data.domains import declared_budgets
    from ml_platform.steps.alert_sources import Declared, home_sources
    from ml_platform.steps.cost_alerts import cost_sources
    from ml_platform.steps.prices import read_prices
    from resources.alert_settings import alert_log, home_page, message_addresses, settings_file
    from resources.alert_sources import asset_domains, dagster_sources, declared_names
    from resources.profiles import REPOSITORY
    from resources.state import open_state

    now, state, assets = datetime.now(UTC), open_state(home), REPOSITORY / "assets"
    declared = Declared(*declared_names(asset_domains(graph, assets)))
    prices = read_prices(REPOSITORY)
    sources = [
        *dagster_sources(instance, graph, assets),
        *home_sources(home, state, declared, now),
        *cost_sources(state, declared_budgets(assets), prices.shown_currency, now),
    ]
    try:
        settings = read_settings(settings_file())
    except AlertSettingsError as error:
        settings, invalid = AlertSettings(), Alert(SOURCE_FAILED, settings_file().name, str(error), home_page())
        sources.append(AlertSource("alerts.yaml", frozenset(), lambda: [invalid]))
    addresses = message_addresses(settings)
    found = evaluate(state, settings, sources, addresses, os.environ, now, home_page=home_page())
    return found, deliver(state, settings, addresses, os.environ, alert_log(home))
