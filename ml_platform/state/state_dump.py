"""A portable dump of the state store: one JSON object per row, for a backup of a Postgres store."""

import base64
import json
from pathlib import Path

import sqlalchemy as sa

from ml_platform.state.schema import metadata
from ml_platform.state.store import StateStore

STATE_DUMP = "state.jsonl"
ROWS_PER_INSERT = 500


def dump_state(state: StateStore, target: Path) -> None:
    """Write all rows of the store to ``target``, as one snapshot."""
    with state.read() as connection, target.open("w", encoding="utf-8") as out:
        for table in metadata.sorted_tables:
            for row in connection.execute(sa.select(table)).mappings():
                values = {name: _encoded(value) for name, value in row.items()}
                out.write(json.dumps({"table": table.name, "row": values}) + "\n")


def load_state(state: StateStore, source: Path) -> None:
    """Add the rows of a dump to an empty store of the same schema, in one transaction."""
    with state.write() as connection, source.open(encoding="utf-8") as lines:
        pending: list[dict[str, object]] = []
        name = ""
        for line in lines:
            entry = json.loads(line)
            if pending and (entry["table"] != name or len(pending) >= ROWS_PER_INSERT):
                connection.execute(sa.insert(metadata.tables[name]), pending)
                pending = []
            name = entry["table"]
            pending.append({key: _decoded(value) for key, value in entry["row"].items()})
        if pending:
            connection.execute(sa.insert(metadata.tables[name]), pending)
        for table in metadata.sorted_tables:
            if connection.dialect.name == "postgresql" and table.autoincrement_column is not None:
                _advance_sequence(connection, table)


def _advance_sequence(connection: sa.Connection, table: sa.Table) -> None:
    column = table.autoincrement_column
    assert column is not None
    last = connection.scalar(sa.select(sa.func.max(column)))
    if last is not None:
        sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
        connection.execute(sa.select(sa.func.setval(sequence, last)))


def _encoded(value: object) -> object:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _decoded(value: object) -> object:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value
