"""The component `FeatureView`: the change log `features/<name>` by partition, and its online snapshot.

A request view stores nothing and has no partitions. Its asset shows columns, code version and inputs in the graph, and
a changed code version triggers downstream assets.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from ml_platform.components.code_record import code_metadata
from ml_platform.components.dataset.component import Dataset
from ml_platform.components.declaration import Declaration, OnCodeChange
from ml_platform.components.feature_view.asset_arguments import ViewAssetArguments
from ml_platform.components.feature_view.change_log import change_log
from ml_platform.components.feature_view.columns import column_lineage, column_schema
from ml_platform.components.feature_view.key_types import declared_key_types
from ml_platform.components.feature_view.request_view import request_view
from ml_platform.components.feature_view.scaffolder import FeatureViewScaffolder
from ml_platform.components.materializations import COVERED_CODE, LINEAGE
from ml_platform.components.namespace import Namespace
from ml_platform.data.arrival import Arrival
from ml_platform.data.partitions import PartitionScheme
from ml_platform.errors import PlatformError
from ml_platform.features.fitted_views import make_transformer
from ml_platform.features.view import FeatureSource
from ml_platform.features.view import FeatureView as FeatureViewSettings

if TYPE_CHECKING:
    from dagster.components.core.component_tree import ComponentTree


@dg.scaffold_with(FeatureViewScaffolder)
class FeatureView(Declaration, FeatureViewSettings):
    """The facts about an entity, each with the time at which it became known.

    Training reads the change log as of each prediction time; serving reads the latest facts.
    """

    group: str = Field(default="features", description="Group of the asset in the UI.")
    tags: dict[str, str] = Field(default_factory=dict, description="Tags of the asset.")
    on_code_change: OnCodeChange = Field(
        default="automatic",
        description="automatic: make all partitions again when the code version changes; manual: only by hand.",
    )

    def resolve_names(self, namespace: Namespace) -> None:
        self.name = namespace.own(self.name)
        self.inputs = namespace.references(self.inputs)
        datasets = namespace.references([source.dataset for source in self.sources])
        for source, name in zip(self.sources, datasets, strict=True):
            source.dataset = name

    @property
    def key(self) -> dg.AssetKey:
        return dg.AssetKey(["features", self.name])

    def settings(self, datasets: Mapping[str, Dataset] | None = None) -> FeatureViewSettings:
        """Return the settings of the view for the engine, with the code version filled in.

        With ``datasets`` (by name), the settings have the type of every key, and the PII columns and the arrivals of
        the sources. Raises :class:`DeclarationError` for a key without a type.
        """
        settings = FeatureViewSettings.model_validate(self.model_dump(include=set(FeatureViewSettings.model_fields)))
        if datasets is not None:
            sources = [source.dataset for source in self.sources]
            known = {
                "arrivals": arrivals_of(sources, datasets),
                "key_types": declared_key_types(self, datasets, self),
                "pii_columns": [*self.pii_columns, *pii_columns_of(sources, datasets)],
            }
            settings = settings.model_copy(update=known)
        return settings.versioned()

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        if self.arrivals:
            raise self.error_at(
                ["arrivals"],
                expected="the arrival of a dataset in the declaration of that dataset",
                found="arrivals of a view",
                fix="Remove it, and declare arrival for the datasets that the view reads.",
            )
        self._require_code()
        if self.kind == "request":
            settings = self.settings()
            return dg.Definitions(assets=[request_view(settings, self.shared_arguments(settings), self.on_code_change)])
        partitions = self._partitions(context)
        settings = self.settings(datasets_by_name(context.component_tree))
        arguments = self.shared_arguments(settings)
        return dg.Definitions(assets=[change_log(settings, partitions, arguments, self.on_code_change)])

    def _require_code(self) -> None:
        """Raise :class:`DeclarationError` when the function, or the transformer with its settings, cannot be used."""
        if self.fitted is None:
            self.function_at("function", self.function)
            return
        self.function_at("fitted", self.code)
        try:
            make_transformer(self)
        except PlatformError as error:
            raise self.error_at(["fitted"], expected=error.expected, found=error.found, fix=error.fix) from error

    def shared_arguments(self, settings: FeatureViewSettings) -> ViewAssetArguments:
        """Return the arguments of `dg.asset` that stored views and request views share."""
        return {
            "key": self.key,
            "description": self.description,
            "owners": [self.owner] if self.owner else list(self.domain_settings.owners) or None,
            "group_name": self.group,
            "tags": self.tags,
            "code_version": settings.code_version,
            "metadata": {
                "dagster/column_schema": column_schema(settings),
                LINEAGE: column_lineage(settings),
                **({"dagster/table_name": settings.table} if self.kind == "stored" else {}),
                "entity": self.entity,
                "lookback_days": self.lookback_days,
                "function": self.code,
                COVERED_CODE: self._covered_code(settings),
                **({} if self.tolerance_minutes is None else {"tolerance_minutes": self.tolerance_minutes}),
            },
        }

    def _covered_code(self, settings: FeatureViewSettings) -> dg.JsonMetadataValue:
        """Return what the code version covers, by function and by attribute; ``settings`` are those of the engine."""
        own = {"code_version": self.code_version} if self.code_version else {}
        return code_metadata([] if own else [self.code], {**own, **settings.versioned_settings()})

    def _partitions(self, context: dg.ComponentLoadContext) -> PartitionScheme | None:
        """Return the partitions of the sources, or None if no source has partitions.

        Raises :class:`DeclarationError` for an unknown source or column, and for sources with different partitions.
        """
        declared = datasets_by_name(context.component_tree)
        for place, source in enumerate(self.sources):
            if source.dataset not in declared:
                raise self.unknown_name_error(
                    ["sources", place, "dataset"], source.dataset, sorted(declared), "a dataset"
                )
            self._require_columns(place, source, declared[source.dataset])
        schemes = [scheme for source in self.sources if (scheme := declared[source.dataset].partitions)]
        if any(scheme != schemes[0] for scheme in schemes):
            raise self.error_at(
                ["sources"],
                expected="sources with the same partitions",
                found=", ".join(sorted({scheme.describe() for scheme in schemes})),
                fix="Give the datasets the same partitions, or split the view.",
            )
        if schemes and self.lookback_days and not schemes[0].is_timed:
            raise self.error_at(
                ["lookback_days"],
                expected="sources with partitions of time",
                found=schemes[0].describe(),
                fix="Remove lookback_days, or give the sources a cadence.",
            )
        return schemes[0] if schemes else None

    def _require_columns(self, place: int, source: FeatureSource, dataset: Dataset) -> None:
        known = dataset.contract.column_names
        for column in [*source.available_from, *source.visible_columns]:
            if column not in known:
                raise self.unknown_name_error(["sources", place], column, known, f"a column of '{source.dataset}'")


def pii_columns_of(names: Iterable[str], datasets: Mapping[str, Dataset]) -> list[str]:
    """Return the columns that the contracts of the datasets ``names`` declare as PII; unknown datasets have none."""
    return sorted({column for name in names if name in datasets for column in datasets[name].contract.pii_columns})


def arrivals_of(names: Iterable[str], datasets: Mapping[str, Dataset]) -> list[Arrival]:
    """Return the arrivals that the datasets ``names`` declare; unknown datasets have none."""
    found = (datasets[name].arrival_in_zone for name in dict.fromkeys(names) if name in datasets)
    return [each for each in found if each is not None]


def datasets_by_name(tree: "ComponentTree") -> dict[str, Dataset]:
    """Return the declared datasets of a project."""
    return {each.name: each for each in tree.get_all_components(Dataset)}
