"""Checks of the services behind the profile `cluster`: each is used for real, and what was written is removed."""

import uuid
from collections.abc import Callable

from ml_platform.console.doctor.finding import Finding, Subject, failed, ok
from ml_platform.errors import PlatformError
from resources.cluster_settings import ClusterSettings
from resources.profile import PROFILE_VARIABLE, active_profile, active_settings, locations

CONNECT_SECONDS = 5
UNUSED = Finding("ok", "not used by the profile 'local'")


def profile(subject: Subject) -> Finding:
    """Check that the profile exists, that its settings are complete, and that each secret is where they say."""
    try:
        name = active_profile()
        locations(subject.home)
    except PlatformError as error:
        return failed(f"{error.subject}: expected {error.expected}, found {error.found}", error.fix)
    return ok(f"'{name}'")


def postgres(subject: Subject) -> Finding:
    """Check each database: connect, and create a table in a transaction that is rolled back."""
    return _check(subject, _postgres)


def object_store(subject: Subject) -> Finding:
    """Check the prefixes of tables and artifacts: write, read and delete an object."""
    return _check(subject, _object_store)


def valkey(subject: Subject) -> Finding:
    """Check the online store: write, read and delete a key, and that the server evicts no key."""
    return _check(subject, _valkey)


def tracking_server(subject: Subject) -> Finding:
    """Check that MLflow's server answers, where the profile has one."""
    return _check(subject, _tracking_server)


def _check(subject: Subject, check: Callable[[Subject, ClusterSettings], Finding]) -> Finding:
    try:
        if active_profile() == "local":
            return UNUSED
        locations(subject.home)
        return check(subject, active_settings())
    except PlatformError:
        return failed(f"not tried: {PROFILE_VARIABLE} and its settings are wrong", "See the check of the profile.")


def _postgres(_subject: Subject, settings: ClusterSettings) -> Finding:
    import psycopg
    from sqlalchemy import make_url

    server = settings.postgres.address
    versions = set()
    for store, database in settings.postgres.databases.model_dump().items():
        url = make_url(settings.postgres.url(store)).render_as_string(hide_password=False)
        try:
            with psycopg.connect(url, connect_timeout=CONNECT_SECONDS) as connection:
                versions.add(connection.info.server_version // 10_000)
                connection.execute(f"create table doctor_{uuid.uuid4().hex} (value integer)")
                connection.rollback()
        except psycopg.OperationalError as error:
            return failed(
                f"{store}: no connection to the database '{database}' at {server}: {_line(error)}",
                "Start Postgres, create the database, or correct postgres.address, postgres.password and "
                "postgres.databases.",
            )
        except psycopg.Error as error:
            return failed(
                f"{store}: the database '{database}' at {server} refuses a table: {_line(error)}",
                f"Give the user the right to create tables in '{database}'.",
            )
    return ok(f"Postgres {', '.join(map(str, sorted(versions)))} at {server}: each database accepts tables")


def _object_store(subject: Subject, settings: ClusterSettings) -> Finding:
    from ml_platform.data.lake_files import s3_filesystem

    files = s3_filesystem({**locations(subject.home).lake_options}, connect_seconds=CONNECT_SECONDS, attempts=2)
    for name, root in (("lake", settings.object_store.lake), ("artifacts", settings.object_store.artifacts)):
        key, content = f"{root.partition('://')[2]}/.doctor-{uuid.uuid4().hex}", uuid.uuid4().bytes
        try:
            with files.open_output_stream(key) as stream:
                stream.write(content)
            with files.open_input_stream(key) as stream:
                found = stream.read()
            files.delete_file(key)
        except OSError as error:
            return failed(
                f"{name}: an object below {root} could not be written, read and deleted at "
                f"{settings.object_store.endpoint or 'AWS'}: {_line(error)}",
                f"Start the object store, create the bucket, or correct object_store.{name}, endpoint and keys.",
            )
        if found != content:
            return failed(f"{name}: an object below {root} was read as other bytes", "Check the object store.")
    return ok(f"{settings.object_store.lake} and {settings.object_store.artifacts} can be written and read")


def _valkey(subject: Subject, settings: ClusterSettings) -> Finding:
    from redis import Redis
    from redis.exceptions import RedisError, ResponseError

    url = locations(subject.home).online.replace("valkey", "redis", 1)
    key = f"ml_platform:doctor:{uuid.uuid4().hex}"
    try:
        client = Redis.from_url(url, socket_timeout=CONNECT_SECONDS, socket_connect_timeout=CONNECT_SECONDS)
        client.set(key, b"1", ex=60)
        client.delete(key)
        policy = str(client.config_get("maxmemory-policy").get("maxmemory-policy") or "")
    except ResponseError as error:
        if "config" not in str(error).lower():
            return failed(f"{settings.valkey.address}: {_line(error)}", "Give the user rights on keys ml_platform:*.")
        policy = ""  # a managed server hides its configuration
    except RedisError as error:
        return failed(
            f"{settings.valkey.address}: {_line(error)}",
            "Start Valkey, or correct valkey.address and valkey.password.",
        )
    if policy.startswith("allkeys"):
        return failed(
            f"{settings.valkey.address} evicts snapshots when its memory is full ({policy})",
            "Set maxmemory-policy to noeviction or to a volatile policy.",
        )
    return ok(f"{settings.valkey.address} can be written and read")


def _tracking_server(subject: Subject, settings: ClusterSettings) -> Finding:
    address = settings.mlflow.address
    if not address:
        return ok("processes use Postgres and the object store themselves")
    import requests

    try:
        requests.get(f"{address.rstrip('/')}/health", timeout=CONNECT_SECONDS).raise_for_status()
    except requests.RequestException as error:
        return failed(f"{address}/health: {_line(error)}", "Start the server, or correct mlflow.address.")
    return ok(f"{address} answers")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
