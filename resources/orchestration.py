"""The Dagster instance of a home: its settings file, its environment variables, and opening it."""

import os
from typing import TYPE_CHECKING

from ml_platform.data.atomic import write_text
from resources.home import HOME_VARIABLE, Home
from resources.home_version import prepare_home

if TYPE_CHECKING:
    import dagster as dg

GPU_POOL = "gpu"
"""Pool of the steps that need an accelerator."""

INSTANCE_SETTINGS = """\
# Written by ml-platform: settings of the Dagster instance of this home. Its SQLite files are in this folder.
telemetry:
  enabled: false
# No sign-up dialog on the first page.
nux:
  enabled: false
run_monitoring:
  enabled: true
concurrency:
  # More runs at a time would compete for cores and memory.
  runs:
    max_concurrent_runs: 2
  pools:
    granularity: op
    default_limit: 1
"""


def prepare(home: Home) -> None:
    """Select ``home`` for this process and its child processes, and write its instance settings once.

    Raises :class:`~resources.home_version.HomeVersionError` when the home cannot be migrated to this version.
    """
    prepare_home(home)
    settings = home.dagster / "dagster.yaml"
    if not settings.exists():
        write_text(settings, INSTANCE_SETTINGS)
    os.environ[HOME_VARIABLE] = str(home.root)
    os.environ["DAGSTER_HOME"] = str(home.dagster)


def open_instance(home: Home) -> "dg.DagsterInstance":
    """Return the Dagster instance of ``home``, a context manager that the caller closes.

    The pool of the GPU steps gets one slot for each GPU of this machine, and one slot on a machine without GPU.
    """
    import dagster as dg

    from ml_platform.training.resource_usage import gpu_slots

    prepare(home)
    instance = dg.DagsterInstance.get()
    slots, storage = gpu_slots(), instance.event_log_storage
    if storage.get_concurrency_info(GPU_POOL).slot_count != slots:
        storage.set_concurrency_slots(GPU_POOL, slots)
    return instance
