"""The Dagster definitions that `workspace.yaml`, `dg` and the daemon load.

They contain every domain under `assets/` that loads, an asset with the error of each other domain, and the resources of
the active profile. Loading is lazy, so importing this module costs little more than importing Dagster.
"""

from pathlib import Path

import dagster as dg

from resources import environment

PROJECT_ROOT = Path(__file__).resolve().parent.parent

environment.apply()


@dg.definitions
def defs() -> dg.Definitions:
    """Return the assets, checks, jobs, sensors and schedules of every domain, with their resources.

    Raises :class:`DomainNotLoadedError` for a domain with an error in `dg check defs`; elsewhere it is left out.
    """
    from ml_platform.components.not_loaded import not_loaded_definitions
    from ml_platform.components.project import is_validation, load_definitions_of

    project, definitions = load_definitions_of(PROJECT_ROOT, _shared_definitions())
    if is_validation():
        project.require_all()
    if not project.not_loaded:
        return definitions
    return dg.Definitions.merge(definitions, not_loaded_definitions(project.not_loaded))


def _shared_definitions() -> dg.Definitions:
    """Return what belongs to no domain: the platform's own assets, the resources and the automation."""
    from ml_platform.components.alerts_sensor import alerts_sensor
    from ml_platform.components.champion_aliases import champion_aliases_sensor
    from ml_platform.components.decisions_sensor import decisions_sensor
    from ml_platform.components.platform_assets import platform_definitions
    from ml_platform.components.sensor_interval import sensor_seconds
    from ml_platform.components.traces_sensor import traces_sensors
    from resources.profiles import resources_of_profile
    from resources.steps_executor import steps_executor

    return dg.Definitions.merge(
        platform_definitions(),
        dg.Definitions(
            resources=resources_of_profile(),
            sensors=[
                alerts_sensor(),
                *traces_sensors(),
                champion_aliases_sensor(),
                decisions_sensor(),
                dg.AutomationConditionSensorDefinition(
                    "auto_materialize",
                    target=dg.AssetSelection.all(),
                    default_status=dg.DefaultSensorStatus.RUNNING,
                    minimum_interval_seconds=sensor_seconds(30),
                    description="Materializes feature views and training sets when their inputs are new.",
                ),
            ],
            executor=steps_executor,
        ),
    )
