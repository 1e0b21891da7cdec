"""Home versions: a stamp for a new home, the renames of release 0.2.0, and an error for a later version.

`test_old_homes.py` migrates whole homes of each release.
"""

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from filelock import FileLock

from ml_platform.registry.outbox import DEAD_LETTER_FOLDER
from ml_platform.serving.desired_state import all_desired_states
from ml_platform.state.migrate import HEAD, StateVersionError, schema_revision
from ml_platform.state.sqlite_file import StateStoreError
from resources import home_version
from resources.dagster_home import HomeResource
from resources.dagster_storage import HomeStorage
from resources.home import HOME_VARIABLE, Home
from resources.home_version import HOME_VERSION, HomeVersionError, prepare_home, stored_version
from resources.orchestration import prepare
from resources.state import open_state

STATE = {
    "stable": {"version": "3", "bento": "bentos/trips/3"},
    "candidate": None,
    "weights": {"stable": 100},
    "shadow": None,
    "generation": 7,
}
MODELS = ("arrivals", "trips")
MADE_BY_MIGRATION = ("state.db", "state.db-wal", "state.db-shm", "locks", "upgrades")
DEAD_LETTER = "00000000001700000000-abc"


def home_of_version_1(root: Path) -> Home:
    """Return a home of release 0.1.0: without stamp, and with the file names of that release."""
    home = Home(root)
    for model in MODELS:
        folder = home.serving / model
        folder.mkdir(parents=True)
        (folder / "wanted.json").write_text(json.dumps(STATE))
        (folder / ".wanted.json.lock").touch()
    (home.serving / "predictions" / "trips").mkdir(parents=True)
    dead = home.records / "outbox" / "refused" / DEAD_LETTER
    dead.mkdir(parents=True)
    (dead / "reason.txt").write_text("the server refused it")
    home.run.mkdir()
    (home.run / "up.lock").touch()
    return home


def files(home: Home) -> dict[str, str]:
    """Return the text of each file of ``home`` by its path, without locks, state store and reports."""
    found = [path.relative_to(home.root) for path in home.root.rglob("*") if path.is_file()]
    kept = [
        path for path in found if path.parts[0] not in ("state.db", "state.db-wal", "state.db-shm", "locks", "upgrades")
    ]
    return {path.as_posix(): (home.root / path).read_text() for path in kept if path.suffix != ".lock"}


def generations(home: Home) -> dict[str, int]:
    return {model: state.generation for model, state in all_desired_states(open_state(home)).readable.items()}


MIGRATED = {
    "home.json": json.dumps({"version": HOME_VERSION}, indent=2) + "\n",
    **{f"serving/{model}/desired_state.json.imported": json.dumps(STATE) for model in MODELS},
    f"records/outbox/{DEAD_LETTER_FOLDER}/{DEAD_LETTER}/reason.txt": "the server refused it",
}


def test_new_home_is_created_with_the_stamp_of_this_version(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home")
    assert stored_version(home) is None

    prepare_home(home)

    assert json.loads((home.root / "home.json").read_text()) == {"version": 3}
    assert stored_version(home) == HOME_VERSION == 3
    assert schema_revision(open_state(home)) == HEAD


def test_home_of_version_1_gets_the_current_file_names_with_unchanged_content(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = home_of_version_1(tmp_path)
    assert stored_version(home) == 1

    with caplog.at_level(logging.WARNING):
        prepare_home(home)

    assert files(home) == MIGRATED
    assert generations(home) == {"arrivals": 7, "trips": 7}
    (line,) = caplog.messages
    assert "from version 1 to 3: renamed wanted.json to desired_state.json for arrivals, trips" in line
    assert "added the desired states of 'arrivals', 'trips'" in line


def test_migration_killed_at_any_rename_is_completed_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, kills = Path.replace, 0
    while True:
        home = home_of_version_1(tmp_path / str(kills))
        left = kills

        def replace(source: Path, target: Path) -> Path:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return whole(source, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", replace)
            try:
                prepare_home(home)
            except KeyboardInterrupt:
                assert stored_version(home) != HOME_VERSION
            else:
                break
        prepare_home(home)
        assert files(home) == MIGRATED
        assert generations(home) == {"arrivals": 7, "trips": 7}
        kills += 1
    assert kills >= 2 * len(MODELS) + 2  # each model's file in both migrations, and both stamps


def test_home_of_the_current_version_is_not_changed(tmp_path: Path) -> None:
    home = home_of_version_1(tmp_path)
    (home.root / "home.json").write_text(json.dumps({"version": HOME_VERSION}))
    before = files(home)

    prepare_home(home)

    assert files(home) == before


def test_file_of_the_later_release_wins_and_the_old_one_is_kept(tmp_path: Path) -> None:
    home = home_of_version_1(tmp_path)
    later = json.dumps({**STATE, "generation": 8})
    (home.serving / "trips" / "desired_state.json").write_text(later)

    prepare_home(home)

    assert generations(home)["trips"] == 8
    assert (home.serving / "trips" / "desired_state.json.imported").read_text() == later
    assert (home.serving / "trips" / "wanted.json.superseded").read_text() == json.dumps(STATE)


def test_home_of_a_later_version_is_rejected_and_not_changed(tmp_path: Path) -> None:
    home = home_of_version_1(tmp_path)
    (home.root / "home.json").write_text('{"version": 4}')
    before = files(home)

    with pytest.raises(
        HomeVersionError, match=r"expected version 3 or earlier, found version 4, .* Upgrade ml-platform"
    ):
        prepare_home(home)

    assert files(home) == before
    assert not home.state.exists()


def test_home_whose_state_store_a_later_release_wrote_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    prepare_home(home)
    with open_state(home).write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    home_version._CURRENT_STORES.clear()  # as in a new process
    with pytest.raises(StateVersionError, match="found revision 9999, written by a later release"):
        prepare_home(home)


def test_damaged_state_store_does_not_stop_a_command_before_it_uses_the_store(tmp_path: Path) -> None:
    home = Home(tmp_path)
    prepare_home(home)
    open_state(home).close()
    home.state.write_bytes(b"garbage" * 1000)
    home_version._CURRENT_STORES.clear()  # as in a new process
    prepare_home(home)
    with pytest.raises(StateStoreError, match="ml-platform repair"):
        all_desired_states(open_state(home))


def test_deleted_state_store_is_not_created_again(tmp_path: Path) -> None:
    home = Home(tmp_path)
    prepare_home(home)
    open_state(home).close()
    home.state.unlink()
    prepare_home(home)
    assert not home.state.exists()
    with pytest.raises(StateStoreError, match="deleted or never created"):
        all_desired_states(open_state(home))


@pytest.mark.parametrize("text", ["", "{}", "[2]", '{"version": null}', '{"version": "two"}', '{"version": 0}'])
def test_unreadable_stamp_is_rejected(tmp_path: Path, text: str) -> None:
    (tmp_path / "home.json").write_text(text)
    with pytest.raises(HomeVersionError, match=r"expected a stamp like .* Restore home.json from a backup"):
        prepare_home(Home(tmp_path))


@pytest.mark.parametrize("folder", ["run", "run/demo"])
def test_home_in_use_by_an_earlier_release_is_not_migrated(tmp_path: Path, folder: str) -> None:
    home = home_of_version_1(tmp_path)
    (tmp_path / folder).mkdir(exist_ok=True)
    before = files(home)

    with (
        FileLock(tmp_path / folder / "up.lock"),
        pytest.raises(
            HomeVersionError,
            match=r"found a running `ml-platform up` or demo of an earlier release\. Stop it with Ctrl-C",
        ),
    ):
        prepare_home(home)

    assert files(home) == before
    prepare_home(home)
    assert files(home) == MIGRATED


def test_lock_of_another_migration_is_reported_after_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_of_version_1(tmp_path)
    monkeypatch.setattr(home_version, "LOCK_SECONDS", 0.05)
    with FileLock(tmp_path / ".home.lock"), pytest.raises(HomeVersionError, match="still has its lock"):
        prepare_home(home)


def test_concurrent_openings_migrate_a_home_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = home_of_version_1(tmp_path)
    with ThreadPoolExecutor(4) as pool, caplog.at_level(logging.WARNING):
        list(pool.map(prepare_home, [home] * 4))
    assert files(home) == MIGRATED
    assert len(caplog.messages) == 1


def open_for_dagster(home: Home) -> None:
    HomeResource(root=str(home.root), repository=".").setup_for_execution(dg.build_init_resource_context())


def open_storage(home: Home) -> None:
    HomeStorage.from_config_value(None, {})  # type: ignore[arg-type]


@pytest.mark.parametrize("open_home", [prepare, open_for_dagster, open_storage])
def test_every_opening_of_a_home_for_writing_migrates_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_home: Callable[[Home], None]
) -> None:
    home = home_of_version_1(tmp_path)
    monkeypatch.setenv(HOME_VARIABLE, str(home.root))
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster))

    open_home(home)

    assert stored_version(home) == HOME_VERSION
    assert set(generations(home)) == set(MODELS)
