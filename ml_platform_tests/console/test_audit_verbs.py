"""`ml-platform audit` prints, checks and exports the log of decisions."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from ml_platform.cli import app
from ml_platform.console.audit import verify
from ml_platform.registry.audit import AuditError, AuditLog
from resources.home import HOME_VARIABLE, Home
from resources.state import open_state

NOON = datetime(2013, 7, 1, 12, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home inside a repository, with two records."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "repository" / "home"))
    home = Home(tmp_path / "repository" / "home")
    for actor in ("ada", "bob"):
        AuditLog(open_state(home)).append("approval", actor=actor, at=NOON, facts={"model": "risk"})
    return home


def test_printed_head_is_an_anchor_that_verify_accepts(home: Home, tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["audit", "head"])
    assert json.loads(printed.stdout)["sequence"] == 2
    anchor = tmp_path / "anchor.json"
    anchor.write_text(printed.stdout)
    done = CliRunner().invoke(app, ["audit", "verify", "--anchor", str(anchor)])
    assert done.stdout.splitlines() == [
        "The chain of 2 records is unbroken.",
        f"Record 2 is the one of the anchor {anchor}.",
    ]


def test_anchors_of_the_releases_are_checked(home: Home) -> None:
    repository = home.root.parent
    anchor = repository / "releases" / "risk" / "audit_head.json"
    anchor.parent.mkdir(parents=True)
    anchor.write_text(json.dumps({"sequence": 1, "digest": AuditLog(open_state(home)).record(1).digest}))
    assert len(list(verify(home, repository=repository))) == 2
    assert len(list(verify(home, repository=repository / "other"))) == 1
    anchor.write_text(json.dumps({"sequence": 1, "digest": "f" * 64}))
    with pytest.raises(AuditError, match=r"record 1: expected the digest ffffffffffff of the anchor"):
        list(verify(home, repository=repository))


def test_changed_record_ends_the_command_with_an_error(home: Home) -> None:
    with open_state(home).write() as connection:
        connection.execute(sa.text("DROP TRIGGER audit_records_update"))
        connection.execute(sa.text("UPDATE audit_records SET actor = 'eve' WHERE sequence = 1"))
    done = CliRunner().invoke(app, ["audit", "verify"])
    assert isinstance(done.exception, AuditError)
    assert "record 1: expected content with the digest" in str(done.exception)


def test_export_prints_one_record_a_line(home: Home) -> None:
    lines = CliRunner().invoke(app, ["audit", "export"]).stdout.splitlines()
    assert [json.loads(line)["actor"] for line in lines] == ["ada", "bob"]
