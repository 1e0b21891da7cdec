"""Each kind of source: its rows with their types, a fingerprint that follows changes, and named refusals."""

import gzip
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import TypeAdapter, ValidationError

from ml_platform.data.landed_bytes import LandedFileError
from ml_platform.data.sources.declared import DeclaredSource
from ml_platform.data.sources.source import Slice, Source, SourceAwayError, SourceError
from ml_platform_tests.object_store import ObjectStore, running_object_store

INSTANT = pl.Datetime("us", "UTC")
COLUMNS = {"id": pl.Int64(), "price": pl.Float64(), "made": INSTANT, "day": pl.Date()}
JANUARY = Slice("2013-01", datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 2, 1, tzinfo=UTC))
MARCH = Slice("2013-03", datetime(2013, 3, 1, tzinfo=UTC), datetime(2013, 4, 1, tzinfo=UTC))
ROWS = [
    (1, 2.5, datetime(2013, 1, 5, 10, tzinfo=UTC), date(2013, 1, 5)),
    (2, None, datetime(2013, 1, 6, 10, tzinfo=UTC), date(2013, 1, 6)),
]
FRAME = pl.DataFrame(ROWS, schema=COLUMNS, orient="row")


def declared(**settings: Any) -> Source:
    source: Source = TypeAdapter(DeclaredSource).validate_python(settings)
    return source


def write_form(path: Path, form: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "csv.gz":
        text = "id,price,made,day,more\n1,2.5,2013-01-05T10:00:00Z,2013-01-05,x\n2,,2013-01-06T10:00:00Z,2013-01-06,y\n"
        path.write_bytes(gzip.compress(text.encode()))
    elif form == "jsonl":
        path.write_text(
            '{"id": 1, "price": 2.5, "made": "2013-01-05T10:00:00Z", "day": "2013-01-05", "more": "x"}\n'
            '{"id": 2, "price": null, "made": "2013-01-06T10:00:00Z", "day": "2013-01-06"}\n'
        )
    elif form == "parquet":
        FRAME.with_columns(more=pl.lit("x")).write_parquet(path)
    else:
        FRAME.with_columns(more=pl.lit("x")).write_ipc(path)


@pytest.mark.parametrize("form", ["csv.gz", "jsonl", "parquet", "arrow"])
def test_files_of_each_format_give_the_declared_columns_in_their_types(tmp_path: Path, form: str) -> None:
    write_form(tmp_path / f"orders.{form}", form)
    read = declared(type="files", path=f"{tmp_path}/orders.{form}").read(Slice(), COLUMNS)

    assert read.schema == COLUMNS
    assert read.rows() == ROWS


def test_all_files_of_a_partition_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b/2.csv", "a/1.csv"):
        (tmp_path / "2013-01" / name).parent.mkdir(parents=True)
        (tmp_path / "2013-01" / name).write_text(f"id\n{name[2]}\n")
    (tmp_path / "2013-02").mkdir()
    (tmp_path / "2013-02" / "3.csv").write_text("id\n3\n")

    source = declared(type="files", path=f"{tmp_path}/{{start:%Y-%m}}/**/*.csv")
    assert source.read(JANUARY, {"id": pl.Int64()})["id"].to_list() == [1, 2]
    assert source.fingerprint(MARCH) is None
    folder = declared(type="files", path=f"{tmp_path}/2013-02")
    assert folder.read(Slice(), {"id": pl.Int64()})["id"].to_list() == [3]


def test_fingerprint_of_files_follows_a_new_and_a_changed_file(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("id\n1\n")
    source = declared(type="files", path=f"{tmp_path}/*.csv")
    prints = [source.fingerprint(Slice()), source.fingerprint(Slice())]
    (tmp_path / "2.csv").write_text("id\n2\n")
    prints.append(source.fingerprint(Slice()))
    (tmp_path / "2.csv").write_text("id\n22\n")
    prints.append(source.fingerprint(Slice()))

    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"1.csv": "id,x\n1,2\n", "2.csv": "id\n1\n"}, r"2\.csv: expected the columns of 1\.csv.*difference in 'x'"),
        ({"1.jsonl": '{"id": 1}\n[2]\n'}, r"expected a JSON object in every line, found none in line 2"),
        ({"1.parquet": "no"}, r"expected a whole file of format parquet, found 2 bytes"),
        ({"1.xls": "no"}, r"expected one of the suffixes .*'1\.xls'"),
        ({"1.csv": "id\n1\n2,3\n"}, r"expected 1 fields.*row 2 \(line 3\)"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(tmp_path: Path, files: dict[str, str], found: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    with pytest.raises(LandedFileError, match=found):
        declared(type="files", path=f"{tmp_path}/*").read(Slice(), {})


def test_partition_names_in_a_source_need_a_partition(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected a partition with 'start'"):
        declared(type="files", path=f"{tmp_path}/{{start:%Y}}/*.csv").fingerprint(Slice())


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"type": "files", "path": "x/{month}.csv"}, r"braces around 'month'"),
        ({"type": "files", "path": "x.csv", "separator": "a"}, r"separates no fields"),
        ({"type": "files", "path": "x.csv", "encoding": "klingon"}, r"'klingon' is no encoding"),
        ({"type": "hudi", "path": "x"}, r"does not match any of the expected tags: 'files'"),
        ({"type": "sql", "address_variable": "A", "query": "DELETE FROM x"}, r"write one SELECT statement"),
        ({"type": "sql", "address_variable": "A", "query": "SELECT 1; SELECT 2"}, r"write one SELECT statement"),
        ({"type": "sql", "address_variable": "postgresql://u:p@h/d", "query": "SELECT 1"}, r"should match pattern"),
        ({"type": "delta", "path": "x", "partition_column": "a", "time_column": "b"}, r"not both"),
    ],
)
def test_wrong_declaration_is_refused(settings: dict[str, Any], found: str) -> None:
    with pytest.raises(ValidationError, match=found):
        declared(**settings)


@pytest.fixture(params=["duckdb", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Set SHOP_DATABASE to the address of a database and yield a function that executes a statement there."""
    if request.param == "duckdb":
        import duckdb

        path = tmp_path / "shop.duckdb"
        monkeypatch.setenv("SHOP_DATABASE", f"duckdb:{path}")

        def execute(statement: str) -> None:
            with duckdb.connect(path) as connection:
                connection.execute("SET TimeZone = 'America/New_York'")
                connection.execute(statement)

        yield execute
    else:
        import psycopg

        address = request.getfixturevalue("postgres")
        monkeypatch.setenv("SHOP_DATABASE", address)
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute("SET TIME ZONE 'America/New_York'")
            yield connection.execute
            connection.execute("DROP TABLE IF EXISTS orders")


def create_orders(execute: Any) -> None:
    execute(
        "CREATE TABLE orders (id bigint, price double precision, made timestamptz, day date, cost numeric(10, 2), "
        "parts integer[])"
    )
    execute(
        "INSERT INTO orders VALUES (1, 2.5, '2013-01-05 10:00:00+00', '2013-01-05', 1.10, array[1, 2]), "
        "(2, NULL, '2013-01-06 10:00:00+00', '2013-01-06', NULL, NULL), "
        "(3, 0.1, '2013-02-01 00:00:00+00', '2013-02-01', 3.30, array[3])"
    )


QUERY = "SELECT * FROM orders WHERE made >= :start AND made < :end ORDER BY id"


def test_query_with_bounds_gives_the_rows_of_the_partition_in_their_types(database: Any) -> None:
    create_orders(database)
    source = declared(type="sql", address_variable="SHOP_DATABASE", query=QUERY)

    assert source.read(JANUARY, COLUMNS).rows() == ROWS
    whole = source.read(JANUARY, {})
    assert whole["cost"].to_list() == [Decimal("1.10"), None]
    assert whole["parts"].to_list() == [[1, 2], None]
    assert source.fingerprint(MARCH) is None


@pytest.mark.parametrize(
    "settings", [{}, {"change_column": "made"}, {"fingerprint_query": "SELECT sum(price) FROM orders"}]
)
def test_fingerprint_of_a_query_follows_changed_rows(database: Any, settings: dict[str, str]) -> None:
    create_orders(database)
    source = declared(type="sql", address_variable="SHOP_DATABASE", query=QUERY, **settings)
    before = source.fingerprint(JANUARY)

    assert source.fingerprint(JANUARY) == before
    database("UPDATE orders SET price = 7, made = '2013-01-07 00:00:00+00' WHERE id = 2")
    assert source.fingerprint(JANUARY) != before


def test_fingerprint_of_one_partition_ignores_changes_of_another(database: Any) -> None:
    create_orders(database)
    source = declared(type="sql", address_variable="SHOP_DATABASE", query=QUERY)
    before = source.fingerprint(JANUARY)
    database("UPDATE orders SET price = 7 WHERE id = 3")

    assert source.fingerprint(JANUARY) == before


def test_wrong_query_is_an_error_that_no_attempt_repairs(database: Any) -> None:
    create_orders(database)

    with pytest.raises(SourceError, match=r"Database of \$SHOP_DATABASE: expected a query that it can answer") as error:
        declared(type="sql", address_variable="SHOP_DATABASE", query="SELECT nothing FROM orders").read(Slice(), {})
    assert not isinstance(error.value, SourceAwayError)


@pytest.mark.parametrize("address", ["postgresql://shop:hunter2@127.0.0.1:1/shop", "duckdb:/nowhere/shop.duckdb"])
def test_database_that_is_away_is_named_without_its_credentials(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_DATABASE", address)

    with pytest.raises(SourceAwayError, match=r"Database of \$SHOP_DATABASE: expected an answer") as error:
        declared(type="sql", address_variable="SHOP_DATABASE", query="SELECT 1").fingerprint(Slice())
    assert "hunter2" not in str(error.value)
    assert error.value.__suppress_context__


def test_absent_address_is_named() -> None:
    with pytest.raises(SourceError, match=r"Environment variable ABSENT_DATABASE: expected the address.*no value"):
        declared(type="sql", address_variable="ABSENT_DATABASE", query="SELECT 1").fingerprint(Slice())


@pytest.mark.parametrize("settings", [{"partition_column": "month"}, {"time_column": "made"}])
def test_delta_table_gives_the_rows_of_a_partition_and_ignores_changes_of_another(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    february = pl.DataFrame([(3, 1.0, datetime(2013, 2, 1, tzinfo=UTC), date(2013, 2, 1))], COLUMNS, orient="row")
    rows = pl.concat([FRAME, february]).with_columns(month=pl.col("made").dt.strftime("%Y-%m"))
    rows.write_delta(tmp_path / "orders", delta_write_options={"partition_by": ["month"]})
    source = declared(type="delta", path=str(tmp_path / "orders"), **settings)

    assert sorted(source.read(JANUARY, COLUMNS).rows()) == ROWS
    assert source.fingerprint(MARCH) is None
    before = source.fingerprint(JANUARY)
    rows.filter(month="2013-02").write_delta(tmp_path / "orders", mode="append")
    assert source.fingerprint(JANUARY) == before
    rows.filter(month="2013-01").write_delta(tmp_path / "orders", mode="append")
    assert source.fingerprint(JANUARY) != before


def test_delta_table_that_is_absent_is_away(tmp_path: Path) -> None:
    with pytest.raises(SourceAwayError, match=r"Delta table .*orders: expected a Delta table"):
        declared(type="delta", path=str(tmp_path / "orders")).fingerprint(Slice())


class IcebergTable:
    """The table `shop.orders` of a catalog in SQLite, in a folder."""

    def __init__(self, folder: Path, rows: pl.DataFrame) -> None:
        from pyiceberg.catalog import load_catalog

        (folder / "warehouse").mkdir()
        self.catalog = {
            "name": "default",
            "type": "sql",
            "uri": f"sqlite:///{folder}/catalog.db",
            "warehouse": f"file://{folder}/warehouse",
        }
        opened = load_catalog(**self.catalog)
        opened.create_namespace("shop")
        self.table = opened.create_table("shop.orders", schema=rows.to_arrow().schema)
        self.table.append(rows.to_arrow())

    def source(self, **settings: Any) -> Source:
        return declared(**{"type": "iceberg", "table": "shop.orders", "catalog": self.catalog} | settings)


@pytest.fixture
def iceberg(tmp_path: Path) -> IcebergTable:
    pytest.importorskip("pyiceberg")
    return IcebergTable(tmp_path, FRAME.with_columns(month=pl.col("made").dt.strftime("%Y-%m")))


@pytest.mark.parametrize("settings", [{"partition_column": "month"}, {"time_column": "made"}])
def test_iceberg_table_gives_the_rows_of_a_partition_and_ignores_changes_of_another(
    iceberg: IcebergTable, settings: dict[str, str]
) -> None:
    february = pl.DataFrame([(3, 1.0, datetime(2013, 2, 1, tzinfo=UTC), date(2013, 2, 1))], COLUMNS, orient="row")
    february = february.with_columns(month=pl.lit("2013-02"))
    source = iceberg.source(**settings)

    assert sorted(source.read(JANUARY, COLUMNS).rows()) == ROWS
    assert source.fingerprint(MARCH) is None
    before = source.fingerprint(JANUARY)
    iceberg.table.append(february.to_arrow())
    assert source.fingerprint(JANUARY) == before
    assert sorted(source.read(JANUARY, COLUMNS).rows()) == ROWS
    iceberg.table.append(february.with_columns(made=pl.lit(FRAME["made"][0]), month=pl.lit("2013-01")).to_arrow())
    assert source.fingerprint(JANUARY) != before
    assert iceberg.source().read(Slice(), {"id": pl.Int64()}).height == FRAME.height + 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"partition_column": "absent"}, "Could not find field with name absent"),
        ({"partition_column": "id"}, "Could not convert 2013-01"),
        ({"time_column": "month"}, "Cannot convert TimestampLiteral into string"),
        ({}, "expected partition_column or time_column"),
    ],
)
def test_wrong_column_of_the_partitions_of_an_iceberg_table_is_named(
    iceberg: IcebergTable, settings: dict[str, str], message: str
) -> None:
    source = iceberg.source(**settings)
    for call in (source.fingerprint, lambda part: source.read(part, COLUMNS)):
        with pytest.raises(SourceError, match=message) as error:
            call(JANUARY)
        assert not isinstance(error.value, SourceAwayError)


def test_iceberg_table_or_catalog_that_is_absent_is_away(
    iceberg: IcebergTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SourceAwayError, match=r"Iceberg table shop.absent: expected a table.*NoSuchTableError"):
        iceberg.source(table="shop.absent").fingerprint(Slice())
    monkeypatch.setenv("TOKEN", "hunter2")
    away = {"catalog": {"type": "rest", "uri": "http://127.0.0.1:1/hunter2"}, "options": {"token": "TOKEN"}}
    with pytest.raises(SourceAwayError, match=r"Iceberg table shop.orders: expected a table.*ConnectionError") as error:
        iceberg.source(**away).fingerprint(Slice())
    assert "hunter2" not in str(error.value)


def rows_of_an_api(partition: str, start: datetime, end: datetime) -> pl.DataFrame:
    return pl.DataFrame({"id": [1], "partition": [partition], "days": [(end - start).days]})


def version_of_an_api(partition: str, start: datetime, end: datetime) -> int:
    return 7


def api_that_is_away(partition: str, start: datetime, end: datetime) -> pl.DataFrame:
    raise ConnectionError("https://api/?token=hunter2")


def broken_api(partition: str, start: datetime, end: datetime) -> pl.DataFrame:
    raise KeyError("hunter2")


def test_function_gives_the_rows_of_a_partition() -> None:
    source = declared(
        type="function",
        function=f"{__name__}:rows_of_an_api",
        fingerprint_function=f"{__name__}:version_of_an_api",
    )
    assert source.read(JANUARY, {}).rows() == [(1, "2013-01", 31)]
    assert source.fingerprint(JANUARY) == "7"


def test_function_that_fails_is_named_with_its_line_and_without_its_message() -> None:
    with pytest.raises(SourceAwayError, match=r"api_that_is_away', partition 2013-01.*ConnectionError in line") as away:
        declared(type="function", function=f"{__name__}:api_that_is_away").read(JANUARY, {})
    with pytest.raises(SourceError, match=r"found KeyError in line \d+ of test_sources\.py") as broken:
        declared(type="function", function=f"{__name__}:broken_api").read(JANUARY, {})
    assert not isinstance(broken.value, SourceAwayError)
    assert "hunter2" not in f"{away.value}{broken.value}"


@pytest.fixture(scope="module")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running_object_store(tmp_path_factory.mktemp("weed")) as store:
        yield store


def test_objects_of_a_partition_are_read_with_credentials_from_the_environment(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ml_platform.data.lake_files import s3_filesystem

    options = object_store.lake_options
    for name, value in options.items():
        monkeypatch.setenv(f"SHOP_{name}", value)
    filesystem = s3_filesystem(options)
    for name in ("2013-01/1.csv", "2013-01/2.csv", "2013-02/1.csv", "2013-01/readme.md"):
        with filesystem.open_output_stream(f"bucket/orders/{name}") as stream:
            stream.write(f"id\n{name[8]}\n".encode())
    variables = {name: f"SHOP_{name}" for name in options}
    source = declared(type="object_storage", path="s3://bucket/orders/{partition}/*.csv", options=variables)

    assert source.read(JANUARY, {"id": pl.Int64()})["id"].to_list() == [1, 2]
    assert source.fingerprint(MARCH) is None
    before = source.fingerprint(JANUARY)
    with filesystem.open_output_stream("bucket/orders/2013-01/2.csv") as stream:
        stream.write(b"id\n22\n")
    assert source.fingerprint(JANUARY) != before


def test_object_store_that_is_away_is_named_without_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ENDPOINT": "http://127.0.0.1:1", "ID": "key", "SECRET": "hunter2"}.items():
        monkeypatch.setenv(f"SHOP_{name}", value)
    options = {
        "AWS_ENDPOINT_URL": "SHOP_ENDPOINT",
        "AWS_ACCESS_KEY_ID": "SHOP_ID",
        "AWS_SECRET_ACCESS_KEY": "SHOP_SECRET",
    }
    with pytest.raises(SourceAwayError, match=r"Object store of s3://bucket/x/: expected an answer") as error:
        declared(type="object_storage", path="s3://bucket/x/", options=options).fingerprint(Slice())
    assert "hunter2" not in str(error.value)
