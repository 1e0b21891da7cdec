"""The program that performs the steps of a home in processes of its own."""

from collections.abc import Iterator

import pytest

from ml_platform_tests.chaos.small_life import StepProgram


@pytest.fixture(scope="package")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StepProgram]:
    """Start the program once for all tests of this folder."""
    started = StepProgram(tmp_path_factory.mktemp("scratch"))
    yield started
    started.close()
