"""Files of data that an installed package carries, found without an import of the package."""

import importlib.util
from pathlib import Path

from ml_platform.errors import PlatformError, did_you_mean


class PackageFileError(PlatformError):
    """Raised when the package is not installed, or has no such file."""


def package_file(package: str, path: str) -> Path:
    """Return the file ``path`` of the installed ``package``, like ``data/penguins.csv``.

    The package is not imported, so its requirements need not be installed. Raises :class:`PackageFileError` when the
    package or the file is absent.
    """
    spec = importlib.util.find_spec(package)
    folders = [Path(each) for each in (spec.submodule_search_locations or [])] if spec else []
    if not folders:
        raise PackageFileError(
            f"Package {package}", expected="to be installed", found="no such package", fix="Run `make install`."
        )
    file = folders[0] / path
    if not file.is_file():
        beside = [each.name for each in file.parent.glob("*")] if file.parent.is_dir() else []
        raise PackageFileError(
            f"Package {package}",
            expected=f"the file {path}",
            found="no such file",
            fix=f"Correct the path, or the version of the package.{did_you_mean(file.name, beside)}",
        )
    return file
