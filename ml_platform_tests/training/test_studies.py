"""Storage of studies: a file in the home, or the database that the environment names."""

from pathlib import Path

import pytest

from resources.home import Home
from resources.studies import StudiesResource


def test_study_is_a_file_in_the_home_unless_a_database_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ML_PLATFORM_STUDIES", raising=False)
    kept = StudiesResource.for_home(Home(tmp_path)).storage("late-lightgbm")
    assert kept == f"sqlite:///{tmp_path}/models/studies/late-lightgbm.db"
    assert (tmp_path / "models" / "studies").is_dir()

    monkeypatch.setenv("ML_PLATFORM_STUDIES", "postgresql://host/studies")
    assert StudiesResource.for_home(Home(tmp_path)).storage("late-lightgbm") == "postgresql://host/studies"
