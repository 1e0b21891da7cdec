"""A model as its asset builders know it: its settings, the keys of its assets, and the arguments these share."""

import dagster as dg

from ml_platform.components.asset_arguments import AssetArguments
from ml_platform.steps.model import BoundModel


class ModelAssets(BoundModel):
    """A bound model with the keys of its assets and what all of these carry."""

    def key(self, asset: str) -> dg.AssetKey:
        return dg.AssetKey([self.name, asset])

    @property
    def candidate_keys(self) -> dict[str, dg.AssetKey]:
        return {name: self.key(f"candidate_{name}") for name in self.declared.trainers}

    @property
    def training_cycle_keys(self) -> list[dg.AssetKey]:
        """The assets of one turn of the loop, from the candidates of a month to what serves.

        The training set is made before, of many months in one run, and by itself when its inputs are new.
        """
        names = ["evaluation", "model_card", "champion", "bento", "rollout", "drift"]
        return [*map(self.key, names), *self.candidate_keys.values()]

    def shared_arguments(self, *kinds: str) -> AssetArguments:
        """Return what every asset of the model carries: group, owners, tags and kinds."""
        return {
            "group_name": self.name,
            "owners": self.declared.owners,
            "tags": self.declared.tags,
            "kinds": set(kinds),
        }
