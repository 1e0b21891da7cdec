"""`ml-platform clean` uses the declared retention, and its dry run changes no file of the home."""

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from ml_platform.components.loading import declared_retention
from ml_platform.console.clean import json_values, show, size_text
from ml_platform.data.leftovers import LeftoverSummary
from ml_platform.steps.housekeeping import CleaningReport
from ml_platform_tests.command_line import run_command

REPORT = CleaningReport(
    True, [LeftoverSummary("bentos", 2, 1_500_000, datetime(2026, 1, 2, tzinfo=UTC), ("late:1-aa", "late:2-bb"))]
)


def run(home: Path, *arguments: str) -> str:
    environment = {**os.environ, "ML_PLATFORM_HOME": str(home)}
    done = run_command("clean", *arguments, environment=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tree(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm"))]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_dry_run_changes_no_file_and_the_cleaning_removes_what_it_showed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    run(home)
    letter = home / "records" / "outbox" / "dead_letters" / "0001-ab" / "operations.jsonl"
    letter.parent.mkdir(parents=True)
    letter.write_text("text")
    os.utime(letter, (0, 0))
    before = tree(home)

    planned = json.loads(run(home, "--dry-run", "--json"))
    assert tree(home) == before
    assert (planned["dry_run"], planned["items"], planned["size_bytes"]) == (True, 1, 4)
    assert planned["kinds"] == [
        {
            "kind": "dead letters",
            "items": 1,
            "size_bytes": 4,
            "oldest": "1970-01-01T00:00:00+00:00",
            "examples": ["dead_letters/0001-ab"],
        }
    ]
    assert "1 items of 4 bytes were removed." in run(home)
    assert not letter.exists()


def test_declared_retention_covers_every_dataset_and_model() -> None:
    policies = declared_retention()
    assert "flights" in policies.datasets
    model = policies.models["departure_risk"]
    assert model.retention == policies.platform
    assert model.identity
    assert any(table.startswith("models/departure_risk/training_set/") for table in policies.current_tables)
    assert sum(table.startswith("features/") for table in policies.current_tables) > 5


def test_report_is_shown_as_a_table_and_as_json() -> None:
    console = Console(record=True, width=100)
    show(REPORT, console)
    text = console.export_text()
    assert "1.5 MB" in text
    assert "2 items of 1.5 MB would be removed." in text
    assert json_values(REPORT)["kinds"][0]["oldest"] == "2026-01-02T00:00:00+00:00"


def test_size_has_a_unit_for_people() -> None:
    assert [size_text(size) for size in (0, 999, 1_000, 2.5e12, 9e16)] == [
        "0 bytes",
        "999 bytes",
        "1.0 KB",
        "2.5 TB",
        "90000.0 TB",
    ]
