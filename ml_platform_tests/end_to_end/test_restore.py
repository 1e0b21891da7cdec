"""A backup made while the platform writes is restored under another path, and the restored home answers the same."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ml_platform_tests.conftest import PROJECT, DemoHome
from resources.home import Home

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MODEL = "departure_risk"
MONTH = "2013-06"
ROWS = 40
WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
import polars as pl
from ml_platform.registry.audit import AuditLog
from resources.home import Home
from resources.home_lake import open_lake

lake, number = open_lake(Home(Path(sys.argv[1]))), 0
while not Path(sys.argv[2]).exists():
    number += 1
    lake.append("datasets/written_meanwhile", pl.DataFrame({"number": [number]}), "2013-06")
    facts = {"model": "written_meanwhile", "number": number}
    AuditLog(lake.state).append("note", actor="writer", at=datetime.now(UTC), facts=facts)
    if number == 1:
        print("writing", flush=True)
print(number, flush=True)
"""


@dataclass(frozen=True)
class Answers:
    """The reports of a home: its status, its history, and the answers of its endpoint."""

    status: dict[str, Any]
    history: list[Any]
    predictions: list[Any]


@dataclass(frozen=True)
class Restored:
    """The original's answers, the restored home, and the output of the commands."""

    original: Path
    answers: Answers
    home: DemoHome
    written: int


def request_rows(home: Home) -> list[dict[str, Any]]:
    """Return request rows of the last month, from its training set."""
    import polars as pl

    from resources.home_lake import open_lake

    bento = next((home.bentos / "bentos" / MODEL).glob("1-*"))
    fields = [field["name"] for field in json.loads((bento / "src" / "model" / "contract.json").read_text())["fields"]]
    lake = open_lake(home)
    (table,) = [name for name in lake.catalog.tables() if name.startswith(f"models/{MODEL}/training_set/")]
    rows = lake.scan(table, partitions=[MONTH]).sort("example_id").select(fields).collect()
    chosen = rows.filter(pl.int_range(pl.len()) % (rows.height // ROWS) == 0).head(ROWS).to_dicts()
    return [
        {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
        for row in chosen
    ]


def endpoint_answers(home: Home, rows: Sequence[dict[str, Any]]) -> list[Any]:
    """Start the services of ``home`` on free ports and return the predictions of ``rows``."""
    import httpx

    from ml_platform.console.services import serving_processes
    from ml_platform.serving.processes import serve_temporarily

    with serve_temporarily(serving_processes(home)) as address, httpx.Client(base_url=address) as client:
        answer = client.post(f"/v1/{MODEL}/predict", json={"rows": list(rows)}, timeout=60).raise_for_status().json()
    assert len(answer["predictions"]) == len(rows)
    return [
        answer["model"]["version"],
        [{k: v for k, v in each.items() if k != "prediction_id"} for each in answer["predictions"]],
    ]


def answers_of(home: DemoHome) -> Answers:
    return Answers(
        json.loads(home.run("status", "--json")),
        json.loads(home.run("history", MODEL, "--json")),
        endpoint_answers(Home(home.root), request_rows(Home(home.root))),
    )


@pytest.fixture(scope="module")
def restored(demo_home: DemoHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restored]:
    """Return the restored home; the original was backed up during writes, and then removed."""
    folder = tmp_path_factory.mktemp("restore")
    original, target, end = demo_home.copy(folder / "original"), folder / "backups", folder / "end"
    answers = answers_of(original)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(original.root), str(end)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    started = time.monotonic()
    print(original.run("backup", str(target)))
    print(f"backup: {time.monotonic() - started:.1f} s with the start of the program")
    end.touch()
    written = int(writer.stdout.readline())
    assert writer.wait(timeout=60) == 0
    print(original.run("backup", str(target)))
    shutil.rmtree(original.root)

    home = DemoHome(folder / "wieder hergestellt" / "größe", "")
    (first, _) = sorted((target / "backups").iterdir())
    started = time.monotonic()
    print(home.run("restore", str(target), "--backup", first.stem))
    print(f"restore: {time.monotonic() - started:.1f} s with the start of the program")
    yield Restored(original.root, answers, home, written)
    shutil.rmtree(folder)


def test_restored_home_verifies_and_names_the_original_nowhere(restored: Restored) -> None:
    found = json.loads(restored.home.run("verify", "--rows", "--json"))
    assert found["problems"] == []
    assert all(found["verified"][area] > 0 for area in ("audit", "lake files", "champions", "desired states", "rows"))
    files = [path for path in restored.home.root.rglob("*") if path.is_file()]
    assert len(files) > 100  # an empty home would pass
    name = str(restored.original).encode()
    assert [path for path in files if name in path.read_bytes()] == []


def test_champion_history_and_endpoint_answers_are_equal(restored: Restored) -> None:
    found = answers_of(restored.home)
    # The table of the test has no declaration, so the restored home names it as an orphan.
    assert {**found.status, "orphans": []} == {**restored.answers.status, "orphans": []}
    assert found.history == restored.answers.history
    assert found.predictions == restored.answers.predictions
    assert found.status["models"][MODEL]["champion"]["version"] == 1


def test_rows_and_records_of_a_writer_are_a_whole_number_of_its_steps(restored: Restored) -> None:
    from ml_platform.registry.audit import AuditLog
    from resources.home_lake import open_lake

    lake = open_lake(Home(restored.home.root))
    rows = lake.scan("datasets/written_meanwhile").collect()["number"].sort().to_list()
    notes = [record.facts["number"] for record in AuditLog(lake.state).records("note", "written_meanwhile")]
    assert 1 <= len(rows) <= restored.written
    assert rows == list(range(1, len(rows) + 1))
    assert len(rows) - len(notes) in (0, 1)
    assert notes == rows[: len(notes)]


def test_champion_is_reproduced_from_the_restored_home(restored: Restored) -> None:
    assert "equal" in restored.home.run("reproduce", MODEL, "1")
