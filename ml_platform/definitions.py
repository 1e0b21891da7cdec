"""The Dagster definitions that `workspace.yaml`, `dg` and the daemon load.

They contain every component under `assets/` and the resources of the active profile. Loading is lazy, so importing this
module costs little more than importing Dagster.
"""

from pathlib import Path

import dagster as dg

from resources import environment

PROJECT_ROOT = Path(__file__).resolve().parent.parent

environment.apply()


@dg.definitions
def defs() -> dg.Definitions:
    """Return the assets, checks, jobs, sensors and schedules of every domain, with their resources."""
    from ml_platform.components.platform_assets import platform_definitions
    from resources.profiles import resources_of_profile

    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=PROJECT_ROOT),
        platform_definitions(),
        dg.Definitions(
            resources=resources_of_profile(),
            sensors=[
                dg.AutomationConditionSensorDefinition(
                    "auto_materialize",
                    target=dg.AssetSelection.all(),
                    default_status=dg.DefaultSensorStatus.RUNNING,
                    description="Materializes feature views and training sets when their inputs are new.",
                )
            ],
            # One process per run: a separate process per step would repeat every import.
            executor=dg.in_process_executor,
        ),
    )
