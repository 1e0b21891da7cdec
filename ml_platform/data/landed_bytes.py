"""The text of a landed file as UTF-8: unpacked and decoded whole, or refused by name.

An archive and an encoding are recognized by their first bytes where these are unambiguous; nothing else is guessed.
"""

import codecs
import gzip
import zlib
from pathlib import Path

from ml_platform.errors import PlatformError

_BYTE_ORDER_MARKS = {
    # UTF-32 first, because its mark begins with that of UTF-16.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ARCHIVES = {
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"PAR1": "a Parquet file",
}


class LandedFileError(PlatformError):
    """Raised when a landed file cannot be read: a truncated archive, an empty file, a row with too few fields."""


def unpacked(path: Path) -> bytes:
    """Return the bytes of the file at ``path``, unpacked when it is a gzip or zstd archive.

    Raises :class:`LandedFileError` for a damaged archive, for another kind of archive, and for a name with ``.gz`` or
    ``.zst`` whose content is none.
    """
    raw = path.read_bytes()
    suffix = path.suffix.lower()
    if suffix == ".gz" or raw.startswith(_GZIP):
        return _unpacked_gzip(path, raw)
    if suffix in (".zst", ".zstd") or raw.startswith(_ZSTD):
        return _unpacked_zstd(path, raw)
    for start, kind in _ARCHIVES.items():
        if raw.startswith(start):
            raise LandedFileError(
                f"Landed file {path}",
                expected="text, or text in a gzip or zstd archive",
                found=kind,
                fix="Unpack it and land the text, or pack it with gzip or zstd.",
            )
    return raw


def as_utf8(path: Path, data: bytes, encoding: str | None = None) -> bytes:
    """Return ``data`` as UTF-8 without byte order mark; ``encoding`` None means UTF-8, or what its mark says.

    Raises :class:`LandedFileError`, with the line, when a byte does not belong to the encoding.
    """
    marked = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), None)
    if marked and encoding and _family(encoding) != _family(marked):
        raise LandedFileError(
            f"Landed file {path}",
            expected=f"text in the declared encoding {encoding}",
            found=f"the byte order mark of {_family(marked).upper()}",
            fix=f"Remove `encoding`, or declare {_family(marked)}.",
        )
    try:
        text = data.decode(marked or encoding or "utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise LandedFileError(
            f"Landed file {path}",
            expected=f"text in {(encoding or marked or 'utf-8').removesuffix('-sig').upper()}",
            found=f"other bytes in line {line}",
            fix="Land the file again as UTF-8, or declare its `encoding`, such as windows-1252.",
        ) from error
    return text.encode() if marked or encoding else data


def _family(encoding: str) -> str:
    """Return the name of an encoding without byte order and mark: utf-16 for UTF-16LE."""
    name = codecs.lookup(encoding).name
    return next((family for family in ("utf-8", "utf-16", "utf-32") if name.startswith(family)), name)


def _unpacked_gzip(path: Path, raw: bytes) -> bytes:
    try:
        return gzip.decompress(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged_archive_error(path, "gzip", raw, error) from error


def _unpacked_zstd(path: Path, raw: bytes) -> bytes:
    import pyarrow as pa

    try:
        if not raw:
            # The library takes nothing for a whole archive of nothing.
            raise EOFError("an empty file")
        with pa.CompressedInputStream(pa.BufferReader(raw), "zstd") as stream:
            data: bytes = stream.read()
    except (EOFError, OSError, pa.ArrowException) as error:
        raise _damaged_archive_error(path, "zstd", raw, error) from error
    return data


def _damaged_archive_error(path: Path, kind: str, raw: bytes, error: Exception) -> LandedFileError:
    return LandedFileError(
        f"Landed file {path}",
        expected=f"a whole {kind} archive",
        found=f"{len(raw)} bytes that cannot be unpacked ({error})",
        fix="Transfer the file again; the transfer cut it off or damaged it.",
    )
