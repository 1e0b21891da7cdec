"""The Dagster instance of a home: its settings file, its environment variables, and opening it."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_platform.data.atomic import write_text
from ml_platform.data.domains import declared_pools
from ml_platform.errors import PlatformError
from resources.home import HOME_VARIABLE, Home
from resources.home_version import prepare_home
from resources.profile import active_profile
from resources.profiles import REPOSITORY

if TYPE_CHECKING:
    import dagster as dg

GPU_POOL = "gpu"
"""Pool of the steps that need an accelerator."""

STORAGE = {"custom": {"module": "resources.dagster_storage", "class": "HomeStorage", "config": {}}}
"""Storage that the profile chooses, without an address in the settings file."""

INSTANCE_SETTINGS = """\
# Written by ml-platform: settings of the Dagster instance of this home. Its SQLite files are in this folder.
telemetry:
  enabled: false
# No sign-up dialog on the first page.
nux:
  enabled: false
# It knows whether the process of a run still runs.
run_launcher:
  module: resources.run_launcher
  class: HomeRunLauncher
# Each domain gets its share of the slots.
# A queued run starts within a second, and waits for a code server that is being restarted.
run_coordinator:
  module: resources.fair_queue
  class: FairRunCoordinator
  config:
    dequeue_interval_seconds: 1
    max_user_code_failure_retries: 5
    user_code_failure_retry_delay: 10
# A run whose process is gone ends within two minutes and leaves its pools.
run_monitoring:
  enabled: true
  poll_interval_seconds: 15
  start_timeout_seconds: 180
  cancel_timeout_seconds: 100
  free_slots_after_run_end_seconds: 5
# A launched run whose process was killed is tried again; a step that failed by itself is not.
run_retries:
  enabled: true
  max_retries: 2
  retry_on_asset_or_op_failure: false
concurrency:
  # More runs at a time would compete for cores and memory.
  runs:
    max_concurrent_runs: 2
  pools:
    granularity: op
    default_limit: 1
# Housekeeping deletes old runs; these are the days for which the ticks of schedules and sensors are kept.
retention:
  schedule:
    purge_after_days: 30
  sensor:
    purge_after_days: {skipped: 7, failure: 30, success: 30, started: 30}
  auto_materialize:
    purge_after_days: {skipped: 7, failure: 30, success: 30, started: 30}
"""

LOG = logging.getLogger(__name__)


class InstanceSettingsError(PlatformError):
    """Raised when the instance settings of a home cannot be read."""


def prepare(home: Home) -> None:
    """Select ``home`` for this process and its child processes, and write its instance settings.

    Raises :class:`~resources.home_version.HomeVersionError` when the home cannot be migrated to this version, and
    :class:`InstanceSettingsError` when its settings cannot be read.
    """
    prepare_home(home)
    _write_settings(home.dagster / "dagster.yaml")
    os.environ[HOME_VARIABLE] = str(home.root)
    os.environ["DAGSTER_HOME"] = str(home.dagster)


def open_instance(home: Home) -> "dg.DagsterInstance":
    """Return the Dagster instance of ``home``, a context manager that the caller closes.

    The pool of the GPU steps gets one slot for each GPU of this machine, and one slot on a machine without GPU. The
    pools of domains get the slots that their `domain.yaml` declares.
    """
    import dagster as dg

    from ml_platform.training.resource_usage import gpu_slots

    prepare(home)
    instance = dg.DagsterInstance.get()
    storage = instance.event_log_storage
    for pool, slots in {GPU_POOL: gpu_slots(), **declared_pools(REPOSITORY / "assets")}.items():
        if storage.get_concurrency_info(pool).slot_count != slots:
            storage.set_concurrency_slots(pool, slots)
    return instance


def _write_settings(path: Path) -> None:
    """Write the instance settings, and add those that an existing file lacks; the values of that file stay."""
    import yaml

    text = path.read_text() if path.exists() else ""
    if text == INSTANCE_SETTINGS and active_profile() == "local":
        return
    own, defaults = _read_settings(path, text), yaml.safe_load(INSTANCE_SETTINGS)
    if active_profile() == "cluster":
        defaults["storage"] = STORAGE
    if own.keys() & {"run_queue", "run_coordinator"}:  # a choice of one's own, in one of its two forms
        del defaults["run_coordinator"]
    complete = _with_defaults(own, defaults)
    if complete == own:
        return
    if complete == yaml.safe_load(INSTANCE_SETTINGS):
        write_text(path, INSTANCE_SETTINGS)
    else:
        header = "# Changed by ml-platform: it added the settings that this release needs and kept all others.\n"
        write_text(path, header + yaml.safe_dump(complete, sort_keys=False))
        if text:
            LOG.warning("Added the settings that this release needs to %s.", path)


def _read_settings(path: Path, text: str) -> Mapping[str, Any]:
    import yaml

    try:
        own = yaml.safe_load(text) or {}
        found = f"'{text.strip()[:40]}'"
    except yaml.YAMLError as error:
        own, found = None, " ".join(str(error).split())
    if not isinstance(own, Mapping):
        raise InstanceSettingsError(
            f"Instance settings {path}",
            expected="settings of a Dagster instance, as YAML",
            found=found,
            fix="Correct the file, or delete it: the next command writes the default settings.",
        )
    return own


def _with_defaults(own: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``own`` with the values of ``defaults`` where it has none; mappings are completed key by key."""
    complete = dict(own)
    for name, value in defaults.items():
        if isinstance(value, Mapping) and isinstance(complete.get(name), Mapping):
            complete[name] = _with_defaults(complete[name], value)
        else:
            complete.setdefault(name, value)
    return complete
