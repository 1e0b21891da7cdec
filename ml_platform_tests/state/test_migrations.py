"""The migrations of the state store make exactly the schema that the code uses, and a later schema is refused."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from ml_platform.state import migrate
from ml_platform.state.migrate import HEAD, StateVersionError, require_current_schema, schema_revision
from ml_platform.state.schema import metadata
from ml_platform.state.store import StateStore


@pytest.fixture
def postgres_store(postgres: str, tmp_path: Path) -> Iterator[StateStore]:
    """An empty store in a Postgres database of its own."""
    admin = sa.create_engine(_psycopg(postgres), isolation_level="AUTOCOMMIT")
    name = f"state_{uuid4().hex[:12]}"
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    address = sa.make_url(_psycopg(postgres)).set(database=name).render_as_string(hide_password=False)
    store = StateStore(url=address, locks=tmp_path / "locks")
    yield store
    store.close()
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name}"))
    admin.dispose()


def _psycopg(address: str) -> str:
    return sa.make_url(address).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def test_head_is_the_last_migration() -> None:
    assert ScriptDirectory(str(migrate.MIGRATIONS)).get_heads() == [HEAD]


def test_migrations_make_the_schema_of_the_code_in_sqlite(state_store: StateStore) -> None:
    assert _differences(state_store) == []
    assert {*metadata.tables, "alembic_version"} == _tables(state_store)


def test_migrations_make_the_schema_of_the_code_in_postgres(postgres_store: StateStore) -> None:
    assert postgres_store.migrate() == ["0001", "0002", "0003", "0004", "0005", "0006", "0007", HEAD]
    assert _differences(postgres_store) == []
    assert postgres_store.migrate() == []


@pytest.mark.slow
def test_migration_that_was_killed_half_way_leaves_nothing_and_is_made_by_one_of_two_processes(
    postgres_store: StateStore,
) -> None:
    killed = _migration(postgres_store, kill_at=5)
    assert killed.wait(120) == -signal.SIGKILL
    assert schema_revision(postgres_store) is None
    assert _tables(postgres_store) == set()

    together = [_migration(postgres_store), _migration(postgres_store)]
    assert [each.wait(120) for each in together] == [0, 0]
    assert schema_revision(postgres_store) == HEAD
    assert _differences(postgres_store) == []


MIGRATION = """
import os, signal, sys
import sqlalchemy as sa
from ml_platform.state.store import StateStore

store, made = StateStore(url=sys.argv[1]), 0

def count(connection, cursor, statement, *_):
    global made
    made += statement.lstrip().startswith("CREATE TABLE")
    if made == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

sa.event.listen(store.engine, "after_cursor_execute", count)
store.migrate()
"""
"""A program that migrates the store at its first argument, and is killed at the table with the number of the second."""


def _migration(store: StateStore, kill_at: int = -1) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", MIGRATION, store.url, str(kill_at)])


def test_store_of_the_first_schema_keeps_its_rows_and_gets_the_later_tables(state_store: StateStore) -> None:
    with state_store.write() as connection:
        connection.execute(sa.text("INSERT INTO lake_pins VALUES ('flights', 1, 'model/abc')"))
        for statement in (
            "DROP TABLE landing_profiles",
            "DROP TABLE alert_notices",
            "DROP TABLE alert_messages",
            "DROP TABLE alert_silences",
            "DROP TABLE alerts",
            "DROP INDEX ix_contract_results_failed_check",
            "DROP INDEX ix_verdicts_model_sequence",
            "DROP TABLE step_costs",
            "DROP TABLE cost_days",
            "DROP TABLE retraining_decisions",
            "DROP TABLE client_keys",
            "DROP TABLE clients",
            "UPDATE alembic_version SET version_num = '0001'",
        ):
            connection.execute(sa.text(statement))
    assert state_store.migrate() == ["0002", "0003", "0004", "0005", "0006", "0007", HEAD]
    assert _differences(state_store) == []
    with state_store.read() as connection:
        assert connection.execute(sa.text("SELECT holder FROM lake_pins")).scalars().all() == ["model/abc"]


def test_difference_between_migrations_and_code_is_noticed(state_store: StateStore) -> None:
    with state_store.write() as connection:
        connection.execute(sa.text("ALTER TABLE lake_pins ADD COLUMN extra TEXT"))
        connection.execute(sa.text("DROP INDEX ix_verdicts_model_candidate"))
    assert sorted(str(each[0]) for each in _differences(state_store)) == ["add_index", "remove_column"]


def test_migrations_do_not_depend_on_the_schema_of_later_code() -> None:
    for script in (migrate.MIGRATIONS / "versions").glob("[0-9]*.py"):
        assert "ml_platform.state.schema" not in script.read_text()


@pytest.mark.parametrize("fixture", ["state_store", "postgres_store"])
def test_store_of_a_later_release_is_refused_and_not_changed(fixture: str, request: pytest.FixtureRequest) -> None:
    store: StateStore = request.getfixturevalue(fixture)
    store.migrate()
    with store.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    message = r"expected schema revision \w+ or earlier, found revision 9999, written by a later release. Upgrade"
    with pytest.raises(StateVersionError, match=message):
        store.migrate()
    with pytest.raises(StateVersionError, match=message):
        require_current_schema(store)
    assert schema_revision(store) == "9999"


def _differences(store: StateStore) -> list[tuple[object, ...]]:
    with store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        found = compare_metadata(context, metadata)
    return [each if isinstance(each, tuple) else tuple(each[0]) for each in found]


def _tables(store: StateStore) -> set[str]:
    with store.read() as connection:
        return set(sa.inspect(connection).get_table_names())
