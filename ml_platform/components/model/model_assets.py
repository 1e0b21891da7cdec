"""A bound model for the asset modules: its settings, the keys of its assets, and the shared asset arguments."""

from typing import TYPE_CHECKING, TypedDict

import dagster as dg

from ml_platform.components.declaration import Declaration, partitions_definition, this_and_earlier
from ml_platform.data.domains import DomainSettings, fits_pool
from ml_platform.data.names import identifier
from ml_platform.steps.model import BoundModel
from ml_platform.steps.untimed import training_set_key

if TYPE_CHECKING:
    from ml_platform.data.lake import Lake


class AssetArguments(TypedDict):
    """Arguments of `dg.asset` that all assets of a model share; as a typed dictionary, mypy checks the call."""

    group_name: str
    owners: list[str]
    tags: dict[str, str]
    kinds: set[str]


class ModelAssets(BoundModel):
    """A bound model with the keys and the shared arguments of its assets."""

    def key(self, asset: str) -> dg.AssetKey:
        return dg.AssetKey([self.name, asset])

    @property
    def partitions_def(self) -> dg.PartitionsDefinition[str] | None:
        """Dagster's partitions of the assets of a training cycle; None for a model without time."""
        return None if self.scheme is None else partitions_definition(self.scheme)

    @property
    def earlier_rows(self) -> dg.AssetDep:
        """The dependency on the training set up to the partition of an asset."""
        mapping = None if self.scheme is None else this_and_earlier(self.scheme)
        return dg.AssetDep(self.key("training_set"), partition_mapping=mapping)

    def key_of_run(self, context: dg.AssetExecutionContext, lake: "Lake") -> str:
        """Return the partition of the run, or for a model without time the key of its training set."""
        return context.partition_key if self.has_time else training_set_key(self, lake)

    @property
    def domain(self) -> str:
        """The domain of the declaration; empty for a model that was created in Python."""
        return self.declared.domain if isinstance(self.declared, Declaration) else ""

    @property
    def domain_settings(self) -> DomainSettings:
        return self.declared.domain_settings if isinstance(self.declared, Declaration) else DomainSettings()

    @property
    def fits_pool(self) -> str | None:
        """The pool of the fits of the domain, if it limits how many run at the same time."""
        return None if self.domain_settings.concurrent_fits is None else fits_pool(self.domain)

    @property
    def candidate_keys(self) -> dict[str, dg.AssetKey]:
        return {name: self.key(f"candidate_{name}") for name in self.declared.trainers}

    @property
    def training_cycle_keys(self) -> list[dg.AssetKey]:
        """The assets of one training cycle, from the candidates of a window to the rollout, and its drift report.

        The training set is not included: its automation condition materializes it, with many windows in one run.
        """
        names = ["evaluation", "model_card", "champion", "bento", "rollout", "drift"]
        return [*map(self.key, names), *self.candidate_keys.values()]

    def shared_arguments(self, *kinds: str) -> AssetArguments:
        """Return group, owners, tags and kinds of an asset of the model."""
        return {
            "group_name": identifier(self.name),
            "owners": self.declared.owners,
            "tags": self.declared.tags,
            "kinds": set(kinds),
        }
