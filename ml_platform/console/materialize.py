"""Materialization of the stale assets of a selection, in as few runs as Dagster allows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from rich.console import Console

from ml_platform.components.code_record import code_changes
from ml_platform.components.dataset.landed_adoption import adopt_published_files
from ml_platform.components.declaration import scheme_of
from ml_platform.components.version_cache import VersionCache
from ml_platform.console.materialization_plan import StaleAsset, stale_assets
from ml_platform.console.partition_selection import Schemes, schemes_of, select_partitions
from ml_platform.console.runs import Listener, RunReport, execute
from ml_platform.data.collector import collector_paused
from ml_platform.data.landing import Landing
from ml_platform.data.landing_index import LandingIndex
from ml_platform.data.partitions import PartitionScheme
from ml_platform.errors import PlatformError
from ml_platform.state.schema import WHOLE
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
    partitions: str,
) -> list[StaleAsset]:
    """Return the stale assets of ``keys`` in the ``partitions`` that a command names."""
    schemes = schemes_of(loaded.resolve_asset_graph(), keys)
    return _stale(loaded, instance, home, keys, select_partitions(partitions, schemes))


def bring_up_to_date(
    loaded: dg.Definitions,
    instance: dg.DagsterInstance,
    home: Home,
    keys: Sequence[dg.AssetKey],
    partitions: str,
    *,
    listener: Listener | None = None,
    force: bool = False,
) -> list[RunReport]:
    """Materialize the stale assets of ``keys``, or all with ``force``, and return the reports of the runs.

    ``partitions`` is one key or a range, as in :func:`.select_partitions`. One run covers all stale partitions of a
    cadence as a range; assets of another cadence get a run after those that they read. Assets that take one partition
    at a time (candidates, evaluation, …) get one run for each. Runs whose process is gone end first.
    """
    recover_from_killed_processes(home, instance)
    adopt_published_files(open_lake(home), instance)
    planned = plan(loaded, instance, home, keys, partitions, force=force)
    return [
        execute(loaded, instance, run.keys, partitions=run.partitions, config=QUIET_CONFIG, listener=listener)
        for run in planned.runs
    ]


@dataclass(frozen=True)
class PlannedRun:
    """One run: its assets, and its partitions, which are empty for assets without any."""

    keys: list[dg.AssetKey]
    partitions: list[str]


@dataclass(frozen=True)
class Plan:
    """The stale assets with their reasons, and the runs that `materialize` executes, in order."""

    stale: list[StaleAsset]
    runs: list[PlannedRun]


def plan(
    loaded: dg.Definitions,
    instance: dg.DagsterInstance,
    home: Home,
    keys: Sequence[dg.AssetKey],
    partitions: str,
    *,
    force: bool = False,
) -> Plan:
    """Return what :func:`bring_up_to_date` would do with the same arguments; nothing is executed."""
    graph = loaded.resolve_asset_graph()
    schemes = schemes_of(graph, keys)
    selected = select_partitions(partitions, schemes)
    found = _stale(loaded, instance, home, keys, selected)
    stale = {(each.key, each.partition) for each in found}
    due_keys = set(keys) if force else {key for key, _ in stale}
    runs: list[PlannedRun] = []
    for step in _steps(graph, [key for key in keys if key in due_keys], schemes):
        scheme = next((scheme for key in step if (scheme := schemes[key])), None)
        named = next((selected[key] for key in step if key in selected), [])
        runs += _runs(step, named, scheme, None if force else stale, ranged=_runs_as_range(graph, step[0]))
    return Plan(found, runs)


def show_plan(planned: Plan, loaded: dg.Definitions, console: Console) -> None:
    """Print each stale asset with its partitions and the reason, then the runs; partitions in a row form a range."""
    graph = loaded.resolve_asset_graph()
    reasons: dict[tuple[dg.AssetKey, str], list[str | None]] = {}
    for each in planned.stale:
        reasons.setdefault((each.key, each.reason), []).append(each.partition)
    for (key, reason), stale in reasons.items():
        named = _ranges([each for each in stale if each is not None], scheme_of(graph.get(key).partitions_def))
        console.print(f"{key.to_user_string()}{named}: {reason}", highlight=False, markup=False, soft_wrap=True)
    for number, run in enumerate(planned.runs, start=1):
        scheme = next((found for key in run.keys if (found := scheme_of(graph.get(key).partitions_def))), None)
        names = ", ".join(key.to_user_string() for key in run.keys)
        line = f"Run {number}{_ranges(run.partitions, scheme)}: {names}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    count = len({key for run in planned.runs for key in run.keys})
    console.print(f"Assets to make: {count}. Runs: {len(planned.runs)}. Nothing was executed.")


def _ranges(partitions: Sequence[str], scheme: PartitionScheme | None) -> str:
    """Return ``partitions`` in order, those in a row as ``first...last``, with a space before; empty without any."""
    if not partitions or scheme is None:
        return ""
    if not scheme.is_timed:
        return f" {', '.join(partitions)}"
    ordered = scheme.sort(partitions)
    numbers = list(map(scheme.number, ordered))
    starts = [at for at in range(len(ordered)) if not at or numbers[at] != numbers[at - 1] + 1]
    ends = [*(at - 1 for at in starts[1:]), len(ordered) - 1]
    spans = [(ordered[a], ordered[b]) for a, b in zip(starts, ends, strict=True)]
    return " " + ", ".join(first if first == last else f"{first}...{last}" for first, last in spans)


def _stale(
    loaded: dg.Definitions,
    instance: dg.DagsterInstance,
    home: Home,
    keys: Sequence[dg.AssetKey],
    selected: Mapping[dg.AssetKey, Sequence[str]],
) -> list[StaleAsset]:
    graph = loaded.resolve_asset_graph()
    lake, landing = open_lake(home), Landing(home.landing)
    index, schemes = LandingIndex(landing, lake.state), schemes_of(graph, keys)

    def damage(key: dg.AssetKey, partitions: Sequence[str | None]) -> dict[str | None, str]:
        metadata, name = graph.get(key).metadata, key.path[-1]
        wanted = {partition or WHOLE for partition in partitions}
        table = metadata.get("dagster/table_name")
        damaged = lake.damaged_partitions(str(table), sorted(wanted)) if table else {}
        found = {each: f"its rows are damaged: {file.path}: {file.found}" for each, file in damaged.items()}
        if key.path[0] == "datasets":
            scheme = schemes[key]
            index.refresh(name, lambda _: False) if scheme is None else index.refresh(name, scheme.contains)
            landed, changed = index.unpublished(name)
            if "source" not in metadata and (missing := wanted - landed):
                landing.find(name, min(missing) or None)  # raises the error that says what has landed
            found |= dict.fromkeys(changed, "its landed file changed")
        return {each or None: reason for each, reason in found.items() if each in wanted}

    def changes(key: dg.AssetKey, made_by: str) -> str:
        return code_changes(key, graph.get(key).metadata, made_by, lake.state)

    with collector_paused():
        cache = VersionCache(home.run / "materialized_versions")
        return stale_assets(loaded, instance, keys, selected, damage, cache, changes)


def _steps(graph: BaseAssetGraph[Any], keys: Sequence[dg.AssetKey], schemes: Schemes) -> list[list[dg.AssetKey]]:
    """Return ``keys`` in groups that can run together, in order of the data.

    The assets of a group have one cadence and all run as a range or all one partition at a time. Assets without
    partitions join a range where only one cadence is selected.
    """
    partitioned = [scheme for key in keys if (scheme := schemes[key])]
    mixed = any(scheme != partitioned[0] for scheme in partitioned)

    def kind(key: dg.AssetKey) -> tuple[bool, str]:
        scheme, ranged = schemes[key], _runs_as_range(graph, key)
        return not ranged, scheme.describe() if scheme and mixed else "" if mixed or not ranged else "range"

    depth: dict[dg.AssetKey, int] = {}
    for key in (each for each in graph.toposorted_asset_keys if each in set(keys)):
        above = [depth[parent] + (kind(parent) != kind(key)) for parent in graph.get(key).parent_keys & depth.keys()]
        depth[key] = max(above, default=0)
    groups: dict[tuple[int, tuple[bool, str]], list[dg.AssetKey]] = {}
    for key in keys:
        groups.setdefault((depth[key], kind(key)), []).append(key)
    return [groups[place] for place in sorted(groups)]


def _runs(
    keys: list[dg.AssetKey],
    partitions: Sequence[str],
    scheme: PartitionScheme | None,
    stale: Collection[tuple[dg.AssetKey, str | None]] | None,
    *,
    ranged: bool,
) -> list[PlannedRun]:
    """Return the runs for ``keys``: one for a range, or one for each of ``partitions``; ``stale`` None: all is due."""
    if ranged:
        due = [key for key in partitions if stale is None or any((asset, key) in stale for asset in keys)]
        if scheme is None or not due:
            return [PlannedRun(keys, list(partitions))]
        return [PlannedRun(keys, scheme.between(due[0], due[-1]))]
    due_by_partition = {key: [asset for asset in keys if stale is None or (asset, key) in stale] for key in partitions}
    return [PlannedRun(assets, [key]) for key, assets in due_by_partition.items() if assets]


def _runs_as_range(graph: BaseAssetGraph[Any], key: dg.AssetKey) -> bool:
    node = graph.get(key)
    policy = node.backfill_policy
    return node.partitions_def is None or (policy is not None and policy.max_partitions_per_run is None)
