"""A real S3 server on this machine, for tests of the lake and of backups."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ml_platform.serving.processes import free_port
from ml_platform_tests.polling import until

SERVER = Path(sys.executable).with_name("weed")
KEY, SECRET = "key", "secret"


@dataclass(frozen=True)
class ObjectStore:
    """A running S3 server with one bucket, `bucket`."""

    port: int

    @property
    def lake_options(self) -> dict[str, str]:
        """Return the storage options of a lake in this store."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def address(self, prefix: str) -> str:
        """Return the address of ``prefix`` for a backup; the credentials are in the environment."""
        return f"s3://bucket/{prefix}?endpoint_override=127.0.0.1:{self.port}&scheme=http"


@contextmanager
def running_object_store(folder: Path) -> Iterator[ObjectStore]:
    """Start the server with its files in ``folder``, create the bucket, and stop the server after the body."""
    if not SERVER.exists():
        pytest.skip("the S3 server `weed` is not installed")
    ports = {name: free_port() for name in ("s3", "master", "filer", "volume", "admin")}
    command = [str(SERVER), "mini", "-dir", str(folder), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1", "-webdav=false"]
    command += [part for name, port in ports.items() for part in (f"-{name}.port", str(port))]
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        store = ObjectStore(ports["s3"])
        until(lambda: _has_bucket(store), seconds=60)
        yield store
    finally:
        # It needs half a minute to end by itself, and its files are temporary.
        server.kill()
        server.wait(30)


def _has_bucket(store: ObjectStore) -> bool:
    import pyarrow.fs

    filesystem = pyarrow.fs.S3FileSystem(
        access_key=KEY,
        secret_key=SECRET,
        region="us-east-1",
        scheme="http",
        endpoint_override=f"127.0.0.1:{store.port}",
        allow_bucket_creation=True,
        connect_timeout=2,
    )
    try:
        filesystem.create_dir("bucket")
    except OSError:
        return False
    return True
