"""Alerts about Dagster: failed runs, schedules, sensors and asset checks, and domains that do not load."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)

from ml_platform.alerts.alert import Alert
from ml_platform.alerts.evaluation import AlertSource
from resources.addresses import stored_address
from resources.run_failures import Failure, failed_runs, failed_ticks

RUNS_SHOWN = 50
"""Failed runs that are alerts at the same time."""

EVALUATED = frozenset({AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED})
CHECK_KINDS = {
    "performance_regression": "performance_regression",
    "concept_drift": "concept_drift",
    "quality": "landed_data_unusual",
}
"""Kinds of alerts of single checks, by the name of the check."""

NOT_ALERTED = frozenset({"landed", "schema", "expectations", "no_drift", "approved", "domain_loads", "fitted"})
"""Checks without an alert: other sources know them by partition, a person decides on them, or a declaration did.

A candidate is not fitted where its declaration requires a GPU and the machine has none.
"""

RESULT_ASSET = "evaluation"
"""Last part of the keys of assets whose checks are gates: a verdict on a candidate is a result and not a failure."""

NOT_LOADED = "not_loaded"
"""Last part of the key of the asset that stands for a domain that does not load."""


def dagster_sources(instance: dg.DagsterInstance, graph: AssetGraph, assets: Path) -> list[AlertSource]:
    """Return the sources of ``instance`` for the assets and checks of ``graph``; domains are folders of ``assets``."""
    domains = asset_domains(graph, assets)
    return [
        AlertSource("failed runs", frozenset({"run_failed"}), lambda: failed_run_alerts(instance, domains)),
        AlertSource("failed schedules and sensors", frozenset({"automation_failed"}), lambda: tick_alerts(instance)),
        AlertSource(
            "asset checks",
            frozenset({"check_failed", *CHECK_KINDS.values()}),
            lambda: check_alerts(instance, graph.asset_check_keys, domains),
        ),
        AlertSource("domains", frozenset({"domain_not_loaded"}), lambda: domain_alerts(graph)),
    ]


def asset_domains(graph: AssetGraph, assets: Path) -> dict[dg.AssetKey, str]:
    """Return the domain of each asset: the folder below ``assets`` with its declaration, or its tag `domain`."""
    return {node.key: domain for node in graph.asset_nodes if (domain := domain_of(node.tags, node.metadata, assets))}


def domain_of(tags: Mapping[str, str], metadata: Mapping[str, object], assets: Path) -> str:
    """Return the domain of an asset: the folder below ``assets`` with its declaration, or its tag `domain`; or ""."""
    return tags.get("domain") or _folder(metadata, assets)


def declared_names(domains: Mapping[dg.AssetKey, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the domains of models and of datasets by name, from those of their assets."""
    models = {key.path[0]: domain for key, domain in domains.items() if key.path[1:] == ["champion"]}
    datasets = {key.path[1]: domain for key, domain in domains.items() if key.path[:1] == ["datasets"]}
    return models, datasets


def failed_run_alerts(instance: dg.DagsterInstance, domains: Mapping[dg.AssetKey, str]) -> list[Alert]:
    """Return one alert per failed run that no later run replaced.

    One that a schedule or sensor requested is critical, because nobody waits for its result.
    """
    return [
        Alert(
            kind="run_failed",
            subject=each.subject,
            what=_run_text(each),
            link=_link(each.page),
            domain=_domain_of_run(each, domains),
            severity="critical" if each.requested_by else None,
            since=each.at,
        )
        for each in islice(failed_runs(instance), RUNS_SHOWN)
    ]


def tick_alerts(instance: dg.DagsterInstance) -> list[Alert]:
    """Return one alert per schedule and sensor whose last tick failed."""
    return [
        Alert("automation_failed", each.subject, f"Its last tick failed. {each.reason}", _link(each.page))
        for each in failed_ticks(instance)
    ]


def check_alerts(
    instance: dg.DagsterInstance, keys: Collection[dg.AssetCheckKey], domains: Mapping[dg.AssetKey, str]
) -> list[Alert]:
    """Return one alert per check of ``keys`` whose latest result is a failure: critical for ERROR, else a warning."""
    chosen = [key for key in keys if key.name not in NOT_ALERTED and key.asset_key.path[-1] != RESULT_ASSET]
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(chosen)
    found = []
    for key, newest in latest.items():
        record = newest if newest.status in EVALUATED else _last_evaluated(instance, key)
        event = None if record is None or record.event is None else record.event.dagster_event
        if record is None or event is None or event.event_type is not dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            continue
        result = event.asset_check_evaluation_data
        if result.passed:
            continue
        of = f" on {record.partition}" if record.partition else ""
        found.append(
            Alert(
                kind=CHECK_KINDS.get(key.name, "check_failed"),
                subject=f"{key.name} of {key.asset_key.to_user_string()}",
                what=f"The check failed{of}. {result.description or ''}".strip(),
                link=_link(f"/assets/{key.asset_key.to_user_string()}?view=checks&checkDetail={key.name}"),
                domain=domains.get(key.asset_key, ""),
                severity="critical" if result.severity is dg.AssetCheckSeverity.ERROR else "warning",
                since=datetime.fromtimestamp(record.create_timestamp, UTC),
            )
        )
    return found


def _last_evaluated(instance: dg.DagsterInstance, key: dg.AssetCheckKey) -> AssetCheckExecutionRecord | None:
    """Return the last execution of ``key`` with a result: a run that has only begun does not end an alert."""
    found = instance.event_log_storage.get_asset_check_execution_history(key, limit=1, status=EVALUATED)
    return found[0] if found else None


def domain_alerts(graph: AssetGraph) -> list[Alert]:
    """Return one alert per domain that does not load."""
    return [
        Alert(
            kind="domain_not_loaded",
            subject=node.key.path[0],
            what=str(getattr(node.metadata.get("error"), "value", node.metadata.get("error", ""))),
            link=_link(f"/assets/{node.key.to_user_string()}"),
            domain=node.key.path[0],
        )
        for node in graph.asset_nodes
        if node.key.path[-1] == NOT_LOADED and "error" in node.metadata
    ]


def _run_text(failure: Failure) -> str:
    requested = f" It was requested by {failure.requested_by}." if failure.requested_by else ""
    return f"The run failed.{requested} {failure.reason}"


def _domain_of_run(failure: Failure, domains: Mapping[dg.AssetKey, str]) -> str:
    """Return the domain of the assets that a run should have made; empty for those of several domains."""
    assets = map(dg.AssetKey.from_user_string, failure.assets)
    named = {domains[key] for key in assets if key in domains}
    return named.pop() if len(named) == 1 else ""


def _folder(metadata: Mapping[str, object], assets: Path) -> str:
    references = metadata.get("dagster/code_references")
    files: Sequence[object] = getattr(references, "code_references", [])
    for file in (getattr(each, "file_path", "") for each in files):
        if file and Path(file).is_relative_to(assets):
            return Path(file).relative_to(assets).parts[0].removesuffix(".py")
    return ""


def _link(page: str) -> str:
    return f"{stored_address('webserver')}{page}"
