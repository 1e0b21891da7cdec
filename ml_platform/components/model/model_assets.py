"""A bound model for the asset modules: its settings, the keys of its assets, and the shared asset arguments."""

from typing import TypedDict

import dagster as dg

from ml_platform.steps.model import BoundModel


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
    def candidate_keys(self) -> dict[str, dg.AssetKey]:
        return {name: self.key(f"candidate_{name}") for name in self.declared.trainers}

    @property
    def training_cycle_keys(self) -> list[dg.AssetKey]:
        """The assets of one training cycle, from the candidates of a month to the rollout, and its drift report.

        The training set is not included: its automation condition materializes it, with many months in one run.
        """
        names = ["evaluation", "model_card", "champion", "bento", "rollout", "drift"]
        return [*map(self.key, names), *self.candidate_keys.values()]

    def shared_arguments(self, *kinds: str) -> AssetArguments:
        """Return group, owners, tags and kinds of an asset of the model."""
        return {
            "group_name": self.name,
            "owners": self.declared.owners,
            "tags": self.declared.tags,
            "kinds": set(kinds),
        }
