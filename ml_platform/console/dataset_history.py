"""The verbs that change the history of a dataset, for the command line: evolve and rename.

Dagster's event log is not changed. New materializations say which rows a dataset has now, so nothing is read again.
"""

from collections.abc import Collection, Sequence

import dagster as dg
from dagster._core.definitions.data_version import CODE_VERSION_TAG, DATA_VERSION_TAG

from ml_platform.components.dataset.component import Dataset
from ml_platform.components.materializations import LANDED_DIGEST, latest_versions, table_metadata
from ml_platform.data.contract_record import passed_rows
from ml_platform.data.dataset import table_of
from ml_platform.data.evolution import EvolutionError, EvolutionRequest
from ml_platform.data.evolution_record import record_reported
from ml_platform.data.lake import Lake, TableVersion
from ml_platform.data.landing import Landing
from ml_platform.errors import PlatformError
from ml_platform.registry.audit import AuditLog
from ml_platform.state.schema import WHOLE
from ml_platform.steps.dataset_rename import record_rename_reported, rename_of_dataset
from ml_platform.steps.evolution import evolution_of_dataset
from ml_platform.steps.lifecycle import LifecycleDecision, LifecycleStep
from resources.run_monitoring import open_runs


class DatasetInUseError(PlatformError):
    """Raised when a run that has not ended reads or writes a dataset."""


def evolution_steps(
    declared: Dataset,
    request: EvolutionRequest,
    lake: Lake,
    instance: dg.DagsterInstance,
    decision: LifecycleDecision,
    *,
    check: bool,
) -> list[LifecycleStep]:
    """Return the steps that bring the history of ``declared`` to its contract; with ``check``, its rows are checked.

    Raises as :func:`~ml_platform.steps.evolution.evolution_of_dataset`, and :class:`DatasetInUseError` while a run
    writes or reads the dataset.
    """
    require_no_run(instance, [declared.key])
    return evolution_of_dataset(
        declared.engine_rules(),
        request,
        lake,
        AuditLog(lake.state),
        decision,
        lambda: _report_changed_rows(declared, lake, instance),
        check=check,
    )


def parsed_request(renames: Sequence[str], fills: Sequence[str], drops: Sequence[str]) -> EvolutionRequest:
    """Return the request of ``old=new`` and ``column=value`` texts; raises for a text without an equals sign."""
    return EvolutionRequest(_pairs("--rename", "old=new", renames), _pairs("--fill", "column=value", fills), drops)


def downstream_of(loaded: dg.Definitions, key: dg.AssetKey) -> list[dg.AssetKey]:
    """Return the sorted keys of all assets that are made of ``key``."""
    graph = loaded.resolve_asset_graph()
    if not graph.has(key):
        return []
    return sorted(dg.AssetSelection.assets(key).downstream(include_self=False).resolve(graph))


def require_no_run(instance: dg.DagsterInstance, keys: Sequence[dg.AssetKey]) -> None:
    """Raise :class:`DatasetInUseError` while a run that has not ended materializes one of ``keys``."""
    for each in open_runs(instance):
        selected = each.run.asset_selection
        used = [key for key in keys if selected is None or key in selected]
        if used:
            raise DatasetInUseError(
                f"Dataset '{used[0].path[-1]}'",
                expected="no run that writes it",
                found=f"run {each.run_id[:8]} of {each.title} ({each.state})",
                fix="Wait for its end, or end a dead run with `ml-platform runs --end-dead`.",
            )


def report_rows(
    declared: Dataset,
    lake: Lake,
    instance: dg.DagsterInstance,
    description: str,
    partitions: Collection[str] | None = None,
) -> int:
    """Tell Dagster which checked rows ``declared`` has, as of its current code version; return the number of events.

    With ``partitions``, only these (empty: the whole table). A partition whose rows did not pass the contract is left
    out, so it stays stale.
    """
    table, code_version = table_of(declared.name), declared.code_version or declared.code_hash()
    stored = lake.catalog.table(table)
    if stored is None:
        return 0
    passed = {
        partition: digests
        for partition, digests in passed_rows(lake, declared.name).items()
        if partitions is None or partition in partitions
    }
    sizes: dict[str, tuple[int, int]] = {}
    for each in lake.catalog.segments(table, with_files=False):
        rows, size = sizes.get(each.partition, (0, 0))
        sizes[each.partition] = (rows + each.rows, size + each.size_bytes)
    for partition, (digest, landed) in passed.items():
        version = TableVersion(table, stored.version, *sizes[partition], digest)
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                declared.key,
                description=description,
                partition=None if partition == WHOLE else partition,
                metadata={**table_metadata(version), **({LANDED_DIGEST: landed} if landed else {})},
                tags={CODE_VERSION_TAG: code_version, DATA_VERSION_TAG: digest},
            )
        )
    return len(passed)


def _report_changed_rows(declared: Dataset, lake: Lake, instance: dg.DagsterInstance) -> None:
    report_rows(declared, lake, instance, "Changed to the contract by `ml-platform dataset evolve`.")
    record_reported(lake.state, declared.name)


def _pairs(option: str, form: str, texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise EvolutionError(
                f"Option {option} {text}",
                expected=f"{option} {form}",
                found="text without a name and an equals sign",
                fix=f"Write {option} {form}.",
            )
        found[name] = value
    return found


def rename_steps(
    old: str, declared: Dataset, lake: Lake, landing: Landing, instance: dg.DagsterInstance, decision: LifecycleDecision
) -> list[LifecycleStep]:
    """Return the steps that move the history of the dataset ``old`` to the name of ``declared``.

    Raises as :func:`~ml_platform.steps.dataset_rename.rename_of_dataset`, and :class:`DatasetInUseError` while a run
    writes one of both.
    """
    from ml_platform.console.lifecycle import declared_names

    require_no_run(instance, [dg.AssetKey(["datasets", old]), declared.key])
    return rename_of_dataset(
        old,
        declared.name,
        lake,
        landing,
        AuditLog(lake.state),
        decision,
        declared_names(),
        lambda: report_renamed_rows(old, declared, lake, instance),
    )


def report_renamed_rows(old: str, declared: Dataset, lake: Lake, instance: dg.DagsterInstance) -> int:
    """Tell Dagster of the rows that ``declared`` has from the dataset ``old``; return the number of events.

    Only partitions that the loader and the contract of now made are reported; the next run reads the others again.
    """
    code_version = declared.code_version or declared.code_hash()
    made = latest_versions(instance, dg.AssetKey(["datasets", old]))
    current = {partition or WHOLE for partition, each in made.items() if each.code_version == code_version}
    reported = report_rows(declared, lake, instance, f"Renamed from '{old}' by `ml-platform dataset rename`.", current)
    record_rename_reported(lake.state, declared.name)
    return reported
