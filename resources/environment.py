"""Environment of every platform process: no telemetry, no unsafe model formats, private files, rare collections.

Libraries read these variables when they are imported, so each entry point calls :func:`apply` first.
"""

import gc
import os

from resources.private_files import apply_umask

SETTINGS = {
    # Telemetry off: no data leaves the machine.
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "GX_ANALYTICS_ENABLED": "false",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Loading a pickle would execute code of the model's author.
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # The job runner of the tracking server is not used.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # MLflow's own default experiment would store the absolute path of the working directory.
    "_MLFLOW_SERVER_ARTIFACT_ROOT": "home:/artifacts",
    # A progress bar for each downloaded file would hide the log lines of a run.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow logs the creation of each database table at level INFO.
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # Few retries, so that a crashed tracking server is noticed within seconds; the outbox keeps the record.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    # On a busy machine a run worker takes minutes to load the definitions. After Dagster's 60 seconds the launch would
    # count as failed, and its repetition would make the machine busier.
    "DAGSTER_GRPC_TIMEOUT_SECONDS": "180",
    # OpenMP threads that spin while they wait make a shared machine four times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Plots are files; matplotlib must not open a window.
    "MPLBACKEND": "Agg",
}

COLLECTOR_THRESHOLDS = (50_000, 20, 20)
"""When Python's collector of cyclic garbage runs.

The libraries and definitions are half a million objects that stay. With the usual first threshold of 700 new objects,
a fifth of the time in which a process loads the definitions goes to looking at them again and again.
"""


def apply() -> None:
    """Set the variables that are not set yet, so the user's own values stay; keep new files private; collect rarely."""
    apply_umask()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
