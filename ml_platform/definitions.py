"""What `workspace.yaml`, `dg` and the daemon load: every component under assets/, on the resources of the profile.

Loading is lazy, so that importing this module costs little more than importing Dagster.
"""

from pathlib import Path

import dagster as dg

from resources import environment

PROJECT_ROOT = Path(__file__).resolve().parent.parent

environment.apply()


@dg.definitions
def defs() -> dg.Definitions:
    """Return the assets, checks, jobs, sensors and schedules of every domain, with their resources."""
    from resources.profiles import resources_of_profile

    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=PROJECT_ROOT),
        dg.Definitions(
            resources=resources_of_profile(),
            sensors=[
                dg.AutomationConditionSensorDefinition(
                    "auto_materialize",
                    target=dg.AssetSelection.all(),
                    default_status=dg.DefaultSensorStatus.RUNNING,
                    description="Materializes what declares an automation condition when its inputs are new.",
                )
            ],
            # One process per run: a step process of its own would pay every import again.
            executor=dg.in_process_executor,
        ),
    )
