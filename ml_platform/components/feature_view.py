"""The component `FeatureView`: a change log `features/<name>`, month by month, and its online snapshot.

A request view has nothing to store and no months: its asset is there to be seen, with its columns, its code version,
and what it depends on. It is an asset rather than a mere mark because a changed code version is something to act on.
"""

import math
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from ml_platform.components.dataset import Dataset
from ml_platform.components.declaration import Declaration, months_definition, on_new_inputs
from ml_platform.components.materialized import table_metadata
from ml_platform.components.scaffolding import FeatureViewScaffolder
from ml_platform.components.shown import with_unit
from ml_platform.data.canonical import value_digest
from ml_platform.data.partitions import MonthlyPartitions
from ml_platform.features.view import KNOWN_AT, Source
from ml_platform.features.view import FeatureView as FeatureViewSettings
from resources.lake import LakeResource
from resources.online_store import OnlineStoreResource

if TYPE_CHECKING:
    from ml_platform.features.materialize import Built
    from ml_platform.features.online import Publication

SHORTEST_MONTH_DAYS = 28


@dg.scaffold_with(FeatureViewScaffolder)
class FeatureView(Declaration, FeatureViewSettings):
    """What is known when about an entity: one change log, read as of a time for training and at its end for serving."""

    group: str = Field(default="features", description="Group in which the asset is shown.")
    tags: dict[str, str] = Field(default_factory=dict, description="Tags of the asset.")

    @property
    def key(self) -> dg.AssetKey:
        return dg.AssetKey(["features", self.name])

    def settings(self) -> FeatureViewSettings:
        """Return what the engine needs to know of the view, its code version filled in."""
        return FeatureViewSettings.model_validate(
            self.model_dump(include=set(FeatureViewSettings.model_fields))
        ).pinned()

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        self.function_at("function", self.function)
        if self.kind == "request":
            return dg.Definitions(assets=[self._request()])
        return dg.Definitions(assets=[self._change_log(self._months(context))])

    def _change_log(self, months: MonthlyPartitions | None) -> dg.AssetsDefinition:
        settings = self.settings()

        @dg.asset(
            partitions_def=months_definition(months) if months else None,
            # All months in one run: a changed function is applied to history by one backfill.
            backfill_policy=dg.BackfillPolicy.single_run() if months else None,
            deps=[self._dep(source.dataset, months) for source in self.sources],
            kinds={"polars", "deltalake"},
            automation_condition=on_new_inputs(),
            **self._shown(settings),
        )
        def change_log(
            context: dg.AssetExecutionContext, lake: LakeResource, online_store: OnlineStoreResource
        ) -> dg.MaterializeResult[Any]:
            from ml_platform.features.materialize import materialize

            partitions = list(context.partition_keys) if months else [None]
            built, publication = materialize(settings, lake.lake(), online_store.store(), partitions, months)
            for each in built:
                if each.partition:
                    context.add_asset_metadata(_metadata(each, publication), partition_key=each.partition)
            return dg.MaterializeResult(
                metadata=None if months else _metadata(built[0], publication),
                data_version=dg.DataVersion(value_digest([each.version.sha256 for each in built])),
            )

        return change_log

    def _request(self) -> dg.AssetsDefinition:
        settings = self.settings()

        @dg.asset(
            deps=[dg.AssetDep(dg.AssetKey(["features", name])) for name in self.inputs],
            kinds={"polars"},
            automation_condition=_when_declared(),
            **self._shown(settings),
        )
        def request_view(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
            return dg.MaterializeResult(
                metadata={"features": len(settings.features), "inputs": settings.inputs},
                data_version=dg.DataVersion(settings.code_version),
            )

        return request_view

    def _shown(self, settings: FeatureViewSettings) -> dict[str, Any]:
        """Return what the UI shows of either kind."""
        return {
            "key": self.key,
            "description": self.description,
            "owners": [self.owner] if self.owner else None,
            "group_name": self.group,
            "tags": self.tags,
            "code_version": settings.code_version,
            "metadata": {
                "dagster/column_schema": _column_schema(settings),
                "dagster/column_lineage": _column_lineage(settings),
                **({"dagster/table_name": settings.table} if self.kind == "stored" else {}),
                "entity": self.entity,
                "lookback_days": self.lookback_days,
                "function": self.function,
                **({} if self.tolerance_minutes is None else {"tolerance_minutes": self.tolerance_minutes}),
            },
        }

    def _dep(self, dataset: str, months: MonthlyPartitions | None) -> dg.AssetDep:
        key = dg.AssetKey(["datasets", dataset])
        reach = math.ceil(self.lookback_days / SHORTEST_MONTH_DAYS)
        if months is None or not reach:
            return dg.AssetDep(key)
        mapping = dg.TimeWindowPartitionMapping(start_offset=-reach, allow_nonexistent_upstream_partitions=True)
        return dg.AssetDep(key, partition_mapping=mapping)

    def _months(self, context: dg.ComponentLoadContext) -> MonthlyPartitions | None:
        """Return the months of the sources, None where none has any; sources of different months are refused."""
        declared = {each.name: each for each in context.component_tree.get_all_components(Dataset)}
        for place, source in enumerate(self.sources):
            if source.dataset not in declared:
                raise self.refuse_name(["sources", place, "dataset"], source.dataset, sorted(declared), "a dataset")
            self._demand_columns(place, source, declared[source.dataset])
        found = [months for source in self.sources if (months := declared[source.dataset].partitions)]
        if any(months != found[0] for months in found):
            raise self.refuse(
                ["sources"],
                expected="sources with the same months",
                found=", ".join(sorted({f"{months.start} to {months.end or 'now'}" for months in found})),
                mend="Give the datasets the same partitions, or split the view.",
            )
        return found[0] if found else None

    def _demand_columns(self, place: int, source: Source, dataset: Dataset) -> None:
        known = dataset.contract.column_names
        for column in [*source.revealed, *source.seen]:
            if column not in known:
                raise self.refuse_name(["sources", place], column, known, f"a column of '{source.dataset}'")


def _when_declared() -> dg.AutomationCondition:
    # It stores nothing, so that it needs nothing of its inputs, of which some months are always still to come.
    condition = dg.AutomationCondition
    missing = condition.missing() & ~condition.execution_failed()
    return (missing | condition.code_version_changed()) & ~condition.in_progress()


def _metadata(built: "Built", publication: "Publication") -> dict[str, Any]:
    return {
        **table_metadata(built.version),
        **{name: value for name, value in built.report.as_metadata().items() if name != "rows"},
        "online_entities": publication.entities,
        "online_watermark": publication.watermark.isoformat(),
        "online_published": publication.published,
    }


def _column_schema(view: FeatureViewSettings) -> dg.TableSchema:
    keys = [dg.TableColumn(name=name, description="Entity", tags={"role": "entity"}) for name in view.entity]
    known = dg.TableColumn(name=KNOWN_AT, type="datetime", description="When the fact became known (UTC)")
    return dg.TableSchema(
        columns=[
            *keys,
            *([known] if view.kind == "stored" else []),
            *(
                dg.TableColumn(
                    name=feature.name,
                    type=feature.type,
                    description=with_unit(feature.description, feature.unit),
                    tags={"role": "input of other views"} if feature.hidden else {"role": "feature"},
                )
                for feature in view.features
            ),
        ]
    )


def _column_lineage(view: FeatureViewSettings) -> dg.TableColumnLineage:
    every = [f"{source.dataset}.{column}" for source in view.sources for column in source.seen]
    return dg.TableColumnLineage(
        deps_by_column={
            feature.name: [
                dg.TableColumnDep(dg.AssetKey(["datasets", dataset]), column)
                for dataset, _, column in (name.partition(".") for name in feature.derived_from or every)
            ]
            for feature in view.features
        }
    )
