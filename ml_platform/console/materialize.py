"""Materialization of the stale assets of a selection, in as few runs as Dagster allows."""

from collections.abc import Sequence
from typing import TypeVar

import dagster as dg

from ml_platform.components.dataset.landed_adoption import adopt_published_files
from ml_platform.console.materialization_plan import StaleAsset, stale_assets
from ml_platform.console.runs import Listener, RunReport, execute
from ml_platform.data.landing import Landing
from ml_platform.data.partitions import months_between
from ml_platform.errors import PlatformError
from resources.home import Home
from resources.home_lake import open_lake
from resources.run_monitoring import recover_from_killed_processes

T = TypeVar("T", bound=dg.Component)

QUIET_CONFIG = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class SelectionError(PlatformError):
    """Raised when a selection names no asset."""


def load_definitions() -> dg.Definitions:
    """Return all definitions of the project."""
    from ml_platform.definitions import defs

    return defs()


def declared_components(kind: type[T]) -> list[T]:
    """Return all components of ``kind`` in the domains that can be read."""
    from ml_platform.components.project import read_project
    from ml_platform.definitions import PROJECT_ROOT

    return read_project(PROJECT_ROOT).components(kind)


def resolve_selection(loaded: dg.Definitions, selection: str) -> list[dg.AssetKey]:
    """Return the sorted keys of ``selection`` (Dagster's selection syntax); raises when it selects no asset."""
    from dagster._core.definitions.asset_selection import DagsterInvalidAssetSelectionError

    try:
        keys, found = dg.AssetSelection.from_string(selection).resolve(loaded.resolve_asset_graph()), "none"
    except DagsterInvalidAssetSelectionError:
        keys, found = set(), "text that Dagster cannot parse"
    if not keys:
        raise SelectionError(
            f"Selection '{selection}'",
            expected="at least one asset",
            found=found,
            fix='Run `dg list defs` to see all assets. Examples of a selection: key:"datasets/*", group:<domain>.',
        )
    return sorted(keys)


def find_stale(
    loaded: dg.Definitions,
    instance: dg.DagsterInstance,
    home: Home,
    keys: Sequence[dg.AssetKey],
    months: Sequence[str],
) -> list[StaleAsset]:
    """Return the stale assets of ``keys`` in ``months``."""
    graph = loaded.resolve_asset_graph()
    landing = Landing(home.landing)

    def landed_digest(key: dg.AssetKey, month: str | None) -> str | None:
        return landing.find(key.path[-1], month).sha256 if key.path[0] == "datasets" else None

    lake = open_lake(home)

    def damage(key: dg.AssetKey, month: str | None) -> str | None:
        table = graph.get(key).metadata.get("dagster/table_name")
        damaged = lake.damaged_files(str(table), month) if table else []
        return f"its rows are damaged: {damaged[0].path}: {damaged[0].found}" if damaged else None

    partitions = {key: list(months) for key in keys if graph.get(key).partitions_def is not None}
    return stale_assets(loaded, instance, keys, partitions, landed_digest, damage)


def bring_up_to_date(
    loaded: dg.Definitions,
    instance: dg.DagsterInstance,
    home: Home,
    keys: Sequence[dg.AssetKey],
    months: Sequence[str],
    *,
    listener: Listener | None = None,
    force: bool = False,
) -> list[RunReport]:
    """Materialize the stale assets of ``keys``, or all with ``force``, and return the reports of the runs.

    One run covers all stale months as a range. Assets that take one month at a time (candidates, evaluation, …) get one
    run for each month. Runs whose process is gone end first.
    """
    recover_from_killed_processes(home, instance)
    adopt_published_files(open_lake(home), instance)
    graph = loaded.resolve_asset_graph()
    found = find_stale(loaded, instance, home, keys, months)
    due_keys = set(keys) if force else {each.key for each in found}
    ranged = [key for key in keys if key in due_keys and _runs_as_range(graph, key)]
    single = [key for key in keys if key in due_keys and key not in ranged]
    stale_months = sorted({each.partition for each in found if each.key in ranged and each.partition})
    range_months = list(months) if force or not stale_months else months_between(stale_months[0], stale_months[-1])
    if all(graph.get(key).partitions_def is None for key in ranged):
        range_months = []
    reports = []
    if ranged:
        reports.append(
            execute(loaded, instance, ranged, partitions=range_months, config=QUIET_CONFIG, listener=listener)
        )
    for month in months if single else []:
        due = [key for key in single if force or any(e.key == key and e.partition == month for e in found)]
        if due:
            reports.append(execute(loaded, instance, due, partitions=[month], config=QUIET_CONFIG, listener=listener))
    return reports


def _runs_as_range(graph: object, key: dg.AssetKey) -> bool:
    node = graph.get(key)  # type: ignore[attr-defined]
    policy = node.backfill_policy
    return node.partitions_def is None or (policy is not None and policy.max_partitions_per_run is None)
