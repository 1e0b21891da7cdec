"""The attributes of a dataset in defs.yaml, and their translation for the engine."""

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from ml_platform.components.code_record import code_metadata
from ml_platform.components.declaration import Declaration, OnCodeChange
from ml_platform.components.namespace import Namespace
from ml_platform.data.arrival import Arrival, ArrivalSettings
from ml_platform.data.canonical import value_digest
from ml_platform.data.contract import Contract
from ml_platform.data.domains import Owner
from ml_platform.data.freshness_settings import FreshnessSettings
from ml_platform.data.names import FULL_NAME, short_name
from ml_platform.data.partitions import PartitionScheme
from ml_platform.data.quality_settings import QualitySettings
from ml_platform.data.source_hash import source_hash
from ml_platform.data.sources.declared import DeclaredSource
from ml_platform.data.sources.function import FunctionSource
from ml_platform.steps.retention import DatasetRetention
from resources.lake import LakeResource

if TYPE_CHECKING:
    from ml_platform.data.dataset import DatasetSource


class DatasetDeclaration(Declaration):
    """The attributes of a dataset."""

    name: str = Field(description="Name of the dataset: its asset is datasets/<name>.", pattern=FULL_NAME)
    description: str = Field(description="Meaning and origin of one row.")
    source: DeclaredSource | None = Field(
        default=None,
        description="Where rows come from: files, object_storage, sql, delta, iceberg or function; none: landed files.",
    )
    loader: str | None = Field(
        default=None,
        description="Function package.module:function(path, **lookups) that returns a Polars DataFrame; a source "
        "needs none when its columns are those of the contract.",
    )
    lookups: list[str] = Field(
        default_factory=list,
        description="Datasets without partitions that the loader also receives, by name, as tables.",
    )
    keys: list[str] = Field(min_length=1, description="Columns that together identify one row of a partition.")
    partitions: PartitionScheme | None = Field(
        default=None, description="Partitions in which files land; none for a table that is replaced as a whole."
    )
    event_time: str | None = Field(
        default=None,
        description="Timestamp column whose values must be in the time of the partition, in its time zone.",
    )
    arrival: ArrivalSettings | None = Field(
        default=None,
        description="When the platform has a fact; training and evaluation use no fact before. None: from the time at "
        "which it is known.",
    )
    contract: Contract = Field(description="Rules that every published partition meets.")
    quality: QualitySettings = Field(
        default_factory=QualitySettings,
        description="How each partition that lands is compared with the usual one, and the effect of a finding.",
    )
    freshness: FreshnessSettings | None = Field(
        default=None,
        description="Age of the latest materialization from which Dagster reports the dataset as late; none: never.",
    )
    retention_months: int | None = Field(
        default=None,
        ge=1,
        description="Months of time that the table keeps, up to the end of its latest partition; none keeps all.",
    )
    retention: DatasetRetention | None = Field(
        default=None, description="Values that replace those under retention in params.yaml for this dataset."
    )
    owners: list[Owner] = Field(
        default_factory=list,
        description="Responsible people or teams: team:<name> or an e-mail address; none: those of the domain.",
    )
    group: str = Field(default="datasets", description="Group of the asset in the UI.")
    tags: dict[str, str] = Field(default_factory=dict, description="Tags of the asset.")
    code_version: str | None = Field(
        default=None, description="Version of loader and contract; none: a hash of both, which follows every change."
    )
    on_code_change: OnCodeChange = Field(
        default="manual",
        description="automatic: read all partitions again when the code version changes; manual: only by hand, because "
        "the rows that models were judged on may change.",
    )

    def resolve_names(self, namespace: Namespace) -> None:
        self.name = namespace.own(self.name)
        self.lookups = namespace.references(self.lookups)
        self.owners = self.owners_or_those_of_domain(self.owners)

    @property
    def key(self) -> dg.AssetKey:
        return dg.AssetKey(["datasets", self.name])

    def is_partition(self, name: str) -> bool:
        """Return whether ``name`` is a declared partition of this dataset."""
        return self.partitions is not None and self.partitions.contains(name)

    @property
    def arrival_in_zone(self) -> Arrival | None:
        """The declared arrival, with its clock and the time zone of the partitions; None if undeclared."""
        if self.arrival is None or self.partitions is None:
            return None
        clock = self.arrival.clock or ([self.event_time] if self.event_time else [])
        settings = self.arrival.model_dump() | {"clock": clock}
        return Arrival(dataset=self.name, time_zone=self.partitions.time_zone, **settings)

    def engine_source(self, lake: LakeResource) -> "DatasetSource":
        """Return the settings of the dataset for the engine, with its lookup tables read from ``lake``."""
        from dataclasses import replace

        from ml_platform.data.dataset import table_of
        from ml_platform.data.evolution_record import earlier_files

        rules = self.engine_rules()
        return replace(
            rules,
            loader=self.function_at("loader", self.loader) if self.loader else rules.loader,
            lookups={short_name(name): lake.lake().scan(table_of(name)).collect() for name in self.lookups},
            earlier=earlier_files(lake.lake().state, self.name),
        )

    def engine_rules(self) -> "DatasetSource":
        """Return the settings of the dataset for the engine without its loader and lookups, to check stored rows."""
        from ml_platform.data.dataset import DatasetSource
        from ml_platform.data.landed_read import read_landed

        return DatasetSource(
            name=self.name,
            loader=read_landed,
            contract=self.contract,
            keys=self.keys,
            partitions=self.partitions,
            event_time=self.event_time,
            lines={
                rule.name: self.line("contract", "columns", place) for place, rule in enumerate(self.contract.columns)
            },
            declared_at=self.line("contract"),
            origin=self.source,
            typed=self.loader is None,
        )

    def code_hash(self) -> str:
        """Return a hash of source, loader, contract, keys and event time, 12 hexadecimal digits."""
        loader = source_hash(self.loader) if self.loader else None
        rules = [loader, self.contract.model_dump(mode="json"), self.keys, self.event_time]
        if self.source is not None:
            rules.append(self.source.model_dump(mode="json"))
            rules += [source_hash(self.source.function)] if isinstance(self.source, FunctionSource) else []
        return value_digest(rules)[:12]

    def covered_code(self) -> dg.JsonMetadataValue:
        """Return what the code version covers, by function and by attribute."""
        if self.code_version is not None:
            return code_metadata([], {"code_version": self.code_version})
        source = [self.source.function] if isinstance(self.source, FunctionSource) else []
        contract = {f"contract.{name}": value for name, value in self.contract.model_dump(mode="json").items()}
        declared = {"keys": self.keys, "event_time": self.event_time, **contract}
        if self.source is not None:
            declared["source"] = self.source.model_dump(mode="json")
        return code_metadata([*([self.loader] if self.loader else []), *source], declared)
