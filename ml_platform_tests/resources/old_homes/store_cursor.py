"""Stores the cursor of the landing sensor of the fixture domain as the daemon of the old code did.

The cursor is a JSON object with the digest of each landed file, by partition.
"""

import hashlib
import json
import sys

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.definitions.sensor_definition import SensorType
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from resources.home import Home

SENSOR, MODULE = "deliveries_landed", "ml_platform.definitions"


def main() -> None:
    """Add the state of the sensor to the Dagster instance of the home."""
    files = (Home.from_environment().landing / "deliveries").glob("*.csv")
    digests = {file.stem: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    cursor = json.dumps(digests, sort_keys=True)
    target = LoadableTargetOrigin(executable_path=sys.executable, module_name=MODULE)
    location = ManagedGrpcPythonEnvCodeLocationOrigin(loadable_target_origin=target, location_name=MODULE)
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), SENSOR)
    data = SensorInstigatorData(cursor=cursor, sensor_type=SensorType.STANDARD)
    with dg.DagsterInstance.get() as instance:
        instance.add_instigator_state(InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, data))


if __name__ == "__main__":
    main()
