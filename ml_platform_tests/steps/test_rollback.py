"""A rollback by the command is one transaction, and imports neither Dagster nor MLflow."""

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from ml_platform.registry.audit import AuditLog
from ml_platform.registry.champion_history import CHAMPION_KIND, current_champion
from ml_platform.registry.pending_aliases import models_with_pending_aliases
from ml_platform.registry.verdict_record import PromotionError
from ml_platform.serving.bento_build import BentoVerification, BuiltBento
from ml_platform.serving.bento_digest import content_digest
from ml_platform.serving.bento_sources import BentoError
from ml_platform.serving.desired_state import DesiredState, ServedVersion, read_desired_state, swap_desired_state
from ml_platform.serving.verified_bentos import record_verified_bento
from ml_platform.state.store import StateStore
from ml_platform.steps.rollback import roll_back_champion
from resources.home import HOME_VARIABLE, Home
from resources.state import open_state

COMMAND = """
import sys
from ml_platform.cli import app
app(["rollback", "toy", "--by", "ada", "--reason", "wrong scores"], standalone_mode=False)
print([name for name in ("dagster", "mlflow") if name in sys.modules])
"""


def home_with_two_champions(root: Path, model: str) -> Home:
    """Return a home in which version 2 of ``model`` serves, and version 1 was champion before."""
    home = Home(root)
    state = open_state(home)
    folder = home.bentos / model / "1"
    folder.mkdir(parents=True)
    (folder / "bento.yaml").write_text(f"name: {model}")
    built = BuiltBento(f"{model}:1", folder, content_digest(folder), 9)
    checked = BentoVerification(rows=1, latency_p50_ms=1.0, latency_p99_ms=1.0)
    record_verified_bento(state, home.bentos, built, checked, version="1", model_digest="a" * 64)
    for version, previous, digest in ((1, None, "a" * 64), (2, 1, "b" * 64)):
        facts = {
            "model": model,
            "version": version,
            "previous_version": previous,
            "action": "promote",
            "reason": "test",
            "content_digest": digest,
            "partition": "2013-07",
            "manifest": {},
            "verdict": None,
            "approved_by": [],
        }
        AuditLog(state).append(CHAMPION_KIND, actor="test", at=datetime.now(UTC), facts=facts)
    serving = DesiredState(stable=ServedVersion(version="2", bento=f"{model}/2"), weights={"stable": 100})
    swap_desired_state(state, model, serving, 0)
    return home


def require_version_2(state: StateStore) -> None:
    """Require that version 2 is champion and stable, as before the rollback."""
    champion, stable = current_champion(AuditLog(state), "toy"), read_desired_state(state, "toy").stable
    assert champion is not None
    assert (champion.version, stable) == (2, ServedVersion(version="2", bento="toy/2"))
    assert models_with_pending_aliases(state) == []


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return home_with_two_champions(tmp_path / "home", "toy")


def test_command_imports_neither_dagster_nor_mlflow(home: Home) -> None:
    environment = {**os.environ, HOME_VARIABLE: str(home.root)}
    done = subprocess.run([sys.executable, "-c", COMMAND], env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["[]"]), done.stderr
    state = open_state(home)
    champion, desired = current_champion(AuditLog(state), "toy"), read_desired_state(state, "toy")
    assert champion is not None
    assert (champion.version, champion.decided_by) == (1, "ada")
    assert desired.stable == ServedVersion(version="1", bento="toy/1")
    assert desired.previous == ServedVersion(version="2", bento="toy/2")
    assert models_with_pending_aliases(state) == ["toy"]
    # A process that the command starts afterwards shows the decision in Dagster.
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["toy", "champion"]))
    assert event is not None
    assert event.asset_materialization is not None
    shown = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert (shown["version"], shown["decided_by"], shown["reason"]) == (1, "ada", "wrong scores")


def test_rollback_of_an_unknown_model_changes_nothing_and_suggests_the_similar_name(home: Home) -> None:
    state, at = open_state(home), datetime.now(UTC)
    with pytest.raises(PromotionError, match=r"Rollback of 'toi'.*'toy'"):
        roll_back_champion("toi", home, state, decided_by="ada", reason="test", at=at)
    assert models_with_pending_aliases(state) == []


def test_version_without_a_bento_is_refused_before_anything_has_changed(home: Home) -> None:
    state = open_state(home)
    shutil.rmtree(home.bentos / "toy" / "1")
    with pytest.raises(BentoError, match=r"toy.*1"):
        roll_back_champion("toy", home, state, decided_by="ada", reason="test", at=datetime.now(UTC))
    require_version_2(state)


def test_rollback_that_fails_in_its_last_write_leaves_champion_and_desired_state(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = open_state(home)

    def fail(*_: object, **__: object) -> None:
        raise OSError("killed here")

    monkeypatch.setattr("ml_platform.steps.rollouts.record_rollout", fail)
    with pytest.raises(OSError, match="killed here"):
        roll_back_champion("toy", home, state, decided_by="ada", reason="test", at=datetime.now(UTC))
    require_version_2(state)
