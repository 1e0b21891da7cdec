"""The place of backups, a folder or a bucket: objects under their digest, and one index per backup.

<target>/objects/ab/abcdef…     the bytes of a file, once for all backups
<target>/backups/<id>.json      the paths, sizes and digests of the files of one backup, written last
"""

import hashlib
import os
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from ml_platform.errors import PlatformError, listed

if TYPE_CHECKING:
    import pyarrow.fs

COPY_BYTES = 1 << 20


class BackupError(PlatformError):
    """Raised when a backup is missing, incomplete or changed, or a home cannot be restored into its folder."""


class BackedUpFile(BaseModel):
    """One file of a backup; ``modified_ns`` and ``size_bytes`` tell whether it changed since."""

    model_config = ConfigDict(frozen=True)

    sha256: str
    size_bytes: int
    modified_ns: int
    mode: int = 0o600


class BackupIndex(BaseModel):
    """One backup of a home."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="Time of the backup in UTC, such as 20240501T120000Z.")
    home_version: int = Field(description="Version of the home's layout.")
    audit_sequence: int = Field(description="Number of the last record of the audit log.")
    audit_digest: str = Field(description="Digest of that record.")
    files: dict[str, BackedUpFile] = Field(description="The files by their path in the home.")

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())


@dataclass(frozen=True)
class BackupTarget:
    """The backups under ``address``: a folder, or ``s3://bucket/prefix`` as pyarrow reads it.

    The address of another S3 server is part of it: ``s3://bucket/prefix?endpoint_override=host:port&scheme=http``.
    """

    address: str

    def indexes(self) -> list[str]:
        """Return the ids of all backups, oldest first."""
        import pyarrow.fs

        filesystem, root = self._filesystem
        found = filesystem.get_file_info(pyarrow.fs.FileSelector(f"{root}/backups", allow_not_found=True))
        return sorted(info.base_name.removesuffix(".json") for info in found if info.base_name.endswith(".json"))

    def index(self, backup: str | None = None) -> BackupIndex:
        """Return the backup with this id (None: the latest). Raises :class:`BackupError` when there is none."""
        existing = self.indexes()
        chosen = backup or (existing[-1] if existing else None)
        if chosen not in existing:
            raise BackupError(
                f"Backups at {self.address}",
                expected=f"a backup {chosen}" if chosen else "at least one backup",
                found=listed(existing),
                fix="Name one of these backups." if existing else "Make one first: ml-platform backup TARGET.",
            )
        filesystem, root = self._filesystem
        with filesystem.open_input_stream(f"{root}/backups/{chosen}.json") as stream:
            return BackupIndex.model_validate_json(stream.read())

    def put_index(self, index: BackupIndex) -> None:
        """Write the index of a complete backup."""
        self._put_bytes(f"backups/{index.id}.json", index.model_dump_json(indent=1).encode())

    def has_object(self, sha256: str, size_bytes: int) -> bool:
        """Return whether the object is stored with its size."""
        filesystem, root = self._filesystem
        info = filesystem.get_file_info(f"{root}/{_object_name(sha256)}")
        return bool(info.is_file and info.size == size_bytes)

    def put_object(self, source: Path) -> tuple[str, int]:
        """Store the bytes of ``source`` and return their digest and size; an object that exists is not written."""
        digest, size = hash_file(source)
        if not self.has_object(digest, size):
            with source.open("rb") as file:
                # The file may have grown since it was hashed: store exactly the hashed bytes.
                self._put_stream(_object_name(digest), file, size)
        return digest, size

    def get_object(self, file: BackedUpFile, target: Path) -> None:
        """Write the object to ``target``. Raises :class:`BackupError` when it is missing or has another digest."""
        filesystem, root = self._filesystem
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        try:
            with (
                filesystem.open_input_stream(f"{root}/{_object_name(file.sha256)}") as stream,
                target.open("wb") as out,
            ):
                while chunk := stream.read(COPY_BYTES):
                    digest.update(chunk)
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise self._damaged(file, str(error)) from error
        if digest.hexdigest() != file.sha256:
            target.unlink()
            raise self._damaged(file, f"bytes with the digest {digest.hexdigest()[:12]}")
        target.chmod(file.mode)
        os.utime(target, ns=(file.modified_ns, file.modified_ns))

    def remove(self, backups: list[str]) -> int:
        """Remove these backups and the objects that no other backup has; return the bytes freed."""
        import pyarrow.fs

        filesystem, root = self._filesystem
        kept = [name for name in self.indexes() if name not in backups]
        used = {file.sha256 for name in kept for file in self.index(name).files.values()}
        for name in backups:
            filesystem.delete_file(f"{root}/backups/{name}.json")
        freed = 0
        selector = pyarrow.fs.FileSelector(f"{root}/objects", allow_not_found=True, recursive=True)
        for info in filesystem.get_file_info(selector):
            if info.is_file and info.base_name not in used:
                filesystem.delete_file(info.path)
                freed += info.size
        return freed

    def _put_bytes(self, name: str, data: bytes) -> None:
        from io import BytesIO

        self._put_stream(name, BytesIO(data), len(data))

    def _put_stream(self, name: str, source: "object", size: int) -> None:
        import pyarrow.fs

        filesystem, root = self._filesystem
        local = isinstance(filesystem, pyarrow.fs.LocalFileSystem)
        if local:
            Path(root, name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # An upload to S3 is atomic; a local file becomes so by its rename.
        staged = f"{root}/{Path(name).parent.as_posix()}/.{uuid.uuid4().hex}" if local else f"{root}/{name}"
        left = size
        with filesystem.open_output_stream(staged) as out:
            while left and (chunk := source.read(min(COPY_BYTES, left))):  # type: ignore[attr-defined]
                out.write(chunk)
                left -= len(chunk)
        if local:
            with Path(staged).open("rb") as written:
                os.fsync(written.fileno())
            Path(staged).replace(f"{root}/{name}")

    @cached_property
    def _filesystem(self) -> "tuple[pyarrow.fs.FileSystem, str]":
        import pyarrow.fs

        if "://" not in self.address:
            return pyarrow.fs.LocalFileSystem(), str(Path(self.address).absolute())
        filesystem, path = pyarrow.fs.FileSystem.from_uri(self.address)
        return filesystem, path.rstrip("/")

    def _damaged(self, file: BackedUpFile, found: str) -> BackupError:
        return BackupError(
            f"Backups at {self.address}",
            expected=f"the object {file.sha256[:12]} as it was written",
            found=found,
            fix="Restore an earlier backup, or a copy of this one.",
        )


def hash_file(path: Path) -> tuple[str, int]:
    """Return the SHA-256 and the size of the bytes of ``path``."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(COPY_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def _object_name(sha256: str) -> str:
    return f"objects/{sha256[:2]}/{sha256}"
