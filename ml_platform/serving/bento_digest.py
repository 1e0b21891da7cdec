"""The digest of a bento's content, which is part of its folder's name, and the check before each start of a service."""

import json
import re
from pathlib import Path

from ml_platform.data.canonical import directory_digest, file_digest, value_digest
from ml_platform.serving.bento_signature import ChangedBentoError as ChangedBentoError
from ml_platform.serving.bento_signature import require_signature

BENTOFILE = "bentofile.yaml"
PACKAGE_FILE, MODEL_FOLDER = "package.json", "model"
DIGEST_DIGITS = 12
"""Hexadecimal digits of the digest in the name of a bento's folder."""

_NAME = re.compile(rf".*-(?P<digest>[0-9a-f]{{{DIGEST_DIGITS}}})")


def content_digest(bento: Path) -> str:
    """Return the digest of the current files in ``bento``.

    Bytecode does not count, because running a bento adds it.
    """
    source = bento / "src"
    bytecode = [file.relative_to(source).as_posix() for file in source.rglob("*.pyc")]
    return directory_digest(source, leave_out=[BENTOFILE, *bytecode])


def code_digest(bento: Path) -> str:
    """Return the digest of the code and the pinned libraries of ``bento``: all that is not its model.

    Bentos with the same digest can run in one host.
    """
    source = bento / "src"
    package = json.loads((source / PACKAGE_FILE).read_text())
    files = {name: file_digest(file) for name, file in code_files(bento).items()}
    return value_digest({"libraries": package["requirements"], "files": files})


def code_files(bento: Path) -> dict[str, Path]:
    """Return the files of the code of ``bento``, by their path in its folder `src`."""
    source = bento / "src"
    files = {path.relative_to(source).as_posix(): path for path in source.rglob("*") if path.is_file()}
    return {
        name: path
        for name, path in files.items()
        if name not in (PACKAGE_FILE, BENTOFILE) and not name.startswith(f"{MODEL_FOLDER}/") and path.suffix != ".pyc"
    }


def require_unchanged(bento: Path, trusted: Path | None = None) -> None:
    """Raise :class:`ChangedBentoError` when ``bento`` has not the digest in its folder's name, or is not as signed.

    ``trusted`` is the folder of the trusted keys, see :func:`~.bento_signature.require_signature`.
    """
    name = _NAME.fullmatch(bento.name)
    expected = name["digest"] if name else f"a name that ends with {DIGEST_DIGITS} digits of the digest"
    found = content_digest(bento)[:DIGEST_DIGITS] if (bento / "src").is_dir() else "no files"
    if found != expected:
        raise ChangedBentoError(
            f"Bento {bento.name}",
            expected=f"the content that was verified, {expected}",
            found=found,
            fix="Restore its folder from a backup, or materialize the model's bento: it is built and verified again.",
        )
    require_signature(bento, trusted)
