"""The Parquet files of the lake, in a local folder or in S3: written once under a new name, verified before each read.

A file is identified by its path below the folder of its table. Its size and digest are recorded when it is written.
"""

import hashlib
import os
import re
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from ml_platform.data.atomic import sync_directory
from ml_platform.data.canonical import file_digest
from ml_platform.errors import PlatformError

if TYPE_CHECKING:
    import pyarrow.fs

VERIFIED_FILES_REMEMBERED = 50_000
"""Number of files that one process remembers as verified; a file is verified again after it was replaced."""

COMPRESSION_LEVEL = 1
"""Level of zstd: with level 3, logged predictions took twice the time to write, and 7 % more space."""


S3_CONNECT_SECONDS, S3_REQUEST_SECONDS = 5.0, 30.0
"""Time in which an object store must accept a connection, and continue an answer."""

S3_ATTEMPTS = 8
"""Attempts of one request to an object store; with their pauses they take about half a minute."""

SCAN_OPTIONS: Mapping[str, Any] = {"max_retries": S3_ATTEMPTS, "retry_timeout_ms": 60_000}
"""Options of Polars with which a scan repeats a request without an answer or with an error 5xx, by default twice."""

DELTA_LOG = "_delta_log"
"""Part of the name of each folder with a Delta log, a damaged one included."""


class ObjectStoreError(PlatformError):
    """Raised when the object store does not answer, or refuses a request."""


class StoredFile(NamedTuple):
    """A file of a table: its path below the folder of the table, its size in bytes, and the SHA-256 of its bytes."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class DamagedFile:
    """A file that is not as it was written; ``found`` says how."""

    table: str
    path: str
    found: str


@dataclass(frozen=True)
class LakeListing:
    """The Parquet files of a lake: path below the root, bytes, time of the last change (POSIX seconds).

    ``delta_tables`` are the folders with a Delta log; the files of the logs are left out.
    """

    files: list[tuple[str, int, float]]
    delta_tables: set[str]


class LakeFiles:
    """The files under ``root``: a folder, or ``s3://bucket/prefix`` with the ``storage_options`` of object_store."""

    def __init__(self, root: str, storage_options: dict[str, str] | None = None) -> None:
        self.root = root.rstrip("/")
        self.storage_options = storage_options
        self._verified: OrderedDict[str, tuple[int, int, int]] = OrderedDict()

    @cached_property
    def local(self) -> Path | None:
        """The folder of a local lake, or None."""
        return None if "://" in self.root else Path(self.root)

    def write(self, table: str, frame: pl.DataFrame, partition: str) -> StoredFile:
        """Write ``frame`` as a new file of ``table`` and return it when it is on disk; nothing is replaced."""
        folder = f"partition={re.sub(r'[^A-Za-z0-9_.=-]', '_', partition)}/" if partition else ""
        path = f"{folder}part-{uuid.uuid4().hex}.parquet"
        if self.local is None:
            buffer = BytesIO()
            frame.write_parquet(buffer, compression_level=COMPRESSION_LEVEL)
            data = buffer.getvalue()
            self._put(table, path, data)
            return StoredFile(path, len(data), hashlib.sha256(data).hexdigest())
        target = self.local / table / path
        # Readers and cleaning ignore names with a leading dot: the file is not complete before its rename.
        staged = target.with_name(f".{target.name}")
        _create_file(staged)
        try:
            frame.write_parquet(staged, compression_level=COMPRESSION_LEVEL)
            digest = file_digest(staged)
            with staged.open("rb") as file:
                os.fsync(file.fileno())
            size = staged.stat().st_size
            staged.replace(target)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        sync_directory(target.parent)
        return StoredFile(path, size, digest)

    def scan(self, table: str, files: Sequence[str]) -> pl.LazyFrame:
        """Return the rows of ``files``, at least one, as a lazy table."""
        # Without globbing, because a path may contain brackets or asterisks.
        return pl.scan_parquet(
            [f"{self.root}/{table}/{path}" for path in files],
            glob=False,
            hive_partitioning=False,
            storage_options=None if self.local is not None else {**(self.storage_options or {}), **SCAN_OPTIONS},
        )

    def damaged(self, table: str, files: Iterable[StoredFile], *, content: bool) -> Iterator[DamagedFile]:
        """Yield the files that are missing, have another size or, with ``content``, other bytes.

        A local file is hashed once per process and change. A file in S3 is compared by size; object stores verify
        their content themselves.
        """
        if self.local is not None and not content:
            files = self._of_other_size(table, files)
        for file in files:
            found = self._damage(table, file, content=content)
            if found:
                yield DamagedFile(table, file.path, found)

    def _of_other_size(self, table: str, files: Iterable[StoredFile]) -> Iterator[StoredFile]:
        """Yield the local files that are missing or have another size, in one loop: there may be very many."""
        folder, stat = f"{self.local}/{table}/", os.stat
        for file in files:
            path, size, _ = file
            try:
                if stat(folder + path).st_size != size:
                    yield file
            except FileNotFoundError:
                yield file

    def delete(self, table: str, paths: Iterable[str]) -> int:
        """Delete files of ``table`` and return the number of bytes freed; absent files are skipped."""
        freed = 0
        folders: set[Path] = set()
        for path in paths:
            if self.local is None:
                with self._named_errors():
                    info = self._s3.get_file_info(self._key(table, path))
                    if info.is_file:
                        self._s3.delete_file(info.path)
                        freed += info.size
                continue
            target = self.local / table / path
            try:
                size = target.stat().st_size
                target.unlink()
            except FileNotFoundError:
                continue
            freed += size
            folders.add(target.parent)
        for folder in folders:
            # A folder with files stays: it cannot be removed.
            with suppress(OSError):
                folder.rmdir()
        return freed

    def stored(self, table: str) -> Iterator[tuple[str, int, float]]:
        """Yield path, size in bytes and modification time (POSIX seconds) of each Parquet file of ``table``.

        Unfinished files of killed writers, whose names begin with a dot, are included.
        """
        if self.local is None:
            import pyarrow.fs

            selector = pyarrow.fs.FileSelector(self._key(table, ""), allow_not_found=True, recursive=True)
            with self._named_errors():
                found = self._s3.get_file_info(selector)
            for info in found:
                if info.is_file and info.path.endswith(".parquet") and "/_delta_log/" not in info.path:
                    yield info.path.removeprefix(f"{self._key(table, '').rstrip('/')}/"), info.size, info.mtime_ns / 1e9
            return
        folder = self.local / table
        for directory, names, files in os.walk(folder):
            if "_delta_log" in names:
                if Path(directory) != folder:
                    # A table below this one, such as models/x/predictions below models/x.
                    names.clear()
                    continue
                names.remove("_delta_log")
            for name in files:
                if name.endswith(".parquet"):
                    path = Path(directory) / name
                    status = path.stat()
                    yield path.relative_to(folder).as_posix(), status.st_size, status.st_mtime

    def everything(self) -> LakeListing:
        """Return all Parquet files under the root, unfinished ones of killed writers included."""
        files: list[tuple[str, int, float]] = []
        delta_tables: set[str] = set()
        for path, size, modified in self._all_files():
            folder, found, _ = path.partition(DELTA_LOG)
            if found:
                delta_tables.add(folder.rstrip("./"))
            elif path.endswith(".parquet"):
                files.append((path, size, modified))
        return LakeListing(files, delta_tables)

    def _all_files(self) -> Iterator[tuple[str, int, float]]:
        if self.local is None:
            import pyarrow.fs

            root = self._key("", "")
            with self._named_errors():
                found = self._s3.get_file_info(pyarrow.fs.FileSelector(root, allow_not_found=True, recursive=True))
            for info in found:
                if info.is_file:
                    yield info.path.removeprefix(f"{root}/"), info.size, info.mtime_ns / 1e9
            return
        for directory, _, names in os.walk(self.local):
            for name in names:
                path = Path(directory, name)
                try:
                    status = path.stat()
                except FileNotFoundError:
                    continue  # a writer renamed or removed it
                yield path.relative_to(self.local).as_posix(), status.st_size, status.st_mtime

    def _damage(self, table: str, file: StoredFile, *, content: bool) -> str | None:
        if self.local is None:
            with self._named_errors():
                info = self._s3.get_file_info(self._key(table, file.path))
            if not info.is_file:
                return "no file"
            return None if info.size == file.size_bytes else f"{info.size} bytes instead of {file.size_bytes}"
        path = f"{self.local}/{table}/{file.path}"
        try:
            status = os.stat(path)  # noqa: PTH116 - a Path for each of many files takes longer than the call
        except FileNotFoundError:
            return "no file"
        if status.st_size != file.size_bytes:
            return f"{status.st_size} bytes instead of {file.size_bytes}"
        if not content:
            return None
        identity = (status.st_ino, status.st_mtime_ns, status.st_size)
        if self._verified.get(path) == identity:
            self._verified.move_to_end(path)
            return None
        digest = file_digest(Path(path))
        if digest != file.sha256:
            return f"bytes with the digest {digest[:12]} instead of {file.sha256[:12]}"
        self._verified[path] = identity
        if len(self._verified) > VERIFIED_FILES_REMEMBERED:
            self._verified.popitem(last=False)
        return None

    def _put(self, table: str, path: str, data: bytes) -> None:
        with self._named_errors(), self._s3.open_output_stream(self._key(table, path)) as stream:
            stream.write(data)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Give an error of the object store a subject and a fix."""
        try:
            yield
        except OSError as error:
            raise ObjectStoreError(
                f"Object store, {self.root}",
                expected=f"an answer within {S3_ATTEMPTS} attempts",
                found=" ".join(str(error).split())[:300],
                fix="Nothing was recorded: files without a record belong to no version. Start the store, or correct "
                "its address, bucket and keys; `ml-platform doctor` tries them. Then repeat the command.",
            ) from error

    def _key(self, table: str, path: str) -> str:
        return "/".join([self.root.partition("://")[2], *(part for part in (table, path) if part)])

    @cached_property
    def _s3(self) -> "pyarrow.fs.S3FileSystem":
        return s3_filesystem(self.storage_options or {})


def s3_filesystem(
    storage_options: Mapping[str, str],
    *,
    connect_seconds: float = S3_CONNECT_SECONDS,
    attempts: int = S3_ATTEMPTS,
) -> "pyarrow.fs.S3FileSystem":
    """Return the file system of an object store for options with the names of ``object_store``, like AWS_REGION.

    A request that finds no connection, no answer or an error 5xx is sent ``attempts`` times, with growing pauses.
    """
    import pyarrow.fs

    options = {name.lower().removeprefix("aws_"): value for name, value in storage_options.items()}
    endpoint = options.get("endpoint_url") or options.get("endpoint")
    arguments: dict[str, Any] = {
        "access_key": options.get("access_key_id"),
        "secret_key": options.get("secret_access_key"),
        "session_token": options.get("session_token"),
        "region": options.get("region"),
        "allow_bucket_creation": False,
        "connect_timeout": connect_seconds,
        "request_timeout": S3_REQUEST_SECONDS,
        # Small objects are written by one request in place of three.
        "allow_delayed_open": True,
        "retry_strategy": pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
    }
    if endpoint:
        scheme, _, host = endpoint.partition("://")
        arguments |= {"scheme": scheme, "endpoint_override": host}
    return pyarrow.fs.S3FileSystem(**{name: value for name, value in arguments.items() if value is not None})


def _create_file(path: Path) -> None:
    """Create an empty file with its folder; cleaning may remove an empty folder in between."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            path.touch()
            return
