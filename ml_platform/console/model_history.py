"""The verb that renames a model, for the command line."""

import dagster as dg

from ml_platform.components.loading import bound_model
from ml_platform.components.stores import open_home_stores
from ml_platform.console.lifecycle import declared_names
from ml_platform.errors import PlatformError
from ml_platform.steps.lifecycle import LifecycleDecision, LifecycleStep
from ml_platform.steps.model_rename import rename_of_model
from resources.home import Home
from resources.run_monitoring import open_runs


class ModelInUseError(PlatformError):
    """Raised when a run that has not ended makes assets of a model."""


def rename_steps(
    old: str, new: str, home: Home, instance: dg.DagsterInstance, decision: LifecycleDecision
) -> list[LifecycleStep]:
    """Return the steps that give the history of the model ``old`` to the declared model ``new``.

    Raises as :func:`~ml_platform.steps.model_rename.rename_of_model`, and :class:`ModelInUseError` while a run makes an
    asset of one of both.
    """
    model = bound_model(new)
    require_no_run_of(instance, {old, new})
    return rename_of_model(old, model, open_home_stores(home), decision, declared_names())


def require_no_run_of(instance: dg.DagsterInstance, models: set[str]) -> None:
    """Raise :class:`ModelInUseError` while a run that has not ended materializes an asset of one of ``models``."""
    for each in open_runs(instance):
        selected = each.run.asset_selection
        used = models if selected is None else {key.path[0] for key in selected} & models
        if used:
            raise ModelInUseError(
                f"Model '{min(used)}'",
                expected="no run that makes its assets",
                found=f"run {each.run_id[:8]} of {each.title} ({each.state})",
                fix="Wait for its end, or end a dead run with `ml-platform runs --end-dead`.",
            )
