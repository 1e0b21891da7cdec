"""The shortest time between two ticks of a sensor, which a deployment may shorten."""

import os

INTERVAL_VARIABLE = "ML_PLATFORM_SENSOR_SECONDS"
"""Environment variable with the longest interval of any sensor, in seconds; unset: the sensor's own."""


def sensor_seconds(own: int) -> int:
    """Return the interval of a sensor whose ``own`` is in seconds; raises ``ValueError`` for text in the variable."""
    return min(own, int(os.environ.get(INTERVAL_VARIABLE, own)))
