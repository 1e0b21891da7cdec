"""Tests of the files that installed packages carry: read by path, and errors that name package and file."""

import subprocess
import sys

import polars as pl
import pytest

from ml_platform.data.package_files import PackageFileError, package_file


@pytest.mark.parametrize(
    ("package", "path", "rows"),
    [
        ("palmerpenguins", "data/penguins.csv", 344),
        ("ISLP", "data/Bikeshare.csv", 8645),
        ("ISLP", "data/Default.csv", 10_000),
    ],
)
def test_data_of_the_example_domains_are_installed(package: str, path: str, rows: int):
    assert pl.read_csv(package_file(package, path), null_values="NA", infer_schema=False).height == rows


def test_package_is_not_imported():
    code = (
        "import sys; from ml_platform.data.package_files import package_file; "
        "package_file('palmerpenguins', 'data/penguins.csv'); print('palmerpenguins' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_absent_package_is_named_with_the_command_that_installs_it():
    with pytest.raises(PackageFileError, match=r"Package no_such_package: .*no such package.*make install"):
        package_file("no_such_package", "data/a.csv")


def test_absent_file_is_named_with_one_like_it():
    with pytest.raises(PackageFileError, match=r"data/penguin\.csv.*penguins\.csv"):
        package_file("palmerpenguins", "data/penguin.csv")
