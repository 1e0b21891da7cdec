"""Evaluates the landing sensor of the fixture domain with the old code, and stores its cursor as the daemon does."""

import sys

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvRemoteCodeLocationOrigin as _Location,
)
from dagster._core.remote_origin import RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from ml_platform.definitions import defs
from resources.profiles import resources_of_profile

SENSOR = "deliveries_landed"


def main() -> None:
    definitions = defs()
    sensor = definitions.get_sensor_def(SENSOR)
    with dg.DagsterInstance.get() as instance:
        resources = {"lake": resources_of_profile()["lake"]}
        # A cursor of nothing, as after the first start: the digests of the last run are known from Dagster.
        context = dg.build_sensor_context(instance=instance, cursor='{"2012-12": "0"}', resources=resources)
        tick = sensor.evaluate_tick(context)
        print("tick:", tick.skip_message, len(tick.run_requests or []), tick.cursor)
        import json

        from ml_platform.data.landing import Landing
        from resources.home import Home

        landing = Landing(Home.from_environment().landing)
        cursor = json.dumps({file.partition: file.sha256 for file in landing.landed("deliveries")}, sort_keys=True)
        target = LoadableTargetOrigin(executable_path=sys.executable, module_name="ml_platform.definitions")
        location = _Location(target, location_name="ml_platform.definitions")
        origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), SENSOR)
        data = SensorInstigatorData(cursor=cursor, sensor_type=sensor.sensor_type)
        instance.add_instigator_state(InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, data))


if __name__ == "__main__":
    main()
