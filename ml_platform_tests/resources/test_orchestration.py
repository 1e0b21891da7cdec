"""The instance settings of a home: complete for each release, with the values that a user set."""

from pathlib import Path

import pytest
import yaml
from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator

from resources.home import Home
from resources.orchestration import INSTANCE_SETTINGS, InstanceSettingsError, open_instance, prepare
from resources.run_launcher import HomeRunLauncher
from resources.run_monitoring import POLL_SECONDS

SETTINGS_OF_0_1_0 = """\
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


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in ("ML_PLATFORM_HOME", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")
    home = Home(tmp_path / "home")
    prepare(home)
    return home


def settings_file(home: Home) -> Path:
    return home.dagster / "dagster.yaml"


def test_home_of_the_first_release_gets_the_settings_of_this_one(home: Home) -> None:
    settings_file(home).write_text(SETTINGS_OF_0_1_0)
    prepare(home)
    assert settings_file(home).read_text() == INSTANCE_SETTINGS


def test_values_of_a_user_stay_and_missing_settings_are_added(home: Home) -> None:
    changed = SETTINGS_OF_0_1_0.replace("max_concurrent_runs: 2", "max_concurrent_runs: 7")
    settings_file(home).write_text(changed + "retention:\n  schedule:\n    purge_after_days: 9\n")
    prepare(home)

    found = yaml.safe_load(settings_file(home).read_text())
    expected = yaml.safe_load(INSTANCE_SETTINGS)
    expected["concurrency"]["runs"]["max_concurrent_runs"] = 7
    expected["retention"]["schedule"] = {"purge_after_days": 9}
    assert found == expected


def test_complete_file_with_comments_of_a_user_is_not_written(home: Home) -> None:
    text = INSTANCE_SETTINGS + "# Ask Ada before a change.\n"
    settings_file(home).write_text(text)
    prepare(home)
    assert settings_file(home).read_text() == text


@pytest.mark.parametrize("text", ["- a list\n", "a: [\n"])
def test_settings_that_cannot_be_read_are_named_and_kept(home: Home, text: str) -> None:
    settings_file(home).write_text(text)
    with pytest.raises(InstanceSettingsError, match=r"dagster\.yaml: expected settings of a Dagster instance"):
        prepare(home)
    assert settings_file(home).read_text() == text


def test_monitoring_is_effective_within_two_minutes(home: Home) -> None:
    with open_instance(home) as instance:
        assert isinstance(instance.run_launcher, HomeRunLauncher)
        assert instance.run_launcher.supports_check_run_worker_health
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_poll_interval_seconds == POLL_SECONDS
        assert POLL_SECONDS < 120
        assert POLL_SECONDS + instance.run_monitoring_cancel_timeout_seconds < 120


def test_queued_run_starts_soon_and_waits_for_a_code_server(home: Home) -> None:
    with open_instance(home) as instance:
        coordinator = instance.run_coordinator
        assert isinstance(coordinator, QueuedRunCoordinator)
        assert coordinator.dequeue_interval_seconds == 1
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert (queue.max_concurrent_runs, queue.max_user_code_failure_retries) == (2, 5)


@pytest.mark.parametrize(
    "chosen",
    [
        "run_queue:\n  max_user_code_failure_retries: 1\n",
        "run_coordinator:\n  module: dagster._core.run_coordinator\n  class: DefaultRunCoordinator\n",
    ],
)
def test_queue_of_a_user_stays(home: Home, chosen: str) -> None:
    settings_file(home).write_text(chosen)
    with open_instance(home) as instance:
        assert instance.run_monitoring_enabled
    found = yaml.safe_load(settings_file(home).read_text())
    assert {name: found.get(name) for name in yaml.safe_load(chosen)} == yaml.safe_load(chosen)
    assert len(found.keys() & {"run_queue", "run_coordinator"}) == 1


def test_settings_of_the_repository_monitor_runs_like_those_of_a_home() -> None:
    repository = yaml.safe_load((Path(__file__).parents[2] / "dagster.yaml").read_text())
    home = yaml.safe_load(INSTANCE_SETTINGS)
    assert {name: repository[name] for name in home} == home
