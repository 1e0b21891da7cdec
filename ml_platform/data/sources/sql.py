"""A query of a database as a source: Postgres and others by SQLAlchemy, and DuckDB by its own library.

A query is one statement, so a database that keeps versions of rows answers it from one moment.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

import polars as pl
from pydantic import Field, model_validator

from ml_platform.data.canonical import value_digest
from ml_platform.data.settings import Settings
from ml_platform.data.sources.source import (
    Slice,
    SourceAwayError,
    SourceError,
    declared_of,
    require_partition_bounds,
    required_variable,
    without_secrets,
)

CONNECT_SECONDS = 10
"""Time that a database has to accept a connection."""

_BOUND = re.compile(r"(?<![:\w]):(partition|start|end)\b")
_DUCKDB = "duckdb:"

_HASHES = {
    "duckdb": "bit_xor(hash(rows_read)) AS first_hash, sum(hash(rows_read)) AS second_hash",
    "postgresql": "sum(hashtextextended(rows_read::text, 0)) AS first_hash, "
    "sum(hashtextextended(rows_read::text, 1)) AS second_hash",
}
"""Aggregates of all values that do not depend on the order of rows, by dialect."""


class SqlSource(Settings):
    """The rows of a query; its address is in an environment variable, because it has a password."""

    type: Literal["sql"] = Field(description="Kind of the source.")
    address_variable: str = Field(
        description="Environment variable with the address, like postgresql://user:password@host/name or duckdb:/file.",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
    )
    query: str = Field(
        description="One SELECT; :start, :end and :partition are bound to the partition, its first instant and the "
        "first instant after it."
    )
    change_column: str | None = Field(
        default=None,
        description="Column of the query that grows with each change, like updated_at. Changed rows are noticed by "
        "count and maximum; none: by a hash of all values, which reads the partition.",
    )
    fingerprint_query: str | None = Field(
        default=None,
        description="Query of one row that changes with the data, in place of the above; nulls only: no rows.",
    )

    @model_validator(mode="after")
    def _is_one_statement(self) -> "SqlSource":
        for query in filter(None, [self.query, self.fingerprint_query]):
            if not re.match(r"(?is)\s*(select|with)\b", query) or ";" in query.rstrip().rstrip(";"):
                raise ValueError("query: write one SELECT statement")
        if self.change_column and self.fingerprint_query:
            raise ValueError("declare change_column or fingerprint_query, not both")
        return self

    def describe(self) -> str:
        return f"the query of ${self.address_variable}"

    def fingerprint(self, part: Slice) -> str | None:
        address = self._address()
        if self.fingerprint_query:
            (row,) = self._run(self.fingerprint_query, part, address).rows() or [()]
            return None if all(value is None for value in row) else value_digest([str(value) for value in row])
        changes = f"max(rows_read.{_quoted(self.change_column)})" if self.change_column else self._hash(address)
        (row,) = self._run(
            f"SELECT count(*) AS rows_counted, {changes} FROM ({_statement(self.query)}) AS rows_read", part, address
        ).rows()
        return value_digest([str(value) for value in row]) if row[0] else None

    def read(self, part: Slice, columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
        return declared_of(self._run(_statement(self.query), part, self._address()), columns)

    def _address(self) -> str:
        return required_variable(self.address_variable, "the address of the database")

    def _hash(self, address: str) -> str:
        scheme = address.partition(":")[0].partition("+")[0]
        dialect = "postgresql" if scheme == "postgres" else scheme
        if dialect not in _HASHES:
            raise SourceError(
                self._subject,
                expected=f"change_column or fingerprint_query, because only {sorted(_HASHES)} hash whole rows",
                found=f"a database of kind {dialect}",
                fix="Declare one of them.",
            )
        return _HASHES[dialect]

    @property
    def _subject(self) -> str:
        return f"Database of ${self.address_variable}"

    def _run(self, query: str, part: Slice, address: str) -> pl.DataFrame:
        needs = sorted(set(_BOUND.findall(query)))
        require_partition_bounds(part, needs, self._subject)
        bounds = {name: getattr(part, name) for name in needs}
        return (
            self._run_duckdb(query, bounds, address)
            if address.startswith(_DUCKDB)
            else self._run_sqlalchemy(query, bounds, address)
        )

    def _run_duckdb(self, query: str, bounds: Mapping[str, Any], address: str) -> pl.DataFrame:
        try:
            import duckdb
        except ImportError:
            raise self._library_error("duckdb") from None
        path = re.sub(r"^/{2}(?=/)", "", address.removeprefix(_DUCKDB))
        try:
            with duckdb.connect(path, read_only=True) as connection:
                connection.execute("SET TimeZone = 'UTC'")
                found = connection.sql(_BOUND.sub(r"$\1", query), params=dict(bounds))
                return pl.DataFrame(found.to_arrow_table())
        except duckdb.IOException as error:
            raise self._away_error(error, [path]) from None
        except duckdb.Error as error:
            raise self._query_error(error, [path]) from None

    def _run_sqlalchemy(self, query: str, bounds: Mapping[str, Any], address: str) -> pl.DataFrame:
        import sqlalchemy as sa

        secrets = [address]
        try:
            url = sa.make_url(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", address))
            secrets += [str(url.password or "")]
            is_postgres = url.get_backend_name() == "postgresql"
            engine = sa.create_engine(
                url,
                poolclass=sa.NullPool,
                connect_args={"connect_timeout": CONNECT_SECONDS} if is_postgres else {},
            )
        except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
            raise self._query_error(error, secrets) from None
        except ImportError as error:
            raise self._library_error(error.name or "its driver") from None
        try:
            with engine.connect() as connection:
                if is_postgres:
                    connection.execute(sa.text("SET TRANSACTION READ ONLY"))
                    connection.execute(sa.text("SET LOCAL TIME ZONE 'UTC'"))
                return pl.read_database(
                    sa.text(query),
                    connection,
                    infer_schema_length=None,
                    execute_options={"parameters": dict(bounds)} if bounds else None,
                )
        except (sa.exc.OperationalError, sa.exc.InterfaceError) as error:
            raise self._away_error(error.orig or error, secrets) from None
        except (sa.exc.SQLAlchemyError, pl.exceptions.PolarsError) as error:
            raise self._query_error(getattr(error, "orig", None) or error, secrets) from None

    def _away_error(self, error: BaseException, secrets: list[str]) -> SourceAwayError:
        return SourceAwayError(
            self._subject,
            expected="an answer",
            found=without_secrets(f"{type(error).__name__}: {error}", secrets),
            fix="Start the database, or correct the address in this environment variable.",
        )

    def _query_error(self, error: BaseException, secrets: list[str]) -> SourceError:
        return SourceError(
            self._subject,
            expected="a query that it can answer",
            found=without_secrets(f"{type(error).__name__}: {error}", secrets),
            fix="Correct the query, or the address in this environment variable.",
        )

    def _library_error(self, name: str) -> SourceError:
        return SourceError(
            self._subject, expected=f"the library {name}", found="none", fix="Install the extra: pip install '.[sql]'."
        )


def _statement(query: str) -> str:
    return query.strip().rstrip(";")


def _quoted(column: str | None) -> str:
    return '"' + str(column).replace('"', '""') + '"'
