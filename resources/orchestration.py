"""The Dagster instance of a home: its settings file, its environment, and how to open it."""

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
# Written by ml-platform; the instance of this home. Runs, events and schedules lie beside it in SQLite.
telemetry:
  enabled: false
# No invitation to sign up over the first page.
nux:
  enabled: false
run_monitoring:
  enabled: true
concurrency:
  # More at a time would only share the cores, and several trainings would share the memory.
  runs:
    max_concurrent_runs: 2
  pools:
    granularity: op
    default_limit: 1
"""


def prepare(home: Home) -> None:
    """Make ``home`` the one that this process and its children work on; write its instance settings once.

    Raises :class:`~resources.home_version.HomeVersionError` when it cannot be brought to the version of this code.
    """
    prepare_home(home)
    settings = home.dagster / "dagster.yaml"
    if not settings.exists():
        write_text(settings, INSTANCE_SETTINGS)
    os.environ[HOME_VARIABLE] = str(home.root)
    os.environ["DAGSTER_HOME"] = str(home.dagster)


def open_instance(home: Home) -> "dg.DagsterInstance":
    """Return the Dagster instance of ``home``. The caller closes it (it is a context manager).

    As many steps as this machine has GPUs may hold one at once; where it has none, the pool has one slot.
    """
    import dagster as dg

    from ml_platform.training.resource_usage import gpu_slots

    prepare(home)
    instance = dg.DagsterInstance.get()
    slots, storage = gpu_slots(), instance.event_log_storage
    if storage.get_concurrency_info(GPU_POOL).slot_count != slots:
        storage.set_concurrency_slots(GPU_POOL, slots)
    return instance
