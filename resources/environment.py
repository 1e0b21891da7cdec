"""What every process of the platform sets before a library wakes up: no telemetry, no unsafe formats.

Apart because libraries read these variables when they are imported, so they must be set first and in one place.
"""

import os

SETTINGS = {
    # Nothing leaves the machine.
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "GX_ANALYTICS_ENABLED": "false",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A model is data, never code.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # Hosts of the tracking server's own job runner; nothing here uses it.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # A progress bar per downloaded file would drown what a run has to say.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # That a database is made is no news.
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # A tracking server that dies in the middle of a request is noticed in seconds; the outbox keeps the record.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    # Threads that wait by spinning make a shared machine four times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Plots are files; no window is ever opened.
    "MPLBACKEND": "Agg",
}


def apply() -> None:
    """Set the variables that are not set yet: what the user chose stays."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
